"""The session as tables of events and readings: no terminal, no GPU, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.books import BOOK
from wizard.core.expr import parse_template
from wizard.core.flow import Remedy
from wizard.core.plan import Consent, Plan, VerifyGoal
from wizard.core.progress import Outcome as RunOutcome
from wizard.core.progress import RunState
from wizard.core.reading import Outcome, ProbeResult, Scalar, Snapshot, Value
from wizard.core.session import (
    Answered,
    Approved,
    CauseChosen,
    Command,
    Decided,
    Event,
    FlowChosen,
    LookForMe,
    MakeOffers,
    Offer,
    OffersMade,
    Opened,
    ReadingsArrived,
    ReadOnlySet,
    RunChanged,
    RunProbes,
    RunStarted,
    SendControl,
    SessionState,
    StartRun,
    Step,
    WentBack,
    advance,
    current_suggestion,
)
from wizard.core.target import Target
from wizard.core.triage import named

SERVING: dict[str, Scalar] = {"http.health": "serving", "process.alive": True, "port.owner_is_target": True}
CAPPED: dict[str, Scalar] = {
    **SERVING,
    "requests.queued": 31,
    "requests.queued_mean": 31.0,
    "requests.running": 8,
    "server.max_running_requests": 8,
    "server.max_running_requests_set": 8,
    "server.default_max_running_requests": 2048,
    "kv.usage": 0.01,
    "kv.capacity_tokens": 905795,
    "requests.tokens_mean": 1152.0,
    "requests.retracted": 0,
    "server.device": "cuda",
}
FULL: dict[str, Scalar] = {
    **SERVING,
    "requests.queued": 13,
    "requests.queued_mean": 12.0,
    "requests.running": 3,
    "server.max_running_requests": 300,
    "server.max_total_tokens_set": 600,
    "server.device": "cpu",
    "kv.usage": 0.97,
    "kv.capacity_tokens": 600,
    "requests.tokens_mean": 190.0,
    "requests.retracted": 4,
}
HEALTHY: dict[str, Scalar] = {
    **SERVING,
    "requests.queued": 0,
    "requests.queued_mean": 0.0,
    "requests.running": 8,
    "server.max_running_requests": 2048,
    "server.default_max_running_requests": 2048,
    "kv.usage": 0.2,
    "kv.capacity_tokens": 905795,
    "requests.retracted": 0,
    "log.phase": "serving",
    "log.signatures": (),
    "server.cuda_graph_disabled": False,
    "server.device": "cuda",
}
TOO_LOW: dict[str, Scalar] = {
    "process.alive": False,
    "log.signature": "not_enough_memory",
    "log.signatures": ("not_enough_memory", "sigquit"),
    "log.phase": "kv_allocation",
    "gpu.other_memory_gb": 0.0,
    "gpu.memory_total_gb": 139.8,
}
OOM_LOAD: dict[str, Scalar] = {
    "log.signature": "gpu_oom_load",
    "log.signatures": ("gpu_oom_load", "sigquit"),
    "log.phase": "loading",
    "gpu.other_memory_gb": 0.0,
    "gpu.memory_total_gb": 139.8,
    "log.avail_before_load_gb": 139.0,
}
NEIGHBOUR: dict[str, Scalar] = {**OOM_LOAD, "gpu.other_memory_gb": 126.0, "log.avail_before_load_gb": 13.0}
PORT: dict[str, Scalar] = {
    "log.port_taken": 30000,
    "log.signature": "port_in_use",
    "log.signatures": ("port_in_use",),
    "port.state": "listening",
    "port.owner_is_target": False,
    "port.owner_kind": "other",
    "port.number": 30000,
    "port.owner_pid": 4711,
    "port.owner_command": "python -m http.server",
}


def snapshot(readings: dict[str, Scalar]) -> Snapshot:
    return Snapshot().with_result(ProbeResult("all", Outcome.OK, {k: Value(v) for k, v in readings.items()}))


def play(*events: Event, state: SessionState | None = None) -> tuple[SessionState, list[Command]]:
    state = state or SessionState()
    done: list[Command] = []
    for event in events:
        state, commands = advance(state, event, BOOK)
        done.extend(commands)
    return state, done


def walked(readings: dict[str, Scalar]) -> SessionState:
    """As a headless face does it: look, then follow the readings while they answer."""
    state, _ = play(Opened(Target()), ReadingsArrived(snapshot(readings)), LookForMe())
    for _ in range(20):
        suggestion = current_suggestion(state, BOOK)
        if state.step is not Step.DIAGNOSE or state.ended or suggestion is None or suggestion.index is None:
            break
        state, _ = play(Answered(suggestion.index, "readings"), state=state)
    return state


@pytest.mark.parametrize(
    ("readings", "cause"),
    [
        (CAPPED, "long_queue"),
        (FULL, "kv_cache_exhausted"),
        (TOO_LOW, "mem_fraction_too_low"),
        (OOM_LOAD, "gpu_oom_load"),
        ({**OOM_LOAD, "log.signature": "gpu_oom_capture", "log.phase": "capture"}, "gpu_oom_cuda_graph"),
        ({**OOM_LOAD, "log.signature": "gpu_oom_runtime", "log.phase": "serving"}, "gpu_oom_runtime"),
        (NEIGHBOUR, "gpu_memory_held_by_other_process"),
        (PORT, "port_in_use"),
        (
            {**HEALTHY, "server.cuda_graph_disabled": True, "decode.cuda_graph_share": 0.0},
            "cuda_graph_disabled",
        ),
        ({"log.signature": "bad_cli_args", "log.signatures": ("bad_cli_args",)}, "bad_cli_args"),
    ],
)
def test_the_readings_lead_to_the_cause_and_the_walk_ends_there(
    readings: dict[str, Scalar], cause: str
) -> None:
    state = walked(readings)
    assert named(state.hypotheses)[0].cause.id == cause
    assert state.verdict == "problem"
    assert (state.step, state.cause_id) == (Step.SOLVE, cause)
    assert state.path[-1].by == "readings"


@pytest.mark.parametrize(
    "more",
    [
        # full to its cap without a standing queue: one look in the window met one waiting request
        {
            "requests.queued": 1,
            "requests.queued_mean": 0.1,
            "requests.running": 256,
            "server.max_running_requests": 256,
            "server.max_running_requests_set": 256,
        },
        {"requests.retracted": 1},  # now and then is normal
        {"requests.queued": 3, "requests.queued_mean": 0.4, "kv.usage": 0.95},
    ],
)
def test_a_busy_server_is_not_accused(more: dict[str, Scalar]) -> None:
    state = walked({**HEALTHY, **more})
    assert named(state.hypotheses) == ()
    assert state.verdict == "healthy"


def test_a_healthy_server_is_healthy_and_nothing_is_named() -> None:
    state = walked(HEALTHY)
    assert state.verdict == "healthy"
    assert named(state.hypotheses) == ()
    assert "Nothing is wrong" in state.ended


@pytest.mark.parametrize("gone", ["requests.queued", "server.max_running_requests_set", "kv.usage"])
def test_without_a_deciding_reading_the_wizard_asks_instead_of_guessing(gone: str) -> None:
    readings = {k: v for k, v in CAPPED.items() if k not in (gone, f"{gone}_mean")}
    state, _ = play(Opened(Target()), ReadingsArrived(snapshot(readings)), FlowChosen("requests_wait"))
    while state.step is Step.DIAGNOSE:
        suggestion = current_suggestion(state, BOOK)
        assert suggestion is not None
        if suggestion.index is None:
            break
        state, _ = play(Answered(suggestion.index, "readings"), state=state)
    assert state.step is Step.DIAGNOSE
    assert current_suggestion(state, BOOK).index is None  # type: ignore[union-attr]


def test_nothing_seen_is_not_healthy() -> None:
    state = walked({})
    assert state.verdict == "unknown"
    assert "cannot tell" in state.ended


def test_opening_probes_everything_and_a_node_only_what_it_needs() -> None:
    state, commands = play(Opened(Target()))
    assert commands == [RunProbes(())]
    _, commands = play(FlowChosen("requests_wait"), state=state)
    assert commands == [RunProbes(("metrics", "log", "sglang", "http"))]


def test_back_leads_through_the_path_to_classify() -> None:
    state, _ = play(
        Opened(Target()),
        ReadingsArrived(snapshot(CAPPED)),
        FlowChosen("requests_wait"),
        Answered(1),
        Answered(2),
    )
    assert state.cause_id == "long_queue"
    state, _ = play(WentBack(), state=state)
    assert (state.node_id, state.cause_id, state.step) == ("what_limits", None, Step.DIAGNOSE)
    state, _ = play(WentBack(), WentBack(), state=state)
    assert (state.step, state.flow_id) == (Step.CLASSIFY, None)


PLAN = Plan("long_queue", "t", "r", "t", ("a",), ("b",), (), VerifyGoal("throughput.output"))
WORDS = parse_template("x")
REMEDY = Remedy("r", "t", (), None, WORDS, WORDS, None, None, "the old command")


def solved(plan: Plan | None = PLAN) -> SessionState:
    state, commands = play(Opened(Target()), CauseChosen("long_queue"))
    assert commands[-1] == MakeOffers("long_queue")
    state, _ = play(OffersMade("long_queue", (Offer(REMEDY, plan, "" if plan else "no"),)), state=state)
    return state


def test_only_an_agreed_and_checked_plan_starts_a_run() -> None:
    _, commands = play(Approved(Consent(), None), state=solved())
    assert isinstance(commands[0], StartRun)
    for state in (
        replace(solved(), read_only=True),
        solved(None),
        solved(replace(PLAN, checks=(("port", False, "taken"),))),
        replace(solved(), run=RunState("1")),
    ):
        after, commands = play(Approved(Consent(), None), state=state)
        assert commands == []
        assert after.note


def test_offers_of_another_cause_are_ignored() -> None:
    state = solved()
    after, _ = play(OffersMade("port_in_use", ()), state=state)
    assert after.offers == state.offers


def test_a_run_is_watched_decided_and_never_left_by_back() -> None:
    state, _ = play(RunStarted("7"), state=solved())
    assert (state.step, state.session_id) == (Step.VERIFY, "7")
    after, commands = play(WentBack(), state=state)
    assert after.step is Step.VERIFY
    assert commands == []
    _, commands = play(Decided("abort"), state=state)
    assert commands == [SendControl("abort")]
    ended, _ = play(RunChanged(RunState("7", outcome=RunOutcome.KEPT)), state=state)
    after, commands = play(Decided("keep"), state=ended)
    assert commands == []
    assert after.note


@pytest.mark.parametrize("control", ["abort", "keep", "rollback"])
def test_read_only_sends_nothing_to_a_runner(control: str) -> None:
    state, _ = play(RunStarted("7"), ReadOnlySet(True), state=solved())
    after, commands = play(Decided(control), state=state)  # type: ignore[arg-type]
    assert commands == []
    assert after.note


def test_what_was_agreed_to_starts_once_and_back_calls_it_off() -> None:
    state, commands = play(Approved(Consent(), None), state=solved())
    assert isinstance(commands[0], StartRun)
    assert state.starting is commands[0].order
    again, commands = play(Approved(Consent(), None), state=state)
    assert commands == []
    assert "already" in again.note
    off, _ = play(WentBack(), state=state)
    assert off.starting is None
    assert off.step is Step.SOLVE
    assert play(Opened(Target(port=1)), state=state)[0].starting is None
