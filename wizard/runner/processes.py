"""Processes as /proc shows them: is this very one alive, which one carries a mark, who listens on a port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wizard.core.redact import clean, redact_argv
from wizard.core.target import Identity
from wizard.runner.operations import MARK, PortOwner

_LISTEN = "0A"  # st of /proc/net/tcp, include/net/tcp_states.h


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def identity_of(pid: int) -> Identity | None:
    """None when there is no such process, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    if len(words) < 20 or words[0] in ("Z", "X", "x"):
        return None
    return Identity(pid, int(words[19]), boot_id())


def is_alive(identity: Identity) -> bool:
    return identity_of(identity.pid) == identity


def argv_of(pid: int) -> tuple[str, ...]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0")) if raw else ()


def find_marked(mark: str) -> Identity | None:
    """The oldest process whose environment holds MARK=mark: the root of the tree that inherited it."""
    wanted = os.fsencode(f"{MARK}={mark}")
    found = []
    for pid in _pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue  # another user's, or gone
        if wanted in environ.split(b"\0"):
            identity = identity_of(pid)
            if identity is not None:
                found.append(identity)
    return min(found, key=lambda i: (i.start_ticks, i.pid), default=None)


def port_owner(port: int) -> PortOwner | None:
    """Who listens on the TCP port in this network namespace; None when nobody does."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in sorted(_pids()):
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                link = os.readlink(f"{folder}/{name}")
            except OSError:
                continue
            if link in wanted:
                return PortOwner(identity_of(pid), argv_of(pid), f"process {pid} ({_words(pid)})")
    return PortOwner(None, (), "a process that this user cannot see")


def _words(pid: int) -> str:
    text = clean(" ".join(redact_argv(argv_of(pid))))
    return text if len(text) <= 120 else text[:119] + "…"


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                found.add(words[9])
    return found
