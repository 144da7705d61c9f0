"""The flows about requests and about running a server, walked to each leaf; and texts that name each cause."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from tests.books import BOOK
from wizard.cli import targets
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

FLOWS = ("unexpected_output", "request_errors", "operations")

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


# the recorded server of fail_req_* (0.5.20 on a CPU): context 2048, a pool of 8192 tokens, no parsers
SERVER: Readings = {
    "server.context_length": 2048,
    "kv.capacity_tokens": 8192,
    "server.tool_call_parser": "none",
    "server.reasoning_parser": "none",
    "server.grammar_backend": "none",
    "server.model": "tiny-llama",
    "log.signature": "",
    "log.signatures": (),
    "log.clues": (),
    "symptom.clues": (),
    "request.problems": (),
    "request.prompt_tokens": 11,
    "request.max_tokens": 3,
    "request.stream": False,
}
RUNNING: Readings = {
    **SERVER,
    "process.alive": True,
    "process.stopped_children": 0,
    "http.health": "serving",
    "port.state": "listening",
    "port.owner_kind": "target",
    "port.owner_is_target": True,
    "gpu.other_memory_gb": 0.0,
    "requests.running": 0,
    "requests.queued": 0,
}
GONE: Readings = {**RUNNING, "process.alive": False, "port.state": "free", "http.health": "refused"}


def said(*clues: str, **more: Scalar) -> Readings:
    return {**SERVER, "symptom.clues": clues, **{k.replace("__", "."): v for k, v in more.items()}}


def refused(*problems: str, **more: Scalar) -> Readings:
    base: Readings = {**SERVER, "request.problems": problems, "log.signatures": ("request_refused",)}
    return {**base, **{k.replace("__", "."): v for k, v in more.items()}}


WALKS: list[tuple[str, Readings, str, str]] = [
    # flow, readings, the last node, the cause ("" for an end)
    ("unexpected_output", said("says_cut_short"), "which_limit", "output_truncated"),
    (
        "unexpected_output",  # fail_small_kv: an answer of 800 tokens, cut at the pool's 293
        said(
            "says_cut_short",
            request__max_tokens=800,
            kv__capacity_tokens=300,
            kv__usage=0.98,
            requests__queued=1,
            requests__running=1,
            requests__retracted=0,
            kv__usage_mean=0.9,
            server__max_total_tokens_set=300,
        ),
        "why_small",
        "kv_cache_exhausted",
    ),
    ("unexpected_output", said("says_cut_short", request__max_tokens=4000), "which_limit", "output_truncated"),
    ("unexpected_output", said("says_tools", request__tools=True), "tool_calls", "tool_call_parser"),
    (
        "unexpected_output",
        said("says_tools", "says_template", server__tool_call_parser="qwen25"),
        "tool_calls",
        "chat_template",
    ),
    (
        "unexpected_output",
        said("says_tools", "says_structured", "says_tool_choice", server__tool_call_parser="qwen25"),
        "tool_calls",
        "structured_output",
    ),
    (
        "unexpected_output",
        said("says_tools", server__tool_call_parser="llama3"),
        "tool_calls",
        "tool_call_parser",
    ),
    ("unexpected_output", said("says_structured"), "what_is_wrong", "structured_output"),
    ("unexpected_output", said("says_thinking"), "reasoning", "reasoning_parser"),
    (
        "unexpected_output",
        said("says_thinking", server__reasoning_parser="qwen3", request__max_tokens=100),
        "reasoning",
        "output_truncated",
    ),
    (
        "unexpected_output",
        said("says_thinking", server__reasoning_parser="qwen3", request__max_tokens=4000),
        "reasoning",
        "reasoning_parser",
    ),
    ("unexpected_output", said("says_template"), "what_is_wrong", "chat_template"),
    ("unexpected_output", said("says_sampling"), "what_is_wrong", "sampling_params"),
    ("unexpected_output", said("says_stream_broken", request__stream=True), "does_the_stream", "streaming"),
    ("unexpected_output", said("says_stream_broken"), "garbled", "output_garbage"),
    ("unexpected_output", said("says_garbled"), "garbled", "output_garbage"),
    (
        "unexpected_output",
        said("says_garbled", log__signatures=("no_chat_template",)),
        "garbled",
        "chat_template",
    ),
    (
        "request_errors",
        refused(log__signatures=("prompt_too_long", "request_refused")),
        "what_does_it_say",
        "input_too_long",
    ),
    ("request_errors", refused(request__max_tokens=100_000), "what_does_it_say", "input_too_long"),
    (
        "request_errors",
        refused(log__signatures=("no_chat_template", "request_refused")),
        "what_does_it_say",
        "chat_template",
    ),
    (
        "request_errors",
        refused(log__signatures=("grammar_refused", "request_refused")),
        "what_does_it_say",
        "structured_output",
    ),
    ("request_errors", refused("bad_sampling"), "what_does_it_say", "sampling_params"),
    ("request_errors", refused("malformed_json"), "which_form", "bad_request"),
    ("request_errors", refused("bad_role"), "which_form", "bad_request"),
    ("request_errors", refused("wrong_endpoint"), "which_form", "bad_request"),
    ("request_errors", refused(log__signatures=("token_out_of_vocabulary",)), "which_form", "bad_request"),
    ("request_errors", refused(symptom__clues=("says_unauthorized",)), "which_form", ""),
    (
        "request_errors",
        {**RUNNING, "process.alive": True, "log.signatures": ("queue_full",)},
        "which_error",
        "",
    ),
    ("request_errors", refused(), "which_form", "bad_request"),
    ("operations", {**RUNNING, "http.health": "hung"}, "how_to_stop", ""),
    ("operations", {**RUNNING, "http.health": "draining", "requests.running": 8}, "how_to_stop", ""),
    ("operations", {**RUNNING, "requests.running": 8}, "how_to_stop", ""),
    ("operations", RUNNING, "how_to_stop", ""),
    (
        "operations",
        {**GONE, "port.state": "listening", "port.owner_kind": "sglang", "port.owner_is_target": False},
        "who_holds_it",
        "",
    ),
    ("operations", {**GONE, "gpu.other_memory_gb": 60.0}, "who_holds_it", "gpu_memory_held_by_other_process"),
    (
        "operations",
        {**GONE, "port.state": "listening", "port.owner_kind": "other", "port.owner_is_target": False},
        "who_holds_it",
        "port_in_use",
    ),
    ("operations", GONE, "what_to_do", ""),
    ("operations", {**RUNNING, "log.signatures": ("queue_full",)}, "which_error", ""),
    (
        "operations",
        {**RUNNING, "symptom.clues": ("says_retry",), "log.signatures": ("request_refused",)},
        "which_error",
        "",
    ),
    ("operations", {**RUNNING, "symptom.clues": ("says_retry",), "http.health": "starting"}, "which_error", ""),
    ("operations", {**RUNNING, "symptom.clues": ("says_retry",)}, "which_error", ""),
]


@pytest.mark.parametrize(("flow", "readings", "last", "cause"), WALKS)
def test_a_walk_ends_where_its_readings_lead(flow: str, readings: Readings, last: str, cause: str) -> None:
    state, nodes = walk(flow, readings)
    assert nodes[-1] == last, nodes
    assert (state.cause_id or "") == cause
    assert bool(state.ended) == (not cause)


def test_each_leaf_and_each_question_is_reached() -> None:
    seen: set[tuple[str, str]] = set()
    ends: set[str] = set()
    for flow, readings, _, _ in WALKS:
        state, nodes = walk(flow, readings)
        seen.update((flow, node) for node in nodes)
        ends.add(state.cause_id or str(state.ended))
    for name in FLOWS:
        asked = {n.id for n in BOOK.flows[name].nodes.values() if n.branches}
        assert asked <= {node for _, node in seen}, asked - {node for _, node in seen}
        leaves = [n for n in BOOK.flows[name].nodes.values() if n.cause or n.end]
        for leaf in leaves:
            assert (leaf.cause or leaf.end) in ends or any(leaf.end and leaf.end in e for e in ends), leaf.id


def test_guidance_never_ends_processes_by_name() -> None:
    for node in BOOK.flows["operations"].nodes.values():
        assert "pkill" not in node.end, node.id
        assert "killall" not in node.end, node.id


# -- words, log lines and commands -----------------------------------------------------------

TEXTS: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("request_texts.yaml").read_text())
OURS = {t["cause"] for t in TEXTS} - {""}


async def examined(folder: Path, told: dict[str, str]) -> dict[str, object]:
    path = folder / "server.log"
    path.write_text(told.get("log", ""))
    options = argparse.Namespace(
        url=None, pid=None, log=str(path), metrics=None, command_text=told.get("command"),
        symptom=told.get("symptom", ""), hardware="", sglang_version=told.get("version"), local=False,
    )  # fmt: skip
    target = targets._saved(options, False)
    driver = Driver(BOOK, read_only=True, window_s=0.1, version=told.get("version"))
    state = await driver.examine(target)
    catalogue = driver.catalogue()
    offers = {
        h.cause.id: make_offers(h.cause, BOOK, target, state.snapshot, catalogue)
        for h in named(state.hypotheses)
    }
    return check_document(state, offers)


@pytest.mark.parametrize("told", TEXTS, ids=[f"{n}-{t['cause'] or 'other'}" for n, t in enumerate(TEXTS)])
async def test_words_and_lines_name_the_cause(tmp_path: Path, told: dict[str, str]) -> None:
    document = await examined(tmp_path, told)
    causes = document["causes"]
    assert isinstance(causes, list)
    first = causes[0]["id"] if causes else ""
    if told["cause"]:
        assert first == told["cause"]
    else:
        assert first not in OURS


def values(document: dict[str, object], flag: str) -> list[str]:
    causes = document["causes"]
    assert isinstance(causes, list)
    return [r["set"][flag] for r in causes[0]["remedies"] if flag in r["set"]]


PARSERS = [
    ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "0.5.20", "qwen3_coder"),
    ("Qwen/Qwen2.5-7B-Instruct", "0.4.6.post5", "qwen25"),
    ("meta-llama/Llama-3.1-8B-Instruct", "0.5.4", "llama3"),
    ("deepseek-ai/DeepSeek-V3.1", "0.5.20", "deepseekv31"),
    ("deepseek-ai/DeepSeek-V3-0324", "0.5.4", "deepseekv3"),
    ("moonshotai/Kimi-K2-Instruct", "0.5.20", "kimi_k2"),
    ("zai-org/GLM-4.7", "0.5.20", "glm47"),
    ("openai/gpt-oss-120b", "0.5.20", "gpt-oss"),
]


@pytest.mark.parametrize(("model", "version", "parser"), PARSERS)
async def test_the_parser_offered_first_is_that_of_the_model(
    tmp_path: Path, model: str, version: str, parser: str
) -> None:
    told = {
        "symptom": "tool calls are left in content as plain text",
        "command": f"python -m sglang.launch_server --model-path {model}",
        "version": version,
    }
    assert values(await examined(tmp_path, told), "--tool-call-parser")[:1] == [parser]


async def test_a_parser_that_the_version_does_not_know_is_not_offered(tmp_path: Path) -> None:
    told = {
        "symptom": "tool calls are left in content as plain text",
        "command": "python -m sglang.launch_server --model-path zai-org/GLM-4.7",
        "version": "0.4.6.post5",
    }
    assert set(values(await examined(tmp_path, told), "--tool-call-parser")) <= {
        "qwen25", "mistral", "llama3", "deepseekv3", "pythonic"
    }  # fmt: skip
