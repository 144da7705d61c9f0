"""A person at a terminal: the full screen in a pty, typed at by what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SIZE = struct.pack("HHHH", 40, 120, 0, 0)
_ESCAPE = re.compile(r"\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[()=>][0-9A-Za-z]?")
RESTORED = {"the alternate screen": b"\x1b[?1049", "the mouse": b"\x1b[?1003", "the cursor": b"\x1b[?25"}
"""Modes that are switched on by ``h`` and off by ``l``; the cursor the other way round."""


class NotShown(AssertionError):
    """A text that has to come did not."""


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """``python -m wizard WORDS`` in a terminal of its own, which is read all the time."""

    def __init__(self, words: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, SIZE)
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wizard", *words],
            cwd=cwd,
            env={**env, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        self.seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self.master, 65536)
            except OSError:
                return
            if not more:
                return
            self.seen += more

    @property
    def text(self) -> str:
        """All that was ever shown, without escape sequences, one space for each run of white space."""
        return " ".join(_ESCAPE.sub(" ", self.seen.decode(errors="replace")).split())

    def wait(self, text: str, limit_s: float = 60.0) -> None:
        """Until this is shown, or was. Raises NotShown."""
        self.wait_for(lambda: text in self.text, text, limit_s)

    def wait_for(self, there: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not there():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotShown(f"not on the screen: {what}; the last: {self.text[-300:]}")
            time.sleep(0.05)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def hang_up(self) -> None:
        """The terminal goes away, as when a link breaks: the kernel sends SIGHUP."""
        os.close(self.slave)
        os.close(self.master)
        self.slave = self.master = -1

    def not_given_back(self) -> list[str]:
        """What the program left behind in a terminal that is still there. It has ended before."""
        time.sleep(0.1)
        left = [] if termios.tcgetattr(self.slave) == self.modes else ["the line discipline"]
        for name, code in RESTORED.items():
            on, off = (b"l", b"h") if name == "the cursor" else (b"h", b"l")
            if self.seen.rfind(code + on) > self.seen.rfind(code + off):
                left.append(name)
        return left

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for number in (self.slave, self.master):
            if number >= 0:
                os.close(number)
        self.slave = self.master = -1
