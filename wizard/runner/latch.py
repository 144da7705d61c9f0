"""The latch of ``--read-only``: one switch of this process that everything which writes has to pass.

Screens and verbs hide what read-only forbids; the latch makes it unreachable, whoever forgot to ask. A
runner that is at work already belongs to the session that agreed to it and goes on.
"""

from __future__ import annotations

_closed = False


class ReadOnly(Exception):
    """What was asked for would change something; the text says so in one line."""


def close(on: bool = True) -> None:
    """From now on nothing passes; ``close(False)`` opens it again (the toggle in the screens)."""
    global _closed
    _closed = on


def is_closed() -> bool:
    return _closed


def check(what: str) -> None:
    """Raises ReadOnly while the latch is closed. ``what``: "start a change"."""
    if _closed:
        raise ReadOnly(f"read-only: it will not {what}")
