"""Would this version of SGLang accept this command line? Found before it is started, not after."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wizard.core import graphconfig
from wizard.core.commandline import CommandLine, FlagUse, Problem, parse
from wizard.core.flags import Catalogue, FlagSpec, snake
from wizard.core.redact import HIDDEN, is_secret_flag

_HUMAN_INT = re.compile(r"(?:(\d+(?:\.\d+)?)(k|M|G|T)|(\d+)([KMGT]i)|([+-]?\d+))")
"""Case counts, and the powers of 1024 take no fraction (SGLang 0.5.20 human_readable_int)."""
_MEANT_INT = re.compile(r"(\d+)\s*([kKmMgG])[iI]?[bB]?")


def _is_json(text: str) -> None:
    import json  # late: few commands hold any

    json.loads(text)


def _human_int(text: str) -> int:
    """32k, 1Mi. Raises ValueError."""
    match = _HUMAN_INT.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    if match[5]:
        return int(match[5])
    if match[4]:
        return int(match[3]) << 10 * " KMGT".index(match[4][0])
    return int(float(f"{match[1]}e{3 * ' kMGT'.index(match[2])}"))


def _meant(text: str) -> str | None:
    """What a person means by 32K where that is not taken, as plain digits: tokens are counted in 1024s."""
    match = _MEANT_INT.fullmatch(text.strip())
    return str(int(match[1]) << 10 * " kmg".index(match[2].lower())) if match else None


_CONVERTERS: dict[str, tuple[Callable[[str], object], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "json": (_is_json, "JSON"),
    "human_readable_int": (_human_int, "a whole number (4096, 32k, 1Mi; upper and lower case count)"),
}


SUFFIXES_SINCE = "0.5.10"
_SUFFIXED = frozenset({"--context-length", "--max-total-tokens", "--max-prefill-tokens"})
"""Flags that take suffixes, and the first catalogued version in which they do (flags_changes.md)."""


class Range(NamedTuple):
    """What a start accepts of the numbers that argparse takes. ``fatal`` False: it starts, but is no use."""

    low: float
    high: float
    words: str
    ends_excluded: bool = False
    fatal: bool = True


_ENDLESS = float("inf")
_COUNT = Range(0, _ENDLESS, "above 0", ends_excluded=True)
_ODD_COUNT = _COUNT._replace(fatal=False)
_SIZE = Range(0, _ENDLESS, "0 or more", fatal=False)
_SHARE = Range(0, 1, "above 0 and below 1", ends_excluded=True)
_PORT = Range(0, 65535, "0 to 65535")


def _each(names: str, which: Range) -> dict[str, Range]:
    return {f"--{name}": which for name in names.split()}


_RANGES: dict[str, Range] = {
    "--mem-fraction-static": _SHARE,
    "--schedule-conservativeness": _SIZE._replace(fatal=True),
    **_each(
        "port nccl-port grpc-port grpc-http-sidecar-port smg-http-sidecar-port gated-launch-port "
        "disaggregation-bootstrap-port encoder-bootstrap-port engine-info-bootstrap-port",
        _PORT,
    ),
    **_each(
        "max-running-requests max-total-tokens max-prefill-tokens context-length page-size tp-size dp-size "
        "pp-size ep-size nnodes attn-dp-size attn-cp-size moe-dp-size dcp-size gpu-id-step",
        _COUNT,
    ),
    **_each(
        "max-queued-requests stream-interval num-continuous-decode-steps decode-log-interval "
        "tokenizer-worker-num detokenizer-worker-num scheduler-recv-interval prefill-max-requests "
        "cuda-graph-max-bs cuda-graph-max-bs-decode cuda-graph-max-bs-prefill cuda-graph-bs "
        "cuda-graph-bs-decode cuda-graph-bs-prefill piecewise-cuda-graph-max-tokens "
        "piecewise-cuda-graph-tokens torch-compile-max-bs speculative-num-steps speculative-eagle-topk "
        "speculative-num-draft-tokens max-mamba-cache-size max-lora-rank max-loras-per-batch "
        "max-loaded-loras max-lora-chunk-size max-micro-batch-size pp-max-micro-batch-size "
        "triton-attention-num-kv-splits moe-dense-tp-size max-ep-size dist-timeout "
        "dynamic-batch-tokenizer-batch-size mm-max-concurrent-calls weight-loader-prefetch-num-threads "
        "batch-notify-size swa-full-tokens-ratio",
        _ODD_COUNT,
    ),
    **_each(
        "base-gpu-id node-rank cpu-offload-gb hicache-size hicache-ratio ep-num-redundant-experts "
        "num-reserved-decode-tokens log-requests-level mm-io-worker-num mm-processor-worker-num",
        _SIZE,
    ),
}
"""argparse takes all numbers here; the start fails later, or what comes up does not work.

Not among them, because -1 or 0 says something there: chunked-prefill-size, offload-group-size,
mamba-max-states-per-path, watchdog-timeout, priorities, seeds (defaults in the flags of 0.4.0 to 0.5.23).
"""


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
        if way and way[0].flag != spec.flag and "<" not in (instead or ""):
            instead = " ".join(s.flag if s.value is None else f"{s.flag} {s.value}" for s in way)
        problems.append(Problem("deprecated", spec.flag, text, instead, fatal=spec.fatal))
    if spec.is_switch:
        return problems
    for value in use.values:
        if spec.type == graphconfig.TYPE and "$" not in value and "`" not in value:
            for refused in graphconfig.refusals(value, catalogue):
                problems.append(Problem("bad_type", spec.flag, refused.why, fatal=refused.fatal))
            continue
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
        except ValueError as error:
            place = "" if shown == HIDDEN else graphconfig.place_of(error, value)
            text = f"{spec.flag} takes {noun}, not {shown}" + (f": {place}" if place else "")
            meant = _meant(value) if spec.type in ("int", "human_readable_int") else None
            if meant and spec.type == "int" and spec.flag in _SUFFIXED:
                text += f" (suffixes such as 32k are taken from {SUFFIXES_SINCE})"
            return Problem("bad_type", spec.flag, text, meant)
        except RecursionError:
            return Problem("bad_type", spec.flag, f"{spec.flag} is nested too deep")
        number = float(result) if isinstance(result, (int, float)) else None
    if spec.choices is not None and value not in spec.choices:
        import difflib

        near = difflib.get_close_matches(value, spec.choices, n=1, cutoff=0.5)
        text = f"{spec.flag} does not take {shown}; it takes " + ", ".join(spec.choices[:12])
        if len(spec.choices) > 12:
            text += f" and {len(spec.choices) - 12} more"
        return Problem("bad_choice", spec.flag, text, near[0] if near else None)
    if number is not None and spec.flag in _RANGES:
        span = _RANGES[spec.flag]
        inside = span.low < number < span.high if span.ends_excluded else span.low <= number <= span.high
        if not inside:
            text = f"{spec.flag} must be {span.words}, not {shown}"
            return Problem("out_of_range", spec.flag, text, fatal=span.fatal)
    return None
