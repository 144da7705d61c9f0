"""What lines of a server log mean: signatures as data, and how a line is taken apart.

A log misleads in known ways: its last line usually belongs to a victim, wrapped exceptions come root first,
and healthy servers print alarming lines too. Hence the roles, and the order in which they may lead.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

Role = Literal["lead", "victim", "noise", "info"]
ROLES = ("lead", "victim", "noise", "info")

LINE_CAP = 4000
"""Characters of a line that patterns see: bounds the time of any pattern."""


@dataclass(frozen=True)
class Signature:
    """A pattern that names what a log line says.

    ``role`` lead = may name the failure; victim = a consequence; noise = seen on healthy servers;
    info = a fact, no failure. ``phase``: it counts only in these phases of the log (comma between them).
    Raises ValueError for a pattern that does not compile or a role that is none.
    """

    id: str
    pattern: str
    role: Role
    phase: str = ""
    cause: str = ""
    versions: str = ""
    note: str = ""
    weight: float = 0.0
    """Log-odds for ``cause`` when it leads, or when it is an info; 0 when only signs speak of it."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f'role "{self.role}" is none of {", ".join(ROLES)}')
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern does not compile: {error}") from None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @cached_property
    def phases(self) -> frozenset[str]:
        return frozenset(part.strip() for part in self.phase.split(",") if part.strip())

    def matches(self, text: str, phase: str) -> bool:
        return (not self.phases or phase in self.phases) and self.regex.search(text) is not None


@dataclass(frozen=True)
class Hit:
    """The first line that a signature matched."""

    signature: Signature
    number: int
    text: str
    phase: str


@dataclass(frozen=True)
class Line:
    """A log line without its prefix. ``stamp``: seconds of the log's own clock, None when it has none."""

    text: str
    stamp: float | None
    ranks: str
    number: int


_BRACKETED = r"(?:[^\[\n]{0,80}\[[^\]\n]{1,80}\](?:: ?| ?)){1,2}(?=\[\d{4}-)"
"""``[pod/name/container] ``, ``host python[12]: ``, ``[default0]:``: a carrier with brackets of its own."""

_PREFIX = re.compile(
    r"^(?:" + _BRACKETED + r"|[^\[\n]{0,120})\[(?:(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:[.,]\d{1,6})?)?"
    r"((?: ?(?:[A-Z_]{2,12}|DisaggregationMode\.[A-Z]{1,20})\d{0,4}){0,8})\] ?"
)


_CARRIER = re.compile(
    r"^(?:\[pod/[^\]\s]{1,120}\] "  # kubectl logs --prefix
    r"|\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d)(?: std(?:out|err) [FP])? "  # docker -t, CRI, journald
    r"(?:[\w.-]{1,60} [\w./-]{1,40}\[\d{1,7}\]: )?"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [\w.-]{1,60} [\w./-]{1,40}\[\d{1,7}\]: "  # journald
    r"|[\w.-]{1,60}-\d{1,3} {1,40}\| "  # docker compose
    r"|\([A-Za-z_][\w.:<> -]{0,60}pid=\d{1,7}(?:, ip=[\d.]{7,15})?\) "  # Ray
    r"|\[default\d{1,4}\]:|\[rank\d{1,4}\]: "  # torchrun, torch's hook of uncaught errors
    r"|\d{1,4}: )"  # srun --label
)
"""What carries a log puts this before each line, also before those that have no time of SGLang's."""


_TIME_OR_SO = re.compile(
    r"^\[2.{18}(?:\] |(?:[.,]\d{1,6})?(?: ?(?:[A-Z_]{2,12}|DisaggregationMode\.[A-Z]{1,20})\d{0,4}){0,8}\] ?)"
    r"(?=(?:Decode|Prefill) batch|INFO: |Receive: |Finish: )"
)
"""What stands where the time of a routine line is, whatever it is: logscan has no time to look closer."""


@lru_cache(maxsize=64)
def _seconds(day: str, clock: str) -> float | None:
    """Seconds of the log's clock; None for [2026-99-99 ...], which looks like a date and is none."""
    fields = [int(part) for part in (*day.split("-"), *clock.split(":"))]
    try:
        return float(calendar.timegm((*fields, 0, 0, 0)))
    except ValueError:
        return None


def read_line(text: str, number: int) -> Line:
    """A raw line taken apart. A prefix of nobody that is known stays part of the text."""
    match = _PREFIX.match(text[:240])
    if match is None or (match[1] is None and not match[3]):
        vague = _TIME_OR_SO.match(text) if text[:2] == "[2" else None
        if vague is not None:
            return Line(text[vague.end() :], None, "", number)
        carrier = _CARRIER.match(text)
        return Line(text[carrier.end() :] if carrier is not None else text, None, "", number)
    stamp = None
    if match[1] is not None:
        stamp = _seconds(match[1], match[2])
    return Line(text[match.end() :], stamp, match[3].strip(), number)


def first_match(signatures: Iterable[Signature], text: str, phase: str) -> Signature | None:
    """The first signature, in their order, that a line matches in a phase."""
    for signature in signatures:
        if signature.matches(text, phase):
            return signature
    return None


def leading(hits: Sequence[Hit]) -> Hit | None:
    """The hit that names the failure; ``hits`` in order of appearance.

    The earliest lead that has a cause; else the earliest lead without one (an exception nobody knows); else
    the earliest victim with a cause (a process that ended without an error of its own); else None.
    """

    def first(role: str, caused: bool) -> Hit | None:
        return next((h for h in hits if h.signature.role == role and bool(h.signature.cause) == caused), None)

    return first("lead", True) or first("lead", False) or first("victim", True)


def in_order_of_weight(hits: Sequence[Hit]) -> tuple[str, ...]:
    """Ids of everything that was found but noise: leads first, then facts with a cause, then victims."""
    leads = [h for h in hits if h.signature.role == "lead"]
    facts = [h for h in hits if h.signature.role == "info" and h.signature.cause]
    victims = [h for h in hits if h.signature.role == "victim"]
    rest = [h for h in hits if h.signature.role == "info" and not h.signature.cause]
    leads.sort(key=lambda h: not h.signature.cause)
    return tuple(dict.fromkeys(h.signature.id for h in (*leads, *facts, *victims, *rest)))
