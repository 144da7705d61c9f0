"""What the whole wizard promises, on the simulator: each fault is found, treated and measured, or put back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli import shapes
from tests.ports import free_port
from tests.scenarios.conftest import Ground, Ran, argv_of, connects, get, wait_for
from wizard.core.progress import Outcome, Stage
from wizard.runner import client

GLANCE = ("--window", "0.5")


def fixed(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, (ran.code, ran.out, ran.err)
    doc = shapes.document(ran.out, shapes.FIX)
    assert doc["verdict"] == "fixed", doc["sentence"]
    assert doc["serving"] == "new"
    assert Path(doc["report"]).read_text(encoding="utf-8").startswith("# Session")
    return doc


def changed(doc: dict[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    return {c["flag"]: (c["old"], c["new"]) for c in doc["plan"]["changes"]}


# -- (a) and (b), and graphs: something is found under load, changed, measured


def test_a_cap_set_by_hand_is_lifted(ground: Ground) -> None:
    server = ground.server("--max-running-requests", "8").ready()
    doc = fixed(ground.fix_under_load(server, (32, 512, 128)))
    assert doc["cause"]["id"] == "long_queue"
    assert changed(doc) == {"--max-running-requests": ("8", None)}
    assert doc["after"]["throughput.output"] > 1.5 * doc["before"]["throughput.output"]
    (now,) = ground.servers()
    old, new = list(doc["plan"]["old"]), argv_of(now.identity.pid)
    assert new == [w for i, w in enumerate(old) if "--max-running-requests" not in old[max(0, i - 1) : i + 1]]
    assert now.launch.cwd == str(ground.folder)
    assert now.launch.log_path == str(server.log_path)
    assert now.launch.environ["SGLANG_SIM_START_S"] == "0.3"


def test_a_pool_too_small_is_made_larger(ground: Ground) -> None:
    server = ground.server("--mem-fraction-static", "0.13").ready()
    doc = fixed(ground.fix_under_load(server, (48, 1024, 256)))
    assert doc["cause"]["id"] == "kv_cache_exhausted"
    assert changed(doc) == {"--mem-fraction-static": ("0.13", None)}
    assert any("KV pool" in e["says"] or "retracted" in e["says"] for e in doc["cause"]["evidence"])


def test_graphs_switched_off_are_switched_on(ground: Ground) -> None:
    server = ground.server("--disable-cuda-graph").ready()
    doc = fixed(ground.fix_under_load(server, (8, 512, 128)))
    assert doc["cause"]["id"] == "cuda_graph_disabled"
    assert changed(doc) == {"--disable-cuda-graph": ("", None)}


# -- (c): no server is up


@pytest.mark.parametrize(
    ("flags", "causes", "way"),
    [
        (("--mem-fraction-static", "0.99"), ("gpu_oom_load", "gpu_oom_cuda_graph"), "lower"),
        (("--mem-fraction-static", "0.97"), ("gpu_oom_load", "gpu_oom_cuda_graph"), "lower"),
        (("--mem-fraction-static", "0.08"), ("mem_fraction_too_low",), "higher"),
    ],
)
def test_out_of_memory_at_start(
    ground: Ground, flags: tuple[str, ...], causes: tuple[str, ...], way: str
) -> None:
    server = ground.server(*flags).dead()
    saved = ("--log", str(server.log_path), "--command", server.command)
    found = shapes.document(ground.run("check", *saved, "--local", "--json").out, shapes.CHECK)
    assert found["causes"][0]["id"] in causes
    doc = fixed(ground.run("fix", *saved, "--yes", "--json"))
    assert doc["cause"]["id"] == found["causes"][0]["id"]
    old, new = changed(doc)["--mem-fraction-static"]
    assert new is not None
    assert (float(new) < float(old or 0)) if way == "lower" else (float(new) > float(old or 1))
    assert ground.run("check", "--url", server.url, *GLANCE).code == 0


def test_a_neighbour_on_the_card_is_named_and_left_alone(ground: Ground) -> None:
    neighbour = ground.spawn("wizard.simulator.neighbour", "--gb", "126", log="neighbour.log")
    wait_for(lambda: b"holding" in (ground.folder / "neighbour.log").read_bytes(), "the neighbour")
    server = ground.server().dead()
    ran = ground.run("fix", "--log", str(server.log_path), "--command", server.command, "--yes", "--json")
    assert ran.code == 1
    doc = shapes.document(ran.out, shapes.FIX)
    assert doc["cause"]["id"] == "gpu_memory_held_by_other_process"
    assert doc["plan"]["changes"] == []
    told = " ".join(a for r in doc["cause"]["remedies"] for a in r["actions"])
    assert f"pid {neighbour.pid}" in told
    assert neighbour.poll() is None
    assert not ground.sessions()
    assert not ground.servers()


# -- (d): the port is taken


def test_a_taken_port(ground: Ground) -> None:
    """A server that lost its port hangs: it is stopped by identity and started on a free one."""
    port = free_port()
    other = ground.listener(port)
    hung = ground.server(port=port)
    wait_for(lambda: "Errno 98" in hung.log, "the bind error")
    assert hung.process.poll() is None
    ran = ground.run("fix", "--pid", str(hung.process.pid), "--yes", "--drain", "1", "--json")
    doc = fixed(ran)
    assert doc["cause"]["id"] == "port_in_use"
    says = " ".join(e["says"] for e in doc["cause"]["evidence"])
    assert f"pid {other.pid}" in says
    new = int(changed(doc)["--port"][1] or 0)
    assert new not in (0, port)
    assert hung.process.wait(10) == -signal.SIGKILL
    assert other.poll() is None
    assert connects(port)
    assert ground.run("check", "--url", f"http://127.0.0.1:{new}", *GLANCE).code == 0


def test_waiting_until_the_port_is_freed(ground: Ground) -> None:
    port = free_port()
    other = ground.listener(port)
    hung = ground.server(port=port)
    wait_for(lambda: "Errno 98" in hung.log, "the bind error")
    ground.end(hung.process)
    words = ("--log", str(hung.log_path), "--command", hung.command, "--remedy", "wait_for_port")
    fix = ground.start("fix", *words, "--yes", "--json")
    words_so_far = ground.folder / "run.err"
    wait_for(lambda: words_so_far.read_bytes() != b"" or fix.poll() is not None, "its word about the port")
    assert f"pid {other.pid}" in words_so_far.read_text(encoding="utf-8")
    assert fix.poll() is None
    assert not ground.sessions()
    ground.end(other)
    doc = fixed(ground.result(fix))
    assert changed(doc) == {}
    assert doc["plan"]["old"] == doc["plan"]["new"]
    assert ground.run("check", "--url", hung.url, *GLANCE).code == 0


# -- (e) and (f), on one server: nothing is wrong, and a change that fails is put back


def test_a_healthy_server_and_a_bad_suggestion(ground: Ground) -> None:
    server = ground.server().ready()
    clients = ground.traffic(server.port, 8, 512, 128)
    wait_for(lambda: server.metric("num_running_reqs"), "the load")
    healthy = ground.run("check", "--pid", str(server.process.pid), "--json", *GLANCE)
    assert healthy.code == 0
    assert shapes.document(healthy.out, shapes.CHECK)["verdict"] == "healthy"
    nothing = ground.run("fix", "--url", server.url, "--yes", "--json", *GLANCE)
    assert nothing.code == 0
    assert shapes.document(nothing.out, shapes.FIX)["verdict"] == "nothing_wrong"

    change = ("--set", "mem_fraction_static=0.99", "--no-load-test", "--drain", "2", *GLANCE)
    for refusal in ("--read-only", "--dry-run"):
        ran = ground.run("fix", "--url", server.url, *change, "--yes", "--json", refusal)
        assert ran.code == 1
        plan = shapes.document(ran.out, shapes.FIX)["plan"]
        assert plan["changes"][0]["new"] == "0.99"
    unasked = ground.run("fix", "--url", server.url, *change)
    assert unasked.code == 1
    assert "--yes" in unasked.err
    assert not ground.sessions()
    assert server.process.poll() is None
    ground.end(clients)

    ran = ground.run("fix", "--url", server.url, *change, "--yes", "--json")
    assert ran.code == 4, ran.out
    doc = shapes.document(ran.out, shapes.FIX)
    assert doc["verdict"] == "rolled_back"
    assert doc["serving"] == "old"
    assert "CUDA out of memory" in doc["sentence"]
    assert "CUDA out of memory" in Path(doc["report"]).read_text(encoding="utf-8")
    (now,) = ground.servers()
    assert list(now.launch.argv) == doc["plan"]["old"]
    assert ground.run("check", "--url", server.url, *GLANCE).code == 0


# -- what outlives a terminal: kill -9 in the middle


def relaunch(ground: Ground, slow_s: str) -> Any:
    """A fix that is under way on a server whose start takes ``slow_s``."""
    server = ground.server("--max-running-requests", "8", SGLANG_SIM_START_S=slow_s).ready()
    words = ("--unset", "max_running_requests", "--no-load-test", "--drain", "3", *GLANCE)
    return server, ground.start("fix", "--url", server.url, *words, "--yes")


def test_the_runner_killed_while_the_new_server_starts(ground: Ground) -> None:
    server, fix = relaunch(ground, "3")
    path, _ = ground.until_active(Stage.READY)
    ground.kill_runner(path)
    cut = ground.result(fix)
    assert cut.code == 1
    assert "sgl-wizard sessions resume" in cut.out, "it does not end without a word"
    listed = ground.run("sessions", "list")
    assert "UNFINISHED" in listed.out
    refused = ground.run("sessions", "resume", "--read-only", "--json")
    assert refused.code == 2
    assert shapes.document(refused.out, shapes.ERROR)["exit_code"] == 2
    resumed = ground.run("sessions", "resume")
    assert resumed.code == 0, (resumed.out, resumed.err)
    assert "Serving now: the new command." in resumed.out
    (now,) = ground.servers()
    assert "--max-running-requests" not in now.launch.argv
    assert ground.run("check", "--url", server.url, *GLANCE).code == 0

    back = ground.run("sessions", "rollback", path.stem.removeprefix("session-"), "--yes", "--json")
    assert back.code == 4, (back.out, back.err)
    doc = shapes.document(back.out, shapes.FIX)
    assert (doc["verdict"], doc["serving"]) == ("rolled_back", "old")
    (now,) = ground.servers()
    assert "--max-running-requests" in now.launch.argv


def test_the_runner_killed_while_the_old_server_stops(ground: Ground) -> None:
    """Nothing was launched yet: the old command is put back."""
    server = ground.server("--max-running-requests", "8").ready()
    ground.traffic(server.port, 4, 64, 3000)
    wait_for(lambda: server.metric("num_running_reqs"), "long requests")
    words = ("--unset", "max_running_requests", "--no-load-test", "--drain", "6", *GLANCE)
    fix = ground.start("fix", "--url", server.url, *words, "--yes")
    path, _ = ground.until_active(Stage.STOP)
    ground.kill_runner(path)
    assert ground.result(fix).code == 1
    resumed = ground.run("sessions", "resume", "--json")
    doc = shapes.document(resumed.out, shapes.FIX)
    assert doc["serving"] == "old"
    assert resumed.code in (1, 4), doc["sentence"]  # 1: the runner died before its signal went out
    (now,) = ground.servers()
    assert "--max-running-requests" in now.launch.argv
    wait_for(lambda: get(f"{server.url}/server_info"), "the old command to serve")


def test_the_face_killed_while_the_new_server_starts(ground: Ground) -> None:
    _, fix = relaunch(ground, "3")
    path, _ = ground.until_active(Stage.READY)
    os.kill(fix.pid, signal.SIGKILL)
    fix.wait(10)
    shown = ground.run("sessions", "show")
    assert "ready" in shown.out
    wait_for(lambda: client.read(path).outcome, "the runner's end")
    assert client.read(path).outcome is Outcome.KEPT
    assert "kept, serving: new" in ground.run("sessions", "list").out
    assert "Serving now: the new command." in ground.run("sessions", "show").out
    assert ground.run("sessions", "report").out.startswith("# Session 1")
    shapes.document(ground.run("sessions", "show", "--json").out, shapes.FIX)
