"""The flows about starting (model, packages, ports, command line) walked to each of their leaves."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

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
from wizard.session.driver import Driver
from wizard.session.planner import make_offers

FLOWS = ("model_load", "dependencies", "ports", "does_not_start")

Readings = dict[str, Scalar]


def snapshot(readings: Readings) -> Snapshot:
    values = {k: Value(v) for k, v in readings.items()}
    return Snapshot().with_result(ProbeResult("all", Outcome.OK, values))


def walk(flow: str, readings: Readings) -> tuple[SessionState, tuple[tuple[str, str], ...]]:
    """Follow the suggestions from the flow's start; the branches (flow, node it leads to) that were taken."""
    state = SessionState()
    for event in (Opened(Target()), ReadingsArrived(snapshot(readings)), FlowChosen(flow)):
        state, _ = advance(state, event, BOOK)
    taken: list[tuple[str, str]] = []
    for _ in range(20):
        if state.step is not Step.DIAGNOSE or state.ended:
            break
        suggestion = current_suggestion(state, BOOK)
        assert suggestion is not None, f"{state.node_id} suggests nothing"
        assert suggestion.index is not None, f"{state.node_id} cannot tell"
        node = BOOK.flows[state.flow_id or ""].nodes[state.node_id or ""]
        taken.append((state.flow_id or "", node.branches[suggestion.index].to))
        state, _ = advance(state, Answered(suggestion.index, "readings"), BOOK)
    return state, tuple(taken)


def log(signature: str, *others: str, clues: tuple[str, ...] = (), **more: Scalar) -> Readings:
    """A log that leads with a signature, and a port that is free."""
    return {
        "log.signature": signature,
        "log.signatures": (signature, *others),
        "log.clues": clues,
        "log.phase": "starting",
        "log.error": "",
        "port.state": "free",
        "port.owner_is_target": False,
        "port.owner_kind": "unknown",
        **{k.replace("__", "."): v for k, v in more.items()},
    }


def owned(kind: str, health: str = "refused", target: bool = False) -> Readings:
    """The HTTP port as its probe tells it, as in the recordings port_in_use_by_*."""
    return log(
        "port_in_use",
        log__port_taken=30183,
        port__state="listening",
        port__owner_kind=kind,
        port__owner_is_target=target,
        http__health=health,
    )


WALKS: list[tuple[str, Readings, str, str]] = [
    # flow, readings, the leaf, the cause ("" for an end)
    ("model_load", log("repo_gated"), "gated", "gated_repo"),
    ("model_load", log("hub_failed"), "hub", "hf_download_failure"),
    ("model_load", log("hub_failed", "path_wrong"), "not_there", "model_not_found"),
    ("model_load", log("path_wrong"), "not_there", "model_not_found"),
    ("model_load", log("weights_cut_off"), "broken", "model_not_found"),
    ("model_load", log("tokenizer_not_built"), "tokenizer", "tokenizer_failure"),
    ("model_load", log("architecture_unknown"), "new_model", "unsupported_architecture"),
    (
        "model_load",
        log("architecture_unknown", clues=("own_models_not_imported",)),
        "broken_import",
        "dependency_mismatch",
    ),
    ("model_load", log("weight_shape"), "quantization", "quantization_mismatch"),
    ("model_load", log("not_enough_memory"), "too_low", "mem_fraction_too_low"),
    ("model_load", log("exception"), "other", ""),
    ("dependencies", log("libc_too_old"), "libc", "glibc_mismatch"),
    ("dependencies", log("python_too_old"), "python", "python_version"),
    ("dependencies", log("user_without_name"), "rights", "permission_denied"),
    ("dependencies", log("package_missing"), "absent", "module_not_found"),
    ("dependencies", log("missing_symbol"), "versions", "dependency_mismatch"),
    ("dependencies", log("cuda_driver_library"), "driver", ""),
    ("dependencies", log("exception"), "none", ""),
    ("ports", log("rendezvous_taken"), "inner", "dist_port_conflict"),
    ("ports", owned("sglang"), "by_sglang", "port_in_use"),
    ("ports", owned("other", "hung"), "by_silent", "port_in_use"),
    ("ports", owned("other", "not_sglang"), "by_other", "port_in_use"),
    ("ports", owned("target", "serving", True), "by_target", ""),
    ("ports", log("port_in_use"), "by_unknown", "port_in_use"),
    ("ports", log("exception"), "none", ""),
    ("does_not_start", owned("other"), "port", "port_in_use"),
    ("does_not_start", log("argparse_refused"), "arguments", "bad_cli_args"),
    ("does_not_start", log("rendezvous_taken"), "inner", "dist_port_conflict"),
    ("does_not_start", log("repo_gated"), "gated", "gated_repo"),
    ("does_not_start", log("missing_symbol"), "versions", "dependency_mismatch"),
    ("does_not_start", log("not_enough_memory"), "too_low", "mem_fraction_too_low"),
    ("does_not_start", log("exception"), "other", ""),
]


@pytest.mark.parametrize(("flow", "readings", "leaf", "cause"), WALKS)
def test_a_walk_ends_where_its_readings_lead(flow: str, readings: Readings, leaf: str, cause: str) -> None:
    state, taken = walk(flow, readings)
    assert taken[-1][1] == leaf, taken
    assert (state.cause_id or "") == cause
    assert bool(state.ended) == (not cause)


@pytest.mark.parametrize("name", FLOWS)
def test_every_node_of_the_flow_is_reached(name: str) -> None:
    reached = {node for flow, readings, _, _ in WALKS for f, node in walk(flow, readings)[1] if f == name}
    flow = BOOK.flows[name]
    assert reached | {flow.start} == set(flow.nodes)


# What SGLang, pip, transformers, torch and the loader print, one line each, without anything around it.
LINES: list[tuple[str, str]] = [
    (
        "ImportError: cannot import name 'foo' from 'transformers.utils' (/x/transformers/utils/__init__.py)",
        "dependency_mismatch",
    ),
    (
        "ImportError: /x/sgl_kernel/common_ops.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
        "dependency_mismatch",
    ),
    ("ModuleNotFoundError: No module named 'vllm.model_executor.layers'", "dependency_mismatch"),
    ("ValueError: 'aimv2' is already used by a Transformers config, pick another name.", "dependency_mismatch"),
    ("AttributeError: module 'transformers' has no attribute 'AutoModelForVision2Seq'", "dependency_mismatch"),
    ("RuntimeError: operator torchvision::nms does not exist", "dependency_mismatch"),
    (
        "ERROR: Cannot install sglang because these package versions have conflicting dependencies.",
        "dependency_mismatch",
    ),
    ("ModuleNotFoundError: No module named 'orjson'", "module_not_found"),
    ("ImportError: Please install av to use this feature: pip install av", "module_not_found"),
    ("ERROR: Package 'sglang' requires a different Python: 3.9.7 not in '>=3.10'", "python_version"),
    ("ImportError: /lib64/libc.so.6: version `GLIBC_2.32' not found (required by /x/a.so)", "glibc_mismatch"),
    ("OSError: [Errno 30] Read-only file system: '/root/.cache'", "permission_denied"),
    ("OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/m/n/o'.", "model_not_found"),
    ("OSError: /models/a does not appear to have a file named config.json.", "model_not_found"),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "model_not_found",
    ),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "hf_download_failure"),
    ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "gated_repo"),
    ("ValueError: Couldn't instantiate the backend tokenizer from one of:", "tokenizer_failure"),
    (
        "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.",
        "unsupported_architecture",
    ),
    (
        "ValueError: Weight input_size_per_partition = 96 is not divisible by min_thread_k = 128.",
        "quantization_mismatch",
    ),
    ("KeyError: 'model.layers.0.mlp.gate_proj.qweight'", "quantization_mismatch"),
    (
        "torch.distributed.DistNetworkError: The server socket has failed to listen, port: 29500, EADDRINUSE",
        "dist_port_conflict",
    ),
    ("launch_server.py: error: unrecognized arguments: --max-model-len 4096", "bad_cli_args"),
    (
        "ERROR:    [Errno 98] error while attempting to bind on address ('::', 30000): address already in use",
        "port_in_use",
    ),
]


async def first_cause(folder: Path, text: str) -> tuple[str, tuple[str, ...]]:
    path = folder / "server.log"
    path.write_text(f"Traceback (most recent call last):\n{text}\n")
    options = argparse.Namespace(
        url=None, pid=None, log=str(path), metrics=None, command_text=None, symptom="", hardware="",
        sglang_version=None, local=False,
    )  # fmt: skip
    target = targets._saved(options, False)
    driver = Driver(BOOK, read_only=True, window_s=0.1, version=None)
    state = await driver.examine(target)
    causes = named(state.hypotheses)
    assert causes, f"nothing was named for: {text}"
    offers = make_offers(causes[0].cause, BOOK, target, state.snapshot, driver.catalogue())
    return causes[0].cause.id, tuple(o.remedy.id for o in offers if o.intents or o.actions or o.remedy.environ)


@pytest.mark.parametrize(("line", "cause"), LINES, ids=range(len(LINES)))
async def test_one_line_names_its_cause_and_brings_a_way_out(tmp_path: Path, line: str, cause: str) -> None:
    said, remedies = await first_cause(tmp_path, line)
    assert said == cause
    assert remedies


def test_a_name_that_only_a_person_knows_is_offered_and_never_applied() -> None:
    """``<FOLDER_OR_NAME>`` stands for something that no reading tells."""
    remedy = BOOK.remedies["right_model_path"]
    assert remedy.changes[0].value.startswith("<")
    driver = Driver(BOOK, read_only=True, window_s=0.1, version="0.5.20")
    target = Target(command_text="python -m sglang.launch_server --model-path /nowhere")
    offers = make_offers(BOOK.causes["model_not_found"], BOOK, target, snapshot({}), driver.catalogue())
    offer = next(o for o in offers if o.remedy.id == "right_model_path")
    assert offer.plan is None
    assert ("--model-path", "<FOLDER_OR_NAME>") in offer.intents
