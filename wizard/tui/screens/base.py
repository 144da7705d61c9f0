"""Frame: what every screen has - header, a body that scrolls, footer, and the keys that always work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen

from wizard.tui.format import EMPTY, Line, line, wrap
from wizard.tui.widgets.footer import Footer, footer_lines
from wizard.tui.widgets.header import Header, header_lines
from wizard.tui.widgets.rows import ROLES, Lines, role_class

if TYPE_CHECKING:
    from wizard.core.session import SessionState
    from wizard.tui.app import WizardApp

ALWAYS: tuple[tuple[str, str], ...] = (("?", "keys"), ("q", "quit"))
OVERLAY: tuple[tuple[str, str], ...] = (("b", "back"), ("q", "quit"))


class Body(VerticalScroll, can_focus=False):
    """Scrolls by page keys; shows no scroll bar: the rule below says when there is more."""

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.is_attached and isinstance(self.screen, Frame):  # a closing screen still scrolls
            self.call_after_refresh(self.screen.show_footer)


class Frame(Screen[Any]):
    """Subclasses fill ``body`` and ``draw``; both are functions of the app's latest state."""

    kind: ClassVar[str] = ""
    stage: ClassVar[str] = ""
    """The stage to mark; empty = the session's own."""
    help_text: ClassVar[str] = ""
    is_overlay: ClassVar[bool] = False
    mounted = False
    """All widgets have come (Textual sends Mount after the whole of compose)."""
    AUTO_FOCUS = "Choices"
    COMPONENT_CLASSES: ClassVar[set[str]] = {role_class(role) for role in ROLES}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pagedown", "page(1)", show=False, id="page.down"),
        Binding("pageup", "page(-1)", show=False, id="page.up"),
        Binding("b,escape", "back", show=False, id="back"),
    ]

    @property
    def wizard(self) -> WizardApp:
        return cast("WizardApp", self.app)

    @property
    def state(self) -> SessionState | None:
        return self.wizard.state

    def compose(self) -> ComposeResult:
        yield Header()
        with Body():
            yield from self.body()
        yield from self.below()
        yield Footer()
        yield Lines(self._too_small, id="small")

    def body(self) -> ComposeResult:
        yield Lines(id="text")

    def below(self) -> ComposeResult:
        """What stays above the footer whatever scrolls."""
        return iter(())

    def on_mount(self) -> None:
        self.mounted = True
        self.draw_all()

    @property
    def ready(self) -> bool:
        """All widgets are there: not before they have come, not while they go after the screen was closed."""
        return self.mounted and not self.wizard.leaving and self in self.app.screen_stack

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys typed ahead may reach a screen whose widgets are not there: then they are dropped."""
        return self.ready and super().check_action(action, parameters)

    def on_screen_resume(self) -> None:
        self.draw_all()

    def on_resize(self, event: events.Resize) -> None:
        if self.ready:
            self.call_after_refresh(self.draw_all)

    def draw_all(self) -> None:
        """Draw everything from the latest state. Cheap when nothing differs."""
        if not self.ready:
            return
        state, stage, host, where = self.state, self.stage, self.wizard.host, self.where()
        self.query_one(Header).show(lambda w: header_lines(state, where, w, stage=stage, host=host))
        self.draw()
        self.show_footer()
        self.call_after_refresh(self.show_footer)

    def draw(self) -> None:
        """Subclasses: bring the widgets of the body up to the state."""

    def where(self) -> Line:
        """What stands in the title row behind the server's name."""
        return EMPTY

    def keys(self) -> Sequence[tuple[str, str]]:
        """The keys that do something now; the last two are always shown."""
        return ALWAYS

    def show_footer(self) -> None:
        if not self.ready:
            return
        keys = tuple(self.keys())
        body = self.query_one(Body)
        more = "more below: PgDn" if body.max_scroll_y > body.scroll_y + 0.5 else ""
        if not more and body.scroll_y > 0:
            more = "PgUp goes up"
        self.query_one(Footer).show(lambda w: footer_lines(keys, more, w))

    def note_line(self, width: int) -> list[Line]:
        notes = (self.wizard.trouble, self.state.note if self.state else "")
        return [row for note in notes if note for row in wrap(f"! {note}", width, role="warn")]

    def action_page(self, by: int) -> None:
        body = self.query_one(Body)
        body.scroll_to(y=body.scroll_y + by * max(1, body.size.height - 2), animate=False)

    def action_back(self) -> None:
        self.wizard.go_back()

    def _too_small(self, width: int) -> list[Line]:
        size = self.app.size
        return [
            line((f"{size.width}x{size.height} is too small: 72x22 needed.", "strong")),
            line("Make the window larger, or use --plain."),
        ]


class Overlay(Frame):
    """A screen on top of a stage; back closes it."""

    is_overlay: ClassVar[bool] = True

    def keys(self) -> Sequence[tuple[str, str]]:
        return OVERLAY

    def action_back(self) -> None:
        self.dismiss(None)
