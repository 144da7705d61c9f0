"""Lines for people: at most WIDTH columns (less on a narrower terminal: ``fit``), so that a report which is
pasted into a ticket stays readable. Only a single word that is longer (a path) is left whole.
"""

from __future__ import annotations

import textwrap

WIDTH = 100
_columns = WIDTH


def fit(most: int) -> None:
    """From now on lines are no longer than a terminal of so many columns shows, nor than WIDTH."""
    global _columns
    _columns = min(WIDTH, max(40, most))


def columns() -> int:
    """How long lines may be now."""
    return _columns


def wrapped(text: str, first: str = "", rest: str | None = None, width: int = 0) -> list[str]:
    """Lines of ``text`` behind ``first``, the following ones behind ``rest`` (default: as many spaces).

    ``width`` 0: what ``fit`` says.
    """
    later = " " * len(first) if rest is None else rest
    lines = textwrap.wrap(
        text,
        width or _columns,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]


def row(label: str, text: str) -> list[str]:
    """``  why      text``, wrapped below itself."""
    return wrapped(text, f"  {label:<8} ")
