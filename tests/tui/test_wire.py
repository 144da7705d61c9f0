"""The wizard in a pseudo-terminal: what goes over the wire, and what happens when the link fails."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0


class Terminal:
    """A child in a pseudo-terminal of 80x24. ``seen`` is everything it wrote."""

    def __init__(self, *args: str, term: str = "xterm-256color") -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("TEXTUAL")}
        env |= {"TERM": term, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        self.seen = b""
        self.status: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(ROOT)
                os.execvpe(sys.executable, [sys.executable, "-m", "tests.tui.canned", *args], env)
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def read(self, seconds: float) -> bytes:
        """What it writes within ``seconds``."""
        got, end = b"", time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    piece = os.read(self.fd, 1 << 16)
                except OSError:
                    break
                if not piece:
                    break
                got += piece
        self.seen += got
        return got

    def until(self, text: str) -> None:
        end = time.monotonic() + LIMIT_S
        while text.encode() not in self.seen:
            assert time.monotonic() < end, f"{text!r} was not shown: {self.seen[-500:]!r}"
            self.read(0.05)

    def until_quiet(self, seconds: float) -> None:
        end = time.monotonic() + LIMIT_S
        while self.read(seconds):
            assert time.monotonic() < end, "it never stops writing"

    def exit_code(self, within: float) -> int:
        end = time.monotonic() + within
        while time.monotonic() < end:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.read(0.05)
                return self.status
        raise AssertionError(f"still running after {within} s")

    def close(self) -> None:
        if self.status is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        if self.fd >= 0:
            os.close(self.fd)


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    made = Terminal(*getattr(request, "param", ()))
    yield made
    made.close()


@pytest.mark.parametrize("terminal", [("--live",)], indirect=True)
def test_a_quiet_server_costs_no_bytes_and_a_key_costs_little(terminal: Terminal) -> None:
    terminal.until("Requests wait too long")
    terminal.until_quiet(0.8)
    assert terminal.read(2.0) == b""
    os.write(terminal.fd, b"\x1b[B")
    answer = terminal.read(0.5)
    assert b"look for me" in answer
    assert len(answer) <= 4096


def test_sigterm_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.until("Requests wait too long")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code(within=3.0) == 143
    assert b"\x1b[?1049l" in terminal.seen, "the alternate screen is left"
    assert b"\x1b[?25h" in terminal.seen, "the cursor is shown again"


def test_a_lost_terminal_ends_the_wizard_at_once(terminal: Terminal) -> None:
    terminal.until("Requests wait too long")
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.exit_code(within=2.0) == 129


def test_sigterm_ends_it_even_when_nobody_reads(terminal: Terminal) -> None:
    """A stalled link blocks the loop of Textual once its writer queue is full: the fuse ends it."""
    terminal.until("Requests wait too long")
    for _ in range(300):
        if not select.select([], [terminal.fd], [], 0.2)[1]:
            break
        os.write(terminal.fd, b"e\x1b[Fb")
    os.kill(terminal.pid, signal.SIGTERM)
    end = time.monotonic() + 6.0
    pid = 0
    while not pid and time.monotonic() < end:
        time.sleep(0.05)
        pid, status = os.waitpid(terminal.pid, os.WNOHANG)
    assert pid, "still running 6 s after SIGTERM"
    terminal.status = os.waitstatus_to_exitcode(status)
    assert terminal.status == 143


def test_keys_typed_ahead_break_nothing_and_sigterm_still_ends_it_well(terminal: Terminal) -> None:
    """Overlays opened and closed faster than they are painted; then the end while they come and go."""
    terminal.until("Requests wait too long")
    for _ in range(60):
        os.write(terminal.fd, b"e\x1b[Fbw\x1b[6~bl\x1b[Fb")
    terminal.read(0.7)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code(within=6.0) == 143, terminal.seen[-300:]
    assert b"failed" not in terminal.seen


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_quitting_gives_the_code_of_what_was_found(terminal: Terminal, key: bytes) -> None:
    terminal.until("Requests wait too long")
    os.write(terminal.fd, key)
    assert terminal.exit_code(within=5.0) == 1, "a cause was found and not fixed"
    assert b"\x1b[?1049l" in terminal.seen


def test_a_dumb_terminal_is_refused_in_one_line() -> None:
    made = Terminal(term="dumb")
    try:
        assert made.exit_code(within=10.0) == 3
        assert b"--plain" in made.seen
        assert b"\x1b[" not in made.seen
    finally:
        made.close()


def test_a_pipe_is_refused_in_one_line() -> None:
    argv = [sys.executable, "-m", "tests.tui.canned"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--plain" in done.stderr


def test_the_first_paint_needs_no_core_and_no_network() -> None:
    """What is imported before the first paint: Textual and the first screen."""
    code = (
        "import sys; from wizard.tui import environment; environment.prepare();"
        "assert 'textual' not in sys.modules; import wizard.tui.app;"
        "late = ('wizard.core', 'wizard.session', 'wizard.cli', 'wizard.simulator');"
        "late += ('httpx', 'yaml', 'psutil', 'pynvml');"
        "print([m for m in sys.modules if m.startswith(late)])"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_widgets_take_no_markup() -> None:
    """Foreign text goes through ``Lines`` only: no Static, Label or notify that would parse brackets."""
    for path in (ROOT / "wizard" / "tui").rglob("*.py"):
        text = path.read_text()
        for forbidden in (
            "Static(",
            "Label(",
            ".notify(",
            "from_markup",
            "call_from_thread",
            "LoadingIndicator",
        ):
            assert forbidden not in text, f"{path.name}: {forbidden}"
