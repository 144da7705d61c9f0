"""Real processes to look at and to stop; every one of them is ended again, by the handle that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import identify

PRETEND = str(Path(__file__).parent / "pretend")
MODULE = (sys.executable, "-m", "sglang.launch_server", "--model-path", "/models/tiny")


def wait_until(done: Callable[[], Any], what: str, limit_s: float = 15.0) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)
    return found


def who(pid: int) -> Identity:
    found = identify(pid)
    assert found is not None
    return found


def pretend_environ(**how: Any) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PRETEND, "PRETEND": json.dumps(how), "PYTHONUNBUFFERED": "1"}


class Stage:
    """Starts processes in sessions of their own, writing to files of this test's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def run(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, log: str = "log", **more: Any
    ) -> subprocess.Popen[bytes]:
        with open(self.folder / log, "ab") as out:
            options: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": out,
                "stderr": out,
                "cwd": self.folder,
            }
            process = subprocess.Popen(argv, env=env, start_new_session=True, **{**options, **more})
        self.started.append(process)
        return process

    def script(self, code: str, *args: str, **more: Any) -> subprocess.Popen[bytes]:
        return self.run([sys.executable, "-c", code, *args], **more)

    def server(self, port: int, *flags: str, log: str = "server.log", up: bool = True, **how: Any) -> int:
        """The pid of a pretended server; ``up``: wait until its port is bound."""
        argv = [*MODULE, "--port", str(port), *flags]
        pid = self.run(argv, pretend_environ(**how), log=log).pid
        if up:
            self.wait_for(log, "fired up")
            below = 2 * how.get("children", 0)
            wait_until(lambda: len(proc.descendants(pid)) >= below, f"{below} processes below it")
        return pid

    def wait_for(self, log: str, text: str) -> None:
        path = self.folder / log
        wait_until(lambda: path.exists() and text in path.read_text(errors="replace"), f"{text!r} in {log}")

    def end(self) -> None:
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else can be in the group
            except (ProcessLookupError, PermissionError):
                pass
            process.wait(timeout=10)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.end()
