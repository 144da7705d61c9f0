"""``--cuda-graph-config``: CUDA graphs of decode and prefill as JSON (0.5.14 on), and what contradicts it.

Read in SGLang's model_executor/cuda_graph_config.py and its hook of 0.5.14, 0.5.20 and 0.5.23. What the JSON
says wins over all flags, silently; flags of one phase win over the switches, those over --disable-cuda-graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from wizard.core.commandline import CommandLine, FlagUse
from wizard.core.flags import Catalogue

FLAG = "--cuda-graph-config"
TYPE = "parse_cuda_graph_config_arg"
"""Its type in the flag catalogue: the function that SGLang reads it with."""

PHASES = ("decode", "prefill")
_SHARED = ("backend", "max_bs", "bs")
_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "0.5.14": {"decode": (*_SHARED, "tc_compiler"), "prefill": (*_SHARED, "tc_compiler")},
    "0.5.20": {
        "decode": (*_SHARED, "tc_compiler"),
        "prefill": (*_SHARED, "tc_compiler", "full_prefill_max_req", "full_prefill_prefix_chunk_tokens"),
    },
    "0.5.23": {
        "decode": _SHARED,
        "prefill": (
            *(*_SHARED, "max_context_size", "max_seq_len"),
            *("full_prefill_max_req", "full_prefill_prefix_chunk_tokens"),
        ),
    },
}
"""Of the versions whose sources were read; between them each key that one of them has may be right."""

_BACKENDS = ("full", "breakable", "tc_piecewise", "disabled")
_SETS: tuple[tuple[str, tuple[tuple[str, str], ...], str | None], ...] = (
    # destination, what it sets, and to which value a switch does; the later wins over the earlier
    ("disable_cuda_graph", (("decode", "backend"), ("prefill", "backend")), "disabled"),
    ("disable_prefill_cuda_graph", (("prefill", "backend"),), "disabled"),
    ("disable_decode_cuda_graph", (("decode", "backend"),), "disabled"),
    ("cuda_graph_backend_decode", (("decode", "backend"),), None),
    ("cuda_graph_backend_prefill", (("prefill", "backend"),), None),
    ("cuda_graph_max_bs_decode", (("decode", "max_bs"),), None),
    ("cuda_graph_max_bs_prefill", (("prefill", "max_bs"),), None),
    ("cuda_graph_bs_decode", (("decode", "bs"),), None),
    ("cuda_graph_bs_prefill", (("prefill", "bs"),), None),
)
_CONSTANTS = {
    "--disable-piecewise-cuda-graph": "disabled",
    "--enable-breakable-cuda-graph": "breakable",
    "--enforce-piecewise-cuda-graph": "tc_piecewise",
}


class Conflict(NamedTuple):
    """``flag`` is to blame, as typed; ``out`` whether it is to be taken out; ``rule`` names the finding."""

    rule: str
    flag: str
    why: str
    out: bool = False
    harmful: bool = False


class Refusal(NamedTuple):
    why: str
    fatal: bool = True


def place_of(error: ValueError, text: str) -> str:
    """Where JSON breaks off, in words; "" for an error that has no place."""
    if not isinstance(error, json.JSONDecodeError):
        return ""
    before = text[max(0, error.pos - 20) : error.pos]
    behind = f" behind {before!r}" if before else ""
    return f"{error.msg} at character {error.pos + 1}{behind}"


def read(text: str) -> dict[str, Any] | None:
    """The phases that it sets; None when it is none that SGLang takes."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(p, {}), dict) for p in PHASES):
        return None
    return found


def refusals(text: str, catalogue: Catalogue) -> Iterator[Refusal]:
    """What SGLang says to it at the start, each with the place."""
    try:
        found = json.loads(text)
    except RecursionError:
        yield Refusal(f"{FLAG} is nested too deep")
        return
    except ValueError as error:
        hint = ""
        if '"' not in text and text.lstrip()[:1] == "{":
            hint = "; the shell took its quotes away: put all of it in single quotes"
        yield Refusal(f"{FLAG} must be JSON: {place_of(error, text)}{hint}")
        return
    if not isinstance(found, dict):
        yield Refusal(f'{FLAG} must be a JSON object such as {{"decode": {{"max_bs": 64}}}}')
        return
    for phase, said in found.items():
        if phase not in PHASES:
            yield Refusal(f"{FLAG} has no phase {phase!r}; it has decode and prefill")
        elif not isinstance(said, dict):
            yield Refusal(f"{FLAG}: {phase} must be a JSON object")
        else:
            yield from _of_phase(phase, said, catalogue)


def _of_phase(phase: str, said: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Refusal]:
    known = [keys[phase] for version, keys in _KEYS.items() if version == catalogue.version]
    keys = known[0] if known else tuple(dict.fromkeys(k for v in _KEYS.values() for k in v[phase]))
    for key, x in said.items():
        at = f"{FLAG}: {phase}.{key}"
        if key not in keys:
            yield Refusal(f"{at} is no setting of SGLang {catalogue.version}; it takes {', '.join(keys)}")
        elif key == "backend" and x not in (allowed := _backends(phase, catalogue)):
            yield Refusal(f"{at} does not take {json.dumps(x)[:60]}; it takes {', '.join(allowed)}")
        elif key == "max_bs" and not _is_count(x) and x is not None:
            yield Refusal(f"{at} must be a whole number above 0, not {json.dumps(x)[:60]}", fatal=False)
        elif key == "bs" and x is not None and not (isinstance(x, list) and x and all(map(_is_count, x))):
            yield Refusal(f"{at} must be a list of whole numbers above 0, not {json.dumps(x)[:60]}", False)


def _backends(phase: str, catalogue: Catalogue) -> tuple[str, ...]:
    spec = catalogue.by_option.get(f"--cuda-graph-backend-{phase}")
    allowed = tuple(spec.choices) if spec is not None and spec.choices else _BACKENDS
    if catalogue.version == "0.5.14" and phase == "prefill":  # its flag has "full", and the start refuses it
        allowed = tuple(b for b in allowed if b != "full")
    return allowed


def _is_count(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x > 0


def conflicts(command: CommandLine) -> Iterator[Conflict]:
    """Where the JSON and the other graph flags of a line say different things, or one makes the other idle."""
    use = command.use("cuda_graph_config")
    config = read(use.text) if use is not None else None
    if use is None or config is None:
        return
    flags = _set_by_flags(command)
    for phase in PHASES:
        said = config.get(phase, {})
        for (other, key), (flag, x) in flags.items():
            if other == phase and key in said and not _same(said[key], x):
                value = "" if flag.spec is not None and flag.spec.is_switch else f" {flag.text}"
                why = (
                    f"{FLAG} sets {phase}.{key} to {json.dumps(said[key])[:60]}, and that counts: "
                    f"{flag.spelling}{value} does nothing."
                )
                yield Conflict("graph_config_wins", flag.spelling, why, out=True)
        yield from _idle(phase, said, flags, use)


def _idle(
    phase: str, said: Mapping[str, Any], flags: Mapping[tuple[str, str], tuple[FlagUse, str]], use: FlagUse
) -> Iterator[Conflict]:
    """Sizes of graphs that are off."""
    by_flag = flags.get((phase, "backend"))
    backend = said.get("backend", by_flag[1] if by_flag is not None else None)
    if backend != "disabled":
        return
    by = use.spelling if "backend" in said or by_flag is None else by_flag[0].spelling
    off = f"{phase.capitalize()} graphs are switched off by {by}"
    for key in ("max_bs", "bs"):
        if key in said:
            yield Conflict(
                "graph_config_idle", use.spelling, f"{off}, so {phase}.{key} of {FLAG} does nothing."
            )
        elif "backend" in said and (flag := flags.get((phase, key))) is not None:
            name = flag[0].spelling
            yield Conflict("graph_config_idle", name, f"{off}, so {name} does nothing.", out=True)
    if phase == "decode" and "backend" in said:
        why = "Every decode step is launched kernel by kernel; small batches lose half their speed or more."
        yield Conflict("graphs_off", use.spelling, why, harmful=True)


def _set_by_flags(command: CommandLine) -> dict[tuple[str, str], tuple[FlagUse, str]]:
    last = {use.spec.dest: use for use in command.flags if use.spec is not None}
    found: dict[tuple[str, str], tuple[FlagUse, str]] = {}
    for dest, places, constant in _SETS:
        use = last.get(dest)
        if use is None or "$" in use.text or "`" in use.text:
            continue
        for place in places:
            found[place] = (use, constant or _CONSTANTS.get(use.flag) or use.text)
    return found


def _same(x: object, flag: str) -> bool:
    told = " ".join(map(str, x)) if isinstance(x, list) else str(x)
    return told == " ".join(flag.replace(",", " ").split())
