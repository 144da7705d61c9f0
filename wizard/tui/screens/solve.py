"""Stage 3: one change, its arithmetic and its price; nothing happens before 'Yes'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.core.expr import show
from wizard.core.session import Approved, OfferChosen, current_cause
from wizard.tui.command import both_commands, change_lines, check_line, shown_argv
from wizard.tui.format import Line, field, line, one_line, wrap
from wizard.tui.screens.base import ALWAYS, Frame, Overlay
from wizard.tui.screens.text import TextScreen
from wizard.tui.widgets.choices import Buttons, Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.flow import Cause
    from wizard.core.measurement import Workload
    from wizard.core.plan import Consent
    from wizard.core.session import Offer, SessionState


def intent_words(intents: Sequence[tuple[str, str | None]]) -> list[str]:
    """``--flag 0.82``, ``lower --flag``, ``remove --flag``."""
    out = []
    for flag, value in intents:
        if value is None:
            out.append(f"remove {flag}")
        elif value in ("lower", "higher"):
            out.append(f"{flag} {value} (by how much cannot be computed from these readings)")
        else:
            out.append(" ".join(shown_argv((flag, value) if value else (flag,))))
    return out


def plan_lines(offer: Offer, state: SessionState, width: int) -> list[Line]:
    """Change, Why, Expect, Price, If it fails, Pre-flight: what a person must know to say yes."""
    plan = offer.plan
    if plan is None:
        return manual_lines(offer, width)
    tight = width < 100
    out = change_lines(plan, width)
    why = plan.why or "; ".join(c.why for c in plan.changes if c.why)
    out += field("Why", why, width, most=3 if tight else 0)
    if plan.expect:
        trust = "" if "estimated" in plan.expect else "  (estimated)"
        out += field("Expect", plan.expect + trust, width, most=2 if tight else 0)
    out += field("Price", plan.cost or offer.cost or "a restart", width, most=2 if tight else 0)
    out += in_flight(state, width)
    for action in plan.actions:
        out += field("You do", action, width, role="warn")
    live = state.target is not None and state.target.is_live
    back = offer.remedy.rollback if live else "It is ended again; the server stays down, as it is now."
    out += field("If it fails", back, width, column=11)
    return [*out, *check_line(plan, width)]


def in_flight(state: SessionState, width: int) -> list[Line]:
    """How many requests a restart meets."""
    running, queued = (state.snapshot.get(f"requests.{name}") for name in ("running", "queued"))
    if running is None or state.target is None or state.target.identity is None:
        return []
    waiting = f" and {show(queued.x)} wait" if queued is not None else ""
    return field("", f"a restart, while {show(running.x)} requests run{waiting}", width)


def manual_lines(offer: Offer, width: int) -> list[Line]:
    """A remedy that cannot be applied here: what it would be, and why not."""
    out = wrap(f"Cannot be applied from here: {offer.why_not or 'for a person to do'}", width, role="warn")
    for words in intent_words(offer.intents):
        out += field("Change", words, width)
    for action in offer.actions:
        out += field("You do", action, width)
    if offer.why:
        out += field("Why", offer.why, width)
    if offer.cost:
        out += field("Price", offer.cost, width)
    return out


def solve_lines(state: SessionState, cause: Cause | None, width: int) -> list[Line]:
    offers = state.offers
    if offers is None:
        return wrap("Working out what would help, with the numbers of this server ...", width)
    out: list[Line] = []
    offer = state.offer
    if offer is None:
        text = "No remedy is written down for this cause."
        out += wrap(text, width, role="strong")
    else:
        count = f"remedy {state.offer_index + 1} of {len(offers)}: " if len(offers) > 1 else ""
        out += [line((f" {count}", "dim"), (one_line(offer.remedy.title), "strong"))]
        out += plan_lines(offer, state, width)
    if cause is not None and (offer is None or offer.plan is None or width >= 100):
        out += [(), *field("Cause", cause.why, width)]
        out += field("See it", cause.see, width) if cause.see else []
    return out


def solve_buttons(state: SessionState) -> list[Choice]:
    """What can be done with the plan; disabled ones say why when taken."""
    offer = state.offer
    if offer is None or offer.plan is None:
        return [Choice("others", "Other remedies")] if state.offers else []
    able = not state.read_only and all(ok for _, ok, _ in offer.plan.checks)
    live = state.target is not None and state.target.identity is not None
    out = [Choice("measure", "Measure, apply, verify", enabled=able)] if live else []
    out.append(Choice("apply", "Apply without load test" if live else "Start it", enabled=able))
    out.append(Choice("show", "Only show me"))
    if live:
        out.append(Choice("passive", "Watch live traffic instead", enabled=able))
    return out


class SolveScreen(Frame):
    kind = "solve"
    stage = "solve"
    help_text = (
        "One change at a time, so that the measurement says what it did. 'Measure, apply, verify' sends the "
        "same load before and after. 'Watch live traffic' sends nothing and compares the server's own metrics."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "command", show=False, id="command"),
        Binding("o", "others", show=False, id="others"),
        Binding("h", "how", show=False, id="how"),
        Binding("n", "next(1)", show=False, id="next"),
    ]

    def __init__(self) -> None:
        super().__init__(id="solve")
        self.intent = ""

    def body(self) -> ComposeResult:
        yield Lines(id="note")
        yield Lines(id="text")

    def below(self) -> ComposeResult:
        yield Buttons(id="buttons")

    @property
    def cause(self) -> Cause | None:
        engine, state = self.wizard.engine, self.state
        return current_cause(state, engine.book) if engine is not None and state is not None else None

    def where(self) -> Line:
        cause = self.cause
        return line((f"cause: {cause.title}", "strong")) if cause is not None else ()

    def draw(self) -> None:
        state, cause = self.state, self.cause
        if state is None:
            return
        self.query_one("#note", Lines).show(self._note)
        self.query_one("#text", Lines).show(lambda w: solve_lines(state, cause, w))
        options = solve_buttons(state)
        usable = next((i for i, c in enumerate(options) if c.enabled), 0)
        self.query_one(Buttons).put(
            options, key=f"{state.cause_id}/{state.offer_index}/{len(options)}", start=usable
        )

    def _note(self, width: int) -> list[Line]:
        out = self.note_line(width)
        if self.state is not None and self.state.read_only and not out:
            out = wrap(
                "Read-only: the plan is shown, nothing can be applied. R switches it off.", width, role="warn"
            )
        return out

    def keys(self) -> Sequence[tuple[str, str]]:
        offers = len(self.state.offers or ()) if self.state else 0
        others = (("o", f"{offers - 1} more"),) if offers > 1 else ()
        more = (("d", "command"), *others, ("b", "back"), ("t", "tune"), ("h", "how"), ("e", "evidence"))
        return (("tab", "choose"), ("enter", "go on"), *more, *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        state = self.state
        if state is None or message.choices.screen is not self:
            return
        what = message.choice.id
        if what == "show":
            self.action_command()
        elif what == "others":
            self.action_others()
        elif state.read_only or not message.choice.enabled:
            self.app.bell()
        else:
            self.intent = what
            self.wizard.fetch(self.id or "", self.wizard.engine.proposal)

    def take(self, value: Any, error: str) -> None:
        """The proposal came: name what it would do, and ask."""
        state = self.state
        if error or state is None or state.offer is None or state.offer.plan is None or state.target is None:
            return
        from wizard.session.proposal import stakes_of
        from wizard.tui.screens.confirm import approve_screen

        proposed, default_load = value
        consent, workload = agreed(self.intent, proposed, default_load)
        plan = state.offer.plan

        def answered(yes: bool | None) -> None:
            now = self.state
            unchanged = now is not None and now.offer is not None and now.offer.plan == plan
            if yes and unchanged:
                self.wizard.decide(Approved(consent, workload))

        screen = approve_screen(plan, consent, workload, state.target, stakes_of(state))
        self.wizard.open_over(screen, answered)

    def action_command(self) -> None:
        offer = self.state.offer if self.state else None
        if offer is not None and offer.plan is not None:
            self.wizard.open_over(TextScreen("the full command", both_commands(offer.plan)))

    def action_others(self) -> None:
        if self.state is not None and self.state.offers:
            self.wizard.open_over(OffersScreen())

    def action_next(self, by: int) -> None:
        state = self.state
        if state is not None and state.offers:
            self.wizard.send(OfferChosen((state.offer_index + by) % len(state.offers)))

    def action_how(self) -> None:
        cause = self.cause
        if cause is not None:
            text = f"# {cause.title}\n{cause.why}\n\n# See it yourself\n  {cause.see}"
            source = f"\n\n# Known from\n{cause.source}" if cause.source else ""
            self.wizard.open_over(TextScreen("how it works", text + source))


def agreed(intent: str, proposed: Consent, workload: Workload) -> tuple[Consent, Workload | None]:
    """The consent that a button stands for."""
    if intent == "measure":
        return replace(proposed, load_test=True, passive=False), workload
    if intent == "passive":
        return replace(proposed, load_test=False, passive=True), None
    return replace(proposed, load_test=False, passive=False), None


class OffersScreen(Overlay):
    """All remedies of the cause, with why one cannot be applied here; enter takes one."""

    kind = "offers"
    help_text = "Remedies that can be applied here come first."

    def body(self) -> ComposeResult:
        yield Choices(id="choices", label_width=44, moved=self.draw_detail)
        yield Lines(id="detail", classes="above")

    def where(self) -> Line:
        return line(("remedies of this cause", "dim"))

    def draw(self) -> None:
        state = self.state
        if state is None:
            return
        options = [
            Choice(str(i), offer.remedy.title, "can be applied" if offer.plan else f"not here: {offer.why_not}")
            for i, offer in enumerate(state.offers or ())
        ]
        self.query_one(Choices).put(options, key="offers", start=state.offer_index)
        self.draw_detail()

    def draw_detail(self) -> None:
        state, current = self.state, self.query_one(Choices).current
        if state is None or current is None or not state.offers:
            return
        offer = state.offers[int(current.id)]
        self.query_one("#detail", Lines).show(lambda w: plan_lines(offer, state, w))

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("↑↓", "choose"), ("enter", "take this one"), ("b", "back"), *ALWAYS)

    def on_choices_taken(self, message: Choices.Taken) -> None:
        self.dismiss(None)
        self.wizard.send(OfferChosen(int(message.choice.id)))
