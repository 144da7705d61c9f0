"""The memory flows walked with readings to each of their leaves, and texts that name each memory cause."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from tests.books import BOOK
from wizard.cli import targets
from wizard.core.expr import Expression
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
from wizard.core.triage import named
from wizard.session.document import check_document
from wizard.session.driver import Driver
from wizard.session.planner import make_offers

MEMORY_FLOWS = ("out_of_memory", "kv_cache", "host_memory")

Readings = dict[str, Scalar]


def snapshot(readings: Readings) -> Snapshot:
    values = {k: Value(v) for k, v in readings.items()}
    return Snapshot().with_result(ProbeResult("all", Outcome.OK, values))


def walk(flow: str, readings: Readings) -> tuple[SessionState, tuple[str, ...]]:
    """Follow the suggestions from the flow's start; the nodes that were passed through."""
    state = SessionState()
    for event in (Opened(Target()), ReadingsArrived(snapshot(readings)), FlowChosen(flow)):
        state, _ = advance(state, event, BOOK)
    nodes: list[str] = []
    for _ in range(20):
        if state.step is not Step.DIAGNOSE or state.ended:
            break
        nodes.append(state.node_id or "")
        suggestion = current_suggestion(state, BOOK)
        assert suggestion is not None, f"{nodes[-1]} suggests nothing"
        assert suggestion.index is not None, f"{nodes[-1]} cannot tell"
        state, _ = advance(state, Answered(suggestion.index, "readings"), BOOK)
    return state, tuple(nodes)


def oom(signature: str, *clues: str, **more: Scalar) -> Readings:
    """A log that leads with an out-of-memory text, as its probe tells it (an H200, nobody else on it)."""
    log: Readings = {
        "log.signature": signature,
        "log.signatures": (signature, "child_failed"),
        "log.clues": clues,
        "log.phase": "loading",
        "log.error": "torch.OutOfMemoryError: CUDA out of memory.",
        "log.avail_before_load_gb": 138.7,
        "log.oom_total_gb": 139.8,
        "gpu.other_memory_gb": 0.0,
        "gpu.memory_total_gb": 139.8,
        "requests.retracted": 0,
    }
    return {**log, **{k.replace("__", "."): v for k, v in more.items()}}


# kv pool: the runs pool_30k and f_kv_exhaust on an H200, and fail_small_kv_queue on the CPU
POOL: Readings = {
    "log.signatures": (),
    "kv.usage": 0.98,
    "kv.usage_mean": 0.92,
    "kv.capacity_tokens": 30000,
    "server.context_length": 131072,
    "requests.queued": 39,
    "requests.queued_mean": 32.0,
    "requests.running": 25,
    "requests.retracted": 0,
    "requests.tokens_mean": 1280.0,
    "server.max_total_tokens_set": 30000,
    "server.available_memory_gb": 78.0,
}
ROOM: Readings = {
    **POOL,
    "kv.usage": 0.3,
    "kv.usage_mean": 0.2,
    "requests.queued": 0,
    "requests.queued_mean": 0.0,
}
HOST: Readings = {
    "log.signatures": (),
    "log.clues": (),
    "log.phase": "loading",
    "process.exit_code": 0,
    "host.oom_kills": 0,
    "host.memory_total_gb": 503.0,
    "host.memory_available_gb": 300.0,
    "host.cgroup_limit_gb": 503.0,
    "host.shm_total_gb": 64.0,
    "host.shm_free_gb": 60.0,
    "server.device": "cuda",
    "command.clues": (),
}
KILLED = "host_memory_killed"

WALKS: list[tuple[str, Readings, str, str]] = [
    # flow, readings, the last node, the cause ("" for an end, > for another flow)
    ("out_of_memory", oom("not_enough_memory"), "which_text", "mem_fraction_too_low"),
    ("out_of_memory", oom("unbalanced_memory"), "which_text", "unbalanced_gpu_memory"),
    (
        "out_of_memory",
        oom("gpu_oom_load", gpu__other_memory_gb=120.0),
        "whose_memory",
        "gpu_memory_held_by_other_process",
    ),
    (
        "out_of_memory",
        oom("gpu_oom_kv", log__avail_before_load_gb=5.2),
        "whose_memory",
        "gpu_memory_held_by_other_process",
    ),
    ("out_of_memory", oom("gpu_oom_capture"), "which_phase", "gpu_oom_cuda_graph"),
    ("out_of_memory", oom("oom_in_capture"), "which_phase", "gpu_oom_cuda_graph"),
    ("out_of_memory", oom("gpu_oom_kv"), "which_phase", "gpu_oom_load"),
    ("out_of_memory", oom("gpu_oom_load"), "which_phase", "gpu_oom_load"),
    ("out_of_memory", oom("gpu_oom_runtime", "frames_prefill"), "which_pass", "gpu_oom_runtime"),
    ("out_of_memory", oom("gpu_oom_runtime", "frames_decode"), "which_pass", "gpu_oom_runtime"),
    ("out_of_memory", oom("gpu_oom_runtime"), "which_pass", "gpu_oom_runtime"),
    ("out_of_memory", oom("gpu_oom_runtime", "frames_vision"), "which_pass", "multimodal_oom"),
    ("out_of_memory", {**POOL, "log.signature": "pool_exhausted"}, "no_slot", "kv_cache_exhausted"),
    ("out_of_memory", {**HOST, "log.signature": "shm_full"}, "what_ended", "shm_size"),
    ("out_of_memory", {**ROOM, "log.phase": "serving"}, "which_text", ""),
    (
        "kv_cache",
        {**POOL, "log.signatures": ("kv_leak",), "log.signature": "kv_leak"},
        "is_it_full",
        "kv_cache_leak",
    ),
    ("kv_cache", {**POOL, "requests.running": 0, "kv.usage_mean": 0.97}, "is_it_full", "kv_cache_leak"),
    ("kv_cache", {**POOL, "log.signature": "request_slots_out"}, "no_slot", "kv_cache_exhausted"),
    ("kv_cache", {**POOL, "log.signature": "pool_zero"}, "no_slot", "kv_cache_exhausted"),
    ("kv_cache", {**POOL, "requests.retracted": 9}, "storm", "kv_cache_exhausted"),
    ("kv_cache", POOL, "why_small", "kv_cache_exhausted"),
    ("kv_cache", {**POOL, "server.max_total_tokens_set": 0}, "why_small", "kv_cache_exhausted"),
    (
        "kv_cache",
        {**POOL, "server.max_total_tokens_set": 0, "server.available_memory_gb": 4.0},
        "why_small",
        "kv_cache_exhausted",
    ),
    ("kv_cache", {**ROOM, "requests.tokens_mean": 29000.0}, "cut_at_pool", "kv_cache_exhausted"),
    ("kv_cache", ROOM, "cut_at_pool", ""),
    ("kv_cache", {**ROOM, "kv.usage": 0.95, "server.context_length": 8192}, "is_it_full", ""),
    (
        "host_memory",
        {**HOST, "log.signature": "host_memory_short", "host.cgroup_limit_gb": 2.6, "server.device": "cpu"},
        "who_took_it",
        "cpu_oom",
    ),
    (
        "host_memory",
        {**HOST, "log.signature": "pinned_memory_failed", "command.clues": ("command_host_memory",)},
        "who_took_it",
        "cpu_oom",
    ),
    ("host_memory", {**HOST, "log.signature": KILLED, "host.oom_kills": 1}, "who_took_it", "cpu_oom"),
    ("host_memory", {**HOST, "process.exit_code": 137, "log.signatures": ("exception",)}, "whose_kill", ""),
    ("host_memory", {**HOST, "process.exit_code": 137}, "whose_kill", ""),
    ("host_memory", {**HOST, "host.oom_kills": 3, "log.phase": "serving"}, "who_took_it", "cpu_oom"),
    ("host_memory", {**HOST, "log.signature": "shm_segment"}, "what_ended", "shm_size"),
    ("host_memory", {**HOST, "host.shm_total_gb": 0.0625, "host.shm_free_gb": 0.06}, "nearly_full", "shm_size"),
    ("host_memory", {**HOST, "host.memory_available_gb": 4.0}, "nearly_full", "cpu_oom"),
    ("host_memory", HOST, "nearly_full", ""),
]


@pytest.mark.parametrize(("flow", "readings", "last", "cause"), WALKS)
def test_a_walk_ends_where_its_readings_lead(flow: str, readings: Readings, last: str, cause: str) -> None:
    state, nodes = walk(flow, readings)
    assert nodes[-1] == last, nodes
    assert (state.cause_id or "") == cause
    assert bool(state.ended) == (not cause)


def test_a_kill_that_nobody_counted_is_asked_about_and_the_kernel_is_suspected() -> None:
    """Exit code -9 proves nothing by itself, so the walk waits for a person; triage says what is likely."""
    readings = {k: v for k, v in HOST.items() if k != "host.oom_kills"}
    readings = {**readings, "log.signature": KILLED, "log.signatures": (KILLED,)}
    state = SessionState()
    for event in (Opened(Target()), ReadingsArrived(snapshot(readings)), FlowChosen("host_memory")):
        state, _ = advance(state, event, BOOK)
    while (suggestion := current_suggestion(state, BOOK)) is not None and suggestion.index is not None:
        state, _ = advance(state, Answered(suggestion.index, "readings"), BOOK)
    assert state.node_id == "whose_kill"
    assert named(state.hypotheses)[0].cause.id == "cpu_oom"


def test_every_node_of_the_memory_flows_is_passed() -> None:
    seen: set[tuple[str, str]] = set()
    for flow, readings, _, _ in WALKS:
        _, nodes = walk(flow, readings)
        seen.update((flow, node) for node in nodes)
    for name in MEMORY_FLOWS:
        asked = {n.id for n in BOOK.flows[name].nodes.values() if n.branches}
        assert asked <= {node for _, node in seen}, asked - {node for _, node in seen}


# -- words, log lines and commands -----------------------------------------------------------

TEXTS: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("memory_texts.yaml").read_text())


async def examined(folder: Path, log: str, command: str, symptom: str) -> dict[str, object]:
    path = folder / "server.log"
    path.write_text(log)
    options = argparse.Namespace(
        url=None, pid=None, log=str(path), metrics=None, command_text=command or None, symptom=symptom,
        hardware="", sglang_version=None, local=False,
    )  # fmt: skip
    target = targets._saved(options, False)
    driver = Driver(BOOK, read_only=True, window_s=0.1, version=None)
    state = await driver.examine(target)
    catalogue = driver.catalogue()
    offers = {
        h.cause.id: make_offers(h.cause, BOOK, target, state.snapshot, catalogue)
        for h in named(state.hypotheses)
    }
    return check_document(state, offers)


@pytest.mark.parametrize("told", TEXTS, ids=[t["cause"] for t in TEXTS])
async def test_words_and_lines_name_the_memory_that_ran_out(tmp_path: Path, told: dict[str, str]) -> None:
    document = await examined(tmp_path, told.get("log", ""), told.get("command", ""), told.get("symptom", ""))
    causes = document["causes"]
    assert isinstance(causes, list)
    assert [c["id"] for c in causes[:1]] == [told["cause"]]


LOWER = ("gpu_oom_load", "gpu_oom_runtime", "gpu_oom_cuda_graph", "multimodal_oom")
HIGHER = ("mem_fraction_too_low", "kv_cache_exhausted")


@pytest.mark.parametrize(("cause", "way"), [*((c, "lower") for c in LOWER), *((c, "higher") for c in HIGHER)])
def test_a_remedy_never_moves_the_fraction_the_wrong_way(cause: str, way: str) -> None:
    moves = {
        change.direction
        for name in BOOK.causes[cause].remedies
        for change in BOOK.remedies[name].changes
        if change.name == "mem_fraction_static"
    }
    assert moves == {way}


async def test_with_a_command_the_fraction_is_a_number_on_the_right_side(tmp_path: Path) -> None:
    document = await examined(
        tmp_path,
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n",
        "python -m sglang.launch_server --model-path m --mem-fraction-static 0.6",
        "",
    )
    causes = document["causes"]
    assert isinstance(causes, list)
    sets = [r["set"] for r in causes[0]["remedies"] if "--mem-fraction-static" in r["set"]]
    assert sets
    assert all(float(s["--mem-fraction-static"]) > 0.6 for s in sets)


def test_conditions_over_clues_are_known_when_nobody_told_anything() -> None:
    """A sign that needs a person's words must stay open, not false, without them."""
    sign: Expression = BOOK.causes["multimodal_oom"].signs[2].when
    assert sign.evaluate(snapshot({"log.signature": "gpu_oom", "log.clues": ()}).get).truth is None
