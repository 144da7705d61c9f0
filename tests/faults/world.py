"""What really runs: /proc and HTTP read by the harness itself, with none of the wizard's code."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MARKER = "FAULTS_MARKER"
"""In the environment of everything that a run starts as the target, and so of what is relaunched from it."""

Who = Literal["old", "new", "other", "none"]


@dataclass(frozen=True)
class Proc:
    """A process, named so that a later one with the same pid is another one."""

    pid: int
    start: int
    ppid: int
    group: int
    state: str


@dataclass(frozen=True)
class Serving:
    """Who answers on the port. ``unlike``: in what the server differs from how the old one was started."""

    who: Who
    pid: int | None = None
    healthy: bool = False
    unlike: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return self.who if self.healthy or self.who == "none" else f"{self.who} (not healthy)"


@dataclass(frozen=True)
class Wanted:
    """How the target was started."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    cwd: str
    marker: str
    log: str


def look(pid: int) -> Proc | None:
    """The process now; None when it has ended, a zombie included."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()
    if fields[0] in ("Z", "X"):
        return None
    return Proc(pid, int(fields[19]), int(fields[1]), int(fields[2]), fields[0])


def same(process: Proc) -> bool:
    """It still runs, and is no other one."""
    now = look(process.pid)
    return now is not None and now.start == process.start


def everybody() -> Iterator[Proc]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = look(int(entry))
            if found is not None:
                yield found


def argv(pid: int) -> tuple[str, ...]:
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0"))
    except (OSError, UnicodeDecodeError):
        return ()


def environ(pid: int) -> dict[str, str]:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(w.split("=", 1) for w in words if "=" in w)


def link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def marked(marker: str) -> list[Proc]:
    """Everything that carries a run's marker."""
    return [one for one in everybody() if environ(one.pid).get(MARKER) == marker]


def below(pid: int) -> set[int]:
    """A process and all below it."""
    parents = {one.pid: one.ppid for one in everybody()}
    found = {pid}
    while more := {p for p, above in parents.items() if above in found and p not in found}:
        found |= more
    return found


def listening(port: int) -> set[int]:
    """Who listens on a TCP port of this host."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    found = set()
    for one in everybody() if inodes else ():
        folder = f"/proc/{one.pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        if any(link(f"{folder}/{number}") in inodes for number in numbers):
            found.add(one.pid)
    return found


def answers(port: int, limit_s: float = 8.0) -> bool:
    """GET /health says 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=limit_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def serving(port: int, wanted: Wanted) -> Serving:
    """Who serves on the port, by its own command line; judged faithful against how the old one was started."""
    owners = listening(port)
    if not owners:
        return Serving("none")
    for pid in sorted(owners):
        words = argv(pid)
        who: Who = "old" if words == wanted.old else "new" if words == wanted.new else "other"
        if who == "other":
            continue
        unlike = []
        if link(f"/proc/{pid}/cwd") != wanted.cwd:
            unlike.append("cwd")
        if environ(pid).get(MARKER) != wanted.marker:
            unlike.append("environment")
        if link(f"/proc/{pid}/fd/1") != wanted.log:
            unlike.append("log")
        return Serving(who, pid, answers(port), tuple(unlike))
    return Serving("other", min(owners), answers(port))
