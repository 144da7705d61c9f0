"""Whether two conditions can ever hold together: remedies that pull a flag two ways must not meet.

Words decide between such remedies (clues and signatures of the person's text, the command, the log). The
proof goes through every combination of the words that the two conditions name, each list of words known
or not; every other reading counts as unknown, so a number never proves anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, combinations, product

from wizard.core.expr import Expression, parse
from wizard.core.reading import Value

MAX_CASES = 20_000
"""Combinations that are tried; conditions of more words count as not proven."""

_WORDS = re.compile(r"'(\w+)' in ((?:\w+)\.(?:clues|signatures))\b")
_KNOWN_NUMBER = re.compile(r"\bknown\((?!\w+\.(?:clues|signatures)\))([\w.]+)\)")


def never_together(a: Expression | None, b: Expression | None) -> bool:
    """True when at least one of the conditions is false in every case; no condition is no proof."""
    if a is None or b is None:
        return False
    one, other = _blurred(a), _blurred(b)
    lists: dict[str, list[str]] = {}
    for word, name in _WORDS.findall(f"{one.source} {other.source}"):
        if word not in lists.setdefault(name, []):
            lists[name].append(word)
    for case in _cases(lists):
        if one.evaluate(case.get).truth is not False and other.evaluate(case.get).truth is not False:
            return False
    return bool(lists) and _count(lists) <= MAX_CASES


def _blurred(condition: Expression) -> Expression:
    """The condition with ``known(number)`` open as well: it may be known tomorrow."""
    return parse(_KNOWN_NUMBER.sub(r"(\1 == 0)", condition.source))


def _count(lists: dict[str, list[str]]) -> int:
    total = 1
    for words in lists.values():
        total *= 2 ** len(words) + 1
    return total


def _cases(lists: dict[str, list[str]]) -> Iterator[dict[str, Value]]:
    if _count(lists) > MAX_CASES:
        return
    choices: list[list[tuple[str, ...] | None]] = [
        [None, *chain.from_iterable(combinations(words, n) for n in range(len(words) + 1))]
        for words in lists.values()
    ]
    for chosen in product(*choices):
        yield {name: Value(words) for name, words in zip(lists, chosen, strict=True) if words is not None}
