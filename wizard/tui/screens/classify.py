"""Stage 1: what hurts? The families of trouble, likely ones marked, beside what the server shows now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal

from wizard.core.session import FlowChosen, LookForMe
from wizard.tui.format import Line, clean, line, one_line, split, wrap
from wizard.tui.readings import panel_lines, value_text
from wizard.tui.screens.base import ALWAYS, Frame
from wizard.tui.widgets.choices import Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.flow import Flow, FlowBook
    from wizard.core.session import SessionState

LOOK = "look"
TUNE = "tune"


def is_likely(flow: Flow, state: SessionState) -> bool:
    return flow.likely is not None and flow.likely.evaluate(state.snapshot.get).truth is True


def likely_reason(flow: Flow, state: SessionState) -> str:
    return flow.likely_says.render(state.snapshot.get) if flow.likely_says is not None else ""


def classify_choices(state: SessionState, book: FlowBook) -> tuple[list[Choice], int]:
    """The families, likely ones first, then the one for who does not know; the cursor starts on the first."""
    out: list[Choice] = []
    for flow in book.ordered_flows():
        likely = is_likely(flow, state)
        out.append(Choice(flow.id, flow.title, "▲ likely" if likely else "", mark=likely))
    out.sort(key=lambda c: not c.mark)  # what is likely stands first: the list is longer than the screen
    out.insert(sum(c.mark for c in out), Choice(LOOK, "I don't know: look for me"))
    if book.goals:
        out.append(Choice(TUNE, "Nothing. Tune it"))
    return out, 0


def target_lines(state: SessionState, width: int) -> list[Line]:
    """``llama-8b  127.0.0.1:30000  sglang 0.5.20  up 3 h 12 m      SERVING, 1 cause likely``."""
    target = state.target
    if target is None:
        return []
    get = state.snapshot.get
    parts = [one_line(target.name).rsplit("/", 1)[-1]]
    if target.is_live or target.launch is not None:
        parts.append(f"{target.host}:{target.port}")
    else:
        parts.append(one_line(target.log_path or target.command_text))
    version = get("server.version")
    version_text = str(version.x) if version else target.version
    parts.append(f"sglang {one_line(version_text)}" if version_text else "")
    uptime = get("process.uptime_s")
    health = get("http.health")
    words = [one_line(health.x).upper()] if health else []
    named = sum(1 for h in state.hypotheses if h.status == "supported")
    if not state.snapshot.results:
        words = ["looking ..."]
    elif named:
        words.append(f"{named} cause{'s' if named > 1 else ''}")
    else:
        words.append({"healthy": "no cause"}.get(state.verdict, "no cause seen yet"))
    left = " " + "  ".join(p for p in parts if p)
    right = "  " + ", ".join(w for w in words if w) + " "
    up = f"  up {value_text('process.uptime_s', uptime)}" if uptime else ""
    if len(left) + len(up) + len(right) < width:
        left += up
    out = [split(line(left), ((right, "strong"),), width)]
    if target.note:
        out += wrap(target.note, width, role="warn")
    return [*out, ()]


class ClassifyScreen(Frame):
    kind = "classify"
    stage = "classify"
    help_text = (
        "Say what hurts; the readings mark what is likely. 'Look for me' goes by the readings alone. "
        "Looking costs the server nothing but a few small requests; nothing is changed before you agree."
    )

    def body(self) -> ComposeResult:
        yield Lines(id="target")
        with Horizontal(id="split"):
            yield Choices(id="choices", label_width=32, moved=self.draw_detail)
            yield Lines(id="live")
        yield Lines(id="detail", classes="above")

    def on_mount(self) -> None:
        self.query_one("#split", Horizontal).can_focus = False
        super().on_mount()

    def draw(self) -> None:
        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return
        self.query_one("#target", Lines).show(lambda w: target_lines(state, w))
        options, start = classify_choices(state, engine.book)
        rows = max(7, self.app.size.height - 14)
        choices = self.query_one(Choices)
        choices.window = rows
        choices.put(options, key="flows", start=start)
        history = self.wizard.history
        most = max(7, min(rows, len(options)))
        self.query_one("#live", Lines).show(lambda w: panel_lines(state.snapshot, history, w, most))
        self.draw_detail()

    def draw_detail(self) -> None:
        self.query_one("#detail", Lines).show(self._detail)

    def _detail(self, width: int) -> list[Line]:
        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return []
        out = self.note_line(width)
        if state.ended:
            out += wrap(state.ended, width, role="strong")
            if not any(h.status == "supported" for h in state.hypotheses):
                out += wrap(missing_probes(state), width, role="dim")
            out.append(())
        current = self.query_one(Choices).current
        if current is None or current.id == LOOK:
            return [*out, *wrap("The wizard follows the readings and asks only what they cannot tell.", width)]
        if current.id == TUNE:
            goals = ", ".join(engine.book.goals)
            return [*out, *wrap(f"Checklists that read the live server: {goals}.", width)]
        flow = engine.book.flows.get(current.id)
        if flow is None:
            return out
        if current.mark:
            out += wrap(f"Likely: {clean(likely_reason(flow, state))}", width, role="strong")
        return [*out, *wrap(flow.summary, width)]

    def keys(self) -> Sequence[tuple[str, str]]:
        more = (("e", "evidence"), ("w", "why"), ("t", "tune"), ("l", "log"), ("b", "servers"))
        return (("↑↓", "choose"), ("enter", "go on"), *more, *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        what = message.choice.id
        if what == TUNE:
            self.wizard.action_tune()
            return
        self.wizard.decide(LookForMe() if what == LOOK else FlowChosen(what))


def missing_probes(state: SessionState) -> str:
    """Which probes brought less than everything, in one sentence."""
    gone = [r.probe for r in state.snapshot.results.values() if r.outcome.value not in ("ok",)]
    return f"Without a full answer: {', '.join(gone)} (e says why)." if gone else ""
