"""The main job on a real SGLang: classify, diagnose, relaunch, measure, keep or put back, by the command line.

A start takes 20 to 50 s, so one server is handed from test to test: ``Home.serving`` takes it when it runs
with the flags that a test asks for, else it starts one. Each test can be run alone.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from wizard.core.progress import Stage

from .conftest import (
    READY_LIMIT_S,
    RealServer,
    StartLoad,
    family,
    get,
    kill,
    pids_listening_on,
)
from .home import (
    LIMIT_S,
    MARKER,
    QUICK,
    Change,
    Home,
    causes,
    environment,
    evidence,
    lives,
    log_of,
    queue_is_there,
    queue_stands,
    show,
    wait_for,
    without,
)

pytestmark = pytest.mark.e2e


# -- (a) a cap set by hand


def test_a_cap_set_by_hand_is_lifted_under_load(home: Home, load: StartLoad) -> None:
    old = home.serving("--max-running-requests", "1")
    old_argv, old_environ, log = old.cmdline(), environment(old), log_of(old)
    written = log.read_bytes()
    clients = load(home.url, clients=8, input_tokens=64, output_tokens=64, seconds=LIMIT_S)
    wait_for("a queue", lambda: queue_is_there(home))

    answer = home.cli("check", "--json", "--pid", str(old.pid))
    found = answer.document
    assert answer.code == 1, answer.err
    assert found["verdict"] == "problem"
    assert found["causes"][0]["id"] == "long_queue", causes(answer)
    seen = evidence(found)
    assert seen["requests.queued"] >= 2
    assert seen["requests.running"] == seen["server.max_running_requests_set"] == 1
    assert seen["kv.usage"] < 0.5
    assert found["target"]["pid"] == old.pid
    assert lives(old)

    # The clients go on throughout: a server in trouble is one with traffic.
    answer = home.cli("fix", "--json", "--yes", "--pid", str(old.pid), *QUICK, limit_s=LIMIT_S)
    show(answer)
    done = answer.document
    assert answer.code == 0
    assert done["verdict"] == "fixed"
    assert done["outcome"] == "kept"
    assert done["serving"] == "new"
    assert done["cause"]["id"] == "long_queue"
    assert {change["flag"] for change in done["plan"]["changes"]} == {"--max-running-requests"}
    assert without(done["plan"]["new"], "--max-running-requests") == without(
        done["plan"]["old"], "--max-running-requests"
    )
    assert done["before"]["throughput.output"] * 2 < done["after"]["throughput.output"]
    assert done["after"]["ttft.p50"] < done["before"]["ttft.p50"]
    assert done["before"]["workload"] == done["after"]["workload"]
    assert Path(done["report"]).read_text(encoding="utf-8").startswith("# Session")

    new = home.must_serve()
    assert not lives(old)
    assert new.pid == done["pid"]
    assert new.cmdline() == done["plan"]["new"]
    assert old_argv == done["plan"]["old"]
    assert new.cwd() == str(home.cwd)
    assert environment(new) == old_environ
    assert old_environ[MARKER] == "kept"
    assert log_of(new) == log
    after = log.read_bytes()
    assert after.startswith(written), "the log was not appended to"
    assert b"server_args=" in after[len(written) :]
    finished = clients.finished
    wait_for("the clients are served by the new server", lambda: clients.finished > finished + 8)


# -- (f) nothing is wrong


def test_a_healthy_server_is_left_alone(home: Home, load: StartLoad) -> None:
    server = home.serving()
    clients = load(home.url, clients=4, input_tokens=64, output_tokens=64, seconds=LIMIT_S)
    wait_for("requests finish", lambda: clients.finished >= 8)

    answer = home.cli("check", "--json", "--pid", str(server.pid))
    assert (answer.document["verdict"], causes(answer)) == ("healthy", []), answer.out
    assert answer.code == 0

    answer = home.cli("fix", "--json", "--yes", "--pid", str(server.pid), *QUICK)
    assert answer.document["verdict"] == "nothing_wrong"
    assert answer.document["plan"]["changes"] == []
    assert answer.code == 0
    assert home.must_serve() == server
    assert clients.failed == 0, clients.errors[:3]


# -- (e) a bad suggestion


def test_a_change_that_does_not_start_is_put_back(home: Home) -> None:
    old = home.serving()
    old_argv, old_environ = old.cmdline(), environment(old)

    words = ("--set", "max_total_tokens=1", "--windows", "2", "--window-s", "1", "--drain", "5")
    answer = home.cli("fix", "--json", "--yes", "--pid", str(old.pid), *words, limit_s=LIMIT_S)
    show(answer)
    done = answer.document
    assert answer.code == 4
    assert done["verdict"] == "rolled_back"
    assert done["outcome"] == "rolled_back"
    assert done["serving"] == "old"
    assert "max_running_request is zero" in done["sentence"]
    assert "put back" in done["sentence"]
    stages = {stage["stage"]: stage["status"] for stage in done["stages"]}
    assert (stages["ready"], stages["rollback"]) == ("failed", "done")

    back = home.must_serve()
    assert back != old
    assert back.cmdline() == old_argv
    assert environment(back) == old_environ
    report = home.cli("sessions", "report")
    assert report.code == 0
    for words_of_it in (
        "Rolled back.",
        "max_running_request is zero",
        "--max-total-tokens",
        "The old command:",
    ):
        assert words_of_it in report.out


# -- (g) kill -9 of the runner, and of the face


def test_a_runner_killed_while_the_new_server_starts(home: Home) -> None:
    """The new server was launched: resume waits for it and keeps it."""
    old = home.serving()
    words = ("--set", "max_running_requests=1", "--unset", "enable_metrics", "--drain", "5", "--no-load-test")
    change = Change(home, "--pid", str(old.pid), *words)
    change.wait_until_active(Stage.READY)
    change.kill_runner()
    answer = change.end_of_face()
    assert answer.code == 1
    told = answer.document
    assert told["outcome"] is None

    listed = home.cli("sessions", "list", "--json").document["sessions"][0]
    assert listed["id"] == told["session"]
    assert listed["outcome"] is None
    assert listed["runner_alive"] is False
    assert "UNFINISHED" in home.cli("sessions", "list").out

    answer = home.cli("sessions", "resume", "--json", limit_s=LIMIT_S)
    show(answer)
    done = answer.document
    assert answer.code == 0
    assert done["session"] == told["session"]
    assert (done["outcome"], done["serving"]) == ("kept", "new")
    assert "new command" in done["sentence"]
    new = home.must_serve()
    assert new.pid == done["pid"]
    assert new.cmdline() == done["plan"]["new"]
    assert home.cli("sessions", "resume").code == 0  # nothing left to do: says how it stands


# -- (h) without --enable-metrics


def test_a_queue_is_seen_without_metrics(home: Home, load: StartLoad) -> None:
    server = home.serving("--max-running-requests", "1", metrics=False)
    assert get(home.url + "/metrics")[0] == 404
    # Long answers, so that the queue stands even where the clients get the processor late.
    load(home.url, clients=6, input_tokens=64, output_tokens=192, seconds=LIMIT_S)
    wait_for("a queue that stands", lambda: queue_stands(home), limit_s=120)

    answer = home.cli("check", "--json", "--pid", str(server.pid))
    assert answer.code == 1
    assert causes(answer)[0] == "long_queue", answer.out
    sources = {one["reading"]: one["source"] for one in answer.document["causes"][0]["evidence"]}
    assert sources["requests.queued"] != "/metrics"
    metrics = next(one for one in answer.document["probes"] if one["id"] == "metrics")
    assert "--enable-metrics" in f"{metrics['reason']} {metrics['remedy']}"
    said = home.cli("check", "--pid", str(server.pid))
    assert "--enable-metrics" in said.out + said.err


def test_a_runner_killed_while_the_old_server_stops(home: Home) -> None:
    """No new server was launched: resume puts the old command back. The server is asked to stop, so it
    will be down in any case."""
    old = home.serving("--max-running-requests", "1", metrics=False)
    argv = old.cmdline()
    change = Change(home, "--pid", str(old.pid), "--set", "max_running_requests=2", "--no-load-test")
    change.wait_until_active(Stage.STOP)
    change.kill_runner()
    assert change.end_of_face().code == 1

    answer = home.cli("sessions", "resume", "--json", limit_s=LIMIT_S)
    show(answer)
    done = answer.document
    assert done["serving"] == "old"
    if done["outcome"] == "called_off":  # killed before its signal went out: nothing was stopped
        assert home.must_serve() == old
        return
    assert answer.code == 4
    assert done["outcome"] == "rolled_back"
    assert "old command" in done["sentence"]
    back = home.must_serve()
    assert back != old
    assert back.cmdline() == argv


def test_a_killed_face_leaves_the_runner_at_work(home: Home) -> None:
    old = home.serving("--max-running-requests", "1", metrics=False)
    words = ("--unset", "max_running_requests", "--set", "enable_metrics", "--set", "max_total_tokens=600")
    change = Change(home, "--pid", str(old.pid), *words, "--drain", "5", "--no-load-test")
    change.wait_until_active(Stage.READY)
    runner = change.runner()
    change.face.send_signal(signal.SIGKILL)
    change.face.communicate(timeout=10)
    assert lives(runner)

    def shown() -> dict[str, Any]:
        return home.cli("sessions", "show", "--json").document

    assert shown()["outcome"] is None
    wait_for("the runner's end", lambda: not lives(runner), READY_LIMIT_S)
    done = shown()
    assert (done["outcome"], done["serving"]) == ("kept", "new")
    assert home.must_serve().pid == done["pid"]


# -- (b) a KV pool too small for the load


def test_a_pool_too_small_is_raised(home: Home, load: StartLoad) -> None:
    old = home.serving(max_total_tokens=600)
    clients = load(home.url, clients=16, input_tokens=64, output_tokens=128, seconds=LIMIT_S)
    wait_for("a queue", lambda: queue_is_there(home))

    answer = home.cli("check", "--json", "--pid", str(old.pid))
    assert answer.code == 1
    assert causes(answer)[0] == "kv_cache_exhausted", answer.out
    assert evidence(answer.document)["requests.queued"] >= 2

    # The clients stop when the measurement starts: with theirs on top, a request waits longer than a window.
    words = ("--drain", "5", "--windows", "5", "--window-s", "3")
    fix = Change(home, "--pid", str(old.pid), *words)
    fix.wait_until_active(Stage.BASELINE)
    clients.stop()
    answer = fix.end_of_face(LIMIT_S)
    show(answer)
    done = answer.document
    assert answer.code == 0
    assert done["verdict"] in ("fixed", "better")
    assert done["cause"]["id"] == "kv_cache_exhausted"
    (change,) = done["plan"]["changes"]
    assert change["flag"] == "--max-total-tokens"
    assert int(change["old"]) == 600
    assert int(change["new"]) >= 16 * 192
    assert done["after"]["throughput.output"] > done["before"]["throughput.output"]
    assert done["after"]["requests.queued"] < done["before"]["requests.queued"]
    assert home.must_serve().cmdline() == done["plan"]["new"]
    assert not queue_is_there(home)


# -- (d) the port is taken


@dataclass(frozen=True)
class Taken:
    """Two newcomers that lost their ports: one to a server, one to a process that listens and says nothing."""

    owner: psutil.Process
    newcomer: RealServer
    listener: psutil.Process
    hung: RealServer


@pytest.fixture(scope="module")
def taken(home: Home) -> Iterator[Taken]:
    """Both are started at once: each loads for half a minute before it learns that its port is taken."""
    with silent_listener() as (listener, port):
        owner = home.owner() or home.serving()
        newcomer = home.launch(port=home.port, wait=False)
        hung = home.launch(port=port, wait=False)
        wait_for("the newcomer ends", lambda: newcomer.popen.poll() is not None, READY_LIMIT_S)
        wait_for("the bind error", lambda: "Errno 98" in hung.log_text(), READY_LIMIT_S)
        yield Taken(owner, newcomer, listener, hung)
        hung.popen.kill()


def test_a_port_that_another_server_owns(home: Home, taken: Taken) -> None:
    """The newcomer's log may say "fired up": the other one answered its warm-up. It is down all the same."""
    owner, newcomer = taken.owner, taken.newcomer
    assert "Errno 98" in newcomer.log_text()
    needed = ("PYTHONPATH", "SGLANG_USE_CPU_ENGINE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
    text = shlex.join(["env", *(f"{name}={newcomer.environ[name]}" for name in needed), *newcomer.argv])
    words = ("--log", str(newcomer.log), "--command", text)

    answer = home.cli("check", "--json", "--local", *words)
    assert answer.code == 1
    assert causes(answer)[0] == "port_in_use", answer.out
    found = answer.document["causes"][0]
    assert f"pid {owner.pid}" in " ".join(one["says"] for one in found["evidence"])
    remedies = {one["id"]: one for one in found["remedies"]}
    assert f"pid {owner.pid} " in remedies["use_free_port"]["why"]
    assert int(remedies["use_free_port"]["set"]["--port"]) != home.port
    said = home.cli("check", "--local", *words)
    assert f"pid {owner.pid}" in said.out

    started_beside(home, owner, *words)


def test_a_port_that_a_silent_listener_holds(home: Home, taken: Taken) -> None:
    """SGLang hangs after the bind error, alive and holding its memory, and ignores SIGTERM."""
    hung, listener = taken.hung, taken.listener
    assert hung.popen.poll() is None

    answer = home.cli("check", "--json", "--pid", str(hung.pid))
    assert answer.code == 1
    assert causes(answer)[0] == "port_in_use", answer.out
    says = " ".join(one["says"] for one in answer.document["causes"][0]["evidence"])
    assert f"port {hung.port} belongs to pid {listener.pid}" in says

    started_beside(home, listener, "--pid", str(hung.pid))
    wait_for("the hung process is gone", lambda: hung.popen.poll() is not None)


@contextmanager
def silent_listener() -> Iterator[tuple[psutil.Process, int]]:
    """A process that listens and never answers, and its port."""
    code = (
        "import socket, sys\n"
        "one = socket.create_server(('127.0.0.1', 0))\n"
        "print(one.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield psutil.Process(process.pid), int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def started_beside(home: Home, owner: psutil.Process, *target: str) -> None:
    """On another port, beside the owner, which is left alone."""
    words = ("--remedy", "use_free_port", "--drain", "5")
    answer = home.cli("fix", "--json", "--yes", *target, *words, limit_s=LIMIT_S)
    show(answer)
    done = answer.document
    assert answer.code == 0
    assert done["verdict"] == "fixed"
    (change,) = done["plan"]["changes"]
    assert change["flag"] == "--port"
    port = int(change["new"])
    (pid,) = pids_listening_on(port)
    assert pid == done["pid"]
    assert get(f"http://127.0.0.1:{port}/health")[0] == 200
    assert lives(owner)
    assert owner.pid in pids_listening_on(int(change["old"]))
    kill(family(psutil.Process(pid)))
