"""Text for a terminal, as data: lines of spans, wrapping, columns, numbers. No terminal needed.

A span is (text, role). Roles are names of styles ("dim", "good", ...); what they look like is said
in the style sheets, and none carries a meaning that the words do not carry too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size

Span = tuple[str, str]
Line = tuple[Span, ...]
Build = Callable[[int], Sequence[Line]]
"""Lines for a width in cells."""

EMPTY: Line = ()

# CSI, OSC and the other string sequences, two-character escapes; then what is left of control characters.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]"
)


def clean(text: object) -> str:
    """Foreign text that is safe to show: no escape sequences, no control characters; newlines stay."""
    plain = _ESCAPES.sub("", str(text)).replace("\r\n", "\n").replace("\t", "    ")
    return _CONTROL.sub("", plain)


def one_line(text: object) -> str:
    """``clean``, with newlines and runs of spaces made into one space."""
    return " ".join(clean(text).split())


def line(*parts: str | Span) -> Line:
    """A line of cleaned spans; a bare text has no role."""
    spans = ((part, "") if isinstance(part, str) else part for part in parts)
    return tuple((clean(text).replace("\n", " "), role) for text, role in spans if text)


def plain(one: Line) -> str:
    return "".join(text for text, _ in one)


def width_of(one: Line) -> int:
    return sum(cell_len(text) for text, _ in one)


def shorten(text: str, width: int) -> str:
    """The text within ``width`` cells; what is cut off leaves an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…" if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Exactly ``width`` cells."""
    short = shorten(text, width)
    space = " " * max(0, width - cell_len(short))
    return space + short if right else short + space


def cut(one: Line, width: int) -> Line:
    """The line within ``width`` cells."""
    if width_of(one) <= width:
        return one
    out: list[Span] = []
    left = width
    for text, role in one:
        size = cell_len(text)
        if size >= left:
            out.append((shorten(text + " …", left) if size == left else shorten(text, left), role))
            break
        out.append((text, role))
        left -= size
    return tuple(out)


def wrap_text(text: object, width: int) -> list[str]:
    """Lines of at most ``width`` cells, broken at spaces; a longer word is broken where it must be."""
    width = max(1, width)
    out: list[str] = []
    for paragraph in clean(text).split("\n"):
        current = ""
        for word in paragraph.split():
            candidate = f"{current} {word}" if current else word
            if cell_len(candidate) <= width:
                current = candidate
                continue
            if current:
                out.append(current)
            pieces = chop_cells(word, width) if cell_len(word) > width else [word]
            out.extend(pieces[:-1])
            current = pieces[-1]
        out.append(current)
    return out


def wrap(text: object, width: int, *, indent: int = 1, role: str = "") -> list[Line]:
    """Wrapped lines, each behind ``indent`` spaces."""
    return [((" " * indent + row, role),) for row in wrap_text(text, width - indent - 1)]


def field(
    label: str, text: object, width: int, *, column: int = 8, role: str = "", most: int = 0
) -> list[Line]:
    """A label and text wrapped beside it; at most ``most`` lines (0 = all)."""
    indent = 1 + max(column, cell_len(label) + 1)
    rows = wrap_text(text, width - indent - 1) or [""]
    if most and len(rows) > most:
        rows = rows[:most]
        rows[-1] = shorten(rows[-1] + " …", width - indent - 1)
    head: Line = ((" " + pad(label, indent - 1), "dim"), (rows[0], role))
    return [head, *(((" " * indent + row, role),) for row in rows[1:])]


def split(left: Line, right: Line, width: int) -> Line:
    """Left and right on one line; the left gives way."""
    room = width - width_of(right) - 1
    if not right or room < 8:
        return cut(left, width)
    short = cut(left, room)
    return (*short, (" " * (width - width_of(short) - width_of(right)), ""), *right)


def rule(width: int, note: str = "") -> Line:
    """A horizontal line, with a note near its right end."""
    if not note:
        return (("─" * width, "rule"),)
    text = f" {note} "
    return (("─" * max(0, width - cell_len(text) - 2), "rule"), (text, "dim"), ("──", "rule"))


def keys_line(keys: Sequence[tuple[str, str]], width: int) -> Line:
    """``enter accept   b back   ? keys``. The last two always stay; before them the later give way."""
    shown = list(keys)
    gap = 3

    def size() -> int:
        return 1 + sum(cell_len(k) + 1 + cell_len(label) for k, label in shown) + gap * (len(shown) - 1)

    if size() > width:
        gap = 2
    while len(shown) > 2 and size() > width:
        del shown[-3]
    spans: list[Span] = [(" ", "")]
    for index, (key, label) in enumerate(shown):
        spans += [(" " * gap, "")] if index else []
        spans += [(key, "key"), (f" {label}", "")]
    return cut(tuple(spans), width)


STAGES = ("classify", "diagnose", "solve", "verify")


def stages_line(current: str, *, finished: bool = False) -> Line:
    """``✓ Classify ─── (2) Diagnose ─── 3 Solve ─── 4 Verify``."""
    at = STAGES.index(current) if current in STAGES else -1
    spans: list[Span] = [(" ", "")]
    for index, name in enumerate(STAGES):
        if index:
            spans.append((" ─── ", "dim"))
        title = name.capitalize()
        if index < at or (finished and index == at):
            spans.append((f"✓ {title}", "good"))
        elif index == at:
            spans.append((f"({index + 1}) {title}", "strong"))
        else:
            spans.append((f"{index + 1} {title}", "dim"))
    return tuple(spans)


_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float], width: int) -> str:
    """The last ``width`` values as block characters, from zero to the largest of them."""
    last = list(values)[-width:] if width > 0 else []
    top = max(last, default=0.0)
    if top <= 0:
        return "▁" * len(last)
    return "".join(_BLOCKS[min(7, int(max(0.0, v) / top * 7 + 0.5))] for v in last)


def bar(share: float, width: int) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 m 05 s``, ``3 h 12 m``, ``4 d 3 h``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def milliseconds(ms: float) -> str:
    """``0.35 ms``, ``5.3 ms``, ``120 ms``, ``6.72 s``."""
    if ms >= 100_000:
        return f"{ms / 1000:,.0f} s"
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    if ms >= 100:
        return f"{ms:.0f} ms"
    return f"{ms:.1f} ms" if ms >= 1 else f"{ms:.2f} ms"


def sections(text: object, width: int) -> list[Line]:
    """A document: paragraphs are wrapped, indented lines are kept as they are (cut at the edge by folding)."""
    out: list[Line] = []
    for row in clean(text).split("\n"):
        if row.startswith(("  ", "|")) or not row.strip():
            pieces = chop_cells(row.rstrip(), max(1, width - 2)) or [""]
            out.extend(((" " + piece, ""),) for piece in pieces)
        else:
            role = "strong" if row.startswith("#") else ""
            out.extend(wrap(row, width, role=role))
    return out
