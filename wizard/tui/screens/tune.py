"""Overlay: the checklists of a goal, each box as the live server stands; enter goes to what is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.core.checklist import WORDS, Ticked, tick
from wizard.core.session import CauseChosen
from wizard.tui.format import Line, line, one_line, wrap
from wizard.tui.screens.base import ALWAYS, Overlay
from wizard.tui.widgets.choices import Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.checklist import Goal
    from wizard.core.flow import FlowBook
    from wizard.core.session import SessionState

MARKS = {"done": "✓", "not_done": "○", "does_not_apply": "-", "harmful": "!", "unknown": "?"}


def box_choices(goal: Goal, state: SessionState) -> list[Choice]:
    """``! No cap below what the pool can hold    harmful here``; what wants a remedy is marked."""
    ticked = tick(goal, state.snapshot.get)
    return [
        Choice(t.box.id, f"{MARKS[t.status]} {t.box.title}", WORDS[t.status], mark=t.wants_remedy)
        for t in ticked
    ]


def box_lines(item: Ticked, width: int) -> list[Line]:
    """Why the box stands as it does, what to mind about it, where that comes from."""
    out = wrap(one_line(item.says), width, role="strong" if item.wants_remedy else "") if item.says else []
    if item.missing:
        out += wrap("not seen: " + ", ".join(item.missing), width, role="dim")
    if item.box.folklore:
        out += wrap(f"Mind: {item.box.folklore}", width)
    if item.box.source:
        out += wrap(f"Source: {item.box.source}", width, role="dim")
    return out


class TuneScreen(Overlay):
    kind = "tune"
    help_text = (
        "Each box reads the live server: ✓ done, ○ not done, - does not apply here, ! harmful here, ? cannot "
        "tell. Left and right choose the goal; enter goes to the remedies of its open boxes."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "goal(-1)", show=False, id="goal.previous"),
        Binding("right", "goal(1)", show=False, id="goal.next"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.at = 0

    def body(self) -> ComposeResult:
        yield Lines(id="goals")
        yield Choices(id="choices", label_width=44, moved=self.draw_detail)
        yield Lines(id="detail", classes="above")

    def where(self) -> Line:
        return line(("tune: checklists of the live server", "dim"))

    def _book(self) -> FlowBook | None:
        engine = self.wizard.engine
        return engine.book if engine is not None else None

    @property
    def goal(self) -> Goal | None:
        book = self._book()
        goals = tuple(book.goals.values()) if book is not None else ()
        return goals[self.at % len(goals)] if goals else None

    def draw(self) -> None:
        goal, book, state = self.goal, self._book(), self.state
        if goal is None or book is None or state is None:
            return
        names = tuple(book.goals)
        self.query_one("#goals", Lines).show(lambda w: [*_tabs(names, goal.id, w), ()])
        self.query_one(Choices).put(box_choices(goal, state), key=goal.id, start=self._first_open(goal, state))
        self.draw_detail()

    def _first_open(self, goal: Goal, state: SessionState) -> int:
        ticked = tick(goal, state.snapshot.get)
        return next((i for i, t in enumerate(ticked) if t.wants_remedy), 0)

    def draw_detail(self) -> None:
        self.query_one("#detail", Lines).show(self._detail)

    def _detail(self, width: int) -> list[Line]:
        goal, state, current = self.goal, self.state, self.query_one(Choices).current
        if goal is None or state is None or current is None:
            return []
        item = next((t for t in tick(goal, state.snapshot.get) if t.box.id == current.id), None)
        return [*self.note_line(width), *(box_lines(item, width) if item is not None else [])]

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("←→", "goal"), ("↑↓", "box"), ("enter", "remedies"), ("b", "back"), *ALWAYS)

    def action_goal(self, by: int) -> None:
        self.at += by
        self.draw_all()

    def on_choices_taken(self, message: Choices.Taken) -> None:
        goal, state = self.goal, self.state
        if goal is None or state is None:
            return
        ticked = tick(goal, state.snapshot.get)
        if not any(t.wants_remedy for t in ticked):
            self.wizard.trouble = "No box of this goal is open that a change of the launch command would tick."
            self.draw_all()
            self.wizard.trouble = ""
            return
        self.dismiss(None)
        self.wizard.decide(CauseChosen(goal.cause_id))


def _tabs(names: Sequence[str], here: str, width: int) -> list[Line]:
    """``  memory  [throughput]  latency  stability``: brackets as well as a style."""
    spans = [(" ", "")]
    for name in names:
        spans.append((f"[{name}]" if name == here else f" {name} ", "strong" if name == here else "dim"))
        spans.append(("  ", ""))
    return [tuple(spans)]
