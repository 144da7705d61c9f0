"""Clues: what words of a person, a command, a hardware list or a log say about causes.

Signatures name what one log line says; a clue may look at a whole text, and may speak for one cause and
against its neighbour. Both are data of ``flows/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from wizard.core.logtext import Signature

PLACES = ("symptom", "log", "command", "hardware")

TEXT_CAP = 32_000
"""Characters of a text that clues see: bounds the time of all patterns together."""

QUOTE_CHARS = 80

MOST_TRIES = 20
"""Matches inside a word that are passed over; bounds the time on a hostile text."""


@dataclass(frozen=True)
class Clue:
    """A pattern over a text, and the log-odds it adds to causes (negative: takes).

    ``unless``: a pattern that, found in the same text, silences the clue. ``versions``: a span such as
    ``>=0.5.10``; outside of it the clue says nothing. Patterns are compiled when they are first used;
    ``check`` says whether they can be.
    """

    id: str
    places: tuple[str, ...]
    pattern: str
    weights: Mapping[str, float]
    says: str = ""
    unless: str = ""
    versions: str = ""

    def check(self) -> None:
        """Raises ValueError for a pattern that does not compile, or a place that is none."""
        for place in self.places:
            if place not in PLACES:
                raise ValueError(f'"{place}" is no place of a clue: {", ".join(PLACES)}, or any')
        for pattern in (self.pattern, self.unless):
            try:
                re.compile(pattern, re.I | re.S)
            except re.error as error:
                raise ValueError(f"the pattern does not compile: {error}") from None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.I | re.S)

    @cached_property
    def _silencer(self) -> re.Pattern[str] | None:
        return re.compile(self.unless, re.I | re.S) if self.unless else None

    def find(self, text: str, *, words: bool = False) -> str | None:
        """What matched, on one line and short; None when nothing did.

        ``words``: a match that begins inside a word does not count ("changing" is no "hanging").
        """
        match = self._regex.search(text)
        for _ in range(MOST_TRIES):
            if not words or match is None or not _inside_a_word(text, match.start()):
                break
            match = self._regex.search(text, match.start() + 1)
        else:
            return None
        if match is None or (self._silencer is not None and self._silencer.search(text)):
            return None
        return " ".join(match[0].split())[:QUOTE_CHARS]


def _inside_a_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].islower() and text[at].islower()


_DENIED = re.compile(
    r"\b(?:no|without|never an?|zero|nor) (?:(?:any|single|other|more|further|visible|CUDA|NCCL|GPU) ){0,2}"
    r"(?:errors?|OOMs?|out.of.memory|crash(?:es|ing)?|hangs?|warnings?|exceptions?|problems?|issues?|tracebacks?"
    r"|time.?outs?|retractions?|restarts?|leaks?|failures?)\b"
    r"|\b(?:did|does|do|has|have|is|was|are|were)(?:n't| not) "
    r"(?:crash(?:ed|ing)?|hang(?:ing)?|hung|OOM|fail(?:ed|ing)?|restart(?:ed|ing)?|leak(?:ed|ing)?)\b"
    r"|\b(?:throughput|latency|TTFT|ITL|memory|network|disk|health) (?:is|are|looks?|was|stays?) "
    r"(?:ok(?:ay)?|fine|stable|good|normal|healthy|as expected)\b"
    r"|\bdmesg (?:says|shows|has|knows) nothing|\bnothing in dmesg\b",
    re.I,
)
"""What a person says is not there accuses nobody."""


def accusing(text: str) -> str:
    """A person's words on one line, up to TEXT_CAP characters, without what they say is not there."""
    return _DENIED.sub(" ", " ".join(text[:TEXT_CAP].split()))


def search(clues: Iterable[Clue], place: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the clues that a text holds, and beside each the words that matched.

    Line breaks count in a log; elsewhere any white space is one blank, as people wrap as they like.
    """
    text = text[:TEXT_CAP] if place == "log" else accusing(text)
    found = [
        (c.id, quote)
        for c in clues
        if place in c.places and (quote := c.find(text, words=place == "symptom")) is not None
    ]
    return tuple(i for i, _ in found), tuple(q for _, q in found)


def quoted(signatures: Iterable[Signature], text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the signatures whose log line a person quotes in a text, and beside each what matched.

    The text is flattened and read up to TEXT_CAP characters; victims and noise are left out.
    """
    text = accusing(text)
    found = [
        (s.id, match[0][:QUOTE_CHARS])
        for s in signatures
        if s.cause and s.weight and s.role in ("lead", "info") and (match := s.regex.search(text))
    ]
    return tuple(i for i, _ in found), tuple(q for _, q in found)
