"""Ranking causes by all the evidence at hand, in a way that can be shown.

Each cause starts at the same prior log-odds; every sign whose condition is true adds its weight, and so
do the clues found in the log, in the command and in a person's words. Confidence is the logistic of the
sum. The arithmetic is kept, so that a person can check it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wizard.core.clue import PLACES
from wizard.core.expr import Env, Expression, Term
from wizard.core.flow import Cause, FlowBook, Sign
from wizard.core.logtext import Signature
from wizard.core.reading import Snapshot, Value
from wizard.core.versions import within

PRIOR = -3.0
"""Log-odds of a cause before any evidence: about 5 %. One strong sign (3) makes it even."""

PRIOR_TOLD = -1.0
"""Log-odds when a person tells, in words that are understood, what is wrong: some cause must be right."""

TELLING = 0.8
"""A choice of words that speaks for a cause at least this strongly says that something is wrong."""

BESIDE_A_LOG = 0.5
"""Share of its weight that a choice of words keeps where the log itself leads with a failure."""

DAMPING = 0.5
"""Words of one text depend on each other: the strongest counts whole, the next a half, and so on."""

LEAD_THAT_FOLLOWS = 1 / 3
"""Share of its weight that a failure keeps when another one stood before it in the log."""

QUOTED = 0.75
"""Share of its weight that a log line keeps when a person quotes it: it may be one line of many."""

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
    sign: Sign | None = None
    """The sign of the cause's own; None for a clue or a signature."""

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
    prior: float = PRIOR

    @property
    def status(self) -> Status:
        if self.confidence >= SUPPORTED:
            return "supported"
        if self.supporting or (self.unknown and not self.against):
            return "open"
        return "refuted" if self.against or not self.unknown else "open"

    def arithmetic(self) -> str:
        """``-3 + 4 + 2 = 3, so 95 %``."""
        parts = [f"{self.prior:g}"]
        for item in (*self.supporting, *self.against):
            parts.append(f"{'+' if item.weight >= 0 else '-'} {abs(item.weight):g}")
        total = round(self.prior + sum(e.weight for e in (*self.supporting, *self.against)), 2)
        return f"{' '.join(parts)} = {total:g}, so {self.confidence:.0%}"


@dataclass(frozen=True)
class Found:
    """A clue or a signature that was found: how it bears on causes, before damping."""

    place: str
    cause: str
    weight: float
    says: str
    readings: tuple[tuple[str, Value], ...]


def judge(cause: Cause, env: Env, found: Sequence[Found] = (), prior: float = PRIOR) -> Hypothesis:
    """Weigh one cause; ``found`` is what ``look`` saw."""
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
    for item in _damped([f for f in found if f.cause == cause.id]):
        (supporting if item.weight > 0 else against).append(item)
    total = prior + sum(e.weight for e in (*supporting, *against))
    return Hypothesis(
        cause,
        1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, total)))),
        tuple(supporting),
        tuple(against),
        tuple(dict.fromkeys(unknown)),
        prior,
    )


def look(book: FlowBook, env: Env) -> tuple[Found, ...]:
    """Every clue and every weighted signature that the readings name, by cause."""
    version = _text(env, "server.version")
    return (
        *_signatures(book.signatures, env, version),
        *_quoted(book.signatures, env, version),
        *_clues(book, env, version),
        *_worded(book, env),
    )


def _signatures(signatures: Iterable[Signature], env: Env, version: str) -> Iterable[Found]:
    there, lead, error = env("log.signatures"), env("log.signature"), env("log.error")
    ids = there.x if there is not None and isinstance(there.x, tuple) else ()
    for signature in signatures:
        if not signature.cause or not signature.weight or signature.id not in ids:
            continue
        if not within(version, signature.versions):
            continue
        if lead is not None and lead.x == signature.id:
            readings = (("log.signature", lead), *((("log.error", error),) if error else ()))
            says = f"the log leads with: {error.x if error else signature.id}"
            yield Found("log", signature.cause, signature.weight, says, readings)
        elif signature.role != "victim" and there is not None:
            share = LEAD_THAT_FOLLOWS if signature.role == "lead" else 1.0
            says = f"the log also has: {signature.note or signature.id.replace('_', ' ')}"
            yield Found("log", signature.cause, signature.weight * share, says, (("log.signatures", there),))


def _quoted(signatures: Iterable[Signature], env: Env, version: str) -> Iterable[Found]:
    ids, lines = env("symptom.signatures"), env("symptom.lines")
    if ids is None or not isinstance(ids.x, tuple) or lines is None or not isinstance(lines.x, tuple):
        return
    there = dict(zip(ids.x, lines.x, strict=False))
    for signature in signatures:
        if signature.id not in there or not within(version, signature.versions):
            continue
        quote = Value(there[signature.id], ids.trust, ids.source)
        says = f'the symptom quotes a line of the log ("{quote.x}")'
        readings = (("symptom.signatures", quote),)
        yield Found("symptom", signature.cause, signature.weight * QUOTED, says, readings)


def _clues(book: FlowBook, env: Env, version: str) -> Iterable[Found]:
    known = {clue.id: clue for clue in book.clues}
    for place in PLACES:
        ids, quotes = env(f"{place}.clues"), env(f"{place}.quotes")
        if ids is None or not isinstance(ids.x, tuple):
            continue
        said = quotes.x if quotes is not None and isinstance(quotes.x, tuple) else ()
        for index, name in enumerate(ids.x):
            clue = known.get(name)
            if clue is None or not within(version, clue.versions):
                continue
            quote = said[index] if index < len(said) else name
            reading = Value(quote, ids.trust, ids.source)
            says = f'{clue.says} ("{quote}")' if clue.says else f'the {place} says "{quote}"'
            for cause, weight in clue.weights.items():
                yield Found(place, cause, weight, says, ((f"{place}.clues", reading),))


def _worded(book: FlowBook, env: Env) -> Iterable[Found]:
    words = env("symptom.words")
    if words is None or not isinstance(words.x, tuple):
        return
    share = BESIDE_A_LOG if env("log.signature") is not None else 1.0
    for item in book.wording.weigh(str(w) for w in words.x):
        if item.cause in book.causes:
            best = ", ".join(item.words)
            reading = (("symptom.words", Value(best, words.trust, words.source)),)
            way = "for this" if item.weight > 0 else "for other trouble"
            says = f"people use these words {way}: {best}" if best else f"people write like this {way}"
            yield Found("wording", item.cause, item.weight * share, says, reading)


def _damped(found: Sequence[Found]) -> Iterable[Evidence]:
    """What was found in one place, for or against: the strongest whole, each next at half of the one before."""
    for place in (*PLACES, "wording"):
        for positive in (True, False):
            same = [f for f in found if f.place == place and (f.weight > 0) == positive]
            same.sort(key=lambda f: -abs(f.weight))
            for index, item in enumerate(same):
                weight = round(item.weight * DAMPING**index, 2)
                if weight:
                    yield Evidence(item.says, weight, item.readings)


def _text(env: Env, name: str) -> str:
    value = env(name)
    return str(value.x) if value is not None else ""


def rank(book: FlowBook, env: Env) -> tuple[Hypothesis, ...]:
    """All causes, best first (then by how strong the single best sign is, then by id)."""

    def key(h: Hypothesis) -> tuple[float, float, str]:
        strongest = max((e.weight for e in h.supporting), default=0.0)
        return (-round(h.confidence, 6), -strongest, h.cause.id)

    found = look(book, env)
    told = any(v is not None and v.x for v in (env("symptom.clues"), env("symptom.signatures")))
    told = told or any(f.place == "wording" and f.weight >= TELLING for f in found)
    prior = PRIOR_TOLD if told else PRIOR
    by_cause: dict[str, list[Found]] = {}
    for item in found:
        by_cause.setdefault(item.cause, []).append(item)
    judged = (judge(c, env, by_cause.get(c.id, ()), prior) for c in book.causes.values())
    return tuple(sorted(judged, key=key))


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

    A server that answers /health and tells of its scheduler (/server_info, /metrics, its log), or a log in
    phase ready or serving without a leading failure, shows it. Otherwise nothing can be said: ``unknown``. A
    good /health alone is any HTTP server's, and beside a /server_info that hangs a log is of yesterday.
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
        (
            "it answers /health, and its scheduler was heard of in another way",
            parse(
                "http.health == 'serving' and (server.info == 'answered' "
                "or throughput.output > 0 or throughput.input > 0 "
                "or not (known(metrics.frozen) and metrics.frozen == True) and ("
                # what a log or a page of metrics holds may be of before it hung
                "not (known(server.info) and server.info in ['hung', 'failed', 'missing']) "
                "and (known(kv.capacity_tokens) or known(server.max_running_requests) "
                "or known(requests.running) or known(server.status) or log.phase in ['ready', 'serving']) "
                "or known(requests.running_mean) and not (known(server.info) and server.info == 'hung')))"
            ),
        ),
        (
            "nothing but a command was given, and it is one that this version takes",
            parse("command.alone == True and not known(command.first_error)"),
        ),
        (
            "its log serves and shows no failure",
            parse(
                "not known(http.health) and not known(http.reachable) and not known(log.signature) "
                "and log.phase in ['ready', 'serving', 'ended']"
            ),
        ),
    )


HEALTHY_NEEDS = _needs()
