"""Spans of versions, as flows write them: ``>=0.5.10``, ``>=0.4.0,<0.5.6``."""

from __future__ import annotations

import re

from wizard.core.flags import version_key

_PART = re.compile(r"^(>=|<=|==|<|>)?\s*v?(\d+\.\d+\S*)$")


def parts_of(span: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    """The comparisons of a span. Raises ValueError when it is none."""
    found = []
    for part in filter(None, (p.strip() for p in span.split(","))):
        match = _PART.match(part)
        if match is None:
            raise ValueError(f'"{part}" is no span of versions; write for example >=0.5.10')
        found.append((match[1] or "==", version_key(match[2])))
    return found


def within(version: str | None, span: str) -> bool:
    """Whether a version lies in a span; True when either is not known: nothing speaks against it."""
    if not version or not span:
        return True
    try:
        key = version_key(version)
    except ValueError:
        return True
    for sign, bound in parts_of(span):
        holds = {
            ">=": key >= bound,
            "<=": key <= bound,
            "==": key == bound,
            "<": key < bound,
            ">": key > bound,
        }[sign]
        if not holds:
            return False
    return True
