"""Which server: what was found on this machine, sessions to finish, or an address typed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.tui.format import Line, duration, line, one_line, wrap
from wizard.tui.screens.base import ALWAYS, Frame
from wizard.tui.widgets.choices import Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.target import Target
    from wizard.runner.client import SessionSummary

WELCOME = (
    "No SGLang server runs on this machine, as far as this user can see.",
    "",
    "sgl-wizard walks you from a server in trouble to a measured fix, in four stages: it asks what "
    "hurts, looks at the readings with you, shows one change to the launch command with its price, and "
    "measures the same load before and after. What does not help is put back.",
    "",
    ("  sgl-wizard demo                    ", "learn on a simulated server; needs no GPU"),
    ("  sgl-wizard check --log FILE        ", "explain the log of a failed start"),
    ("  sgl-wizard --url http://HOST:PORT  ", "a server that runs elsewhere"),
    "",
)


def welcome_lines(width: int) -> list[Line]:
    out: list[Line] = []
    for row in WELCOME:
        if isinstance(row, str):
            out += wrap(row, width)
        else:
            out.append(line((" " + row[0], "strong"), row[1]))
    return out


def target_note(target: Target) -> str:
    parts = [f"sglang {one_line(target.version)}" if target.version else ""]
    parts.append("SIMULATED" if target.simulated else "")
    parts.append(f"pid {target.identity.pid}" if target.identity else "")
    parts.append(one_line(target.note))
    return "  ".join(p for p in parts if p)


def session_choice(session: SessionSummary, now: float) -> Choice:
    note = f"{one_line(session.target)}  {one_line(session.cause)}  {duration(now - session.created_at)} ago"
    verb = "Follow session" if session.runner_alive else "Finish or roll back session"
    return Choice(f"session:{session.id}", f"{verb} {session.id}", note, True)


def picker_choices(targets: Sequence[Target], unfinished: Sequence[SessionSummary], now: float) -> list[Choice]:
    """Unfinished changes first: they are the most urgent thing on this machine."""
    out = [session_choice(s, now) for s in unfinished]
    for index, target in enumerate(targets):
        name = one_line(target.name) or "SGLang"
        out.append(Choice(f"target:{index}", f"{name}  {target.host}:{target.port}", target_note(target)))
    out.append(Choice("address", "Type a URL or a port"))
    out.append(Choice("again", "Look again"))
    return out


class PickerScreen(Frame):
    kind = "picker"
    help_text = (
        "A server is named by its process, port and launch command. Choose one, finish a change that was "
        "interrupted, or type an address such as 30001 or http://10.0.0.5:30000."
    )

    BINDINGS: ClassVar[list[BindingType]] = [Binding("u", "address", show=False, id="address")]

    def body(self) -> ComposeResult:
        yield Lines(id="text")
        yield Choices(id="choices")
        yield Lines(id="below", classes="above")

    def draw(self) -> None:
        wizard = self.wizard
        self.query_one("#text", Lines).show(self._head)
        looking = wizard.targets is None
        options = [] if looking else picker_choices(wizard.targets or (), wizard.unfinished, wizard.now())
        key = "looking" if looking else f"{len(options)}"
        self.query_one(Choices).put(options, key=key)
        self.query_one("#below", Lines).show(self.note_line)

    def _head(self, width: int) -> list[Line]:
        wizard = self.wizard
        if wizard.targets is None:
            return [line(" Looking for SGLang servers on this machine ...")]
        if wizard.unfinished:
            alive = all(s.runner_alive for s in wizard.unfinished)
            text = (
                "A change to a server is under way."
                if alive
                else "A change to a server was interrupted. Finish it first: the server may be down."
            )
            return [*wrap(text, width, role="warn"), ()]
        if not wizard.targets:
            return welcome_lines(width)
        count = len(wizard.targets)
        return [line((f" {count} server{'s' if count > 1 else ''} on this machine. Which one?", "strong")), ()]

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("↑↓", "choose"), ("enter", "go on"), ("u", "type an address"), *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        what, _, rest = message.choice.id.partition(":")
        if what == "session":
            alive = any(s.id == rest and s.runner_alive for s in self.wizard.unfinished)
            locked = self.state is not None and self.state.read_only
            if alive or locked:
                self.wizard.attach(rest)
            else:
                self.wizard.finish(rest)
        elif what == "target":
            self.wizard.open_target((self.wizard.targets or ())[int(rest)])
        elif what == "address":
            self.action_address()
        else:
            self.wizard.find_targets()

    def action_address(self) -> None:
        from wizard.tui.screens.address import AddressScreen

        self.wizard.open_over(AddressScreen())
