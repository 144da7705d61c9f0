"""What is measured before and after a change, as data. ``wizard.measure`` does the measuring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class Workload:
    """A closed loop: ``concurrency`` clients, each sends its next request when the last one ended.

    The same seed and lengths give the same requests. ``windows`` windows of ``window_s`` follow a
    warm-up that is left out. ``shared_prefix_share`` of each prompt is common to all requests.
    """

    concurrency: int
    input_tokens: int
    output_tokens: int
    seed: int = 7
    windows: int = 4
    window_s: float = 5.0
    warmup_s: float = 3.0
    shared_prefix_share: float = 0.0
    length_jitter: float = 0.0
    request_timeout_s: float = 120.0

    @property
    def seconds(self) -> float:
        return self.warmup_s + self.windows * self.window_s

    def describe(self) -> str:
        return (
            f"{self.concurrency} clients, {self.input_tokens} in / {self.output_tokens} out, "
            f"seed {self.seed}, {self.windows} x {self.window_s:g} s"
        )

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Workload:
        return Workload(**doc)


METRICS: dict[str, tuple[str, str]] = {
    "throughput.output": ("tok/s", "higher"),
    "throughput.requests": ("req/s", "higher"),
    "ttft.p50": ("ms", "lower"),
    "ttft.p99": ("ms", "lower"),
    "itl.p50": ("ms", "lower"),
    "itl.p99": ("ms", "lower"),
    "e2e.p50": ("ms", "lower"),
    "e2e.p99": ("ms", "lower"),
    "requests.failed": ("requests", "lower"),
    "requests.queued": ("requests", "lower"),
    "requests.retracted": ("requests", "lower"),
    "kv.usage": ("ratio", "lower"),
}
"""Metrics that a window may hold: unit and the better direction. Absent = not seen, never 0."""


@dataclass(frozen=True)
class Window:
    """One repeat: values of METRICS over ``seconds``; ``samples`` = finished requests in it."""

    seconds: float
    samples: int
    values: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "samples": self.samples, "values": dict(self.values)}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Window:
        return Window(float(doc["seconds"]), int(doc["samples"]), dict(doc["values"]))


@dataclass(frozen=True)
class Measurement:
    """Repeated windows of one workload (``workload`` None = the live traffic, watched passively).

    ``totals`` are METRICS over all windows together. ``errors`` counts failed requests by what they said.
    """

    workload: Workload | None
    windows: tuple[Window, ...]
    totals: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload.to_json() if self.workload else None,
            "windows": [w.to_json() for w in self.windows],
            "totals": dict(self.totals),
            "errors": dict(self.errors),
            "note": self.note,
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Measurement:
        return Measurement(
            Workload.from_json(doc["workload"]) if doc.get("workload") else None,
            tuple(Window.from_json(w) for w in doc["windows"]),
            dict(doc["totals"]),
            dict(doc["errors"]),
            str(doc.get("note", "")),
        )


class Judgement(str, Enum):
    FIXED = "fixed"
    BETTER = "better"
    NO_DIFFERENCE = "no_difference"
    WORSE = "worse"
    CANNOT_TELL = "cannot_tell"


@dataclass(frozen=True)
class Comparison:
    """One metric before and after: the ratio after/before with its bootstrap interval."""

    metric: str
    before: float | None
    after: float | None
    ratio: float | None
    low: float | None
    high: float | None
    judgement: Judgement

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "judgement": self.judgement.value}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Comparison:
        return Comparison(**{**doc, "judgement": Judgement(doc["judgement"])})


@dataclass(frozen=True)
class Verdict:
    """Did it help: one word, one sentence, and the table behind it."""

    judgement: Judgement
    sentence: str
    comparisons: tuple[Comparison, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "judgement": self.judgement.value,
            "sentence": self.sentence,
            "comparisons": [c.to_json() for c in self.comparisons],
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Verdict:
        return Verdict(
            Judgement(doc["judgement"]),
            str(doc["sentence"]),
            tuple(Comparison.from_json(c) for c in doc["comparisons"]),
        )
