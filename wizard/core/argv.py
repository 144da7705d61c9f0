"""Changing a server command line: one flag at a time, every other word untouched.

The one module to import for command lines: ``parse``, ``render``, ``set_flag``, ``unset_flag``,
``diff``, ``validate``, ``split`` and ``shell_join``. Secrets: argv keeps them, ``diff`` and
``shell_join`` hide them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from wizard.core.commandline import CommandLine, FlagUse, Problem, parse
from wizard.core.commandtext import Pasted, shell_join, split, split_environ, torn_quote
from wizard.core.flagcheck import validate
from wizard.core.flags import INTENTS, Catalogue, FlagSpec, Spelling, intent_spellings, snake
from wizard.core.plan import FlagChange
from wizard.core.redact import HIDDEN, is_secret_flag

__all__ = [
    "CommandLine",
    "FlagUse",
    "Pasted",
    "Problem",
    "attention_groups",
    "diff",
    "parse",
    "render",
    "set_flag",
    "shell_join",
    "split",
    "split_environ",
    "torn_quote",
    "unset_flag",
    "validate",
]

FlagValue = str | int | float | bool | Sequence[str] | None


def render(command: CommandLine) -> list[str]:
    """The words to run."""
    return list(command.argv)


def set_flag(command: CommandLine, name: str, value: FlagValue = None) -> CommandLine:
    """The same command line with one setting changed.

    ``name``: an intent, a destination or a flag. ``value`` None or True writes a bare switch, False
    takes a switch away. A flag that is there keeps its place and its spelling; else it is added at
    the end, spelled for this version. Raises ValueError when the line cannot be edited or this
    version has no such flag.
    """
    _require_editable(command)
    way = command.catalogue.spell(name) if not name.startswith("-") else _exact(command.catalogue, name)
    if not way:
        raise ValueError(f"SGLang {command.catalogue.version} has no flag for {name}")
    first = command.catalogue.by_option[way[0].flag]
    if first.flag == "--attn-dp-size":
        return _set_attention_groups(command, value)
    if first.flag == "--enable-dp-attention" and snake(name) == "attn_dp_size":
        return set_flag(set_flag(command, "dp_size", value), "enable_dp_attention", True)
    switch = first.is_switch or way[0].value is not None
    if switch and not isinstance(value, bool) and value is not None:
        raise ValueError(f"{first.flag} is a switch and takes no value")
    if not switch and (value is None or isinstance(value, bool)) and first.arity in ("one", "some"):
        raise ValueError(f"{first.flag} needs a value")
    if switch and value is False:
        if first.action != "BooleanOptionalAction":
            return unset_flag(command, name)
        return _write(command, name, first, _negation(first), ())
    if switch and _already_said(command, name):
        return command
    for spelling in way:
        spec = command.catalogue.by_option[spelling.flag]
        label = name if len(way) == 1 else spelling.flag
        words = (spelling.value,) if spelling.value is not None else _words(value)
        command = _write(command, label, spec, spec.flag, words)
    return command


def attention_groups(command: CommandLine | None) -> str | None:
    """Into how many groups DP attention splits here: what dp says, else one a rank of tp; None: neither.

    ``--dp-size N --enable-dp-attention`` is ``--attn-dp-size N`` from 0.5.22 on (the pair still works,
    and warns).
    """
    for name in ("attn_dp_size", "dp_size", "tp_size"):
        text = command.value(name) if command is not None else None
        if text and text.isdigit() and int(text) > 1:
            return text
    return None


def _set_attention_groups(command: CommandLine, value: FlagValue) -> CommandLine:
    """``--attn-dp-size N`` (0.5.22+) in the place of ``--dp-size N --enable-dp-attention``."""
    if value is False:
        return unset_flag(command, "enable_dp_attention")
    asked = attention_groups(command) if value is None or value is True else str(value)
    if asked is None:
        raise ValueError("--attn-dp-size needs a value: how many groups the ranks of --tp-size make")
    spec = command.catalogue.by_option["--attn-dp-size"]
    command = unset_flag(command, "--dp-size")  # beside the new flag it would mean whole replicas
    old = command.use("--enable-dp-attention")
    if old is not None and old.flag == "--enable-dp-attention":
        command = unset_flag(command, "--enable-dp-attention")
    return _write(command, "--attn-dp-size", spec, spec.flag, (asked,))


def unset_flag(command: CommandLine, name: str) -> CommandLine:
    """The same command line without a setting: every use of it is taken out.

    Raises ValueError when the line cannot be edited, or for the model of ``sglang serve MODEL``.
    """
    _require_editable(command)
    while True:
        uses = command.uses(name)
        if not uses:
            return command
        if uses[-1].kind == "positional":
            raise ValueError("a server cannot be started without its model")
        command = _splice(command, uses[-1].start, uses[-1].end, ())


def diff(
    old_argv: Sequence[str], new_argv: Sequence[str], catalogue: Catalogue, why: str = ""
) -> tuple[FlagChange, ...]:
    """What differs, flag by flag (the last use counts), in the order of the new line. Secrets hidden."""
    old, new = parse(old_argv, catalogue), parse(new_argv, catalogue)
    before, after = _settings(old.flags), _settings(new.flags)
    changes = []
    if old.prefix != new.prefix:
        changes.append(FlagChange("command", shell_join(old.prefix), shell_join(new.prefix), why))
    for flag in [*(f for f in before if f not in after), *after]:
        was, now = before.get(flag), after.get(flag)
        if was == now:
            continue
        if is_secret_flag(flag):
            was, now = (None if was is None else HIDDEN), (None if now is None else HIDDEN)
        changes.append(FlagChange(flag, was, now, why))
    return tuple(changes)


def _settings(uses: Iterable[FlagUse]) -> dict[str, str]:
    found: dict[str, str] = {}
    for use in uses:
        name = use.spelling if use.negated else use.flag
        if use.spec is not None and use.spec.action == "BooleanOptionalAction":
            for option in use.spec.options:
                found.pop(option, None)
        found[name] = use.text
    return found


def _require_editable(command: CommandLine) -> None:
    if not command.editable:
        raise ValueError(f"this command line cannot be edited: {command.why}")


def _exact(catalogue: Catalogue, option: str) -> tuple[Spelling, ...]:
    spec = catalogue.resolve(option).spec
    if spec is not None and not spec.fatal:
        return (Spelling(spec.flag),)
    return catalogue.spell(option.lstrip("-"))


def _negation(spec: FlagSpec) -> str:
    return next(o for o in spec.options if o.startswith("--no-"))


def _already_said(command: CommandLine, name: str) -> bool:
    """Whether one complete way of saying a switch stands in the line already."""
    given = {(u.flag, u.values) for u in command.flags if u.spec is not None and not u.negated}
    ways = INTENTS.get(name.replace("-", "_"), ())
    if name.startswith("-"):
        ways = tuple((s,) for s in intent_spellings(name))
    for way in ways:
        specs = [command.catalogue.by_option.get(s.flag) for s in way]
        words = [() if s.value is None else (s.value,) for s in way]
        if all(
            spec is not None and not spec.ignored and (spec.flag, values) in given
            for spec, values in zip(specs, words, strict=True)
        ):
            return True
    return False


def _words(value: FlagValue) -> tuple[str, ...]:
    if value is None or value is True:
        return ()
    if isinstance(value, (str, int, float)):
        return (repr(value) if isinstance(value, float) else str(value),)
    return tuple(str(v) for v in value)


def _write(command: CommandLine, name: str, spec: FlagSpec, flag: str, values: tuple[str, ...]) -> CommandLine:
    use = command.use(name)
    if use is None:
        end = command.args.index("--") if "--" in command.args else len(command.args)
        return _splice(command, end, end, _spelled(flag, values, joined=False))
    if use.kind == "positional":
        return _splice(command, use.start, use.end, values)
    same = use.spec is not None and use.spec.flag == spec.flag
    keep = same and (spec.action != "BooleanOptionalAction" or use.negated == flag.startswith("--no-"))
    if keep and use.values == values:
        return command
    # what is short for it today may be short for two flags tomorrow (--cuda-graph-max-bs, 0.5.20): in full
    spelling = use.spelling if keep and use.kind != "abbreviation" else flag
    return _splice(command, use.start, use.end, _spelled(spelling, values, use.joined))


def _spelled(flag: str, values: tuple[str, ...], joined: bool) -> tuple[str, ...]:
    """``--flag value``, or ``--flag=value`` where it was so or where argparse would misread the value."""
    if len(values) == 1:
        value = values[0]
        number = value[1:].replace(".", "", 1).isdigit()
        if joined or (value.startswith("-") and not number):
            return (f"{flag}={value}",)
    return (flag, *values)


def _splice(command: CommandLine, start: int, end: int, words: tuple[str, ...]) -> CommandLine:
    """Put ``words`` in place of ``args[start:end]`` and read the result again."""
    if command.shell is None:
        args = (*command.args[:start], *words, *command.args[end:])
        return parse((*command.prefix, *args), command.catalogue)
    part = command.shell
    text = part.text
    written = " ".join(shlex.quote(w) for w in words)
    if start == end:
        at = part.spans[start - 1][1] if start else part.prefix_end
        text = f"{text[:at]} {written}{text[at:]}"
    elif words:
        text = text[: part.spans[start][0]] + written + text[part.spans[end - 1][1] :]
    else:
        left = part.spans[start - 1][1] if start else part.prefix_end
        text = text[:left] + text[part.spans[end - 1][1] :]
    argv = (*command.argv[: part.argv_at], text, *command.argv[part.argv_at + 1 :])
    return parse(argv, command.catalogue)
