"""Whether the target may be asked over HTTP at all: what answers on its port must be the target."""

from __future__ import annotations

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


def is_gone(target: Target) -> bool:
    """The target was a process of this host and that very process has ended."""
    from wizard.server.identity import is_alive

    return target.identity is not None and not is_alive(target.identity)
