"""What a server says it runs with, beside what was asked of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wizard.core.commandline import CommandLine
from wizard.core.flags import snake
from wizard.core.plan import FlagChange
from wizard.core.redact import HIDDEN, is_secret_flag

MODEL = "model_path"


@dataclass(frozen=True)
class Agreement:
    """``against``: why the change is not in force, one sentence part each. ``notes``: SGLang took another value
    than either; it does so for limits that do not fit, so that alone is no failure."""

    against: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def agreement(
    changes: Iterable[FlagChange],
    new: CommandLine,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> Agreement:
    """Compare /server_info after a change with what was asked.

    A changed value that is still the old one counts against it, and so does another model where the plan did
    not touch it. Only settings that went from one written value to another are judged: what SGLang makes of a
    switch or of a value left to it differs between versions. A page without the setting says nothing.
    """
    against, notes, touched = [], [], set()
    for change in changes:
        uses = (*new.uses(change.flag), *(use for use in new.flags if use.spelling == change.flag))
        specs = [use.spec for use in uses if use.spec is not None]
        # --tensor-parallel-size is told as tp_size: a destination, or any of the flag's names
        dests = {name for spec in specs for name in (spec.dest, *map(snake, spec.options))}
        touched |= dests | {change.flag.lstrip("-").replace("-", "_")}
        if not change.old or not change.new:
            continue
        for dest in sorted(dests & after.keys()):
            has = after[dest]
            if _is(has, change.new):
                continue
            if _is(has, change.old):
                against.append(f"{change.flag} is still {_shown(change.flag, change.old)}")
            elif isinstance(has, str | int | float):
                asked, now = _shown(change.flag, change.new), _shown(change.flag, str(has)[:60])
                notes.append(f"{change.flag}: {asked} was asked, SGLang runs with {now}")
    old, model = before.get(MODEL), after.get(MODEL)
    if isinstance(old, str) and isinstance(model, str) and old != model and MODEL not in touched:
        against.append(f"it serves another model ({model[:120]} instead of {old[:120]})")
    return Agreement(tuple(against), tuple(notes))


def _is(value: object, words: str) -> bool:
    """Whether a setting has the value that was written on a command line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() == words.lower()
    if isinstance(value, int | float):
        try:
            return float(words) == float(value)
        except ValueError:
            return False
    if isinstance(value, list):
        return [str(one) for one in value] == words.split()
    if isinstance(value, dict):
        try:
            return bool(json.loads(words) == value)
        except (ValueError, RecursionError):
            return False
    return str(value) == words


def _shown(flag: str, text: str) -> str:
    return HIDDEN if is_secret_flag(flag) else text
