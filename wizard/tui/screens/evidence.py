"""Overlays behind the answers: every reading with its source, and the causes with their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.app import ComposeResult

from wizard.core.session import CauseChosen
from wizard.tui.format import Line, cut, line, one_line, pad, shorten, wrap
from wizard.tui.readings import value_text
from wizard.tui.screens.base import ALWAYS, Overlay
from wizard.tui.screens.diagnose import of_interest, reason_of
from wizard.tui.screens.text import TextScreen
from wizard.tui.widgets.choices import Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.session import SessionState
    from wizard.core.triage import Hypothesis

OUTCOMES = {
    "ok": "✓ ok",
    "no_data": "- no data",
    "unavailable": "✗ unavailable",
    "timed_out": "✗ timed out",
    "failed": "✗ failed",
}


def evidence_lines(state: SessionState, width: int) -> list[Line]:
    """Each probe: how it ended, why, how to get more; then its readings: value, trust, source."""
    if not state.snapshot.results:
        return wrap("No probe has answered yet.", width)
    out: list[Line] = []
    name_width = 34 if width >= 100 else 28
    for result in state.snapshot.results.values():
        outcome = result.outcome.value
        role = "good" if outcome == "ok" else "warn"
        out.append(line((f" {pad(result.probe, 10)}", "strong"), (OUTCOMES.get(outcome, outcome), role)))
        if result.reason:
            out += wrap(result.reason, width, indent=3)
        if result.remedy:
            out += wrap(f"to enable: {result.remedy}", width, indent=3)
        for name, value in sorted(result.values.items()):
            text = shorten(value_text(name, value), max(12, width - name_width - 34))
            tail = f"{value.trust.value}  {one_line(value.source)}"
            spans = ((f"   {pad(name, name_width)} ", "dim"), (pad(text, 16), ""), (f"  {tail}", "dim"))
            out.append(cut(spans, width))
        out.append(())
    return out


class EvidenceScreen(TextScreen):
    kind = "evidence"
    help_text = "measured: seen by the wizard. reported: the server says so. estimated, documented: weaker."

    def __init__(self) -> None:
        super().__init__("evidence: every reading", kind="evidence")

    def _build(self, width: int) -> list[Line]:
        return evidence_lines(self.state, width) if self.state is not None else []


def why_lines(hypothesis: Hypothesis, width: int) -> list[Line]:
    """The signs for and against with their weights, the sum, and what was not seen."""
    out = wrap(hypothesis.cause.title, width, role="strong")
    for item in (*hypothesis.supporting, *hypothesis.against):
        sign = "for" if item.weight > 0 else "against"
        out += [
            (*row[:-1], (f"   {pad(sign, 8)}{item.weight:+g}  {row[-1][0].strip()}", "")) if i == 0 else row
            for i, row in enumerate(wrap(item.says, width - 15, indent=15))
        ]
    out += wrap(f"log-odds {hypothesis.arithmetic()}", width, indent=3, role="dim")
    if hypothesis.unknown:
        out += wrap("not seen: " + ", ".join(hypothesis.unknown), width, indent=3, role="dim")
    out += [(), *wrap(hypothesis.cause.why, width)]
    if hypothesis.cause.see:
        out += [(), *wrap(f"See it yourself: {hypothesis.cause.see}", width)]
    return out


class WhyScreen(Overlay):
    """The causes, best first; the arithmetic of the one under the cursor; enter goes to its remedies."""

    kind = "why"
    help_text = (
        "Each cause starts at log-odds -3 (about 5 %; -1 when you told a symptom); what speaks for it adds "
        "its weight; "
        "50 % and more is called supported. Enter goes on with the cause under the cursor."
    )

    def body(self) -> ComposeResult:
        yield Choices(id="choices", label_width=40, moved=self.draw_detail)
        yield Lines(id="detail", classes="above")

    def where(self) -> Line:
        return line(("why: the causes and their arithmetic", "dim"))

    def draw(self) -> None:
        state, engine = self.state, self.wizard.engine
        if state is None or engine is None:
            return
        most = 14 if self.app.size.height >= 34 else 7
        options = [
            Choice(
                h.cause.id,
                h.cause.id,
                f"{h.status} {h.confidence:.0%}  {reason_of(h)}",
                h.status == "supported",
            )
            for h in of_interest(state, engine.book)[:most]
        ]
        self.query_one(Choices).put(options, key="why")
        self.draw_detail()

    def draw_detail(self) -> None:
        self.query_one("#detail", Lines).show(self._detail)

    def _detail(self, width: int) -> list[Line]:
        current = self.query_one(Choices).current
        found = [
            h for h in (self.state.hypotheses if self.state else ()) if current and h.cause.id == current.id
        ]
        return why_lines(found[0], width) if found else []

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("↑↓", "choose"), ("enter", "go to its remedies"), ("b", "back"), *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        state = self.state
        busy = state is not None and state.run is not None and state.run.outcome is None
        self.dismiss(None)
        if not busy:
            self.wizard.decide(CauseChosen(message.choice.id))
