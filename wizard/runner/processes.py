"""Processes as a transaction asks for them: which one carries a mark, who listens on a port."""

from __future__ import annotations

import os
from pathlib import Path

from wizard.core.redact import clean, redact_argv
from wizard.core.target import Identity
from wizard.runner.operations import MARK, PortOwner
from wizard.server import proc
from wizard.server.identity import identify
from wizard.server.ports import port_state

SHOWN = 120
"""Characters of a command line in a sentence."""


def find_marked(mark: str) -> Identity | None:
    """The oldest process whose environment holds MARK=mark: the root of the tree that inherited it."""
    wanted = os.fsencode(f"{MARK}={mark}")
    found = []
    for pid in proc.pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue  # another user's, or gone
        if wanted in environ.split(b"\0"):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
    return min(found, key=lambda i: (i.start_ticks, i.pid), default=None)


def port_owner(host: str, port: int) -> PortOwner | None:
    """Who listens on the TCP port in this network namespace; None when it is free."""
    found = port_state(host, port)
    if found.state == "free":
        return None
    if found.owner is None:
        return PortOwner(None, (), "a process that this user cannot see")
    words = clean(" ".join(redact_argv(found.owner_argv)))
    shown = words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
    above = tuple(proc.ancestors(found.owner.pid))
    session = next(filter(None, map(_session_of, (found.owner.pid, *above))), "")
    return PortOwner(found.owner, found.owner_argv, f"process {found.owner.pid} ({shown})", above, session)


def _session_of(pid: int) -> str:
    """The session in the process's MARK (``session-7:...``), or "" (also when it cannot be read)."""
    name, colon, _ = proc.environ(pid).get(MARK, "").partition(":")
    return name.removeprefix("session-") if colon else ""
