"""The bottom two rows: a rule (saying when there is more below) and the keys that work here."""

from __future__ import annotations

from collections.abc import Sequence

from wizard.tui.format import Line, keys_line, rule
from wizard.tui.widgets.rows import Lines


def footer_lines(keys: Sequence[tuple[str, str]], more: str, width: int) -> list[Line]:
    return [rule(width, more), keys_line(keys, width)]


class Footer(Lines):
    DEFAULT_CSS = "Footer { height: 2; dock: bottom; }"
