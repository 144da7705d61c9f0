"""Ranking causes by all the evidence at hand, in a way that can be shown.

Each cause starts at the same prior log-odds; every sign whose condition is true adds its weight.
Confidence is the logistic of the sum. The arithmetic is kept, so that a person can check it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from wizard.core.expr import Env, Expression, Term
from wizard.core.flow import Cause, FlowBook, Sign
from wizard.core.reading import Snapshot, Value

PRIOR = -3.0
"""Log-odds of a cause before any evidence: about 5 %. One strong sign (3) makes it even."""

SUPPORTED = 0.5
"""A cause is named when it is at least as likely as not."""

MOST = 5
"""At most so many causes are named."""

Status = Literal["supported", "refuted", "open"]


@dataclass(frozen=True)
class Evidence:
    """One sign that held: its words, its weight, and the readings behind it."""

    says: str
    weight: float
    readings: tuple[tuple[str, Value], ...]
    sign: Sign

    def to_json(self) -> list[dict[str, Any]]:
        """One entry a reading (the stable JSON of DESIGN.md), or one without any."""
        base = {"says": self.says, "weight": self.weight}
        if not self.readings:
            return [{"reading": "", "value": "", "source": "", "trust": "measured", **base}]
        return [{"reading": name, **value.to_json(), **base} for name, value in self.readings]


@dataclass(frozen=True)
class Hypothesis:
    """A cause with its evidence for and against, and what could not be seen."""

    cause: Cause
    confidence: float
    supporting: tuple[Evidence, ...]
    against: tuple[Evidence, ...]
    unknown: tuple[str, ...]
    """Readings that would say more, if there were any."""

    @property
    def status(self) -> Status:
        if self.confidence >= SUPPORTED:
            return "supported"
        if self.supporting or (self.unknown and not self.against):
            return "open"
        return "refuted" if self.against or not self.unknown else "open"

    def arithmetic(self) -> str:
        """``-3 + 4 + 2 = 3, so 95 %``."""
        parts = [f"{PRIOR:g}"]
        for item in (*self.supporting, *self.against):
            parts.append(f"{'+' if item.weight >= 0 else '-'} {abs(item.weight):g}")
        total = PRIOR + sum(e.weight for e in (*self.supporting, *self.against))
        return f"{' '.join(parts)} = {total:g}, so {self.confidence:.0%}"


def judge(cause: Cause, env: Env) -> Hypothesis:
    """Weigh one cause."""
    supporting: list[Evidence] = []
    against: list[Evidence] = []
    unknown: list[str] = []
    for sign in cause.signs:
        outcome = sign.when.evaluate(env)
        if outcome.truth is None:
            unknown.extend(outcome.missing)
        elif outcome.truth:
            item = Evidence(sign.says.render(env), sign.weight, _readings(outcome.terms), sign)
            (supporting if sign.weight > 0 else against).append(item)
    total = PRIOR + sum(e.weight for e in (*supporting, *against))
    return Hypothesis(
        cause,
        1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, total)))),
        tuple(supporting),
        tuple(against),
        tuple(dict.fromkeys(unknown)),
    )


def rank(book: FlowBook, env: Env) -> tuple[Hypothesis, ...]:
    """All causes, best first (then by how strong the single best sign is, then by id)."""

    def key(h: Hypothesis) -> tuple[float, float, str]:
        strongest = max((e.weight for e in h.supporting), default=0.0)
        return (-round(h.confidence, 6), -strongest, h.cause.id)

    return tuple(sorted((judge(c, env) for c in book.causes.values()), key=key))


def named(hypotheses: tuple[Hypothesis, ...]) -> tuple[Hypothesis, ...]:
    """The causes to name: supported ones, best first, at most MOST."""
    return tuple(h for h in hypotheses if h.status == "supported")[:MOST]


def _readings(terms: tuple[Term, ...]) -> tuple[tuple[str, Value], ...]:
    found = {n: v for t in terms for n, v in t.readings if v is not None}
    return tuple(found.items())


HEALTHY_NEEDS: tuple[tuple[str, Expression], ...]
"""What must be seen before ``healthy`` may be said: a live server that answers, or a log that serves."""


def verdict(snapshot: Snapshot, hypotheses: tuple[Hypothesis, ...]) -> Literal["healthy", "problem", "unknown"]:
    """``problem`` when a cause is supported; ``healthy`` only when something shows that it serves.

    A server that answers /health, or a log in phase ready or serving without a leading failure,
    shows it. Otherwise nothing can be said: ``unknown``.
    """
    if named(hypotheses):
        return "problem"
    env = snapshot.get
    if any(need.evaluate(env).truth for _, need in HEALTHY_NEEDS):
        return "healthy"
    return "unknown"


def _needs() -> tuple[tuple[str, Expression], ...]:
    from wizard.core.expr import parse

    return (
        ("it answers /health", parse("http.health == 'serving'")),
        (
            "its log serves and shows no failure",
            parse(
                "not known(http.health) and not known(log.signature) "
                "and log.phase in ['ready', 'serving', 'ended']"
            ),
        ),
    )


HEALTHY_NEEDS = _needs()
