"""Prometheus text pages as data: samples, sums, histograms, and quantiles between two scrapes.

Pure: it gets a text and gives numbers. Pages of SGLang were the model (0.5.10 to 0.5.23 on a CPU, 0.5.17 on
an H200): 40 to 90 kB, histograms of 20 to 40 buckets, ``le`` written ``0.1``, ``1e+06``, ``+Inf``, the
same gauge once for each rank. Nothing here needs a name or a label to be of SGLang.

A line that is no sample is skipped and counted, never guessed at; what is absent is None, never 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MOST_BYTES = 8 * 1024 * 1024
"""Larger pages are cut: a hundred times the largest page that a real server gave."""

Histogram = Mapping[float, float]
"""Upper bound of each bucket -> observations at or below it, summed over series, ascending, last is +Inf."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'[\s,]*([a-zA-Z_:][\w:.]*)\s*=\s*"([^"\\]*(?:\\.[^"\\]*)*)"', re.ASCII)
_LABELS_END = re.compile(r"[\s,]*\}")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}
_RANKS = ("tp_rank", "pp_rank", "moe_ep_rank", "pid")


class ExpositionError(ValueError):
    """The text is no metrics page at all. The message is one line for a person."""


@dataclass(frozen=True)
class Sample:
    """One line of a page. ``value`` may be NaN or infinite, as the page says."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Exposition:
    """A parsed page. ``skipped`` lines were no samples; ``truncated``: there was more than was read."""

    families: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    skipped: int = 0
    truncated: bool = False

    def has(self, name: str) -> bool:
        """True when at least one sample has exactly this name (``x_bucket`` is not ``x``)."""
        return name in self.families

    def names(self) -> tuple[str, ...]:
        return tuple(self.families)

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """The samples of a name whose labels hold every given pair."""
        return [
            sample
            for sample in self.families.get(name, ())
            if all(sample.labels.get(key) == value for key, value in labels.items())
        ]

    def sum(self, name: str, **labels: str) -> float | None:
        """Sum over series, NaN left out; None when no series has a number."""
        values = self._numbers(name, labels)
        return sum(values) if values else None

    def max(self, name: str, **labels: str) -> float | None:
        """Largest over series, NaN left out; None when no series has a number."""
        return max(self._numbers(name, labels), default=None)

    def total(self, name: str, **labels: str) -> float | None:
        """Sum over series, but ranks that work on the same requests count once (the largest of them).

        Tensor, pipeline and expert ranks (and the ``pid`` label of gauges without a multiprocess mode)
        report the same requests; data-parallel ranks report their own. With priority scheduling the
        series with an empty ``priority`` already holds all priorities. Source: SGLang's metric collectors,
        read over 0.4.0 to 0.5.23.
        """
        samples = self.samples(name, **labels)
        if any(sample.labels.get("priority") == "" for sample in samples):
            samples = [sample for sample in samples if sample.labels.get("priority") == ""]
        groups: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in samples:
            if math.isnan(sample.value):
                continue
            key = tuple(sorted((k, v) for k, v in sample.labels.items() if k not in _RANKS))
            groups[key] = max(groups.get(key, -math.inf), sample.value)
        return sum(groups.values()) if groups else None

    def histogram(self, name: str, **labels: str) -> dict[float, float]:
        """Cumulative buckets by upper bound, summed over series; empty when there is no whole histogram.

        A series without its +Inf bucket (a page cut in the middle) is completed from ``name_count`` or
        left out. Where series have different bounds only the common ones stay, which keeps sums exact.
        """
        series: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
        for sample in self.samples(f"{name}_bucket", **labels):
            bound = _number(sample.labels.get("le", ""))
            if bound is None or math.isnan(bound) or not math.isfinite(sample.value) or sample.value < 0:
                continue
            key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            series.setdefault(key, {})[bound] = sample.value
        counts = {tuple(sorted(s.labels.items())): s.value for s in self.samples(f"{name}_count", **labels)}
        for key, buckets in series.items():
            if math.inf not in buckets and math.isfinite(counts.get(key, math.nan)):
                buckets[math.inf] = counts[key]
        whole = [buckets for buckets in series.values() if math.inf in buckets]
        if not whole:
            return {}
        bounds = set(whole[0]).intersection(*whole)
        return {bound: sum(buckets[bound] for buckets in whole) for bound in sorted(bounds)}

    def _numbers(self, name: str, labels: Mapping[str, str]) -> list[float]:
        return [s.value for s in self.samples(name, **labels) if not math.isnan(s.value)]


def parse(text: str | bytes, *, max_bytes: int = MOST_BYTES, cut: bool = False) -> Exposition:
    """The samples of a page.

    At most ``max_bytes`` (of text: characters) are read, up to the last whole line; ``truncated`` then says
    so. ``cut`` tells that the text is known to end early: a last line without its newline is then dropped,
    because the value in it may have lost digits.

    Raises ExpositionError for a web page or a JSON document.
    """
    truncated = cut or len(text) > max_bytes
    text = text[:max_bytes]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    _refuse_other_documents(text)
    if truncated:
        text = text[: text.rfind("\n") + 1]
    families: dict[str, list[Sample]] = {}
    skipped = 0
    for line in text.split("\n"):
        line = line.strip()
        if not line or line[0] == "#":
            continue
        read = _sample(line)
        if read is None:
            skipped += 1
            continue
        families.setdefault(read[0], []).append(read[1])
    return Exposition({name: tuple(found) for name, found in families.items()}, skipped, truncated)


def quantile(before: Histogram | None, after: Histogram, q: float) -> float | None:
    """The ``q`` quantile (0 to 1) of what was observed between two scrapes, in the unit of the bounds.

    Linear within a bucket, as Prometheus' ``histogram_quantile``: the first bucket starts at 0 when its bound
    is positive, and a quantile in the +Inf bucket gives the largest finite bound (the true value is above).
    None when nothing was observed. A count that went down, or other bounds, means that the server was
    restarted in between: then everything in ``after`` is new. Raises ValueError for a ``q`` outside 0..1.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile lies between 0 and 1, not {q!r}")
    buckets = list(_observed_between(before, after))
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank = q * total
    lower, below = 0.0, 0.0
    for bound, cumulative in buckets:
        if cumulative >= rank and cumulative > below:
            if math.isinf(bound):
                return lower if len(buckets) > 1 else None
            if bound <= lower and below == 0.0:
                return bound
            return lower + (bound - lower) * max(0.0, rank - below) / (cumulative - below)
        lower, below = bound, max(below, cumulative)
    return None


def observations(before: Histogram | None, after: Histogram) -> float:
    """How many observations fell between two scrapes; 0 when none did. Restarts as in ``quantile``."""
    return max((count for _, count in _observed_between(before, after)), default=0.0)


def increase(before: float | None, after: float | None) -> float | None:
    """Growth of a counter between two scrapes; None unless both are known.

    A counter that went down was reset by a restart: all of ``after`` is growth.
    """
    if before is None or after is None or math.isnan(before) or math.isnan(after):
        return None
    return after if after < before else after - before


def _observed_between(before: Histogram | None, after: Histogram) -> Iterator[tuple[float, float]]:
    """Ascending (bound, cumulative growth), made monotone: scrapes are not atomic over buckets."""
    if math.inf not in after:
        return
    restarted = before is None or set(before) != set(after) or any(after[b] < before[b] for b in after)
    highest = 0.0
    for bound in sorted(after):
        growth = after[bound] if restarted or before is None else after[bound] - before[bound]
        highest = max(highest, growth)
        yield bound, highest


def _sample(line: str) -> tuple[str, Sample] | None:
    match = _NAME.match(line)
    if match is None:
        return None
    at = match.end()
    while at < len(line) and line[at] in " \t":
        at += 1
    labels: dict[str, str] = {}
    if at < len(line) and line[at] == "{":
        at += 1
        while (label := _LABEL.match(line, at)) is not None:
            value = label.group(2)
            labels[label.group(1)] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
            at = label.end()
        end = _LABELS_END.match(line, at)
        if end is None:
            return None
        at = end.end()
    elif at == match.end():
        return None
    rest = line[at:].split(None, 1)
    value_read = _number(rest[0]) if rest else None
    return None if value_read is None else (match.group(), Sample(labels, value_read))


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPED.get(match.group(1), match.group())


def _number(word: str) -> float | None:
    if "_" in word:  # float() takes 1_000, the format does not
        return None
    try:
        return float(word)
    except ValueError:
        return None


def _refuse_other_documents(text: str) -> None:
    start = text[:512].lstrip("\ufeff \t\r\n")
    if start.startswith("<"):
        raise ExpositionError("this is a web page, not a metrics page: check the address and the path /metrics")
    if start.startswith(("{", "[")):
        raise ExpositionError(
            "this is a JSON document, not a metrics page: was the server started with --enable-metrics?"
        )
