"""Overlays of text: help, a command, the report, and the log as it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.tui.format import Line, clean, line, sections, wrap
from wizard.tui.screens.base import Body, Frame, Overlay
from wizard.tui.widgets.rows import Lines

LOG_LINES = 200
LOG_EVERY_S = 1.0


class TextScreen(Overlay):
    """A text to read. ``fetch`` brings it from the engine in a worker when it is not at hand."""

    kind = "text"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "line(-1)", show=False, id="line.up"),
        Binding("down,j", "line(1)", show=False, id="line.down"),
        Binding("space", "page(1)", show=False, id="page.more"),
        Binding("home,g", "edge(0)", show=False, id="page.top"),
        Binding("end,G", "edge(1)", show=False, id="page.bottom"),
    ]
    counter = 0

    def __init__(
        self, title: str, text: str = "", *, fetch: Callable[[], str] | None = None, kind: str = "text"
    ) -> None:
        TextScreen.counter += 1
        super().__init__(id=f"over-{kind}-{TextScreen.counter}")
        self.heading = title
        self.content = text
        self.fetch = fetch
        self.name_of_kind = kind

    def body(self) -> ComposeResult:
        yield Lines(self._build, id="text")

    def where(self) -> Line:
        return line((self.heading, "dim"))

    def on_mount(self) -> None:
        super().on_mount()
        if self.fetch is not None:
            self.content = "One moment ..."
            self.wizard.fetch(self.id or "", self.fetch)
            self.draw()

    def take(self, value: Any, error: str) -> None:
        self.content = f"This could not be read: {error}" if error else str(value)
        self.draw()
        self.call_after_refresh(self.show_footer)

    def draw(self) -> None:
        self.query_one("#text", Lines).show(self._build)

    def _build(self, width: int) -> list[Line]:
        return sections(self.content, width)

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("↑↓", "scroll"), ("PgDn", "page"), ("b", "back"), ("q", "quit"))

    def action_line(self, by: int) -> None:
        self.query_one(Body).scroll_relative(y=by, animate=False)

    def action_edge(self, bottom: int) -> None:
        body = self.query_one(Body)
        body.scroll_to(y=body.max_scroll_y if bottom else 0, animate=False)


class LogScreen(TextScreen):
    """The end of the server's log; asked for again one second after the last answer, while open."""

    kind = "log"

    def __init__(self) -> None:
        super().__init__("the server's log", kind="log")
        self.rows: tuple[str, ...] = ()
        self.error = ""
        self.answered = False

    def on_mount(self) -> None:
        super().on_mount()
        self._ask()

    def _ask(self) -> None:
        engine = self.wizard.engine
        if self.ready and engine is not None:
            self.wizard.fetch(self.id or "", lambda: engine.log_tail(LOG_LINES))

    def take(self, value: Any, error: str) -> None:
        body = self.query_one(Body)
        at_end = not self.answered or body.scroll_y >= body.max_scroll_y - 0.5
        self.answered = True
        rows = tuple(value or ())
        if rows != self.rows or error != self.error:
            self.rows, self.error = rows, error
            self.draw()
            if at_end:
                self.call_after_refresh(lambda: body.scroll_end(animate=False))
            self.call_after_refresh(self.show_footer)
        self.set_timer(LOG_EVERY_S, self._ask)

    def _build(self, width: int) -> list[Line]:
        if self.error:
            return wrap(f"The log could not be read: {self.error}", width, role="bad")
        if not self.rows:
            text = "No log is known for this server." if self.answered else "One moment ..."
            return wrap(text, width)
        out: list[Line] = []
        for row in self.rows:
            out.extend(sections("  " + clean(row), width))
        return out


def keys_screen(below: Frame) -> TextScreen:
    """What each key does on the screen below, and everywhere."""
    names = {"↑↓": "up down", "enter": "enter"}
    rows = [f"  {names.get(k, k):<12}{label}" for k, label in tuple(below.keys()) if k not in ("?", "q")]
    text = [
        below.help_text,
        "",
        "# Here",
        *rows,
        "",
        "# Everywhere",
        "  up down     move; tab and digits move too",
        "  enter       take what the cursor is on",
        "  b, esc      one step back",
        "  PgUp PgDn   scroll",
        "  e           evidence: every reading, with its source and trust",
        "  w           why: the causes with their arithmetic; enter goes to one",
        "  l           the end of the server's log",
        "  R           read-only on or off: while on, nothing is changed or sent",
        "  q           quit; a change under way goes on by itself",
    ]
    return KeysScreen("keys", "\n".join(text), kind="keys")


class KeysScreen(TextScreen):
    kind = "keys"
