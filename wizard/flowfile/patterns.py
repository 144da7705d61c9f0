"""What a pattern can cost: Python's regular expressions backtrack, and a hostile text makes them.

The cost is an upper bound of the steps that one starting place can take: the product of all choices that
repetitions offer. ``a.{0,80}b.{0,80}c`` has 81 x 81; a repetition inside a repetition multiplies too.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any

# The parser of ``re`` has no public name; it moved into the package in Python 3.11.
_PLACE = "re._" if sys.version_info >= (3, 11) else "sre_"
sre_parse: Any = import_module(f"{_PLACE}{'parser' if '.' in _PLACE else 'parse'}")
sre: Any = import_module(f"{_PLACE}constants")

MOST_STEPS = 3.2e9
"""Steps times characters that a pattern may see. Measured: three gaps of 80 letters over 32,000 hostile ones
(1.7e10 by this count) took 3.3 s, two (2e8) 0.3 s; real texts fit at a few places only."""

UNBOUNDED = 400.0
"""What ``*`` and ``+`` count as: as many places as a line of a log has letters."""


def steps_of(pattern: str) -> float:
    """The bound for one starting place. Raises ``re.error`` for what does not compile."""
    return _cost(sre_parse.parse(pattern, re.I | re.S))


def too_slow(pattern: str, characters: int) -> float | None:
    """The bound for a text of that length, when it is too much; None when it is fine."""
    steps = steps_of(pattern) * (1 if pattern.startswith("^") else characters)
    return steps if steps > MOST_STEPS else None


def _cost(items: Any) -> float:
    total = 1.0
    for op, argument in items:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, inner = argument
            choices = UNBOUNDED if high == sre.MAXREPEAT else float(high - low + 1)
            inside = _cost(inner)
            total *= choices * inside
        elif op is sre.SUBPATTERN:
            total *= _cost(argument[-1])
        elif op is sre.BRANCH:
            total *= max(1.0, sum(_cost(branch) for branch in argument[1]) ** 0.5)
        elif op in (sre.ASSERT, sre.ASSERT_NOT):
            total *= _cost(argument[1])
        total = min(total, 1e12)
    return total
