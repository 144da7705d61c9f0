"""The real runner process on a real (stand-in) server: killed, doubled, aborted; it serves in the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from wizard.core.plan import Consent, Order, Plan, VerifyGoal
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Identity, Launch, Target
from wizard.runner import client
from wizard.runner.journal import Journal
from wizard.runner.locks import holder
from wizard.runner.processes import port_owner as owner_on
from wizard.runner.report import report
from wizard.runner.state_dir import lock_path
from wizard.server.identity import identify, is_alive

STANDIN = str(Path(__file__).with_name("standin.py"))


def port_owner(port: int) -> Any:
    return owner_on("127.0.0.1", port)


def ask(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        doc: dict[str, Any] = json.loads(answer.read())
        return doc


class Bench:
    """One stand-in server, a decoy beside it, and what is needed to relaunch it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log, self.decoy_signals = folder / "server.log", folder / "decoy.signals"
        self.popen: subprocess.Popen[bytes] | None = None
        decoy = [*self.argv(), "sglang.launch_server"][:2]
        decoy += ["--decoy", "--signals", str(self.decoy_signals), "--port", str(self.port)]
        self.decoy = subprocess.Popen(decoy, stdout=subprocess.DEVNULL, start_new_session=True)
        self.paths: list[Path] = []

    def argv(self, *extra: str) -> tuple[str, ...]:
        return (sys.executable, STANDIN, "--port", str(self.port), "--api-key", "s3cret", *extra)

    def launch(self, *extra: str) -> Launch:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "KEEP_ME": "yes"}
        return Launch(
            self.argv(*extra),
            str(self.folder),
            environ,
            str(self.log),
            str(self.log),
            os.geteuid(),
            os.getegid(),
        )

    def up(self, *extra: str) -> Target:
        launch = self.launch("--max-running-requests", "1", *extra)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                launch.argv,
                stdout=log,
                stderr=log,
                cwd=launch.cwd,
                env=dict(launch.environ),
                start_new_session=True,
            )
        wait(lambda: port_owner(self.port) is not None)
        identity = identify(self.popen.pid)
        assert identity is not None
        return Target(port=self.port, identity=identity, launch=launch, log_path=str(self.log))

    def down(self) -> Target:
        return Target(port=self.port, launch=self.launch("--max-running-requests", "1"))

    def order(self, target: Target, *new: str, **consent: Any) -> Order:
        assert target.launch is not None
        plan = Plan(
            "long_queue",
            "Requests wait",
            "r",
            "Lift the cap",
            target.launch.argv,
            self.argv(*new),
            (),
            VerifyGoal("x"),
        )
        return Order(plan, Consent(**{"drain_limit_s": 5.0, "ready_limit_s": 15.0, **consent}))

    def start(self, target: Target, order: Order) -> Path:
        path = client.start(target, order, {"cause": None})
        self.paths.append(path)
        return path

    def close(self) -> None:
        """Everything that this test started, by identity."""
        for path in self.paths:
            runner = holder(lock_path(path))
            if runner is not None:
                os.kill(runner.pid, signal.SIGKILL)
                wait(lambda runner=runner: not is_alive(runner))  # type: ignore[misc]
        owner = port_owner(self.port)
        if owner is not None and owner.identity is not None and STANDIN in owner.argv:
            os.kill(owner.identity.pid, signal.SIGKILL)
        for path in self.paths:
            journal = Journal.open(path)
            for record in journal.read_since(0):
                if record.kind == "launched":
                    child = Identity.from_json(record.data["identity"])
                    if is_alive(child):
                        os.kill(child.pid, signal.SIGKILL)
            journal.close()
        for process in (self.popen, self.decoy):
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    made = Bench(tmp_path)
    try:
        yield made
        assert made.decoy.poll() is None, "the decoy stands"
        assert not made.decoy_signals.exists(), "and was never signalled"
    finally:
        made.close()


def wait(until: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


async def end_of(path: Path, limit_s: float = 40.0) -> RunState:
    async def last() -> RunState:
        state = client.read(path)
        async for state in client.watch(path, 0.05):  # noqa: B007
            pass
        return state

    return await asyncio.wait_for(last(), limit_s)


def environ_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def told(bench: Bench, state: RunState) -> str:
    """The command that really serves, which must be what the state says."""
    argv = ask(bench.port)["argv"]
    really = "old" if "--max-running-requests" in argv else "new"
    assert state.serving == really
    return really


async def test_change_is_kept_and_everything_else_is_as_it_was(bench: Bench) -> None:
    target = bench.up()
    path = bench.start(target, bench.order(target))
    state = await end_of(path)
    assert (state.outcome, told(bench, state)) == (Outcome.KEPT, "new"), state.sentence
    assert state.new_pid is not None
    assert b"KEEP_ME=yes" in environ_of(state.new_pid)
    assert os.readlink(f"/proc/{state.new_pid}/cwd") == str(bench.folder)
    assert os.readlink(f"/proc/{state.new_pid}/fd/1") == str(bench.log)
    assert os.getsid(state.new_pid) != os.getsid(0)
    assert any("fired up" in line for line in state.log_tail)
    assert "s3cret" not in "".join(state.log_tail) + report(path)
    assert not state.runner_alive
    for file in (bench.folder / "state").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


async def test_bad_command_is_rolled_back(bench: Bench) -> None:
    target = bench.up()
    state = await end_of(bench.start(target, bench.order(target, "--crash")))
    assert (state.outcome, told(bench, state)) == (Outcome.ROLLED_BACK, "old")
    assert "exit code 2" in state.sentence
    assert "crashes as asked" in state.sentence


async def test_server_that_was_down_is_started(bench: Bench) -> None:
    target = bench.down()
    state = await end_of(bench.start(target, bench.order(target)))
    assert (state.outcome, told(bench, state)) == (Outcome.KEPT, "new")


async def test_foreign_owner_of_the_port_is_named_and_left_alone(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", bench.port)):
        state = await end_of(bench.start(bench.down(), bench.order(bench.down())))
    assert state.outcome is Outcome.CALLED_OFF
    assert str(os.getpid()) in state.sentence


@pytest.mark.parametrize(
    ("at", "how"),
    [
        ("intent stop", "auto"),
        ("result stop", "finish"),
        ("launching launch", "auto"),
        ("launched launch", "auto"),
        ("intent ready", "rollback"),
    ],
)
async def test_runner_killed_then_resumed(bench: Bench, at: str, how: Any) -> None:
    """SIGKILL when a record has appeared; another runner then ends it, and says which command serves."""
    target = bench.up("--drain-s", "0.3")
    path = bench.start(target, bench.order(target, "--start-s", "0.6"))
    face = Journal.open(path)
    wait(lambda: any(f"{r.kind} {r.stage}" == at for r in face.read_since(0)))
    face.close()
    runner = holder(lock_path(path))
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    wait(lambda: not is_alive(runner))
    dead = client.read(path)
    assert not dead.runner_alive
    assert dead.outcome is None
    assert client.list_sessions()[0].is_unfinished
    client.resume(path, how)
    state = await end_of(path)
    fine = [Outcome.KEPT, Outcome.ROLLED_BACK]
    if at == "intent stop":
        fine.append(Outcome.CALLED_OFF)  # killed before the signal went out: the old one never stopped
    assert state.outcome in fine, state.sentence
    serving = told(bench, state)
    if how == "rollback":
        assert serving == "old"
    if at == "launched launch":
        assert serving == "new", "it was already starting"
    owner = port_owner(bench.port)
    assert owner is not None
    running = [a for a in _standins(bench.port) if a != bench.decoy.pid]
    assert owner.identity is not None
    assert running == [owner.identity.pid], "no second server was left"


def _standins(port: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if STANDIN.encode() in words and str(port).encode() in words and identify(int(entry.name)):
                found.append(int(entry.name))
    return found


async def test_second_wizard_is_refused_with_the_holder_named(bench: Bench) -> None:
    target = bench.up()
    path = bench.start(target, bench.order(target, keep="ask"))
    with pytest.raises(client.StartError, match=f"session {client.session_id(path)} "):
        bench.start(target, bench.order(target))
    with pytest.raises(client.StartError, match="is held by"):
        client.resume(path)
    refused = client.list_sessions()[0]
    assert refused.outcome is Outcome.CALLED_OFF
    wait(lambda: client.read(path).awaiting_decision)
    assert client.read(path).serving == "new"
    client.send(path, "rollback")
    state = await end_of(path)
    assert (state.outcome, told(bench, state)) == (Outcome.ROLLED_BACK, "old")


async def test_sigterm_to_the_runner_puts_the_old_command_back_and_sighup_does_nothing(bench: Bench) -> None:
    target = bench.up()
    path = bench.start(target, bench.order(target, "--start-s", "20"))
    wait(lambda: client.read(path).stage(Stage.READY).status == "active")
    runner = holder(lock_path(path))
    assert runner is not None
    os.kill(runner.pid, signal.SIGHUP)
    os.kill(runner.pid, signal.SIGINT)
    os.kill(runner.pid, signal.SIGTERM)
    state = await end_of(path)
    assert (state.outcome, told(bench, state)) == (Outcome.ROLLED_BACK, "old")
    assert "Aborted" in state.sentence


async def test_unusable_state_folder_refuses_before_anything_is_touched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bench.up()
    (bench.folder / "blocked").write_text("a file")
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(bench.folder / "blocked"))
    from wizard.runner.state_dir import StateDirError

    with pytest.raises(StateDirError):
        client.start(target, bench.order(target))
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(bench.folder / "state"))
    assert "--max-running-requests" in ask(bench.port)["argv"]


async def test_reused_pid_is_not_signalled(bench: Bench) -> None:
    """The pid is alive but is not the process that was meant: nothing happens to it."""
    target = bench.up()
    assert target.identity is not None
    stale = replace(target, identity=replace(target.identity, start_ticks=target.identity.start_ticks - 1))
    state = await end_of(bench.start(stale, bench.order(target)))
    assert state.outcome is Outcome.CALLED_OFF
    assert "--max-running-requests" in ask(bench.port)["argv"]
