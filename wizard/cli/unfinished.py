"""A change that is under way, or was cut off: whoever looks at its server is told of it first."""

from __future__ import annotations

from typing import Any

from wizard.runner import client
from wizard.runner.client import SessionSummary
from wizard.runner.journal import JournalError
from wizard.runner.state_dir import StateDirError, is_there


def unfinished(port: int | None) -> SessionSummary | None:
    """The newest such change of the server on this port (None: of any). Makes no folder, and never raises: a
    state folder that cannot be read is told where a change needs it."""
    try:
        return client.unfinished(port) if is_there() else None
    except (JournalError, StateDirError, OSError):
        return None


def words(found: SessionSummary) -> str:
    word = "is at work on" if found.runner_alive else "was cut off in its change of"
    return f"session {found.id} {word} {found.target}; see: sgl-wizard sessions resume {found.id}"


def document(found: SessionSummary | None) -> dict[str, Any] | None:
    """For ``--json``: ``runner_alive`` False means that nobody brings it to its end."""
    if found is None:
        return None
    return {"session": found.id, "runner_alive": found.runner_alive, "says": words(found)}
