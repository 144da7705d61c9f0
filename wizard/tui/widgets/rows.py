"""Lines: a widget that shows built lines and repaints only those that differ.

One such widget costs less than a ``Static`` a row and sends the same few bytes: a changed line is one
dirty region. Text is never parsed as markup.
"""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from wizard.tui.format import Build, Line, clean, cut, plain

ROLES = ("dim", "strong", "good", "bad", "warn", "key", "rule", "cursor", "title")


def role_class(role: str) -> str:
    return f"role--{role}"


def nothing(width: int) -> list[Line]:
    return []


class Lines(Widget):
    """Shows what ``build`` gives for its width; ``show`` replaces it."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; }"

    def __init__(self, build: Build = nothing, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._build = build
        self._lines: tuple[Line, ...] = ()
        self._for_width = -1

    def show(self, build: Build) -> None:
        """Show something else. Costs nothing when its lines are the same."""
        self._build = build
        width = self.content_size.width
        if not self.is_mounted or width <= 0:
            self._for_width = -1
            self.refresh(layout=True)
            return
        self.renew()

    def renew(self) -> None:
        """Build again (the state behind ``build`` changed) and repaint the lines that differ."""
        width = self.content_size.width
        old = self._lines
        new = tuple(cut(one, width) for one in self._build(width))
        if new == old and self._for_width == width:
            return
        self._lines, self._for_width = new, width
        if len(new) != len(old):
            self.refresh(layout=self.styles.height is not None and self.styles.height.is_auto)
            return
        changed = [y for y, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        if changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def built(self, width: int) -> tuple[Line, ...]:
        if width != self._for_width:
            self._lines = tuple(cut(one, width) for one in self._build(width))
            self._for_width = width
        return self._lines

    @property
    def text(self) -> str:
        """What is shown, as plain text."""
        return "\n".join(plain(one) for one in self._lines)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self.built(width))

    def on_resize(self, event: events.Resize) -> None:
        self.built(self.content_size.width)

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        base = self.rich_style
        lines = self.built(width)
        if y >= len(lines):
            return Strip.blank(width, base)
        segments = [Segment(clean(text), self._style(role, base)) for text, role in lines[y]]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, role: str, base: Style) -> Style:
        """Roles are components of the screen, not of each widget: nine styles to work out instead of sixty."""
        if role not in ROLES or role_class(role) not in self.screen.COMPONENT_CLASSES:
            return base
        return base + self.screen.get_component_rich_style(role_class(role), partial=True)
