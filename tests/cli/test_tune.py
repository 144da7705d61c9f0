"""``tune`` and ``reference`` by the command line: words, documents, exit codes."""

from __future__ import annotations

import json

import pytest

from wizard.cli import output
from wizard.cli.main import run


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_documents", 0)


def test_a_goal_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("tune", "fame", "--command", "python -m sglang.launch_server --model-path m")) == 2
    assert "there is no goal fame; there are memory, throughput, latency, stability" in capsys.readouterr().err


def test_a_saved_command_is_judged_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    command = "python -m sglang.launch_server --model-path m --disable-radix-cache --chunked-prefill-size -1"
    assert run(("tune", "throughput", "--command", command, "--json", "--yes")) == 1
    doc = json.loads(capsys.readouterr().out)
    boxes = {b["id"]: b["status"] for b in doc["checklist"]["boxes"]}
    assert boxes["radix_cache"] == "not_done"
    assert boxes["chunked_prefill"] == "harmful"
    assert boxes["full_batches"] == "unknown"
    assert doc["verdict"] == "cannot_tell"


def test_references_are_listed_and_spelled_for_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("reference",)) == 0
    assert "high_throughput" in capsys.readouterr().out
    assert run(("reference", "medium", "--sglang-version", "0.5.20", "--hardware", "2x H200", "--json")) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["argv"][doc["argv"].index("--tp-size") + 1] == "2"
    by_name = {s["name"]: s for s in doc["settings"]}
    assert by_name["cuda_graph_max_bs"]["kind"] == "leave"
    assert by_name["cuda_graph_max_bs"]["tutorial"] == "32"


def test_a_reference_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("reference", "huge")) == 2
    assert "there is no reference huge" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("reference", "small"),
        ("tune", "stability", "--command", "python -m sglang.launch_server --model-path m"),
    ],
)
def test_another_version_that_stands_in_is_said(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for version, note in (("0.5.21", "0.5.20, the nearest catalogued version"), ("0.5.20", "")):
        run((*words, "--sglang-version", version))
        assert ("the nearest catalogued version" in capsys.readouterr().out) == bool(note)
        output._documents = 0
        run((*words, "--sglang-version", version, "--json"))
        assert note in (json.loads(capsys.readouterr().out)["version_note"] or "")


def test_a_command_without_a_server_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "python -m sglang.launch_server --model-path m --max-running-requests 64 --cuda-graph-max-bs-decode 4"
    )
    words = ("tune", "throughput", "--sglang-version", "0.5.20", "--command", command)
    assert run((*words, "--json")) == 1
    boxes = {b["id"]: b["status"] for b in json.loads(capsys.readouterr().out)["checklist"]["boxes"]}
    assert boxes == {
        "continuous_batching": "done",
        "full_batches": "unknown",
        "running_cap": "harmful",
        "cuda_graphs": "harmful",
        "chunked_prefill": "done",
        "radix_cache": "done",
        "lpm": "unknown",
        "conservativeness": "unknown",
        "torch_compile": "does_not_apply",
    }
    assert run(words) == 1
    out = capsys.readouterr().out
    assert "--max-running-requests removed" in out
    assert "--cuda-graph-max-bs-decode removed" in out
    assert "nothing is applied: no server is known" in out
