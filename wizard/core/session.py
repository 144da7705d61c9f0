"""The wizard's brain: ``advance(state, event, book) -> (state, commands)``, and nothing else decides.

Pure: no clock, no files, no terminal. The TUI, the prompt mode, ``check``, ``fix`` and ``demo``
feed events in and carry the commands out; a test of a flow is a table of events and readings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from wizard.core.flow import Cause, Flow, FlowBook, Node, Remedy, Suggestion, suggest
from wizard.core.measurement import Workload
from wizard.core.plan import Consent, Order, Plan
from wizard.core.progress import RunState
from wizard.core.reading import Snapshot
from wizard.core.target import Target
from wizard.core.triage import Hypothesis, named, rank
from wizard.core.triage import verdict as triage_verdict


class Step(str, Enum):
    """The four stages that a person sees."""

    CLASSIFY = "classify"
    DIAGNOSE = "diagnose"
    SOLVE = "solve"
    VERIFY = "verify"


@dataclass(frozen=True)
class PathStep:
    """An answer given on the way: by the readings or by the person."""

    flow: str
    node: str
    answer: str
    by: Literal["readings", "person"]
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A remedy made concrete for this server, or why it cannot be.

    ``intents`` are the changes as (flag, value) where value is a word the flag takes, "lower",
    "higher", or None for "remove it". ``plan`` is set when the change can be applied here and now.
    """

    remedy: Remedy
    plan: Plan | None
    why_not: str = ""
    intents: tuple[tuple[str, str | None], ...] = ()
    why: str = ""
    cost: str = ""
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionState:
    """All that a face needs to draw. Faces are functions of this value."""

    target: Target | None = None
    step: Step = Step.CLASSIFY
    snapshot: Snapshot = field(default_factory=Snapshot)
    hypotheses: tuple[Hypothesis, ...] = ()
    flow_id: str | None = None
    node_id: str | None = None
    path: tuple[PathStep, ...] = ()
    cause_id: str | None = None
    offers: tuple[Offer, ...] | None = None
    """None = not worked out yet."""
    offer_index: int = 0
    starting: Order | None = None
    """Agreed to, not yet taken over by a runner: perhaps waiting for a port. Going back calls it off."""
    session_id: str | None = None
    run: RunState | None = None
    ended: str = ""
    """Why the walk ended without a cause (or that nothing is wrong)."""
    note: str = ""
    """One line for the person about the last event ("read-only: nothing is applied")."""
    read_only: bool = False

    @property
    def offer(self) -> Offer | None:
        if not self.offers:
            return None
        return self.offers[min(self.offer_index, len(self.offers) - 1)]

    @property
    def verdict(self) -> Literal["healthy", "problem", "unknown"]:
        return triage_verdict(self.snapshot, self.hypotheses)


@dataclass(frozen=True)
class Opened:
    target: Target


@dataclass(frozen=True)
class ReadingsArrived:
    snapshot: Snapshot


@dataclass(frozen=True)
class FlowChosen:
    flow_id: str


@dataclass(frozen=True)
class LookForMe:
    """The person does not know: go by the evidence."""


@dataclass(frozen=True)
class CauseChosen:
    """Jump to a cause (``fix --cause ID``, or picked from the hypotheses)."""

    cause_id: str


@dataclass(frozen=True)
class Answered:
    index: int
    by: Literal["readings", "person"] = "person"


@dataclass(frozen=True)
class WentBack:
    pass


@dataclass(frozen=True)
class StartedOver:
    pass


@dataclass(frozen=True)
class OffersMade:
    cause_id: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True)
class OfferChosen:
    index: int


@dataclass(frozen=True)
class Approved:
    consent: Consent
    workload: Workload | None


@dataclass(frozen=True)
class RunStarted:
    session_id: str


@dataclass(frozen=True)
class RunRefused:
    why: str


@dataclass(frozen=True)
class Noted:
    """One line for the person; nothing else changes."""

    text: str


@dataclass(frozen=True)
class RunChanged:
    run: RunState


@dataclass(frozen=True)
class Decided:
    control: Literal["abort", "keep", "rollback"]


@dataclass(frozen=True)
class ReadOnlySet:
    on: bool


Event = (
    Opened
    | ReadingsArrived
    | FlowChosen
    | LookForMe
    | CauseChosen
    | Answered
    | WentBack
    | StartedOver
    | OffersMade
    | OfferChosen
    | Approved
    | RunStarted
    | RunRefused
    | Noted
    | RunChanged
    | Decided
    | ReadOnlySet
)


@dataclass(frozen=True)
class RunProbes:
    names: tuple[str, ...]
    """Empty = all."""


@dataclass(frozen=True)
class MakeOffers:
    cause_id: str


@dataclass(frozen=True)
class StartRun:
    order: Order


@dataclass(frozen=True)
class SendControl:
    control: Literal["abort", "keep", "rollback"]


Command = RunProbes | MakeOffers | StartRun | SendControl
Result = tuple[SessionState, tuple[Command, ...]]

READ_ONLY_NOTE = "Read-only: the wizard shows the plan and changes nothing."


def current_flow(state: SessionState, book: FlowBook) -> Flow | None:
    return book.flows.get(state.flow_id or "")


def current_node(state: SessionState, book: FlowBook) -> Node | None:
    flow = current_flow(state, book)
    return flow.nodes.get(state.node_id or "") if flow else None


def current_cause(state: SessionState, book: FlowBook) -> Cause | None:
    return book.cause(state.cause_id or "", state.snapshot.get)


def current_suggestion(state: SessionState, book: FlowBook) -> Suggestion | None:
    node = current_node(state, book)
    return suggest(node, state.snapshot.get) if node and node.branches else None


def advance(state: SessionState, event: Event, book: FlowBook) -> Result:
    """What an event makes of the session, and what is to be done about it."""
    if isinstance(event, Opened):
        return replace(SessionState(read_only=state.read_only), target=event.target), (RunProbes(()),)
    if isinstance(event, ReadingsArrived):
        return replace(state, snapshot=event.snapshot, hypotheses=rank(book, event.snapshot.get)), ()
    if isinstance(event, FlowChosen):
        return _enter_flow(state, event.flow_id, book)
    if isinstance(event, LookForMe):
        return _look(state, book)
    if isinstance(event, CauseChosen):
        return _reach_cause(state, event.cause_id, book)
    if isinstance(event, Answered):
        return _answer(state, event, book)
    if isinstance(event, WentBack):
        return _back(state, book)
    if isinstance(event, StartedOver):
        fresh = SessionState(
            target=state.target,
            snapshot=state.snapshot,
            hypotheses=state.hypotheses,
            read_only=state.read_only,
        )
        return fresh, (RunProbes(()),)
    if isinstance(event, OffersMade):
        if event.cause_id != state.cause_id:
            return state, ()
        return replace(state, offers=event.offers, offer_index=_first_applicable(event.offers)), ()
    if isinstance(event, OfferChosen):
        return replace(state, offer_index=max(0, min(event.index, len(state.offers or ()) - 1))), ()
    if isinstance(event, ReadOnlySet):
        return replace(state, read_only=event.on, note=READ_ONLY_NOTE if event.on else ""), ()
    return _run_event(state, event)


def _run_event(state: SessionState, event: Event) -> Result:
    """Events around a transaction: the only ones that lead to a change of the server."""
    if isinstance(event, Approved):
        offer = state.offer
        if state.read_only:
            return replace(state, note=READ_ONLY_NOTE), ()
        if offer is None or offer.plan is None:
            return replace(state, note=offer.why_not if offer else "There is no plan to apply."), ()
        if state.starting is not None or (state.run is not None and state.run.outcome is None):
            return replace(state, note="A change is already under way."), ()
        failed = [f"{name}: {detail}" for name, ok, detail in offer.plan.checks if not ok]
        if failed and not offer.plan.waits_for_port:
            return replace(state, note="Pre-flight failed: " + "; ".join(failed)), ()
        order = Order(offer.plan, event.consent, event.workload)
        return replace(state, note="", run=None, starting=order), (StartRun(order),)
    if isinstance(event, RunStarted):
        run = RunState(event.session_id, runner_alive=True)
        return replace(
            state, step=Step.VERIFY, session_id=event.session_id, run=run, note="", starting=None
        ), ()
    if isinstance(event, RunRefused):
        return replace(state, note=event.why, starting=None), ()
    if isinstance(event, Noted):
        return replace(state, note=event.text), ()
    if isinstance(event, RunChanged):
        return replace(state, step=Step.VERIFY, session_id=event.run.session_id, run=event.run), ()
    if isinstance(event, Decided):
        if state.run is None or (state.run.outcome is not None):
            return replace(state, note="Nothing is under way."), ()
        if state.read_only:
            return replace(state, note=READ_ONLY_NOTE), ()
        return state, (SendControl(event.control),)
    return state, ()


def _first_applicable(offers: tuple[Offer, ...]) -> int:
    return next((i for i, o in enumerate(offers) if o.plan is not None), 0)


def _enter_flow(state: SessionState, flow_id: str, book: FlowBook) -> Result:
    flow = book.flows.get(flow_id)
    if flow is None:
        return replace(state, note=f"There is no flow named {flow_id}."), ()
    fresh = replace(state, flow_id=flow_id, path=(), cause_id=None, offers=None, ended="", note="", run=None)
    return _enter_node(fresh, flow, flow.start, book)


def _enter_node(state: SessionState, flow: Flow, node_id: str, book: FlowBook) -> Result:
    node = flow.nodes[node_id]
    state = replace(state, step=Step.DIAGNOSE, flow_id=flow.id, node_id=node_id, ended="", note="")
    if node.kind == "question":
        return state, (RunProbes(node.probes),)
    if node.kind == "cause":
        return _reach_cause(state, node.cause or "", book)
    if node.kind == "flow":
        other = book.flows.get(node.flow or "")
        if other is None or any(p.flow == other.id for p in state.path):
            return replace(state, ended=f"Nothing further is known here; see flow {node.flow}."), ()
        return _enter_node(state, other, other.start, book)
    return replace(state, ended=node.end), ()


def _reach_cause(state: SessionState, cause_id: str, book: FlowBook) -> Result:
    cause = book.cause(cause_id, state.snapshot.get)
    if cause is None:
        return replace(state, note=f"There is no cause named {cause_id}."), ()
    state = replace(state, step=Step.SOLVE, cause_id=cause_id, offers=None, offer_index=0, run=None, note="")
    return state, (MakeOffers(cause_id),)


def _look(state: SessionState, book: FlowBook) -> Result:
    """Enter the flow of the best supported cause; without one, say what is and is not known."""
    causes = named(state.hypotheses)
    for hypothesis in causes:
        flows = book.flows_with_cause(hypothesis.cause.id)
        if flows:
            return _enter_flow(state, flows[0], book)
    if causes:
        return _reach_cause(state, causes[0].cause.id, book)
    if state.verdict == "healthy":
        return replace(state, ended="Nothing is wrong: it serves, and no cause is supported."), ()
    return replace(state, ended="The readings cannot tell. Choose what hurts, or give a log (--log)."), ()


def _answer(state: SessionState, event: Answered, book: FlowBook) -> Result:
    flow, node = current_flow(state, book), current_node(state, book)
    if flow is None or node is None or not 0 <= event.index < len(node.branches):
        return replace(state, note="There is no such answer."), ()
    suggestion = suggest(node, state.snapshot.get)
    branch = node.branches[event.index]
    why = suggestion.arms[event.index].says if suggestion.index == event.index else ()
    step = PathStep(flow.id, node.id, branch.label, event.by, why)
    state = replace(state, path=(*state.path, step))
    return _enter_node(state, flow, branch.to, book)


def _back(state: SessionState, book: FlowBook) -> Result:
    """One step back; never out of a transaction that is under way."""
    if state.run is not None and state.run.outcome is None:
        return replace(state, note="A change is under way; a aborts it and restores the old command."), ()
    if state.starting is not None:
        return replace(state, starting=None, note="Called off; nothing was changed."), ()
    if not state.path:
        fresh = replace(
            state,
            step=Step.CLASSIFY,
            flow_id=None,
            node_id=None,
            cause_id=None,
            offers=None,
            ended="",
            note="",
            run=None,
        )
        return fresh, ()
    last = state.path[-1]
    flow = book.flows[last.flow]
    state = replace(state, path=state.path[:-1], cause_id=None, offers=None, run=None)
    return _enter_node(state, flow, last.node, book)
