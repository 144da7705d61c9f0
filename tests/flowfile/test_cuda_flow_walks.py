"""The flows about CUDA errors, several cards, and features: each leaf, by a log that leads with its cause."""

from __future__ import annotations

import pytest

from tests.books import BOOK
from wizard.core.reading import Outcome, ProbeResult, Scalar, Snapshot, Value
from wizard.core.session import (
    Answered,
    FlowChosen,
    Opened,
    ReadingsArrived,
    SessionState,
    Step,
    advance,
    current_suggestion,
)
from wizard.core.target import Target

FLOWS = ("cuda_errors", "collectives", "features")


def walk(flow: str, readings: dict[str, Scalar]) -> SessionState:
    result = ProbeResult("all", Outcome.OK, {k: Value(v) for k, v in readings.items()})
    state = SessionState()
    for event in (Opened(Target()), ReadingsArrived(Snapshot().with_result(result)), FlowChosen(flow)):
        state, _ = advance(state, event, BOOK)
    for _ in range(20):
        if state.step is not Step.DIAGNOSE or state.ended:
            break
        suggestion = current_suggestion(state, BOOK)
        assert suggestion is not None
        assert suggestion.index is not None, (state.node_id, suggestion)
        state, _ = advance(state, Answered(suggestion.index, "readings"), BOOK)
    return state


def leaves() -> list[tuple[str, str]]:
    return [
        (flow, node.cause)
        for flow in FLOWS
        for node in BOOK.flows[flow].nodes.values()
        if node.cause is not None and node.cause != "metrics_missing"
    ]


@pytest.mark.parametrize(("flow", "cause"), leaves())
def test_the_log_s_cause_leads_to_its_leaf(flow: str, cause: str) -> None:
    readings: dict[str, Scalar] = {"log.cause": cause, "server.tp_size": 1, "gpu.count": 1}
    assert walk(flow, readings).cause_id == cause


@pytest.mark.parametrize("flow", FLOWS)
def test_a_log_without_such_a_failure_ends_with_what_to_do(flow: str) -> None:
    more: dict[str, Scalar] = {"server.tp_size": 1, "gpu.count": 1, "server.metrics_enabled": True}
    state = walk(flow, {"log.cause": "none", "symptom.clues": (), **more})
    assert state.cause_id is None
    assert state.ended


def test_missing_metrics_and_too_many_ranks() -> None:
    readings: dict[str, Scalar] = {"server.metrics_enabled": False, "symptom.clues": ("word_metrics",)}
    assert walk("features", {"log.cause": "none", **readings}).cause_id == "metrics_missing"
    ranks: dict[str, Scalar] = {"server.tp_size": 8, "gpu.count": 4, "server.dp_size": 1}
    assert walk("collectives", {"log.cause": "none", **ranks}).cause_id == "topology"


def test_the_next_flow_is_entered_from_a_cuda_error() -> None:
    readings: dict[str, Scalar] = {"log.cause": "nccl_error", "server.tp_size": 2, "gpu.count": 2}
    assert walk("cuda_errors", readings).cause_id == "nccl_error"
