"""What outlives a server that a session launched: processes whose root died before they were bound to it.

Seen on SGLang 0.5.20: when the parent is killed while it loads, the scheduler goes on loading (and holds the
card's memory until then), and the detokenizer and the resource tracker stay for good.
"""

from __future__ import annotations

import os
import signal

from wizard.core.target import Identity
from wizard.runner.operations import MARK
from wizard.server import proc
from wizard.server.identity import Gone, NotTheTarget, ProcessHandle, identify, is_alive

TITLE = "sglang::"
"""A child of the server that names itself so wipes its environment, and the mark with it."""


def orphans_of(root: Identity, mark: str) -> list[Identity]:
    """Processes of a tree that this session launched, once its root has ended; none while it lives.

    Known by the mark in their environment; where that is wiped, by the title and by the session that the root
    led (the kernel gives a pid to nobody else while it is a session's number).
    """
    if is_alive(root) or root.boot_id != proc.boot_id():
        return []
    found = []
    for pid in proc.pids():
        inherited = proc.environ(pid).get(MARK) == mark
        if inherited or (_wiped(pid) and _session_leader(pid) == root.pid):
            identity = identify(pid)
            if identity is not None and identity.start_ticks >= root.start_ticks:
                found.append(identity)
    return found


def end(orphans: list[Identity]) -> list[Identity]:
    """SIGKILL to each, by identity: nobody can ask them anything any more. Returns who was signalled."""
    ended = []
    for one in orphans:
        try:
            with ProcessHandle(one) as handle:
                handle.send(signal.SIGKILL)
        except (Gone, NotTheTarget, OSError):
            continue
        ended.append(one)
    return ended


def _wiped(pid: int) -> bool:
    return " ".join(proc.cmdline(pid)).startswith(TITLE) and not proc.environ(pid).get(MARK)


def _session_leader(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
