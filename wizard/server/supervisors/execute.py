"""Acting on a recipe: each act is journalled first, and from wherever it stopped the way back can be gone.

Repeating is safe: a file that is there already is not written again, a command with a guard asks first, and
the order of a way back never needs an act that an earlier attempt already made.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wizard.server.supervisors.clients import ask, value_at
from wizard.server.supervisors.recipe import Act, Check, Guard, Recipe, Remove, Run, Step, Undo, Write

Journal = Callable[[str, str, Mapping[str, Any]], None]
"""Called with ``doing``, ``done``, ``skipped`` or ``failed``, the act's name and details, before anything
follows. What it raises ends the work: nothing is done that could not be written down."""


class ActFailed(Exception):
    """An act did not do what it should; one line why."""


@dataclass(frozen=True)
class Done:
    """``ok``: every act got through. ``begun``: the names of those that were begun, for ``undo``."""

    ok: bool
    detail: str = ""
    begun: tuple[str, ...] = ()


def apply(acts: Sequence[Step], journal: Journal) -> Done:
    """Make the change, or part of it. At the first act that fails it stops, and undoes nothing by itself."""
    return _all(acts, journal)


def wait(recipe: Recipe, journal: Journal) -> Done:
    """Wait until the holder calls the server up. Whether it serves is to be seen by the server itself."""
    return _all(recipe.wait, journal)


def undo(recipe: Recipe, begun: Sequence[str], journal: Journal, *, restart: bool = True) -> Done:
    """Put back what was before. ``begun``: the steps that the journal says were begun, also the one that
    the runner died in. May be repeated until it gets through. ``restart``: the old server is started too,
    where that is an act of its own."""
    acts = recipe.undo_after(begun)
    return _all([one for one in acts if restart or one.name != recipe.restarts], journal)


def log_path(recipe: Recipe) -> str | None:
    """The file that the server's output goes to now; None when there is none that can be read here."""
    answer = ask(recipe.log_path) if recipe.log_path else None
    path = answer.out.strip() if answer is not None and answer.ok else ""
    return path if path and os.access(path, os.R_OK) else None


def main_pid(recipe: Recipe) -> int | None:
    """The process that the holder runs now; None when it cannot be had here."""
    if not recipe.main_pid:
        return None
    answer = ask(recipe.main_pid)
    text = answer.out.strip()
    return int(text) if answer.ok and text.isdigit() and int(text) > 0 else None


def _all(acts: Iterable[Step | Undo], journal: Journal) -> Done:
    begun: list[str] = []
    for one in acts:
        journal("doing", one.name, {})
        begun.append(one.name)
        try:
            how = _act(one.act)
        except (ActFailed, OSError) as error:
            journal("failed", one.name, {"detail": str(error)})
            return Done(False, f"{one.name}: {error}", tuple(begun))
        journal(how, one.name, {})
    return Done(True, "", tuple(begun))


def _act(act: Act) -> str:
    match act:
        case Run():
            return _run(act)
        case Write():
            return _write(act)
        case Remove():
            return _remove(act)
        case Check():
            wrong = differences(act.guard)
            if wrong:
                raise ActFailed(f"{act.says}: {', '.join(wrong[:5])}")
            return "done"


def _run(act: Run) -> str:
    if act.only_if is not None and differences(act.only_if):
        return "skipped"
    if act.unless is not None and not differences(act.unless):
        return "skipped"
    answer = ask(act.argv, limit_s=act.limit_s)
    if not answer.ok and not act.may_fail:
        raise ActFailed(answer.said)
    return "done" if answer.ok else "skipped"


def differences(guard: Guard) -> list[str]:
    """What is not as the guard expects; empty when it holds (or why it could not be asked)."""
    answer = ask(guard.argv, limit_s=20.0)
    if not answer.ok:
        return [answer.said]
    if guard.prints is not None and answer.out.strip() != guard.prints:
        return [f"{answer.out.strip()[:80]!r} instead of {guard.prints[:80]!r}"]
    if not guard.expect:
        return []
    try:
        doc = json.loads(answer.out)
    except ValueError:
        return ["no JSON"]
    return [
        place
        for place, x in guard.expect.items()
        if not _same(value_at(doc, place), x, place in guard.any_order)
    ]


def _same(a: Any, b: Any, any_order: bool) -> bool:
    """Equal, where null, empty, zero and false are one (engines write an unset field in each of these ways)."""
    if any_order and isinstance(a, list) and isinstance(b, list):
        a, b = sorted(a, key=json.dumps), sorted(b, key=json.dumps)
    return bool(a == b) or (not a and not b)


def _write(act: Write) -> str:
    now = _content(act.path)
    if now == act.content:
        return "skipped"
    if now != act.previous:
        raise ActFailed(f"{act.path} was changed by somebody else: it is left as it is")
    folder = os.path.dirname(act.path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".sgl-wizard-", dir=folder)  # 0600 from its birth on
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(act.content)
            os.fchmod(file.fileno(), act.mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, act.path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return "done"


def _remove(act: Remove) -> str:
    now = _content(act.path)
    if now is not None and now != act.content:
        raise ActFailed(f"{act.path} was changed by somebody else: it is left as it is")
    if now is not None:
        os.unlink(act.path)
    if act.folder:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(act.path))
    return "skipped" if now is None else "done"


def _content(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
