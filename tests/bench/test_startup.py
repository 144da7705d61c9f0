"""Start-up as ratios taken in one run: both sides in turn, the median of each."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from fcntl import ioctl

import pytest

pytestmark = pytest.mark.bench

ROUNDS = 7
ALTERNATE = b"\x1b[?1049h"
ESCAPES = re.compile(
    rb"\x1b\[[0-9;?<>=!$ ]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_].*?\x1b\\", re.DOTALL
)
BARE = """
from textual.app import App, ComposeResult
from textual.widgets import Static
class Bare(App):
    def compose(self) -> ComposeResult:
        yield Static("one line that is long enough to be seen as painted by the bench")
Bare().run()
"""


def paint_s(command: Sequence[str], environ: dict[str, str]) -> float:
    """Seconds from spawn to 40 printable characters on the alternate screen of a pty."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(command[0], list(command), environ)
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    began, seen = time.perf_counter(), b""
    try:
        while time.perf_counter() - began < 30:
            ready, _, _ = select.select([master], [], [], 0.05)
            if not ready:
                continue
            seen += os.read(master, 65536)
            at = seen.find(ALTERNATE)
            if at >= 0 and len(re.sub(rb"\s", b"", ESCAPES.sub(b"", seen[at:]))) >= 40:
                return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(master)
    raise AssertionError("nothing was painted within 30 s")


def in_turn(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Medians of both, taken alternately so that drift of the machine meets both."""
    pairs = [(one(), other()) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def test_first_paint_against_a_bare_textual_app(tmp_path: object) -> None:
    environ = {
        **os.environ,
        "TERM": "xterm-256color",
        "SGL_WIZARD_STATE_DIR": str(tmp_path),
        "TEXTUAL_ANIMATIONS": "none",
    }
    wizard, bare = in_turn(
        lambda: paint_s([sys.executable, "-m", "wizard"], environ),
        lambda: paint_s([sys.executable, "-c", BARE], environ),
    )
    print(f"\nfirst paint: wizard {wizard * 1000:.0f} ms, bare {bare * 1000:.0f} ms, ratio {wizard / bare:.2f}")
    assert wizard / bare <= 1.25


def test_version_over_an_empty_python() -> None:
    def run(*words: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    version, nothing = in_turn(lambda: run("-m", "wizard", "--version"), lambda: run("-c", "pass"))
    print(f"\n--version: {version * 1000:.0f} ms, python -c pass: {nothing * 1000:.0f} ms")
    assert version - nothing <= 0.080 * max(1.0, nothing / 0.012)
