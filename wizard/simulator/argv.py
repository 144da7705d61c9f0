"""The command line of `sglang.launch_server` 0.5.20: its flags, its argparse errors and its resolved values.

The flag table and the default values are data (`data/flags-0.5.20.json`), taken from the 0.5.20 wheel and from
the `/server_info` of a real 0.5.20 server. Errors leave as argparse leaves them: usage on stderr, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wizard.simulator.gpu import CardModel

DATA = Path(__file__).parent / "data"

# Decode graph sizes (recordings/h200/t_default) and prefill token buckets (same log).
_PREFILL_BUCKETS = [
    *(4, 8, 12, 16, 20, 24, 28, 32),
    *range(48, 257, 16),
    *range(288, 513, 32),
    *range(576, 1025, 64),
    *range(1280, 4097, 256),
    *range(4608, 16385, 512),
]


def decode_graph_sizes(largest: int) -> list[int]:
    """The batch sizes that decode graphs are captured for, up to and including `largest`."""
    sizes = [1, 2, 4, 8, 12, 16, *range(24, 257, 8), *range(272, 513, 16), *range(544, 8193, 32)]
    kept = [size for size in sizes if size <= largest]
    if largest not in kept:
        kept.append(largest)
    return kept


def prefill_graph_sizes(largest: int) -> list[int]:
    """The token counts that prefill graphs are captured for, up to `largest`."""
    return [size for size in _PREFILL_BUCKETS if size <= largest]


@dataclass
class ServerArgs:
    """The resolved arguments: `values` is what `/server_info` and the log line show."""

    values: dict[str, Any]
    argv: list[str]
    warnings: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def decode_graphs(self) -> list[int]:
        phase = self.values["cuda_graph_config"]["decode"]
        return [] if phase["backend"] == "disabled" else list(phase["bs"])

    @property
    def prefill_graphs(self) -> list[int]:
        phase = self.values["cuda_graph_config"]["prefill"]
        return [] if phase["backend"] == "disabled" else list(phase["bs"])


def _human_int(text: str) -> int:
    scale = {"k": 1000, "m": 1000**2, "g": 1000**3}
    tail = text[-1:].lower()
    return int(float(text[:-1]) * scale[tail]) if tail in scale else int(text)


_human_int.__name__ = "human_readable_int"

_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "human_readable_int": _human_int,
    "json": json.loads,
    "json_list_type": json.loads,
}


def build_parser(table: Sequence[Sequence[Any]]) -> argparse.ArgumentParser:
    """An argparse parser for the flag table; abbreviations work as argparse makes them work."""
    parser = argparse.ArgumentParser(prog="sglang serve", add_help=True)
    for flag, aliases, dest, kind, nargs, choices in table:
        options: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS}
        if kind in ("flag", "flag!"):
            options["action"] = "store_true"
        elif kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            if kind in _TYPES:
                options["type"] = _TYPES[kind]
            if nargs:
                options["nargs"] = nargs
            if choices:
                options["choices"] = choices
        if dest == "model_path":
            options["required"] = True
        parser.add_argument(flag, *aliases, **options)
    return parser


def parse(argv: Sequence[str], card: CardModel) -> ServerArgs:
    """Parse and resolve; exits with code 2 on an error, as the real one does."""
    document = json.loads((DATA / "flags-0.5.20.json").read_text(encoding="utf-8"))
    parser = build_parser(document["flags"])
    given = vars(parser.parse_args(list(argv)))
    values: dict[str, Any] = {**document["defaults"], **given}
    values.pop("config", None)
    warnings = []
    if given.get("disable_cuda_graph"):
        warnings.append(
            "\x1b[1;33m'--disable-cuda-graph' is deprecated and will be removed in a future release. "
            "Use '--cuda-graph-backend-{decode,prefill}=disabled' instead.\x1b[0m"
        )
    for name in ("tokenizer_path", "served_model_name"):
        values[name] = values[name] or values["model_path"]
    if values["random_seed"] is None:
        values["random_seed"] = random.randrange(1 << 30)
    _resolve_for_card(values, card)
    return ServerArgs(values, list(argv), warnings)


def _resolve_for_card(values: dict[str, Any], card: CardModel) -> None:
    """Fill what SGLang derives from the size of the card (facts/memory_model.md sections 3 and 4)."""
    gib = card.memory_mib / 1024
    if values["chunked_prefill_size"] is None:
        values["chunked_prefill_size"] = 4096 if gib < 60 else 8192 if gib < 160 else 16384
    chunk = values["chunked_prefill_size"]
    largest = 8 if gib < 20 else 48 if gib < 35 else 32 if gib < 60 else 256 if gib < 160 else 512
    explicit = values.get("cuda_graph_bs_decode")
    largest = values.get("cuda_graph_max_bs_decode") or (max(explicit) if explicit else largest)
    off = values["disable_cuda_graph"]
    decode_off = off or values["disable_decode_cuda_graph"] or values["cuda_graph_backend_decode"] == "disabled"
    prefill_off = (
        off or values["disable_prefill_cuda_graph"] or values["cuda_graph_backend_prefill"] == "disabled"
    )
    prefill_largest = values.get("cuda_graph_max_bs_prefill") or (
        chunk if chunk > 0 else values["max_prefill_tokens"]
    )
    cap = values["max_running_requests"]
    sizes = explicit or decode_graph_sizes(largest)
    captured = [size for size in sizes if not cap or size <= max(cap, sizes[0])]
    buckets = prefill_graph_sizes(prefill_largest)
    empty = {"tc_compiler": "eager", "full_prefill_max_req": None, "full_prefill_prefix_chunk_tokens": None}
    values["cuda_graph_config"] = {
        "decode": {"backend": "disabled" if decode_off else "full", "max_bs": largest, "bs": captured, **empty},
        "prefill": {
            "backend": "disabled" if prefill_off else "breakable",
            "max_bs": prefill_largest,
            "bs": buckets,
            **empty,
        },
    }
    if values["mem_fraction_static"] is None:
        # arg_groups/memory_hook.py: activations 1.5 MiB a chunk token, graphs 2 MiB a batch slot, 8 MiB a
        # bucket.
        tokens = chunk if chunk > 0 else values["max_prefill_tokens"]
        reserved = 512 + 1.5 * max(tokens, 2048) + values["tp_size"] * values["pp_size"] / 8 * 1024
        reserved += 0 if decode_off else 2 * largest
        reserved += 0 if prefill_off else 8 * len(buckets)
        if gib > 60:
            reserved = max(reserved, 10240)
        values["mem_fraction_static"] = round((card.memory_mib - reserved) / card.memory_mib, 3)
