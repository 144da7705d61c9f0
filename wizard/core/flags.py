"""The command-line flags of one SGLang version as data, and how its argparse would read a spelling.

Names differ between versions; flows name a setting by an *intent* or a destination
(``cuda_graph_max_bs``, ``max_running_requests``) and ``Catalogue.flag_for`` gives the flag that this
version takes. ``wizard.server.catalogue`` loads the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

Arity = Literal["none", "one", "optional", "any", "some"]
"""Words a flag takes: 0, 1, 0-1, 0-n, 1-n."""

ResolutionKind = Literal["exact", "alias", "abbreviation", "ambiguous", "unknown"]

_NO_VALUE_ACTIONS = frozenset(
    {
        "store_true",
        "store_false",
        "BooleanOptionalAction",
        "DeprecatedAction",
        "DeprecatedStoreTrueAction",
        "DeprecatedStoreConstAction",
    }
)


def version_key(version: str) -> tuple[int, int, int, int]:
    """Order of versions: ``0.4.10.post2`` after ``0.4.10``; release candidates count as the release.

    Raises ValueError for text that does not start with a version.
    """
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-.]?post(\d+))?", version.strip())
    if match is None:
        raise ValueError(f"not an SGLang version: {version!r}")
    return tuple(int(part or 0) for part in match.groups())  # type: ignore[return-value]


@dataclass(frozen=True)
class FlagSpec:
    """One flag of one version, as its argparse knows it.

    ``options`` are all spellings, ``flag`` (the first) stands for them everywhere. ``type`` is the
    extractor's word for the converter (``int``, ``float``, ``str``, ``bool``, ``json``,
    ``human_readable_int``, ...). ``default`` None also means: chosen while starting.
    ``deprecated`` says what happens when it is given; ``replacement`` what to write instead.
    """

    options: tuple[str, ...]
    dest: str
    type: str = "str"
    nargs: str | None = None
    action: str | None = None
    default: Any = None
    choices: tuple[str, ...] | None = None
    required: bool = False
    deprecated: str | None = None
    replacement: str | None = None
    const: Any = None

    @property
    def flag(self) -> str:
        return self.options[0]

    @property
    def arity(self) -> Arity:
        if self.action in _NO_VALUE_ACTIONS:
            return "none"
        if self.nargs == "?":
            return "optional"
        if self.nargs == "*":
            return "any"
        return "some" if self.nargs == "+" else "one"

    @property
    def is_switch(self) -> bool:
        return self.arity == "none"

    @property
    def fatal(self) -> bool:
        """Giving it ends the start, although argparse knows it."""
        return self.deprecated is not None and self.deprecated.startswith("fatal")

    @property
    def ignored(self) -> bool:
        return self.deprecated is not None and "ignored" in self.deprecated


class Span(NamedTuple):
    """First and last catalogued version with an option string, and what replaced it."""

    first: str
    last: str
    replacement: str | None = None


@dataclass(frozen=True)
class Resolution:
    """How argparse would read an option string.

    ``candidates``: the spellings that it could be short for (ambiguous) or the nearest ones (unknown).
    ``suggestion``: what to write instead, when that is known.
    """

    kind: ResolutionKind
    spec: FlagSpec | None = None
    candidates: tuple[str, ...] = ()
    suggestion: str | None = None

    @property
    def accepted(self) -> bool:
        return self.spec is not None


class Spelling(NamedTuple):
    """One way to write a setting: a flag, and a value that belongs to the name itself (or None)."""

    flag: str
    value: str | None = None


INTENTS: dict[str, tuple[tuple[Spelling, ...], ...]] = {
    "cuda_graph_max_bs": (
        (Spelling("--cuda-graph-max-bs-decode"),),
        (Spelling("--cuda-graph-max-bs"),),
    ),
    "cuda_graph_bs": (
        (Spelling("--cuda-graph-bs-decode"),),
        (Spelling("--cuda-graph-bs"),),
    ),
    "disable_cuda_graph": (
        (Spelling("--disable-decode-cuda-graph"), Spelling("--disable-prefill-cuda-graph")),
        (
            Spelling("--cuda-graph-backend-decode", "disabled"),
            Spelling("--cuda-graph-backend-prefill", "disabled"),
        ),
        (Spelling("--disable-cuda-graph"),),
    ),
    "disable_decode_cuda_graph": (
        (Spelling("--disable-decode-cuda-graph"),),
        (Spelling("--cuda-graph-backend-decode", "disabled"),),
        (Spelling("--disable-cuda-graph"),),
    ),
    "disable_prefill_cuda_graph": (
        (Spelling("--disable-prefill-cuda-graph"),),
        (Spelling("--cuda-graph-backend-prefill", "disabled"),),
        (Spelling("--disable-piecewise-cuda-graph"),),
    ),
    "disable_piecewise_cuda_graph": (
        (Spelling("--disable-prefill-cuda-graph"),),
        (Spelling("--cuda-graph-backend-prefill", "disabled"),),
        (Spelling("--disable-piecewise-cuda-graph"),),
    ),
    "piecewise_cuda_graph_max_tokens": (
        (Spelling("--cuda-graph-max-bs-prefill"),),
        (Spelling("--piecewise-cuda-graph-max-tokens"),),
    ),
    "cuda_graph_max_bs_prefill": (
        (Spelling("--cuda-graph-max-bs-prefill"),),
        (Spelling("--piecewise-cuda-graph-max-tokens"),),
    ),
    "enable_dp_attention": (
        (Spelling("--attn-dp-size"),),
        (Spelling("--enable-dp-attention"),),
    ),
    "attn_dp_size": (
        (Spelling("--attn-dp-size"),),
        (Spelling("--enable-dp-attention"),),
    ),
    "swa_full_tokens_ratio": (
        (Spelling("--swa-full-tokens-ratio"),),
        (Spelling("--hybrid-kvcache-ratio"),),
    ),
    "max_micro_batch_size": (
        (Spelling("--pp-max-micro-batch-size"),),
        (Spelling("--max-micro-batch-size"),),
    ),
    "tokenizer_worker_num": ((Spelling("--tokenizer-worker-num"),),),
    # never a flag, but in many recipes
    "tokenizer_threads": ((Spelling("--tokenizer-worker-num"),),),
    "moe_deepep": (
        (Spelling("--moe-a2a-backend", "deepep"),),
        (Spelling("--enable-deepep-moe"),),
    ),
    "model": ((Spelling("--model-path"),),),
    "tp": ((Spelling("--tp-size"),),),
    "dp": ((Spelling("--dp-size"),),),
    "pp": ((Spelling("--pp-size"),),),
    "ep": ((Spelling("--ep-size"),),),
}
"""Settings whose name changed, newest way first. The first way that a version takes without a
warning is the one to write; any of them may stand in a command line (source: the flags of
0.4.0-0.5.23: ``--cuda-graph-max-bs`` is exact to 0.5.13, warns to 0.5.19 and is ambiguous from 0.5.20)."""


RENAMED: tuple[tuple[str, str], ...] = (
    ("--cuda-graph-max-bs-decode", "--cuda-graph-max-bs"),
    ("--cuda-graph-bs-decode", "--cuda-graph-bs"),
    ("--cuda-graph-max-bs-prefill", "--piecewise-cuda-graph-max-tokens"),
    ("--cuda-graph-bs-prefill", "--piecewise-cuda-graph-tokens"),
    ("--disable-prefill-cuda-graph", "--disable-piecewise-cuda-graph"),
    ("--attn-dp-size", "--enable-dp-attention --dp-size"),
    ("--attention-data-parallel-size", "--enable-dp-attention --dp-size"),
    ("--dsa-decode-backend", "--nsa-decode-backend"),
    ("--dsa-prefill-backend", "--nsa-prefill-backend"),
    ("--dsa-prefill-cp-mode", "--nsa-prefill-cp-mode"),
    ("--enable-dsa-prefill-context-parallel", "--enable-nsa-prefill-context-parallel"),
    ("--incremental-streaming-output", "--stream-output"),
    ("--mamba-radix-cache-strategy", "--mamba-scheduler-strategy"),
    ("--smg-grpc-mode", "--grpc-mode"),
    ("--enable-hicache", "--enable-hierarchical-cache"),
    ("--file-storage-path", "--file-storage-pth"),
    ("--file-storage-pth", "--file-storage-path"),
    ("--kt-method", "--kt-amx-method"),
    ("--kt-amx-method", "--kt-method"),
    ("--kt-weight-path", "--kt-amx-weight-path"),
    ("--kt-amx-weight-path", "--kt-weight-path"),
    ("--otlp-traces-endpoint", "--oltp-traces-endpoint"),
    ("--oltp-traces-endpoint", "--otlp-traces-endpoint"),
    ("--enable-flashinfer-cutlass-moe", "--moe-runner-backend flashinfer_cutlass"),
    ("--enable-flashinfer-trtllm-moe", "--moe-runner-backend flashinfer_trtllm"),
    ("--enable-flashinfer-mxfp4-moe", "--moe-runner-backend flashinfer_mxfp4"),
    ("--enable-flashinfer-cutedsl-moe", "--moe-runner-backend flashinfer_cutedsl"),
    ("--enable-triton-kernel-moe", "--moe-runner-backend triton_kernel"),
    ("--enable-deepep-moe", "--moe-a2a-backend deepep"),
)
"""The same setting by its name in other versions, where neither the intents nor the catalogue's own notes
tell it (read from flags_changes.md and the flags of 0.4.0-0.5.23). Never by likeness: ``--pp-size`` is like
``--tp-size``."""


@dataclass(frozen=True)
class Catalogue:
    """The flags of one version.

    ``version`` is the catalogued one, ``asked`` the one asked for; ``exact`` tells whether they are
    the same. ``spans`` covers every catalogued version, to say when an unknown flag existed.
    """

    version: str
    specs: tuple[FlagSpec, ...]
    spans: Mapping[str, Span] = field(default_factory=dict)
    asked: str = ""
    any_version: bool = False
    """The version is not known: of several spellings the one that every version takes is written."""

    @property
    def exact(self) -> bool:
        return not self.asked or version_key(self.asked) == version_key(self.version)

    @property
    def stands_in(self) -> str:
        """What to say where another version's flags stand for those asked for; "" where they are its own."""
        if self.exact:
            return ""
        asked = "this version" if self.asked == "0.0" else self.asked
        nearest = f"{self.version}, the nearest catalogued version"
        return f"{asked} is not in the flag catalogue; {nearest}, stands in"

    @cached_property
    def by_option(self) -> Mapping[str, FlagSpec]:
        return {option: spec for spec in self.specs for option in spec.options}

    @cached_property
    def _by_name(self) -> Mapping[str, FlagSpec]:
        names: dict[str, FlagSpec] = {}
        # A deprecated flag shares the destination of its successor and must not stand for it.
        for spec in sorted(self.specs, key=lambda s: s.deprecated is not None):
            names.setdefault(spec.dest, spec)
        for spec in self.specs:
            for option in spec.options:
                names.setdefault(snake(option), spec)
        return names

    def __contains__(self, option: str) -> bool:
        return option in self.by_option

    def resolve(self, option: str) -> Resolution:
        """What this version's argparse makes of an option string (without ``=value``)."""
        spec = self.by_option.get(option)
        if spec is not None:
            return Resolution("exact" if option == spec.flag else "alias", spec)
        if option.startswith("--") and len(option) > 2:
            hits = sorted(o for o in (*self.by_option, "--help") if o.startswith(option))
            flags = {self.by_option[o].flag if o in self.by_option else o for o in hits}
            if len(flags) == 1 and hits[0] in self.by_option:
                return Resolution("abbreviation", self.by_option[hits[0]], tuple(hits))
            if len(flags) > 1:
                return Resolution("ambiguous", None, tuple(hits), self._successor(option))
        # A flag of other versions is no slip of the pen: what is like it here is another setting.
        near = () if option in self.spans else self._nearest(option)
        return Resolution("unknown", None, near, self._successor(option) or (near[0] if near else None))

    def flag_for(self, name: str) -> FlagSpec | None:
        """The flag that sets ``name`` in this version, or None when it has none.

        ``name`` is an intent, a destination (``max_running_requests``) or an option string.
        For a setting that takes several flags, the first of them.
        """
        if name.startswith("-"):
            found = self.resolve(name)
            if found.spec is not None and found.spec.deprecated is None:
                return found.spec
            name = snake(name)
        way = self.spell(name)
        return self.by_option[way[0].flag] if way else None

    def spell(self, name: str) -> tuple[Spelling, ...]:
        """The way to write ``name`` in this version; () when it cannot be said here."""
        name = name.replace("-", "_")
        ways = INTENTS.get(name)
        if ways is None:
            spec = self._by_name.get(name)
            return (Spelling(spec.flag),) if spec is not None and not spec.fatal else ()
        usable = [way for way in ways if all(self._takes(s) for s in way)]
        if self.any_version:
            lasting = [way for way in usable if all(s.flag in self._lasting for s in way)]
            if lasting:
                return self._canonical(lasting[0])
        for way in usable:
            if all(self.by_option[s.flag].deprecated is None for s in way):
                return self._canonical(way)
        for way in usable:
            specs = [self.by_option[s.flag] for s in way]
            if not any(s.fatal or s.ignored for s in specs):
                return self._canonical(way)
        return ()

    def ways(self, name: str) -> tuple[Spelling, ...]:
        """Every spelling by which a command line for this version may already say ``name``."""
        every = [s for s in intent_spellings(name) if self._takes(s)]
        if name.startswith("-"):
            own = self._same_setting(self.resolve(name).spec)
        elif name.replace("-", "_") in INTENTS:
            own = ()
        else:
            own = self._same_setting(self._by_name.get(name.replace("-", "_")))
        return tuple(dict.fromkeys((*own, *self._canonical(every))))

    def _same_setting(self, target: FlagSpec | None) -> tuple[Spelling, ...]:
        """The flag and the deprecated ones that still set the same thing."""
        if target is None:
            return ()
        same = [s for s in self.specs if s.dest == target.dest and s.arity == target.arity]
        return tuple(Spelling(s.flag) for s in same)

    @cached_property
    def _lasting(self) -> frozenset[str]:
        """Options that every catalogued version takes, from the oldest to this one."""
        oldest = min((s.first for s in self.spans.values()), key=version_key, default="")
        return frozenset(o for o, s in self.spans.items() if s.first == oldest and s.last == self.version)

    def _takes(self, spelling: Spelling) -> bool:
        spec = self.by_option.get(spelling.flag)
        if spec is None:
            return False
        return spelling.value is None or spec.choices is None or spelling.value in spec.choices

    def _canonical(self, way: Any) -> tuple[Spelling, ...]:
        return tuple(Spelling(self.by_option[s.flag].flag, s.value) for s in way)

    def _successor(self, option: str) -> str | None:
        for here, there in RENAMED:
            if here == option and all(w in self.by_option for w in there.split() if w.startswith("--")):
                return there
        span = self.spans.get(option)
        for name in (snake(option), span.replacement if span else None):
            if not name:
                continue
            if name in INTENTS:
                way = self.spell(name)
                if way:
                    return " ".join(s.flag if s.value is None else f"{s.flag} {s.value}" for s in way)
            elif name.startswith("--") and re.split(r"[= ]", name)[0] in self.by_option:
                return name
        return None

    def _nearest(self, option: str) -> tuple[str, ...]:
        import difflib  # late: costs 10 ms, and only a mistyped flag needs it

        found = difflib.get_close_matches(option, list(self.by_option), n=6, cutoff=0.75)
        return tuple(o for o in found if not _opposite(option, o))[:3]


def _opposite(one: str, other: str) -> bool:
    """``--enable-x`` for ``--disable-x``: like each other, and the contrary."""
    return {one.partition("able-")[0], other.partition("able-")[0]} == {"--en", "--dis"}


def intent_spellings(name: str) -> tuple[Spelling, ...]:
    """Every way, of any version, to say an intent; for a flag: of the intents that it says alone."""
    if not name.startswith("-"):
        ways = INTENTS.get(name.replace("-", "_"), ())
    else:
        alone = (Spelling(name),)
        ways = tuple(way for every in INTENTS.values() if alone in every for way in every if len(way) == 1)
    return tuple(dict.fromkeys(s for way in ways for s in way))


def snake(option: str) -> str:
    """``--max-running-requests`` -> ``max_running_requests``."""
    return option.lstrip("-").replace("-", "_")


def nearest_version(version: str, versions: Sequence[str]) -> str:
    """The newest of ``versions`` that is not newer than ``version``, else the oldest; before that one of the
    same release: a post-release mends what it follows and takes the same flags."""
    ordered = sorted(versions, key=version_key)
    key = version_key(version)
    older = [v for v in ordered if version_key(v) <= key]
    same = [v for v in ordered if v not in older and version_key(v)[:3] == key[:3]]
    if same and not (older and version_key(older[-1])[:3] == key[:3]):
        return same[0]
    return older[-1] if older else ordered[0]
