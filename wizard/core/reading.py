"""Readings: what the probes saw, with where it came from and how far it can be trusted.

A missing reading is a fact of its own (no data, unavailable, timed out, failed), never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Scalar = bool | int | float | str | tuple[str, ...]


class Outcome(str, Enum):
    """How a probe ended. Exactly one of five; none of them is an exception."""

    OK = "ok"
    NO_DATA = "no_data"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


class Trust(str, Enum):
    """How a number was come by, best first."""

    MEASURED = "measured"
    REPORTED = "reported"
    ESTIMATED = "estimated"
    DOCUMENTED = "documented"


@dataclass(frozen=True)
class Value:
    """One reading: ``x`` in the unit of its name (see ``vocabulary``), its trust and its source.

    ``source`` says where a person can look for it: ``/metrics``, ``server.log:812``, ``NVML``.
    """

    x: Scalar
    trust: Trust = Trust.MEASURED
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        x = list(self.x) if isinstance(self.x, tuple) else self.x
        return {"value": x, "trust": self.trust.value, "source": self.source}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Value:
        x = doc["value"]
        return Value(tuple(x) if isinstance(x, list) else x, Trust(doc["trust"]), str(doc["source"]))


@dataclass(frozen=True)
class ProbeResult:
    """What one probe brought back from one run.

    ``values`` may be non-empty for every outcome (partial results are kept).
    ``reason`` says why there is less than everything; ``remedy`` says how to enable it.
    """

    probe: str
    outcome: Outcome
    values: Mapping[str, Value] = field(default_factory=dict)
    reason: str | None = None
    remedy: str | None = None
    elapsed_s: float = 0.0
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.probe,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "remedy": self.remedy,
            "elapsed_s": round(self.elapsed_s, 3),
            "at": self.at,
            "values": {k: v.to_json() for k, v in self.values.items()},
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> ProbeResult:
        return ProbeResult(
            probe=str(doc["id"]),
            outcome=Outcome(doc["outcome"]),
            values={str(k): Value.from_json(v) for k, v in doc.get("values", {}).items()},
            reason=doc.get("reason"),
            remedy=doc.get("remedy"),
            elapsed_s=float(doc.get("elapsed_s", 0.0)),
            at=float(doc.get("at", 0.0)),
        )


@dataclass(frozen=True)
class Snapshot:
    """The latest result of each probe. Immutable: ``with_result`` gives a new one.

    When two probes yield the same name, the one listed first in ``vocabulary.PREFERENCE`` wins
    (default: the first that has it).
    """

    results: Mapping[str, ProbeResult] = field(default_factory=dict)

    def get(self, name: str) -> Value | None:
        """The value of a reading, or None when no probe has it."""
        from wizard.core.vocabulary import PREFERENCE

        for probe in PREFERENCE.get(name, ()):
            result = self.results.get(probe)
            if result is not None and name in result.values:
                return result.values[name]
        for result in self.results.values():
            if name in result.values:
                return result.values[name]
        return None

    def with_result(self, result: ProbeResult) -> Snapshot:
        return Snapshot({**self.results, result.probe: result})

    def with_results(self, results: Iterable[ProbeResult]) -> Snapshot:
        return Snapshot({**self.results, **{r.probe: r for r in results}})

    def values(self) -> dict[str, Value]:
        """Every reading by name."""
        names = {name for result in self.results.values() for name in result.values}
        found = {name: self.get(name) for name in sorted(names)}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> list[dict[str, Any]]:
        return [result.to_json() for result in self.results.values()]

    @staticmethod
    def from_json(doc: Iterable[Mapping[str, Any]]) -> Snapshot:
        return Snapshot().with_results(ProbeResult.from_json(item) for item in doc)
