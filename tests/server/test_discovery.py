from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.server.conftest import MODULE, PRETEND, Stage, pretend_environ, wait_until, who
from wizard.core.target import Target
from wizard.server import discovery, proc
from wizard.server.discovery import (
    TargetError,
    find_servers,
    runs_server,
    target_from_command,
    target_from_pid,
    target_from_url,
)
from wizard.server.supervisors.holders import unit_of

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("words", "is_server"),
    [
        ("python -m sglang.launch_server --model-path x", True),
        ("/opt/venv/bin/python3.11 -u -X faulthandler -m sglang.launch_server --model-path x", True),
        ("python -W ignore -m wizard.simulator --port 1", True),
        ("/opt/venv/bin/python /opt/venv/bin/sglang serve x", True),
        ("python3 /opt/venv/lib/python3.11/site-packages/sglang/launch_server.py --model-path x", True),
        ("pypy3 -m sglang.launch_server", True),
        ("bash -c python -m sglang.launch_server", False),
        ("env A=1 python -m sglang.launch_server", False),
        ("numactl -N 0 python -m sglang.launch_server", False),
        ("nohup python -m sglang.launch_server", False),
        ("timeout 60 python -m sglang.launch_server", False),
        ("uv run sglang serve x", False),
        ("uv run python -m sglang.launch_server", False),
        ("tmux new python -m sglang.launch_server", False),
        ("tail -f /var/log/sglang.log", False),
        ("grep -r sglang.launch_server .", False),
        ("vim sglang/launch_server.py", False),
        ("python editor.py sglang/launch_server.py", False),
        ("python editor.py -m sglang.launch_server", False),
        ("python -c code -m sglang.launch_server", False),
        ("python -cimport -m sglang.launch_server", False),
        ("python - -m sglang.launch_server", False),
        ("python -m pdb -m sglang.launch_server", False),
        ("python -m sglang.bench_serving --port 30000", False),
        ("python -m sglang_router.launch_server --worker x", False),
        ("python launch_server.py", False),
        ("sglang::scheduler", False),
        ("sglang::detokenizer", False),
        ("python", False),
        ("", False),
    ],
)
def test_what_a_server_is(words: str, is_server: bool) -> None:
    assert runs_server(words.split()) is is_server


def pids_found() -> set[int]:
    """Others may run servers on this machine too: ask only about one's own."""
    return {t.identity.pid for t in find_servers() if t.identity is not None}


def test_finds_the_parent_with_everything_to_start_it_again(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, "--served-model-name", "tiny", "--chat-template", "", children=2)
    assert len(proc.descendants(pid)) == 4
    (found,) = [t for t in find_servers() if t.identity == who(pid)]
    assert found.base_url == f"http://127.0.0.1:{port}"
    assert found.name == "tiny"
    assert found.note == ""
    assert not found.simulated
    assert not found.remote
    assert found.is_live
    launch = found.launch
    assert launch is not None
    assert launch.argv == (*MODULE, "--port", str(port), "--served-model-name", "tiny", "--chat-template", "")
    assert launch.environ == {**pretend_environ(children=2)}
    assert launch.cwd == str(stage.folder)
    assert launch.log_path == launch.stderr_path == found.log_path == str(stage.folder / "server.log")
    assert (launch.uid, launch.gid) == (os.geteuid(), os.getegid())
    children = {one.pid for one in proc.descendants(pid)}
    assert not children & pids_found()
    for child in children:
        assert target_from_pid(child).identity == found.identity


def test_decoys_are_never_found(stage: Stage) -> None:
    sleep = shutil.which("sleep") or "sleep"
    words = "python -m sglang.launch_server --port 30000"
    (stage.folder / "sglang.log").write_text("sglang.launch_server\n")
    decoys = [
        stage.run(["bash", "-c", f": {words}; sleep 60; :"]),
        stage.run(["tail", "-f", "sglang.log"]),
        stage.script(SLEEP, "-m", "sglang.launch_server", "--port", "30000"),
        stage.run(["bash", "-c", f"exec -a 'sglang::scheduler' {sleep} 60"]),
        stage.run(["env", "X=sglang.launch_server", sleep, "60"]),
        stage.run([sys.executable, "-u", "-c", SLEEP, "sglang", "serve"]),
    ]
    wait_until(lambda: (stage.folder / "log").read_text().count("up") == 2, "the decoys")
    assert not {d.pid for d in decoys} & pids_found()
    for decoy in decoys:
        with pytest.raises(TargetError, match="no SGLang server"):
            target_from_pid(decoy.pid)


def test_output_into_two_files_and_into_none(stage: Stage) -> None:
    with open(stage.folder / "out", "ab") as out, open(stage.folder / "err", "ab") as err:
        two = stage.run([*MODULE, "--port", str(free_port())], pretend_environ(), stdout=out, stderr=err)
    none = stage.run(MODULE, pretend_environ(unbound=True), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stage.wait_for("err", "fired up")
    split, piped = target_from_pid(two.pid), target_from_pid(none.pid)
    assert split.launch is not None
    assert piped.launch is not None
    assert none.stdout is not None
    assert split.launch.log_path == str(stage.folder / "out")
    assert split.launch.stderr_path == split.log_path == str(stage.folder / "err")
    assert piped.launch.log_path is piped.launch.stderr_path is piped.log_path is None
    none.stdout.close()


def test_the_number_of_a_thread_leads_to_its_process(stage: Stage) -> None:
    """``top -H`` and htop show threads; nothing can be held or signalled by such a number."""
    pid = stage.server(free_port())
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid]
    assert threads
    for tid in threads:
        assert target_from_pid(tid).identity == who(pid)


def test_a_server_that_ends_while_it_is_looked_at_is_not_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its identity would come with the command line or folder of whoever got the pid."""
    pid = stage.server(free_port())
    real = proc.cwd

    def end_it(one: int) -> str | None:
        if one == pid:
            stage.started[0].kill()
            stage.started[0].wait()
            return "/elsewhere"
        return real(one)

    monkeypatch.setattr(proc, "cwd", end_it)
    with pytest.raises(TargetError):
        target_from_pid(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as somebody else")
def test_another_users_server_in_a_closed_folder_is_found_and_explained() -> None:
    """An ordinary user on a host where root runs a server from a venv under /root."""
    with tempfile.TemporaryDirectory() as name:  # mode 0700
        program = Path(name) / "venv" / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.symlink_to(sys.executable)
        argv = [str(program), "-m", "sglang.launch_server", "--port", "31007"]
        os.seteuid(65534)
        try:
            for words in (argv, ["python", *argv[1:]]):
                found = target_from_command(words, name, {"PATH": str(program.parent)})
                assert (found.version, found.port) == (None, 31007)
            note = discovery._note(os.getpid(), 0, None, None)
        finally:
            os.seteuid(0)
    assert note == "it runs as user id 0: run the wizard as that user or as root to relaunch it"


def test_a_wrapper_leads_to_its_server_and_two_below_it_are_not_guessed(stage: Stage) -> None:
    ports = [free_port(), free_port()]
    one = f"{sys.executable} -m sglang.launch_server --model-path x --port"
    single = stage.run(["bash", "-c", f"{one} {ports[0]}; :"], pretend_environ(children=1), log="single")
    double = stage.run(
        ["bash", "-c", f"{one} {ports[0]} & {one} {ports[1]}; wait"], pretend_environ(start_s=60)
    )
    stage.wait_for("single", "fired up")
    found = target_from_pid(single.pid)
    assert found.identity is not None
    assert proc.parent(found.identity.pid) == single.pid
    assert found.port == ports[0]
    wait_until(lambda: sum(runs_server(proc.cmdline(i.pid)) for i in proc.descendants(double.pid)) == 2, "both")
    with pytest.raises(TargetError, match="2 servers below it") as error:
        target_from_pid(double.pid)
    assert "\n" not in str(error.value)


def test_no_such_process(stage: Stage) -> None:
    child = stage.script("pass")
    child.wait()
    with pytest.raises(TargetError, match=f"no process {child.pid}"):
        target_from_pid(child.pid)


def test_url_of_a_local_server(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, "--host", "0.0.0.0")
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.0.0.5"):
        found = target_from_url(f"http://{host}:{port}")
        assert (found.identity, found.port, found.remote) == (who(pid), port, False), host
    assert target_from_pid(pid).host == "127.0.0.1"
    assert target_from_url(f"127.0.0.1:{port}/v1").identity == who(pid)


def test_url_names_the_server_at_that_very_address(stage: Stage) -> None:
    port = free_port()
    first = stage.server(port, "--host", "127.0.0.1", log="a")
    second = stage.server(port, "--host", "127.0.0.2", log="b")
    assert target_from_url(f"http://127.0.0.1:{port}").identity == who(first)
    assert target_from_url(f"http://127.0.0.2:{port}").identity == who(second)
    nobody = target_from_url(f"http://127.0.0.3:{port}")
    assert nobody.identity is None
    assert nobody.remote
    assert nobody.local
    assert "no process here listens" in nobody.note


def test_url_of_a_router_is_not_its_worker(stage: Stage) -> None:
    port, worker_port = free_port(), free_port()
    router = (
        "import socket, subprocess, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "subprocess.run([sys.executable, '-m', 'sglang.launch_server', '--port', sys.argv[2]])"
    )
    process = stage.script(router, str(port), str(worker_port), env=pretend_environ())
    stage.wait_for("log", "fired up")
    found = target_from_url(f"http://127.0.0.1:{port}")
    assert found.identity is None
    assert found.remote
    assert f"process {process.pid}" in found.note
    worker = target_from_url(f"http://127.0.0.1:{worker_port}").identity
    assert worker is not None
    assert proc.parent(worker.pid) == process.pid


def test_an_internal_port_of_a_child_is_not_the_servers_address(stage: Stage) -> None:
    port, internal = free_port(), free_port()
    code = (
        "import os, socket, sys, runpy\n"
        "if os.fork() == 0:\n"
        f" s = socket.create_server(('127.0.0.1', {internal})); import time; time.sleep(60)\n"
    )
    folder = stage.folder / "own" / "sglang"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    real = (
        (Path(PRETEND) / "sglang" / "launch_server.py")
        .read_text()
        .replace("if __name__", f"{code}\nif __name__")
    )
    (folder / "launch_server.py").write_text(real)
    env = {**pretend_environ(), "PYTHONPATH": str(stage.folder / "own")}
    pid = stage.run([*MODULE, "--port", str(port)], env).pid
    stage.wait_for("log", "fired up")
    wait_until(lambda: proc.listeners(internal), "the internal port")
    assert target_from_url(f"http://127.0.0.1:{port}").identity == who(pid)
    assert target_from_url(f"http://127.0.0.1:{internal}").identity is None


def test_port_of_a_config_file_is_seen_from_the_socket(stage: Stage) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "sglang.launch_server", "--config", "server.yaml"]
    pid = stage.run(argv, pretend_environ(port=port)).pid
    stage.wait_for("log", "fired up")
    assert target_from_pid(pid).port == port


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1:1", "http://", "http://127.0.0.1:99999", "http://[::1", "http:///x"]
)
def test_what_is_no_address_is_one_clear_line(url: str) -> None:
    with pytest.raises(TargetError, match="write http://HOST:PORT") as error:
        target_from_url(url)
    assert "\n" not in str(error.value)


def test_another_host_is_examined_only() -> None:
    found = target_from_url("http://192.0.2.7:30000")
    assert found.remote
    assert found.identity is None
    assert not found.local
    assert found.is_elsewhere
    assert "another host" in found.note


def test_a_server_that_is_down() -> None:
    argv = [
        "python",
        "-m",
        "wizard.simulator",
        "--model-path",
        "/m/llama-8b",
        "--port",
        "31000",
        "--host",
        "::",
    ]
    found = target_from_command(argv, "/srv", {"SGLANG_SIM_CARD": "/x/card.json"}, "/srv/log")
    assert not found.is_live
    assert found.launch is not None
    assert found.launch.argv == tuple(argv)
    assert (found.host, found.port, found.name, found.simulated) == ("::1", 31000, "llama-8b", True)
    assert found.card_path == "/x/card.json"
    assert found.launch.stderr_path == "/srv/log"
    with pytest.raises(TargetError, match="starts no SGLang server"):
        target_from_command(["python", "train.py"], "/srv", {})


def test_a_supervised_server_is_assisted_only(stage: Stage) -> None:
    code = (
        "import subprocess, sys; open('/proc/self/comm', 'w').write('supervisord')\n"
        "words = sys.executable + ' -m sglang.launch_server --port ' + sys.argv[1] + '; :'\n"
        "subprocess.run(['bash', '-c', words])"
    )
    process = stage.script(code, str(free_port()), env=pretend_environ())
    stage.wait_for("log", "fired up")
    found = target_from_pid(process.pid)
    assert found.held is not None
    assert found.held.says().startswith("supervisord")
    assert found.held.is_assisted
    assert not found.held.is_managed
    assert found.note == ""
    assert Target.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/sglang.service", "sglang.service"),
        ("0::/system.slice/sglang@8b.service/worker", "sglang@8b.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/llm.service", "llm.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1.scope", None),
        ("0::/user.slice/user-1000.slice/session-4.scope", None),
        ("0::/system.slice/ssh.service", None),
        ("0::/system.slice/cron.service", None),
        ("9:name=systemd:/system.slice/sglang.service\n4:memory:/", "sglang.service"),
        ("0::/", None),
        ("", None),
    ],
)
def test_which_unit_starts_it_again(text: str, unit: str | None) -> None:
    assert unit_of(text) == unit


def test_main_process_of_a_container_is_not_stopped_from_within(stage: Stage) -> None:
    """A pid namespace of its own, in which the server is process 1, as in most containers."""
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-pf", "--mount-proc", "true"], capture_output=True).returncode
    ):
        pytest.skip("no right to make a pid namespace here")
    code = (
        "import asyncio, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from wizard.server.discovery import target_from_pid\n"
        "from wizard.server.stop import stop_tree\n"
        "t = target_from_pid(1)\n"
        "done = asyncio.run(stop_tree(t.identity, drain_limit_s=1, escalate=True,\n"
        "                             on_progress=print, cancelled=lambda: False))\n"
        "print('NOTE', t.note, 'HOW', done.how, done.ok, flush=True)\n"
    )
    (stage.folder / "inside.py").write_text(code)
    server = stage.folder / "own" / "sglang"
    server.mkdir(parents=True)
    (server / "__init__.py").touch()
    (server / "launch_server.py").write_text(
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, 'inside.py', {str(Path(__file__).parents[2])!r}])\ntime.sleep(1)\n"
        "print('still here', flush=True)"
    )
    env = {**os.environ, "PYTHONPATH": str(stage.folder / "own")}
    stage.run([unshare, "-pf", "--mount-proc", sys.executable, "-m", "sglang.launch_server"], env)
    stage.wait_for("log", "still here")
    said = (stage.folder / "log").read_text()
    assert "NOTE the wizard itself runs below it" in said or "NOTE it is the main process" in said
    assert "HOW not_signalled False" in said


def test_main_process_is_told_by_its_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "in_first_pid_namespace", lambda: False)
    monkeypatch.setattr(proc, "ancestors", lambda pid: [7, 1])
    for words, yes in (
        (["tini", "--", "python", "-m", "sglang.launch_server", "--port", "1"], True),
        (["sh", "-c", "python -m sglang.launch_server --port 1"], True),
        (["bash"], False),
        (["sleep", "infinity"], False),
    ):
        monkeypatch.setattr(proc, "cmdline", lambda pid, words=words: tuple(words))
        assert discovery._is_main_of_container(20) is yes
    monkeypatch.setattr(proc, "in_first_pid_namespace", lambda: True)
    assert not discovery._is_main_of_container(20)
