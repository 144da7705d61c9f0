"""Yes or no: before a server is touched, and before leaving while a change is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from wizard.tui.format import Build, Line, duration, wrap
from wizard.tui.screens.base import Overlay
from wizard.tui.widgets.choices import Buttons, Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.measurement import Workload
    from wizard.core.plan import Consent, Plan, Stakes
    from wizard.core.target import Target


class ConfirmScreen(Overlay):
    """Dismisses with True only for ``y`` or for enter on Yes; the cursor starts on No."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", show=False, id="confirm.yes"),
        Binding("n", "back", show=False, id="confirm.no"),
    ]

    def __init__(self, build: Build, yes: str, no: str, *, kind: str) -> None:
        super().__init__()
        self.build_text = build
        self.labels = (yes, no)
        self.name_of_kind = kind

    def body(self) -> ComposeResult:
        yield Lines(self.build_text, id="text")

    def below(self) -> ComposeResult:
        yield Buttons(id="buttons")

    def draw(self) -> None:
        yes, no = self.labels
        self.query_one(Buttons).put([Choice("yes", yes), Choice("no", no)], key="confirm", start=1)

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("y", "yes"), ("n", "no"), ("tab", "choose"), ("enter", "take"), ("esc", "back"))

    def on_choices_taken(self, message: Choices.Taken) -> None:
        self.dismiss(message.choice.id == "yes")

    def action_yes(self) -> None:
        self.dismiss(True)


class LeavingScreen(ConfirmScreen):
    kind = "leaving"


class ApproveScreen(ConfirmScreen):
    kind = "approve"


def radius_lines(
    plan: Plan, consent: Consent, workload: Workload | None, target: Target, stakes: Stakes, width: int
) -> list[Line]:
    """What agreeing sets off, step by step: what is sent where, what stops, for how long at most."""
    live = target.identity is not None
    address = target.base_url
    steps: list[str] = []
    if consent.load_test and workload is not None:
        when = "before and after the change" if live else "after it is up"
        steps.append(
            f"A load test is sent to {address} and nowhere else, {when}: {workload.describe()} "
            f"(about {duration(workload.seconds)} each; once more after it if the result is unclear)."
        )
    elif consent.passive:
        steps.append("Nothing is sent. The live traffic's own metrics are watched before and after.")
    else:
        steps.append("Nothing is sent. Speed is not compared; it only has to be up and answering.")
    if live and plan.by_hand:
        steps.append(
            "You stop and start it there, as shown above: nothing is signalled from here. "
            "The wizard waits half an hour for it to go, and as long for it to come back as asked."
        )
    elif live:
        through = next((detail for name, _, detail in plan.checks if name == "holder"), "")
        if through:
            steps.append(f"{through[0].upper()}{through[1:]}.")
        then = (
            "then its process tree is ended, and what still runs is lost"
            if consent.escalate
            else "if that is not enough, nothing is killed: once it has ended, the old command is started again"
        )
        now = f" ({stakes.requests()})" if stakes.requests() else ""
        steps.append(
            f"The server at {address} is asked to stop{now}. Requests in flight get up to "
            f"{duration(consent.drain_limit_s)} to end, and new ones are still taken meanwhile; {then}."
        )
    about = f" (the last start took {duration(stakes.last_start_s)})" if stakes.last_start_s is not None else ""
    steps.append(
        "The new command is started"
        + (": down until it is ready" if live else "")
        + f", at most {duration(consent.ready_limit_s)}{about}."
    )
    steps.append(ASSISTED_ENDING if live and plan.by_hand else _ending(consent, live))
    out = [*wrap(f"{plan.cause_title}: {plan.remedy_title}", width, role="strong"), ()]
    if plan.actions:
        out += [*wrap("Before that, for you to do: " + "; ".join(plan.actions), width, role="warn"), ()]
    for note in plan.notes:
        out += [*wrap(note, width, role="warn"), ()]
    for number, step in enumerate(steps, 1):
        rows = wrap(step, width, indent=4)
        out += [((f" {number}. {rows[0][0][0].strip()}", ""),), *rows[1:]]
    goes_on = "From here on it goes on by itself, even if this terminal is closed."
    if plan.waits_for_port:
        goes_on = "Until the port is free it waits here: closing this terminal, or going back, calls it off."
    out += [(), *wrap(goes_on, width)]
    return out


ASSISTED_ENDING = "If it does not come up, or is not better, you are told what to type to take the change back."


def _ending(consent: Consent, live: bool) -> str:
    """What happens if it fails, or is no better."""
    if not live:
        return "If it does not come up, it is ended again and the server stays down, as it is now."
    if not (consent.load_test or consent.passive):
        return "If it does not come up, the old command is started again. If it does, it is kept unmeasured."
    if consent.keep == "ask":
        return "If it does not come up, the old command is started again; otherwise you are asked to keep it."
    return "If it does not come up, or is not better, the old command is started again by itself."


def approve_screen(
    plan: Plan, consent: Consent, workload: Workload | None, target: Target, stakes: Stakes
) -> ApproveScreen:
    return ApproveScreen(
        lambda w: radius_lines(plan, consent, workload, target, stakes, w),
        "Yes, go on",
        "No, back",
        kind="approve",
    )


def leaving_screen(session_id: str) -> LeavingScreen:
    def build(width: int) -> list[Line]:
        return [
            *wrap(
                "A change is under way. It goes on by itself, with its rollback, without this terminal.", width
            ),
            (),
            *wrap(f"Follow it again:  sgl-wizard sessions resume {session_id}", width, role="strong"),
        ]

    return LeavingScreen(build, "Leave", "Stay", kind="leaving")
