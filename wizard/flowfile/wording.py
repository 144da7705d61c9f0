"""Learns the table of words (``flows/words.tsv``) from the sentences of ``flows/told/``.

    python -m wizard.flowfile.wording flows

A multinomial logistic regression in plain Python: the same sentences give the same table on any machine.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from operator import add
from pathlib import Path
from typing import NamedTuple

from wizard.core.flow import FlowBook, Mark
from wizard.core.wording import NOBODY, Wording, features
from wizard.flowfile.source import Problem

TABLE = "words.tsv"
TOLD = "told"

EPOCHS, RATE, SMOOTHING, DECAY = 12, 0.5, 0.05, 2e-5
LEAST_SEEN = 2
KEEP = 0.25
"""Cells of the table below this change no weight that is shown; they are left out."""

OBSERVED, OBSERVED_COUNTS = "observed", 3.0
"""What was said of a real incident teaches more than what was thought up: files named so count more."""


class Sentence(NamedTuple):
    """A line of ``told/``: a cause, what people say when it is at work, and how much it counts."""

    cause: str
    text: str
    counts: float = 1.0


def read_told(folder: Path) -> list[Sentence]:
    """Each line ``cause|sentence``. Raises ValueError naming file and line for any other."""
    found = []
    for path in sorted((folder / TOLD).glob("*.txt")):
        counts = OBSERVED_COUNTS if path.stem.startswith(OBSERVED) else 1.0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            cause, bar, sentence = line.partition("|")
            if not line.strip() or line.startswith("#"):
                continue
            if not bar or not cause.strip() or not sentence.strip():
                raise ValueError(f"{path}:{number}: a line is cause|sentence")
            # what speaks of no trouble counts more, or every word would accuse somebody
            weighs = 1.5 * counts if cause.strip() == NOBODY else counts
            found.append(Sentence(cause.strip(), sentence.strip(), weighs))
    return found


def fingerprint(sentences: Sequence[Sentence]) -> str:
    """Changes when a sentence does: says whether a table is of these sentences."""
    return hashlib.sha256(
        "\n".join(f"{s.cause}|{s.text}|{s.counts:g}" for s in sorted(sentences)).encode()
    ).hexdigest()[:16]


def learn(sentences: Sequence[Sentence]) -> str:
    """The table for these sentences, as text."""
    causes = sorted({s.cause for s in sentences})
    number = {c: i for i, c in enumerate(causes)}
    bags = [features(s.text) for s in sentences]
    seen = Counter(f for bag in bags for f in bag)
    weights = {f: [0.0] * len(causes) for f, n in sorted(seen.items()) if n >= LEAST_SEEN}
    speed = dict.fromkeys(weights, 1e-8)
    # a cause with few sentences is no less likely than one with many
    many = Counter(s.cause for s in sentences)
    fair = {c: math.sqrt(len(sentences) / len(causes) / n) for c, n in many.items()}
    data = [
        ([f for f in bag if f in weights], number[s.cause], fair[s.cause] * s.counts)
        for bag, s in zip(bags, sentences, strict=True)
    ]
    order = random.Random(7)
    for _ in range(EPOCHS):
        order.shuffle(data)
        for bag, right, counts in data:
            if bag:
                _step(weights, speed, bag, right, counts)
    lines = ["\t".join([fingerprint(sentences), *causes])]
    for feature, row in weights.items():
        mean = sum(row) / len(row)
        cells = ",".join(f"{i}:{w - mean:.1f}" for i, w in enumerate(row) if abs(w - mean) >= KEEP)
        if cells:
            lines.append(f"{feature}\t{cells}")
    return "\n".join(lines) + "\n"


def _step(
    weights: dict[str, list[float]], speed: dict[str, float], bag: Sequence[str], right: int, counts: float
) -> None:
    size = 1 / math.sqrt(len(bag))
    scores = [0.0] * len(weights[bag[0]])
    for feature in bag:
        scores = list(map(add, scores, weights[feature]))
    scores = [s * size for s in scores]
    top = max(scores)
    shares = [math.exp(s - top) for s in scores]
    whole = sum(shares)
    smooth = SMOOTHING / len(scores)
    gradient = [counts * size * (s / whole - smooth) for s in shares]
    gradient[right] -= counts * size * (1 - SMOOTHING)
    square = sum(g * g for g in gradient)
    for feature in bag:
        speed[feature] += square
        rate = RATE / math.sqrt(speed[feature])
        weights[feature] = [w - rate * g - DECAY * w for w, g in zip(weights[feature], gradient, strict=True)]


def load_wording(folder: Path) -> Wording:
    """The table beside the flows; an empty one where there is none."""
    try:
        return Wording((folder / TABLE).read_text(encoding="utf-8"))
    except OSError:
        return Wording()


def check_wording(folder: Path, book: FlowBook) -> list[Problem]:
    """What is wrong with the table: causes that are none, or sentences that changed since it was learned."""
    wording, mark = book.wording, Mark(f"{folder.name}/{TABLE}", 1, 1)
    problems = [
        Problem(mark, f'the table of words names "{cause}", which is no cause')
        for cause in wording.causes
        if cause not in book.causes and cause != NOBODY
    ]
    try:
        told = read_told(folder)
    except ValueError as error:
        return [*problems, Problem(mark, str(error))]
    if told and wording.fingerprint != fingerprint(told):
        again = f"python -m wizard.flowfile.wording {folder.name}"
        problems.append(Problem(mark, f"the sentences of {TOLD}/ changed since it was learned: {again}"))
    return problems


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0] if argv else "flows")
    sentences = read_told(folder)
    (folder / TABLE).write_text(learn(sentences), encoding="utf-8")
    print(f"{folder / TABLE}: {len(sentences)} sentences, {(folder / TABLE).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
