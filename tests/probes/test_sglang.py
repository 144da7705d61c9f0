from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.badserver import Say, answer, serving, silence
from tests.probes.recordings import shared
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Value
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import sglang
from wizard.probes.base import ProbeContext, run_probe

PYTHON = ("python", "-m", "sglang.launch_server", "--model-path", "m")


async def look(target: Target, previous: Snapshot | None = None) -> ProbeResult:
    result = await run_probe("sglang", ProbeContext(target, previous=previous or Snapshot()))
    assert set(result.values) <= set(VOCABULARY)
    assert "\n" not in (result.reason or "")
    assert "hunter2" not in json.dumps(result.to_json())
    return result


def numbers(result: ProbeResult) -> dict[str, object]:
    return {name: value.x for name, value in result.values.items()}


@pytest.mark.parametrize("version", ["0.5.10", "0.5.16", "0.5.20", "0.5.23"])
def test_recorded_server_info(version: str) -> None:
    name = "cpu/server_info.json" if version == "0.5.20" else f"cpu/server_info_{version}.json"
    x = {k: v.x for k, v in sglang.from_info(json.loads(shared(name).read_text())).items()}
    assert x["server.version"] == version
    assert x["server.max_running_requests"] == 2048
    assert x["server.context_length"] == 2048
    assert x["kv.capacity_tokens"] == 8192
    assert x["server.cuda_graph_disabled"] is True
    assert x["server.metrics_enabled"] is True
    assert "kv.cell_bytes" not in x  # told to 0.001 GB: nothing to divide


@pytest.mark.parametrize(
    ("name", "cap", "typed", "disabled", "context"),
    [
        ("h200/t_default/server.log", 3538, None, False, 131072),
        ("h200/t_max_running_8/server.log", 8, 8, False, 131072),
        ("h200/t_no_cuda_graph/server.log", None, None, True, 131072),
        ("cpu/server_ok.log", 2048, None, True, 2048),
    ],
)
async def test_recorded_logs_stand_in_for_the_server(
    name: str, cap: int | None, typed: int | None, disabled: bool, context: int
) -> None:
    x = numbers(await look(Target(port=0, log_path=str(shared(name)), version="0.5.17")))
    assert cap is None or x["server.max_running_requests"] == cap
    assert x.get("server.max_running_requests_set") == typed
    assert x["server.cuda_graph_disabled"] is disabled
    assert x["server.context_length"] == context
    assert x["server.command_known"] is False


async def test_the_default_cap_beside_a_typed_one() -> None:
    x = numbers(await look(Target(port=0, log_path=str(shared("h200/t_max_running_8/server.log")))))
    assert x["server.default_max_running_requests"] == 3538


INFO: dict[str, Any] = {
    "version": "0.5.20",
    "max_total_num_tokens": 8192,
    "max_req_input_len": 2042,
    "max_running_requests": 1,
    "mem_fraction_static": 0.8,
    "dp_size": 1,
    "api_key": "hunter2",
    "internal_states": [{"effective_max_running_requests_per_dp": 1}],
}


def says(document: object) -> Say:
    return answer(200, json.dumps(document).encode(), "application/json")


async def test_typed_and_chosen_values_are_told_apart() -> None:
    async with serving({"/server_info": says(INFO)}) as server:
        launch = Launch((*PYTHON, "--max-running-requests", "1", "--api-key=hunter2"), "/")
        x = numbers(await look(Target(port=server.port, remote=True, launch=launch, version="0.5.20")))
        assert "Bearer hunter2" in server.seen[0]
    assert x["server.max_running_requests_set"] == 1
    assert x["server.max_running_requests"] == 1
    assert x["server.default_max_running_requests"] == 2048
    assert x["server.mem_fraction_static"] == 0.8
    assert "server.mem_fraction_static_set" not in x
    assert x["server.command_known"] is True


async def test_older_path() -> None:
    async with serving({"/get_server_info": says({**INFO, "version": "0.4.8"})}) as server:
        assert numbers(await look(server.target))["server.version"] == "0.4.8"


async def test_replicas_each_have_the_cap() -> None:
    info = {**INFO, "dp_size": 4, "internal_states": [{"effective_max_running_requests_per_dp": 8}]}
    async with serving({"/server_info": says(info)}) as server:
        assert numbers(await look(server.target))["server.max_running_requests"] == 32


async def test_a_hung_scheduler_leaves_what_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "INFO_S", 0.3)
    async with serving({"/server_info": silence}) as server:
        launch = Launch((*PYTHON, "--mem-fraction-static", "0.7"), "/")
        result = await look(Target(port=server.port, remote=True, launch=launch, version="0.5.20"))
    assert result.outcome is Outcome.OK
    assert result.values["server.mem_fraction_static_set"].x == 0.7
    assert "may hang" in (result.reason or "")


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ({"/server_info": answer(200, b"<html></html>", "text/html")}, "web page"),
        ({"/server_info": answer(200, b"[1]")}, "no JSON object"),
        ({"/server_info": answer(200, b'{"a": ')}, "no JSON object"),
        ({"/server_info": answer(401, b"{}")}, "API key"),
        ({"/server_info": answer(302, b"", extra="location: http://127.0.0.1:9/\r\n")}, "redirect"),
        ({}, "is this an SGLang server"),
    ],
)
async def test_bad_answers(paths: dict[str, Say], words: str) -> None:
    async with serving(paths) as server:
        result = await look(server.target)
    assert result.outcome is Outcome.NO_DATA
    assert words in (result.reason or "")


async def test_refused(free_port: int) -> None:
    result = await look(Target(port=free_port, remote=True))
    assert (result.outcome, "refused" in (result.reason or "")) == (Outcome.NO_DATA, True)


async def test_a_stopped_target_is_known_by_its_command_only() -> None:
    async with serving({"/server_info": says(INFO)}) as server:
        launch = Launch((*PYTHON, "--max-total-tokens", "600"), "/")
        x = numbers(await look(Target(port=server.port, launch=launch, version="0.5.20")))
        assert server.seen == []
    assert x["server.max_total_tokens_set"] == 600
    assert "kv.capacity_tokens" not in x


async def test_a_pasted_command() -> None:
    command = (
        "CUDA_VISIBLE_DEVICES=1 python -m sglang.launch_server --model-path m --mem-fraction-static=0.6 --tp 2"
    )
    x = numbers(await look(Target(port=0, command_text=command, version="0.5.20", hardware="2x H100 80GB")))
    assert x["server.mem_fraction_static_set"] == 0.6
    assert x["server.tp_size"] == 2
    assert 0.8 < float(str(x["server.default_mem_fraction_static"])) < 0.9


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*INFO, "cuda_graph_config", "context_length", "served_model_name", "memory_usage"])


@given(st.dictionaries(KEYS, JSON, max_size=8))
@settings(max_examples=80, deadline=None)
def test_odd_documents_give_only_scalars(info: dict[str, Any]) -> None:
    for value in sglang.from_info(info).values():
        assert isinstance(value, Value)
        assert isinstance(value.x, (bool, int, float, str))


@pytest.mark.parametrize(
    ("paths", "word"),
    [
        ({"/server_info": answer(200, b'{"model_path": "m", "internal_states": [{"x": 1}]}')}, "answered"),
        ({"/get_server_info": answer(200, b'{"model_path": "m", "last_gen_throughput": 1.5}')}, "answered"),
        ({"/get_server_info": answer(200, b'{"model_path": "m"}')}, "static"),
        ({"/server_info": silence}, "hung"),
        ({"/server_info": answer(401, b"{}")}, "locked"),
        ({"/server_info": answer(500, b"oops")}, "failed"),
        ({"/server_info": answer(200, b"{}")}, "missing"),
        ({"/server_info": answer(200, b"<html></html>", "text/html")}, "missing"),
        ({}, "missing"),
    ],
)
async def test_how_the_question_went(paths: dict[str, Say], word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "INFO_S", 0.2 if word == "hung" else 10.0)  # a busy machine answers late
    async with serving(paths) as server:
        assert numbers(await look(server.target))["server.info"] == word
    assert "server.info" not in numbers(await look(Target(port=0, log_path="/nowhere.log")))
