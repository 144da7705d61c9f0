"""Stage 2: one question at a time, the answer the readings suggest, and the causes as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.core.session import Answered, StartedOver, current_flow, current_node, current_suggestion
from wizard.tui.format import Line, line, one_line, pad, shorten, wrap
from wizard.tui.readings import shown_lines, term_words
from wizard.tui.screens.base import ALWAYS, Frame
from wizard.tui.widgets.choices import Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.expr import Term
    from wizard.core.flow import Arm, FlowBook
    from wizard.core.session import SessionState
    from wizard.core.triage import Hypothesis

UNKNOWN = "unknown"


def breadcrumb(state: SessionState, book: FlowBook) -> str:
    """``Requests wait too long > A cap on the command line > what now``."""
    flow = current_flow(state, book)
    parts = [one_line(flow.title)] if flow else []
    parts += [one_line(step.answer) for step in state.path]
    return " > ".join(parts)


def arm_note(arm: Arm, terms: Sequence[Term], suggested: bool) -> str:
    """Why a branch is suggested, refuted or unknown; the first deciding term in short."""
    says = term_words(terms[0]) if terms else ""
    if suggested:
        return f"suggested: {says}" if says else "suggested: nothing else fits"
    if arm.branch.otherwise:
        return "if nothing else fits"
    if arm.truth is False:
        return f"refuted: {says}"
    if arm.truth is True:
        return f"also true: {says}"
    return f"unknown: no reading of {', '.join(arm.missing)}" if arm.missing else "unknown"


def diagnose_choices(state: SessionState, book: FlowBook) -> tuple[list[Choice], int]:
    """The branches with their notes, then 'I cannot tell'; the cursor starts on the suggested one."""
    suggestion = current_suggestion(state, book)
    if suggestion is None:
        return [], 0
    out: list[Choice] = []
    for i, arm in enumerate(suggestion.arms):
        when, here = arm.branch.when, suggestion.index == i
        terms = when.evaluate(state.snapshot.get).terms if when is not None else ()
        out.append(Choice(str(i), arm.branch.label, arm_note(arm, terms, here), mark=here))
    out.append(Choice(UNKNOWN, "I cannot tell"))
    return out, suggestion.index if suggestion.index is not None else len(out) - 1


def reason_of(hypothesis: Hypothesis) -> str:
    """The strongest evidence in one line."""
    if hypothesis.status == "supported" or (hypothesis.status == "open" and hypothesis.supporting):
        best = max(hypothesis.supporting, key=lambda e: e.weight)
        return one_line(best.says)
    if hypothesis.against:
        return one_line(min(hypothesis.against, key=lambda e: e.weight).says)
    if hypothesis.unknown:
        return "not seen: " + ", ".join(hypothesis.unknown[:3])
    return "no sign of it"


def of_interest(state: SessionState, book: FlowBook) -> list[Hypothesis]:
    """Supported causes first, then those of this flow, then those with a sign, then the rest."""
    flow = current_flow(state, book)
    here = {n.cause for n in flow.nodes.values() if n.cause} if flow else set()

    def key(h: Hypothesis) -> tuple[int, int, float]:
        rank = {"supported": 0, "open": 1, "refuted": 1}[h.status]
        near = 0 if h.cause.id in here else 1 if h.supporting else 2 if h.against else 3
        return (rank, near, -h.confidence)

    return sorted(state.hypotheses, key=key)


def hypothesis_lines(state: SessionState, book: FlowBook, width: int, most: int) -> list[Line]:
    out: list[Line] = []
    roles = {"supported": "strong", "refuted": "dim", "open": ""}
    for h in of_interest(state, book)[:most]:
        name = pad(one_line(h.cause.id), 24 if width < 100 else 28)
        room = width - 14 - len(name)
        out.append(
            ((f" {pad(h.status, 10)} {name} ", roles[h.status]), (shorten(reason_of(h), room), roles[h.status]))
        )
    return out


class DiagnoseScreen(Frame):
    kind = "diagnose"
    stage = "diagnose"
    help_text = (
        "'suggested' is the first answer that the readings show to be true while all before it are false. "
        "Where a reading is missing the wizard asks instead of guessing. 'I cannot tell' says how to "
        "look by hand."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("h", "how", show=False, id="how")]

    def body(self) -> ComposeResult:
        yield Lines(id="question")
        yield Choices(id="choices", label_width=42, moved=self.draw_detail)
        yield Lines(id="detail", classes="above")
        yield Lines(id="hypotheses", classes="above")

    def where(self) -> Line:
        engine, state = self.wizard.engine, self.state
        if engine is None or state is None:
            return ()
        return line((breadcrumb(state, engine.book), "dim"))

    def draw(self) -> None:
        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return
        book = engine.book
        node = current_node(state, book)
        question = node.ask if node is not None else ""
        if state.ended or node is None or not node.branches:
            ended = state.ended
            self.query_one("#question", Lines).show(lambda w: [*wrap(ended, w, role="strong"), ()])
            options = [
                Choice("over", "Start over: choose what hurts"),
                Choice("back", "Back to the last question"),
            ]
            start = 0
        else:
            self.query_one("#question", Lines).show(lambda w: [*wrap(question, w, role="strong"), ()])
            options, start = diagnose_choices(state, book)
        self.query_one(Choices).put(
            options, key=f"{state.flow_id}/{state.node_id}/{bool(state.ended)}", start=start
        )
        self.draw_detail()
        extra = 10 if self.app.size.height >= 34 else 0
        most = max(3, 4 + extra - max(0, len(options) - 5))
        self.query_one("#hypotheses", Lines).show(lambda w: hypothesis_lines(state, book, w, most))

    def draw_detail(self) -> None:
        self.query_one("#detail", Lines).show(self._detail)

    def _detail(self, width: int) -> list[Line]:
        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return []
        out = self.note_line(width)
        node = current_node(state, engine.book)
        suggestion = current_suggestion(state, engine.book)
        current = self.query_one(Choices).current
        if node is None or suggestion is None or current is None or state.ended:
            return out
        if current.id == UNKNOWN:
            by_hand = node.unknown or "There is no way by hand written down for this question."
            return [*out, *wrap(f"To find out by hand: {by_hand}", width)]
        arm = suggestion.arms[int(current.id)]
        if node.show:
            out += shown_lines(node.show, state.snapshot, width)
        if arm.says:
            head = {True: "true", False: "false", None: "unknown"}[arm.truth]
            return [*out, *wrap(f"{head}: {'; '.join(arm.says)}", width, role="dim")][:6]
        return out

    def keys(self) -> Sequence[tuple[str, str]]:
        more = (("b", "back"), ("e", "evidence"), ("w", "why"), ("h", "how"), ("l", "log"))
        return (("enter", "accept"), ("↑↓", "other"), *more, *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        what = message.choice.id
        if what == UNKNOWN:
            self.action_how()
        elif what == "over":
            self.wizard.decide(StartedOver())
        elif what == "back":
            self.wizard.go_back()
        else:
            self.wizard.decide(Answered(int(what)))

    def action_how(self) -> None:
        from wizard.tui.screens.text import TextScreen

        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return
        node, flow = current_node(state, engine.book), current_flow(state, engine.book)
        parts = []
        if node is not None:
            parts += [f"# {node.ask}", node.help, ""]
            parts += ["# To find out by hand", node.unknown] if node.unknown else []
        if flow is not None:
            parts += ["", f"# {flow.title}", flow.summary]
        self.wizard.open_over(TextScreen("how it works", "\n".join(p for p in parts if p is not None)))
