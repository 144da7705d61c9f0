"""Would this version of SGLang accept this command line? Found before it is started, not after."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from wizard.core.commandline import CommandLine, FlagUse, Problem, parse
from wizard.core.flags import Catalogue, FlagSpec, snake
from wizard.core.redact import HIDDEN, is_secret_flag

_HUMAN_INT = r"^[+-]?\d+(\.\d+)?\s*([kKmMgGtT]i?)?$"


def _is_json(text: str) -> None:
    import json  # late: few commands hold any

    json.loads(text)


def _is_human_int(text: str) -> None:
    if not re.match(_HUMAN_INT, text):
        raise ValueError(text)


_CONVERTERS: dict[str, tuple[Callable[[str], object], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "json": (_is_json, "JSON"),
    "human_readable_int": (_is_human_int, "a whole number (4096, 32k, 1Mi)"),
}

_ABOVE_0, _TO_1 = "above 0", "above 0 and below 1"
_RANGES: dict[str, tuple[float, float, bool, str]] = {
    # flag: lowest, highest, ends excluded, in words. argparse takes all of these; the start fails later.
    "--mem-fraction-static": (0, 1, True, _TO_1),
    "--port": (0, 65535, False, "0 to 65535"),
    "--nccl-port": (0, 65535, False, "0 to 65535"),
    "--max-running-requests": (0, float("inf"), True, _ABOVE_0),
    "--max-total-tokens": (0, float("inf"), True, _ABOVE_0),
    "--max-prefill-tokens": (0, float("inf"), True, _ABOVE_0),
    "--context-length": (0, float("inf"), True, _ABOVE_0),
    "--page-size": (0, float("inf"), True, _ABOVE_0),
    "--tp-size": (0, float("inf"), True, _ABOVE_0),
    "--dp-size": (0, float("inf"), True, _ABOVE_0),
    "--pp-size": (0, float("inf"), True, _ABOVE_0),
    "--ep-size": (0, float("inf"), True, _ABOVE_0),
    "--schedule-conservativeness": (0, float("inf"), False, "0 or more"),
}


def validate(argv: Sequence[str], catalogue: Catalogue) -> list[Problem]:
    """Everything this version would refuse, warn about or fail on later, in the order of the words.

    An empty list promises that argparse takes it, as far as the catalogue knows that version.
    """
    return problems_of(parse(argv, catalogue))


def problems_of(command: CommandLine) -> list[Problem]:
    """``validate`` for a command line that is read already."""
    catalogue = command.catalogue
    problems = list(command.problems)
    for use in command.flags:
        if use.spec is not None:
            problems += _check_use(use, use.spec, catalogue)
    given = {use.flag for use in command.flags}
    if command.config_path is None and command.kind != "none":
        for spec in catalogue.specs:
            if spec.required and spec.flag not in given:
                problems.append(Problem("missing_required", spec.flag, f"{spec.flag} is required"))
    return problems


def _check_use(use: FlagUse, spec: FlagSpec, catalogue: Catalogue) -> list[Problem]:
    problems: list[Problem] = []
    if spec.deprecated is not None:
        text = f"{spec.flag} is deprecated in {catalogue.version} ({spec.deprecated})"
        way = catalogue.spell(snake(spec.flag))
        instead = spec.replacement
        if way and way[0].flag != spec.flag:
            instead = " ".join(s.flag if s.value is None else f"{s.flag} {s.value}" for s in way)
        problems.append(Problem("deprecated", spec.flag, text, instead, fatal=spec.fatal))
    if spec.is_switch:
        return problems
    for value in use.values:
        problem = _check_value(value, spec)
        if problem is not None:
            problems.append(problem)
    return problems


def _check_value(value: str, spec: FlagSpec) -> Problem | None:
    if "$" in value or "`" in value:  # a shell fills it in later
        return None
    shown = HIDDEN if is_secret_flag(spec.flag) else repr(value)
    number: float | None = None
    if spec.type in _CONVERTERS:
        convert, noun = _CONVERTERS[spec.type]
        try:
            result = convert(value)
        except ValueError:
            return Problem("bad_type", spec.flag, f"{spec.flag} takes {noun}, not {shown}")
        number = float(result) if isinstance(result, (int, float)) else None
    if spec.choices is not None and value not in spec.choices:
        import difflib

        near = difflib.get_close_matches(value, spec.choices, n=1, cutoff=0.5)
        text = f"{spec.flag} does not take {shown}; it takes " + ", ".join(spec.choices[:12])
        if len(spec.choices) > 12:
            text += f" and {len(spec.choices) - 12} more"
        return Problem("bad_choice", spec.flag, text, near[0] if near else None)
    if number is not None and spec.flag in _RANGES:
        low, high, open_ends, words = _RANGES[spec.flag]
        inside = low < number < high if open_ends else low <= number <= high
        if not inside:
            return Problem("out_of_range", spec.flag, f"{spec.flag} must be {words}, not {shown}")
    return None
