"""Wording: what the choice of words says about causes when no clue's pattern was written for them.

A table of words, learned from sentences that describe each cause (``flows/told/``), gives each cause a
score. It is one witness beside clues and signs: its weight is bounded, and it says which words it saw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

NOBODY = "none"
"""The class of sentences that speak of no trouble, or of none that can be told."""

SCALE = 1.0
"""Log-odds a unit of score: the table is a regression's, so one is one."""

MOST_FOR, MOST_AGAINST, LEAST = 4.0, 4.0, 0.3
"""A choice of words is at most as strong as one good clue, and below LEAST it is not worth a line."""

MOST_FEATURES = 400

FULL_WORDS = 5
"""Fewer known words than this say less each: one stray word names no cause."""

SHOWN = 3
_FUNCTION_WORDS = """
a about after again all also am an and any are as at be been before being both but by can cannot could did
do does doing don't down during each either else even every few for from further had has have having he her
here him his how if in into is isn't it its itself just may me might more most must my neither no nor not of
off on once one only onto or other our out over own per same shall she should since so some still such than
that the their them then there these they this those through to too under until up upon us very via was we
were what when where whether which while who whom whose why will with within without would yet you your
"""
"""They count like all others (who writes "why does" asks something else than who writes "it is"), but a person
who reads them as evidence learns nothing."""

_WORD = re.compile(r"[a-z]{2,}(?:'t)?|\d+")
_NAME = re.compile(r"[a-z]+(?:_[a-z]+)+")
_ENDINGS = ("ings", "ing", "edly", "ed", "es", "s")


def features(text: str) -> tuple[str, ...]:
    """Words (endings cut, digits as ``#``) and names_with_underscores, each once.

    Pairs of neighbours were tried: four times the table, and no incident more was named right.
    """
    text = text.lower()
    words = ("#" if w.isdigit() else _stem(w) for w in _WORD.findall(text))
    return tuple(dict.fromkeys((*words, *_NAME.findall(text))))[:MOST_FEATURES]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=1)
def _function_words() -> frozenset[str]:
    return frozenset(_FUNCTION_WORDS.split())


def is_shown(feature: str) -> bool:
    """Whether a feature tells a reader something."""
    return feature != "#" and feature not in _function_words()


@dataclass(frozen=True)
class Weighed:
    """How strongly a choice of words speaks for (or against) a cause, and the words that do most.

    ``words`` are those worth showing: function words and numbers count, and are not named.
    """

    cause: str
    weight: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """The table as text: a line with its fingerprint and the causes, then one line a feature.

    ``feature<TAB>number:weight,...``: the number counts the causes of the first line.
    """

    text: str = ""

    @cached_property
    def causes(self) -> tuple[str, ...]:
        head = self.text.partition("\n")[0]
        return tuple(head.split("\t")[1:]) if head else ()

    @cached_property
    def fingerprint(self) -> str:
        """Of the sentences that it was learned from."""
        return self.text.partition("\n")[0].partition("\t")[0]

    def weigh(self, found: Iterable[str]) -> tuple[Weighed, ...]:
        """What the features say, strongest first; () when the table knows none of them."""
        rows = self._rows(frozenset(found))
        if not rows:
            return ()
        size = math.sqrt(max(len(rows), FULL_WORDS))
        score = {c: sum(row.get(c, 0.0) for row in rows.values()) / size for c in self.causes}
        floor = max(score.get(NOBODY, 0.0), 0.0)
        weighed = []
        for cause, total in score.items():
            weight = round(max(-MOST_AGAINST, min(MOST_FOR, SCALE * (total - floor))), 2)
            if cause == NOBODY or abs(weight) < LEAST:
                continue
            sign = 1 if weight > 0 else -1
            best = sorted(rows, key=lambda f: -sign * rows[f].get(cause, 0.0))
            best = [f for f in best if sign * rows[f].get(cause, 0.0) > 0]
            if best:
                weighed.append(Weighed(cause, weight, tuple(f for f in best if is_shown(f))[:SHOWN]))
        return tuple(sorted(weighed, key=lambda w: (-w.weight, w.cause)))

    def _rows(self, found: frozenset[str]) -> Mapping[str, Mapping[str, float]]:
        rows = {}
        for line in self.text.splitlines()[1:]:
            feature, _, cells = line.partition("\t")
            if feature in found:
                pairs = (cell.split(":") for cell in cells.split(",") if cell)
                rows[feature] = {self.causes[int(n)]: float(w) for n, w in pairs}
        return rows
