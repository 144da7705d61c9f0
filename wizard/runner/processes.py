"""Processes as a transaction asks for them: which one carries a mark, who listens on a port."""

from __future__ import annotations

import os
from pathlib import Path

from wizard.core.redact import clean, redact_argv
from wizard.core.target import Identity, Launch
from wizard.runner.operations import MARK, PortOwner
from wizard.server import proc
from wizard.server.identity import identify, is_alive
from wizard.server.ports import port_state

SHOWN = 120
"""Characters of a command line in a sentence."""


def find_marked(mark: str) -> Identity | None:
    """The oldest process whose environment holds MARK=mark: the root of the tree that inherited it."""
    wanted = os.fsencode(f"{MARK}={mark}")
    found = []
    for pid in proc.pids():
        identity = identify(pid)
        # The identity before and after: a pid given again in between is nobody's whose environment was read.
        if identity is not None and _carries(pid, wanted) and is_alive(identity):
            found.append(identity)
    return min(found, key=lambda i: (i.start_ticks, i.pid), default=None)


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # another user's, or gone


def port_owner(host: str, port: int) -> PortOwner | None:
    """Who listens on the TCP port in this network namespace; None when it is free."""
    found = port_state(host, port)
    if found.state == "free":
        return None
    if found.owner is None:
        return PortOwner(None, (), "a process that this user cannot see")
    return described(found.owner)


def described(identity: Identity) -> PortOwner:
    """A process as the owner of a port: its words, what stands above it, and the session that started it."""
    argv = proc.cmdline(identity.pid)
    words = clean(" ".join(redact_argv(argv)))
    shown = words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
    above = tuple(proc.ancestors(identity.pid))
    session = next(filter(None, map(_session_of, (identity.pid, *above))), "")
    return PortOwner(identity, argv, f"process {identity.pid} ({shown})", above, session)


def rival(launch: Launch, since_s: float) -> PortOwner | None:
    """The oldest process since then (seconds after boot) with the same words, that no session launched.

    The same folder, user and network too: an equal command in another container is no rival.
    """
    since = int(since_s * os.sysconf("SC_CLK_TCK"))
    found = []
    for pid in proc.pids():
        about = proc.stat(pid)
        if about is None or about.ended or about.start_ticks < since or proc.cmdline(pid) != launch.argv:
            continue
        identity, above = identify(pid), tuple(proc.ancestors(pid))
        here = proc.cwd(pid) == launch.cwd and (proc.uids(pid) or (-1,))[0] == launch.uid and _same_network(pid)
        if identity is not None and here and not any(_session_of(one) for one in (pid, *above)):
            found.append(PortOwner(identity, launch.argv, f"process {pid}{_below(above)}", above))
    return min(
        found, key=lambda o: (o.identity.start_ticks, o.identity.pid) if o.identity else (0, 0), default=None
    )


def _below(above: tuple[int, ...]) -> str:
    return f" (below {above[0]}, {clean(proc.name(above[0]))})" if above and above[0] > 1 else ""


def _same_network(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def _session_of(pid: int) -> str:
    """The session in the process's MARK (``session-7:...``), or "" (also when it cannot be read)."""
    name, colon, _ = proc.environ(pid).get(MARK, "").partition(":")
    return name.removeprefix("session-") if colon else ""
