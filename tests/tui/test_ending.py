"""The screen's end by a signal, in a real terminal: what it gives back, and that it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ground import ROOT
from tests.faults.terminal import Terminal

LIMIT_S = 20.0


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SGL_WIZARD_STATE_DIR": str(tmp_path / "state")}
    made = Terminal((), tmp_path, env)
    try:
        made.wait("read-only: off")
        yield made
    finally:
        made.close()


def code_of(process: subprocess.Popen[bytes]) -> int:
    return process.wait(LIMIT_S)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_terminal_that_is_still_there_is_given_back(
    terminal: Terminal, number: signal.Signals, code: int
) -> None:
    assert terminal.not_given_back(), "a screen that has no terminal proves nothing"
    os.kill(terminal.process.pid, number)
    assert code_of(terminal.process) == code
    assert terminal.not_given_back() == []


def test_a_terminal_that_is_gone_is_left_at_once(terminal: Terminal) -> None:
    terminal.hang_up()
    assert code_of(terminal.process) == 129


def test_stopped_and_continued_it_takes_keys_and_ends(terminal: Terminal) -> None:
    """By SIGSTOP, of which a program learns nothing, and not by Ctrl-Z."""
    os.kill(terminal.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED)
    shown = terminal.seen.count(b"\x1b[?1049h")
    os.kill(terminal.process.pid, signal.SIGCONT)
    terminal.wait_for(lambda: terminal.seen.count(b"\x1b[?1049h") > shown, "the screen again")
    terminal.type("q")
    assert code_of(terminal.process) == 0
    assert terminal.not_given_back() == []
