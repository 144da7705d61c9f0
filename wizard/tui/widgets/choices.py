"""Choices (a list with a cursor) and Buttons (the same in a row). Keys: arrows, tab, enter, digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.message import Message

from wizard.tui.format import Line, Span, cut, one_line, pad, shorten
from wizard.tui.widgets.rows import Lines


@dataclass(frozen=True)
class Choice:
    """``note`` stands beside the label, dim unless ``mark`` (then it is the suggested one)."""

    id: str
    label: str
    note: str = ""
    mark: bool = False
    enabled: bool = True


class Choices(Lines, can_focus=True):
    """A list; the cursor is a ``>`` as well as a colour."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False, id="choice.up"),
        Binding("down,j", "move(1)", show=False, id="choice.down"),
        Binding("tab", "move(1)", show=False, id="choice.next"),
        Binding("shift+tab", "move(-1)", show=False, id="choice.previous"),
        Binding("home", "to(0)", show=False, id="choice.first"),
        Binding("end", "to(-1)", show=False, id="choice.last"),
        Binding("enter,space", "choose", show=False, id="choice.take"),
        *(Binding(str(n), f"take({n - 1})", show=False) for n in range(1, 10)),
    ]

    class Taken(Message):
        """The person chose it."""

        def __init__(self, choices: Choices, choice: Choice) -> None:
            super().__init__()
            self.choices = choices
            self.choice = choice

        @property
        def control(self) -> Choices:
            return self.choices

    def __init__(
        self, *, id: str | None = None, label_width: int = 0, moved: Callable[[], None] | None = None
    ) -> None:
        super().__init__(self._draw, id=id)
        self.options: tuple[Choice, ...] = ()
        self.at = 0
        self.touched = False
        self.key = ""
        self.label_width = label_width
        self.window = 0
        """At most so many rows at once, 0 for all; the rest is told in the last row."""
        self._offset = 0
        self.moved = moved
        """Called at once when the cursor moves: what depends on it is painted in the same frame."""

    def put(self, options: Sequence[Choice], *, key: str = "", start: int = 0) -> None:
        """Show these. The cursor stays where the person moved it, unless ``key`` names another question."""
        current = self.current
        if key != self.key:
            self.key, self.touched = key, False
            self.at = start
        elif not self.touched:
            self.at = start
        elif current is not None:  # the list may be in another order now: the cursor stays on what it is on
            self.at = next((i for i, o in enumerate(options) if o.id == current.id), self.at)
        self.options = tuple(options)
        self.at = max(0, min(self.at, len(self.options) - 1))
        self.show(self._draw)

    @property
    def current(self) -> Choice | None:
        return self.options[self.at] if self.options else None

    def _draw(self, width: int) -> list[Line]:
        labels = max((cell_len(one_line(o.label)) for o in self.options), default=0)
        notes = max((cell_len(one_line(o.note)) for o in self.options), default=0)
        room = min(labels, max(width // 2, width - notes - 7)) if notes else width - 4
        if self.label_width and notes:
            room = min(room, max(self.label_width, width - notes - 7))
        rows = self._rows_shown()
        out = [self._row(i, self.options[i], room, width) for i in rows]
        if len(rows) < len(self.options):
            above, below = rows.start, len(self.options) - rows.stop
            more = [f"↑ {above} more" if above else "", f"↓ {below} more" if below else ""]
            out.append(cut(((f"   {'   '.join(m for m in more if m)}", "dim"),), width))
        return out

    def _rows_shown(self) -> range:
        """The options in view: the window follows the cursor."""
        count = len(self.options)
        if not self.window or count <= self.window:
            self._offset = 0
            return range(count)
        room = max(1, self.window - 1)  # the last row tells of the rest
        self._offset = max(0, min(self._offset, count - room, self.at))
        if self.at >= self._offset + room:
            self._offset = self.at - room + 1
        return range(self._offset, self._offset + room)

    def _row(self, index: int, option: Choice, room: int, width: int) -> Line:
        here = index == self.at
        label = one_line(option.label)
        role = "cursor" if here else ("dim" if not option.enabled else "")
        if here and not option.note:
            return ((" ", ""), (f"> {shorten(label, width - 4)} ", role))
        spans: list[Span] = [(" ", ""), (f"{'>' if here else ' '} {pad(label, room)} ", role)]
        if option.note:
            spans.append((f"  {one_line(option.note)}", "strong" if option.mark else "dim"))
        return cut(tuple(spans), width)

    def _rows_of(self, index: int) -> int:
        return index - self._rows_shown().start

    def action_move(self, by: int) -> None:
        if self.options:
            self._go((self.at + by) % len(self.options))

    def action_to(self, index: int) -> None:
        if self.options:
            self._go(index % len(self.options))

    def action_take(self, index: int) -> None:
        """A digit moves there; enter still has to say yes."""
        if index < len(self.options):
            self._go(index)

    def _go(self, index: int) -> None:
        self.touched = True
        if index == self.at:
            return
        self.at = index
        self.renew()
        body = next((a for a in self.ancestors if isinstance(a, VerticalScroll)), None)
        if body is not None:
            row = self.virtual_region.y + self._rows_of(index)
            body.scroll_to_region(Region(0, row, 1, 1), animate=False)
        if self.moved is not None:
            self.moved()

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Taken(self, self.current))

    def _index_at(self, x: int, y: int) -> int | None:
        rows = self._rows_shown()
        return rows[y] if 0 <= y < len(rows) else None

    def on_click(self, event: events.Click) -> None:
        index = self._index_at(event.x, event.y)
        if index is not None:
            self._go(index)
            self.action_choose()


class Buttons(Choices, inherit_bindings=True):
    """The same in a row: ``[>Keep it<]   [ Put the old one back ]``; wraps when it must."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", show=False, id="button.left"),
        Binding("right", "move(1)", show=False, id="button.right"),
    ]

    def _layout(self, width: int) -> list[list[tuple[int, int, str]]]:
        """Rows of (index, column, text)."""
        rows: list[list[tuple[int, int, str]]] = [[]]
        x = 1
        for index, option in enumerate(self.options):
            label = one_line(option.label)
            here = index == self.at
            if option.enabled:
                text = f"[>{label}<]" if here else f"[ {label} ]"
            else:
                text = f"(>{label}<)" if here else f"( {label} )"
            if rows[-1] and x + cell_len(text) > width:
                rows.append([])
                x = 1
            rows[-1].append((index, x, text))
            x += cell_len(text) + 2
        return rows

    def _draw(self, width: int) -> list[Line]:
        out: list[Line] = []
        for row in self._layout(width):
            spans: list[Span] = []
            x = 0
            for index, column, text in row:
                spans.append((" " * (column - x), ""))
                enabled = self.options[index].enabled
                spans.append((text, "cursor" if index == self.at else ("" if enabled else "dim")))
                x = column + cell_len(text)
            out.append(tuple(spans))
        return out if self.options else []

    def _rows_of(self, index: int) -> int:
        rows = self._layout(self.content_size.width)
        return next((y for y, row in enumerate(rows) if any(i == index for i, _, _ in row)), 0)

    def _index_at(self, x: int, y: int) -> int | None:
        rows = self._layout(self.content_size.width)
        if not 0 <= y < len(rows):
            return None
        return next((i for i, column, text in rows[y] if column <= x < column + cell_len(text)), None)
