"""Processes in a network of their own (containers, pods): what they listen on, how they are reached."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wizard.server import proc

_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s*/32 host LOCAL")


def is_elsewhere(pid: int) -> bool:
    """Whether a process lives in another network namespace than the wizard; False where that cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def address_of(pid: int) -> str | None:
    """The first IPv4 address of a process's own network, loopback aside."""
    try:
        table = Path(f"/proc/{pid}/net/fib_trie").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return next((found for found in _LOCAL.findall(table) if not found.startswith("127.")), None)


def listens_there(pid: int, port: int) -> bool | None:
    """Whether the tree of ``pid`` listens on a port of its own network: True, or False where somebody else
    does; None for nobody."""
    found = proc.listeners(port, {pid, *(one.pid for one in proc.descendants(pid))}, network_of=pid)
    return all(one.pid is not None for one in found) if found else None
