"""A unit under the stand-in systemd, really run, with folders of its own for drop-ins."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.runner import standin
from wizard.core.held import Held
from wizard.core.target import Identity
from wizard.server.identity import identify
from wizard.server.supervisors import systemd, units
from wizard.server.supervisors.tool import ask

STANDIN = str(Path(standin.__file__))
CLIENT = Path(__file__).with_name("systemctl.py")
UNIT = "sglang.service"


class World:
    """A unit under the stand-in systemd, and the folders of its drop-ins."""

    def __init__(self, folder: Path, restart: str = "always") -> None:
        self.folder, self.log = folder, folder / f"{UNIT}.log"
        self.port = free_port()
        self.argv = (sys.executable, STANDIN, "--port", str(self.port), "--api-key", "s3cret 100%$x")
        self.restart = restart

    def set_up(self, *more: str) -> None:
        words = " ".join(map(systemd.quote, (*self.argv, *more)))
        text = f"[Service]\nExecStart={words}\nRestart={self.restart}\nWorkingDirectory={self.folder}\n"
        (self.folder / UNIT).write_text(text, encoding="utf-8")
        ask(["systemctl", "daemon-reload"])
        ask(["systemctl", "start", UNIT])
        self.wait_for_port()

    def wait_for_port(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                self.asked()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"nobody serves on {self.port}")

    def asked(self) -> list[str]:
        """The argv of who answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
            argv = json.load(answer)["argv"]
        assert isinstance(argv, list)
        return argv

    @property
    def main(self) -> int:
        return int(json.loads((self.folder / f"{UNIT}.json").read_text(encoding="utf-8"))["main"])

    @property
    def identity(self) -> Identity:
        found = identify(self.main)
        assert found is not None
        return found

    @property
    def held(self) -> Held:
        return units.held_by(self.main, UNIT, folders=(str(self.folder / "etc"), str(self.folder / "run")))

    @property
    def files(self) -> list[str]:
        return sorted(
            str(p.relative_to(self.folder)) for part in ("etc", "run") for p in (self.folder / part).rglob("*")
        )

    def calls(self) -> list[str]:
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [" ".join(json.loads(line)) for line in lines if '"show"' not in line]

    def close(self) -> None:
        (self.folder / UNIT).write_text("[Service]\nExecStart=/bin/true\nTimeoutStopSec=0s\n", encoding="utf-8")
        ask(["systemctl", "daemon-reload"])
        ask(["systemctl", "stop", UNIT])


@contextmanager
def world_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stand-in client first on PATH, also for processes that are started; the unit ends with the block."""
    programs = folder / "bin"
    programs.mkdir()
    client = programs / "systemctl"
    client.write_text(f"#!{sys.executable}\n" + CLIENT.read_text(encoding="utf-8"), encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN_WORLD", str(folder))
    made = World(folder)
    yield made
    if (folder / UNIT).exists():
        made.close()
