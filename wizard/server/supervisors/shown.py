"""A recipe as a person reads it: what will happen, what to type, and nothing secret in it."""

from __future__ import annotations

from collections.abc import Iterable

from wizard.core.argv import shell_join
from wizard.server.supervisors.recipe import Act, Check, Remove, Run, Step, Undo, Write


def to_type(acts: Iterable[Step | Undo]) -> list[str]:
    """The acts as lines for a shell; files as what they hold. Redact before showing."""
    return [line for one in acts for line in _lines(one.act)]


def _lines(act: Act) -> list[str]:
    match act:
        case Run():
            return [f"  {shell_join(act.argv)}"]
        case Write():
            return [
                f"  write {act.path} (mode {act.mode:04o}):",
                *(f"    {x}" for x in act.content.splitlines()),
            ]
        case Remove():
            return [f"  remove {act.path}"]
        case Check():
            return []
