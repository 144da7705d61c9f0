"""The plan's change carried over to the words that the holder keeps: only the plan's flags differ.

What a unit or a container is told to run is often not what /proc shows: a wrapper, a shell text, variables
that are filled in. So the flags that the plan changes are changed in the holder's own words, through the same
parser as everywhere, and every other word stays as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence

from wizard.core.argv import parse, set_flag, unset_flag
from wizard.core.commandline import CommandLine, FlagUse
from wizard.server.catalogue import for_version
from wizard.server.supervisors.recipe import CannotRecreate, Change


def carried_over(held: Sequence[str], change: Change) -> tuple[str, ...]:
    """``held`` with the change of the plan in it.

    Raises CannotRecreate where these words do not hold what is to be changed, or cannot be edited.
    """
    catalogue = for_version(change.version)
    now, old, new = (parse(words, catalogue) for words in (held, change.old.argv, change.new_argv))
    if now.kind in ("none", "flags"):
        raise CannotRecreate("its words do not start SGLang themselves: a script or an image default does")
    if not now.editable:
        raise CannotRecreate(f"its command line cannot be edited: {now.why}")
    if old.prefix != new.prefix or (old.shell is not None) != (new.shell is not None):
        raise CannotRecreate("the change is to more than flags")
    if now.shell is None and now.args == old.args and new.shell is None:
        return (*now.prefix, *new.args)
    return _flag_by_flag(now, old, new).argv


def _flag_by_flag(now: CommandLine, old: CommandLine, new: CommandLine) -> CommandLine:
    before, after, here = settings(old), settings(new), settings(now)
    changed = [flag for flag in {**before, **after} if _said(before.get(flag)) != _said(after.get(flag))]
    edited = now
    for flag in changed:
        if _said(here.get(flag)) != _said(before.get(flag)):
            raise CannotRecreate(f"{flag} does not come from its command line (a variable, a file or a script)")
        use = after.get(flag)
        try:
            edited = unset_flag(edited, flag) if use is None else set_flag(edited, flag, _value(use))
        except ValueError as error:
            raise CannotRecreate(str(error)) from None
    found = settings(edited)
    wanted = {**here, **{flag: after[flag] for flag in changed if flag in after}}
    wanted = {flag: use for flag, use in wanted.items() if flag not in changed or flag in after}
    if {f: _said(u) for f, u in found.items()} != {f: _said(u) for f, u in wanted.items()}:
        raise CannotRecreate("the flags cannot be changed in its command line without touching others")
    return edited


def says_the_same(one: Sequence[str], other: Sequence[str], version: str | None) -> bool:
    """The same program with the same settings: a wrapper may order the words in another way."""
    a, b = (parse(words, for_version(version)) for words in (one, other))
    said = [{flag: _said(use) for flag, use in settings(x).items()} for x in (a, b)]
    return (a.kind, a.module) == (b.kind, b.module) and said[0] == said[1]


def settings(command: CommandLine) -> dict[str, FlagUse]:
    """The use that counts, flag by flag."""
    return {use.flag: use for use in command.flags}


def _said(use: FlagUse | None) -> tuple[object, ...] | None:
    return None if use is None else (use.values, use.negated)


def _value(use: FlagUse) -> bool | tuple[str, ...]:
    if use.spec is not None and use.spec.is_switch:
        return not use.negated
    return use.values
