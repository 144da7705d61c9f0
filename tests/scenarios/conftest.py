"""Real command lines against real simulator processes, each test with a card and a state folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from wizard.core.progress import RunState, Stage
from wizard.runner import client
from wizard.runner.locks import holder
from wizard.runner.state_dir import lock_path
from wizard.server.discovery import find_servers
from wizard.server.stop import stop_tree

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0
"""Only a bound: the machine that runs this may be slow."""

SHORT_LOAD = ("--windows", "5", "--window-s", "0.8", "--warmup-s", "1")


def wait_for(done: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    end = time.monotonic() + limit_s
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit_s:g} s for {what}")
        time.sleep(0.05)


@dataclass
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def doc(self) -> Any:
        return json.loads(self.out)


@dataclass
class Ground:
    """A folder, a card, a state folder, and everything that was started in it."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def card(self) -> str:
        return str(self.folder / "card.json")

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def environ(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SGL_WIZARD_STATE_DIR": str(self.state),
            "SGLANG_SIM_CARD": self.card,
            "SGLANG_SIM_START_S": "0.3",
            **more,
        }

    def spawn(self, module: str, *words: str, log: str, **env: str) -> subprocess.Popen[bytes]:
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=self.folder,
                env=self.environ(**env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    # -- servers

    def server(self, *flags: str, port: int | None = None, **env: str) -> Server:
        """A simulator; not waited for."""
        number = port or free_port()
        words = ("--model-path", "llama-3.1-8b", "--port", str(number), "--enable-metrics", *flags)
        log = f"server-{number}.log"
        process = self.spawn("wizard.simulator", *words, log=log, **env)
        return Server(self, process, number, self.folder / log, words)

    def traffic(self, port: int, clients: int, tokens_in: int, tokens_out: int) -> subprocess.Popen[bytes]:
        words = ["--url", f"http://127.0.0.1:{port}", "--clients", str(clients), "--seconds", "120"]
        words += ["--input-tokens", str(tokens_in), "--output-tokens", str(tokens_out)]
        return self.spawn("wizard.measure.traffic", *words, log="traffic.log")

    def listener(self, port: int) -> subprocess.Popen[bytes]:
        """A process that has nothing to do with SGLang on a port."""
        process = self.spawn("http.server", str(port), "--bind", "127.0.0.1", log="listener.log")
        wait_for(lambda: connects(port), "the listener")
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """One of ours, at once."""
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)

    # -- the command line

    def start(self, *words: str, name: str = "run", **env: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.out", "wb") as out, open(self.folder / f"{name}.err", "wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "wizard", *words],
                cwd=self.folder,
                env=self.environ(**env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.started.append(process)
        return process

    def result(self, process: subprocess.Popen[bytes], name: str = "run") -> Ran:
        code = process.wait(LIMIT_S)
        out = (self.folder / f"{name}.out").read_text(encoding="utf-8")
        return Ran(code, out, (self.folder / f"{name}.err").read_text(encoding="utf-8"))

    def run(self, *words: str, **env: str) -> Ran:
        ran = self.result(self.start(*words, **env))
        assert "Traceback" not in ran.err, ran.err
        return ran

    def fix_under_load(self, server: Server, load: tuple[int, int, int], *words: str) -> Ran:
        return self.change_under_load(server, load, "fix", *words)

    def change_under_load(self, server: Server, load: tuple[int, int, int], *words: str) -> Ran:
        """A command while clients send; they stop when the change begins: its load test would be blurred."""
        clients = self.traffic(server.port, *load)
        wait_for(lambda: server.metric("num_running_reqs"), "the load")
        time.sleep(1.0)  # the queue has to build up before there is something to see
        before = len(self.sessions())
        process = self.start(*words, "--url", server.url, "--json", "--yes", "--drain", "5", *SHORT_LOAD)
        wait_for(lambda: len(self.sessions()) > before or process.poll() is not None, "the session")
        self.end(clients)
        return self.result(process)

    # -- sessions

    def sessions(self) -> list[Path]:
        return sorted(self.state.glob("session-*.db")) if self.state.exists() else []

    def until_active(self, stage: Stage, number: int = 1) -> tuple[Path, RunState]:
        """Until the session's transaction is in this stage."""

        def there() -> tuple[Path, RunState] | None:
            path = self.state / f"session-{number}.db"
            if not path.exists():
                return None
            try:
                state = client.read(path)
            except client.JournalError:
                return None  # it is being created
            assert state.outcome is None, (state.sentence, state.stages)
            return (path, state) if state.stage(stage).status == "active" else None

        found = wait_for(there, f"stage {stage.value}")
        assert isinstance(found, tuple)
        return found

    def kill_runner(self, path: Path) -> None:
        """The runner of a session of ours: the one that holds its lock."""
        runner = holder(lock_path(path))
        assert runner is not None
        words = argv_of(runner.pid)
        assert "wizard.runner" in words
        assert str(path) in words
        os.kill(runner.pid, signal.SIGKILL)
        wait_for(lambda: not client.runner_alive(path), "the runner's end")

    def servers(self) -> list[Any]:
        """The simulators on this ground's own card."""
        return [t for t in find_servers() if t.card_path == self.card]

    def clear(self) -> None:
        """End what runs on our card, by identity, and what we started; nothing may be left."""
        for path in self.sessions():
            if holder(lock_path(path)) is not None:
                client.send(path, "abort")
        wait_for(lambda: all(holder(lock_path(p)) is None for p in self.sessions()), "runners to end", 30.0)
        for target in self.servers():
            asyncio.run(
                stop_tree(
                    target.identity,
                    drain_limit_s=0.2,
                    escalate=True,
                    on_progress=lambda *_: None,
                    cancelled=lambda: False,
                )
            )
        for process in self.started:
            self.end(process)
        assert not self.servers(), "a simulator is left"


@dataclass
class Server:
    ground: Ground
    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    words: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> str:
        return " ".join([sys.executable, "-m", "wizard.simulator", *self.words])

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def ready(self) -> Server:
        wait_for(lambda: "fired up and ready" in self.log or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log
        return self

    def dead(self) -> Server:
        self.process.wait(LIMIT_S)
        return self

    def metric(self, name: str) -> float:
        total = 0.0
        for line in get(f"{self.url}/metrics").splitlines():
            if line.startswith((f"sglang:{name}{{", f"sglang:{name} ")):
                total += float(line.rsplit(" ", 1)[1])
        return total


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    made = Ground(tmp_path)
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(made.state))
    try:
        yield made
    finally:
        made.clear()
