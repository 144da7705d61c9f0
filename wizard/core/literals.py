"""What a pattern cannot do without: texts of which one stands in every line that it matches.

Searching thousands of lines for a few plain texts is far cheaper than trying every pattern on every line.
The texts are read off the parsed pattern, so that nobody has to keep a second list in step by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

if sys.version_info >= (3, 11):
    from re import _constants as _codes  # type: ignore[attr-defined]
    from re import _parser as _parser  # type: ignore[attr-defined]
else:
    import sre_constants as _codes
    import sre_parse as _parser

SHORTEST = 3
"""A shorter text stands in so many lines that searching for it saves nothing."""
MOST_TEXTS = 40
"""A pattern that needs one of more texts than this is better tried as it is."""

_COMMON = (
    '[2026-01-02 03:04:05 TP0] INFO:     127.0.0.1:41234 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    '[2026-01-02 03:04:05] INFO:     127.0.0.1:41234 - "GET /health_generate HTTP/1.1" 200 OK',
    "[2026-01-02 03:04:05] Decode batch, #running-req: 8, #token: 9535, token usage: 0.01, cuda graph: True, "
    "gen throughput (token/s): 1508.19, #queue-req: 0",
    "[2026-01-02 03:04:05] Prefill batch, #new-seq: 1, #new-token: 815, #cached-token: 0, token usage: 0.01, "
    "#running-req: 0, #queue-req: 0, #pending-token: 0, cuda graph: True, input throughput (token/s): 426.35",
)
"""Lines that a log is full of: a text that stands in one of them tells nothing apart."""

Texts = frozenset[str]


@lru_cache(maxsize=4096)
def required_texts(pattern: str) -> Texts | None:
    """Texts of which at least one stands in each string that ``pattern`` matches; None when there are none.

    None too when the best are shorter than SHORTEST or more than MOST_TEXTS: then searching for them is no
    gain. Raises re.error when the pattern does not compile.
    """
    found = _of_sequence(_parser.parse(pattern))
    if found is None or min(map(len, found)) < SHORTEST or len(found) > MOST_TEXTS:
        return None
    return found


def all_texts(patterns: Iterable[str]) -> tuple[str, ...]:
    """The texts of many patterns, none of which holds another of them (the shorter finds both)."""
    wanted: set[str] = set()
    for pattern in patterns:
        wanted |= required_texts(pattern) or frozenset()
    kept: list[str] = []
    for text in sorted(wanted, key=lambda t: (len(t), t)):
        if not any(shorter in text for shorter in kept):
            kept.append(text)
    return tuple(sorted(kept))


def _worth(texts: Texts | None) -> tuple[bool, int, int]:
    """How well texts tell lines apart: rare ones, then long ones, then few."""
    if texts is None:
        return (False, 0, 0)
    common = any(text in line for text in texts for line in _COMMON)
    return (not common, min(8, *map(len, texts), 8), -len(texts))


def _better(one: Texts | None, other: Texts | None) -> Texts | None:
    return one if _worth(one) >= _worth(other) else other


def _of_sequence(items: Any) -> Texts | None:
    """The best texts of a sequence of parsed items, each of which must match."""
    ignores_case = bool(getattr(getattr(items, "state", None), "flags", 0) & re.IGNORECASE)
    return _walk(list(items), ignores_case)


def _walk(items: Sequence[tuple[Any, Any]], ignores_case: bool) -> Texts | None:
    best: Texts | None = None
    runs: Texts | None = frozenset({""})

    def close() -> None:
        nonlocal best, runs
        if runs is not None and "" not in runs:
            best = _better(best, runs)
        runs = frozenset({""})

    for code, value in items:
        exact = _exact(code, value, ignores_case)
        if exact is not None and runs is not None and len(exact) * len(runs) <= MOST_TEXTS:
            runs = frozenset(run + text for run in runs for text in exact)
            continue
        close()
        if exact is not None:
            runs = exact
            continue
        best = _better(best, _inside(code, value, ignores_case))
    close()
    return best


def _exact(code: Any, value: Any, ignores_case: bool) -> Texts | None:
    """All texts that an item can be, when they are few; None otherwise."""
    if code is _codes.AT:
        return frozenset({""})  # an anchor takes no character
    if code is _codes.LITERAL:
        char = chr(value)
        return None if ignores_case and char.lower() != char.upper() else frozenset({char})
    if code is _codes.IN:
        chars = [chr(v) for kind, v in value if kind is _codes.LITERAL]
        if len(chars) == len(value) <= 3 and not (ignores_case and any(c.isalpha() for c in chars)):
            return frozenset(chars)
        return None
    if code is _codes.SUBPATTERN:
        _group, added, removed, body = value
        return _exact_all(body, _flags(ignores_case, added, removed))
    if code is _codes.BRANCH:
        texts: Texts = frozenset()
        for body in value[1]:
            one = _exact_all(body, ignores_case)
            if one is None:
                return None
            texts |= one
        return texts if len(texts) <= MOST_TEXTS else None
    if code is _codes.MAX_REPEAT or code is _codes.MIN_REPEAT:
        least, most, body = value
        if (least, most) == (0, 1):
            one = _exact_all(body, ignores_case)
            return None if one is None else one | {""}
    return None


def _exact_all(items: Any, ignores_case: bool) -> Texts | None:
    texts: Texts = frozenset({""})
    for code, value in items:
        one = _exact(code, value, ignores_case)
        if one is None or len(one) * len(texts) > MOST_TEXTS:
            return None
        texts = frozenset(text + more for text in texts for more in one)
    return texts


def _flags(ignores_case: bool, added: int, removed: int) -> bool:
    return (ignores_case or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE


def _inside(code: Any, value: Any, ignores_case: bool) -> Texts | None:
    """The texts that an item cannot match without."""
    if code is _codes.SUBPATTERN:
        _group, added, removed, body = value
        return _walk(list(body), _flags(ignores_case, added, removed))
    if code is _codes.BRANCH:
        texts: Texts = frozenset()
        for body in value[1]:
            one = _walk(list(body), ignores_case)
            if one is None:
                return None
            texts |= one
        return texts
    if code is _codes.MAX_REPEAT or code is _codes.MIN_REPEAT or str(code) == "POSSESSIVE_REPEAT":
        least, _most, body = value
        return _walk(list(body), ignores_case) if least > 0 else None
    if str(code) == "ATOMIC_GROUP":
        return _walk(list(value), ignores_case)
    return None  # assertions, back-references, classes: nothing certain
