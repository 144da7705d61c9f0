"""Real simulator processes on free ports, each test with a card of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """One simulator: its process, its log and its HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, card: Path) -> None:
        self.process, self.port, self.log_path, self.card_path = process, port, log, card

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def card(self) -> dict[str, Any]:
        return dict(json.loads(self.card_path.read_text(encoding="utf-8")))

    def child(self) -> int:
        """The scheduler's pid."""
        found = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if _parent_of(stat) == self.process.pid
        ]
        assert len(found) == 1, found
        return found[0]

    def wait_log(self, text: str, seconds: float = 30.0) -> None:
        """Until the log holds `text`; fails when the time is over."""
        end = time.monotonic() + seconds
        while text not in self.log:
            if time.monotonic() > end:
                raise AssertionError(f"no {text!r} in the log:\n{self.log[-3000:]}")
            time.sleep(0.02)

    def wait_ready(self) -> Running:
        self.wait_log("The server is fired up and ready to roll!")
        return self

    def wait_exit(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def request(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 10.0
    ) -> tuple[int, str]:
        """Status and text of one request; a body makes it a POST."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        call = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers or {})
        try:
            with urllib.request.urlopen(call, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str, body: Any = None) -> Any:
        status, text = self.request(path, body)
        assert status == 200, (status, text)
        return json.loads(text)

    def metric(self, name: str, **labels: str) -> float | None:
        """Sum of a metric's samples with these labels, None when it is absent."""
        _, text = self.request("/metrics")
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"sglang:{name}{{", f"sglang:{name} "))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]
        return sum(found) if found else None


def _parent_of(stat: Path) -> int | None:
    try:
        return int(stat.read_bytes().rsplit(b") ", 1)[1].split()[1])
    except OSError:
        return None


Launch = Callable[..., Running]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """`launch(*flags, port=None, fault="", **env)` starts a simulator; all are killed after the test."""
    started: list[Running] = []

    def start(*flags: str, port: int | None = None, **env: str) -> Running:
        number = port or free_port()
        card, log = tmp_path / "card.json", tmp_path / f"server-{len(started)}.log"
        environ = {
            **os.environ,
            "SGLANG_SIM_CARD": str(card),
            "SGLANG_SIM_START_S": "0.3",
            "SGLANG_SIM_SPEED": "20",
            **env,
        }
        command = [
            sys.executable,
            "-m",
            "wizard.simulator",
            "--model-path",
            "llama-3.1-8b",
            "--port",
            str(number),
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *flags],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(Running(process, number, log, card))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)  # its own session, which this fixture made
            each.process.wait(10)
