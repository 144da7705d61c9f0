"""Whether the target may be asked over HTTP at all: what answers on its port must be the target."""

from __future__ import annotations

import os

from wizard.core.target import Target


def why_not_ask(target: Target) -> str | None:
    """Why there is nobody to ask, or None when the target can be asked."""
    if target.port <= 0:
        return "the target is a saved log: there is no server to ask"
    if target.is_live:
        return None
    if target.launch is not None:
        return "the server is not running: whatever answers on its port is another process"
    if target.log_path or target.metrics_path or target.command_text:
        return "the target is a saved log: there is no server to ask"
    return None


def why_somebody_else(target: Target) -> str | None:
    """Why whatever answers on the port is not the target: it has ended, or a stranger listens there.

    A server that lost its port lives on beside the owner, for minutes (recordings: port_in_use_*): what
    the owner answers would be told as the server's own. None when the target is, or may be, who answers.
    """
    from wizard.server import proc
    from wizard.server.identity import is_alive

    if target.identity is None:
        return None
    if not is_alive(target.identity):
        return "the server's process has ended"
    tree = {target.identity.pid, *(one.pid for one in proc.descendants_of(target.identity))}
    if not all(os.access(f"/proc/{pid}/fd", os.R_OK) for pid in tree if os.path.exists(f"/proc/{pid}")):
        return None  # another user's: who owns its sockets cannot be seen
    inside = target.inside_port
    found = proc.listeners(inside or target.port, tree, target.identity.pid if inside else None)
    if found and all(one.pid is None for one in found) and is_alive(target.identity):
        return f"another process listens on port {target.port}, not this server"
    return None
