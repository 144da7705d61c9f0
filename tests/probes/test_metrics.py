from __future__ import annotations

import json
import lzma
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.badserver import Say, answer, drip, endless, raw, serving, silence
from tests.probes.recordings import shared
from wizard.core.exposition import parse
from wizard.core.reading import Outcome, ProbeResult, Trust
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import metrics
from wizard.probes.base import ProbeContext, run_probe
from wizard.probes.metrics import Scrape, windowed

WINDOW_S = 0.3


async def look(target: Target, window_s: float = WINDOW_S) -> ProbeResult:
    result = await run_probe("metrics", ProbeContext(target, window_s=window_s))
    assert set(result.values) <= set(VOCABULARY)
    assert "\n" not in (result.reason or "")
    return result


def numbers(result: ProbeResult) -> dict[str, object]:
    return {name: value.x for name, value in result.values.items()}


def between(before: str, after: str, seconds: float = 2.0) -> dict[str, object]:
    return numbers(windowed([Scrape(parse(before), 0.0), Scrape(parse(after), seconds)]))


BASE = """sglang:num_running_reqs{tp_rank="0"} 3
sglang:num_queue_reqs{tp_rank="0"} 5
sglang:token_usage{tp_rank="0"} 0.4
"""


def test_rates_are_of_the_window_not_of_the_life() -> None:
    before = BASE + 'sglang:realtime_tokens_total{mode="decode"} 1000000\n'
    after = BASE + 'sglang:realtime_tokens_total{mode="decode"} 1000200\n'
    x = between(before, after)
    assert x["throughput.output"] == 100.0
    assert x["requests.running"] == 3
    assert x["metrics.frozen"] is False


def test_a_restart_in_the_window_gives_no_negative_rate() -> None:
    x = between(
        BASE + 'sglang:realtime_tokens_total{mode="decode"} 500\n',
        BASE + 'sglang:realtime_tokens_total{mode="decode"} 40\n',
    )
    assert x["throughput.output"] == 20.0


@pytest.mark.parametrize(
    ("page", "retracted"),
    [
        (BASE, None),  # 0.5.4 has no such counter: not known, so not 0
        (BASE + 'sglang:realtime_tokens_total{mode="decode"} 7\n', 0),
        (BASE + "sglang:num_retracted_requests_total 4\n", 0),
        (BASE + "sglang:num_retractions_sum 4\nsglang:num_retractions_count 9\n", 0),
        (BASE + "sglang:total_retracted_reqs 4\n", 0),
    ],
)
def test_absent_is_zero_only_where_the_counter_exists(page: str, retracted: int | None) -> None:
    assert between(page, page).get("requests.retracted") == retracted


def test_a_counter_that_begins_in_the_window_grew_from_zero() -> None:
    page = BASE + 'sglang:realtime_tokens_total{mode="decode"} 7\n'
    assert between(page, page + "sglang:num_retracted_requests_total 2\n")["requests.retracted"] == 2


def test_ranks_count_once_and_replicas_add_up() -> None:
    page = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}"}} 4\n' for dp in (0, 1) for tp in (0, 1)
    )
    assert between(page, page)["requests.running"] == 8


def test_the_total_of_priorities_is_not_added_to_them() -> None:
    page = (
        'sglang:num_running_reqs{priority=""} 6\n'
        'sglang:num_running_reqs{priority="1"} 4\n'
        'sglang:num_running_reqs{priority="2"} 2\n'
    )
    assert between(page, page)["requests.running"] == 6


def test_memory_folds_over_ranks_and_phases() -> None:
    page = BASE + "".join(
        f'sglang:graph_memory_usage_gb{{phase="{phase}",tp_rank="{rank}"}} {x}\n'
        for phase, x in (("prefill", 1.5), ("decode", 0.3))
        for rank in (0, 1)
    )
    page += 'sglang:startup_available_gpu_memory_gb{tp_rank="0"} 9\n'
    page += 'sglang:startup_available_gpu_memory_gb{tp_rank="1"} 7\n'
    x = between(page, page)
    assert x["graph.memory_gb"] == pytest.approx(1.8)
    assert x["server.available_memory_gb"] == 7


def test_lengths_are_of_the_window_or_say_that_they_are_of_the_life() -> None:
    def page(requests: int, prompt: int, generated: int) -> str:
        return BASE + (
            f'sglang:num_requests_total{{is_streaming="true"}} {requests}\n'
            f"sglang:prompt_tokens_total {prompt}\nsglang:generation_tokens_total {generated}\n"
        )

    x = between(page(100, 100_000, 10_000), page(104, 100_400, 10_200))
    assert (x["requests.prompt_tokens_mean"], x["requests.output_tokens_mean"]) == (100.0, 50.0)
    life = windowed(
        [Scrape(parse(page(100, 100_000, 10_000)), 0.0), Scrape(parse(page(100, 100_000, 10_000)), 2.0)]
    )
    assert life.values["requests.tokens_mean"].x == 1100.0
    assert life.values["requests.tokens_mean"].trust is Trust.ESTIMATED
    assert "since the server started" in life.values["requests.tokens_mean"].source


def test_prefill_alone_is_no_standstill() -> None:
    """The H200 recording decodes nothing for five seconds while it prefills a burst."""

    def page(computed: int) -> str:
        return BASE + f'sglang:realtime_tokens_total{{mode="prefill_compute"}} {computed}\n'

    assert between(page(100), page(900))["metrics.frozen"] is False
    assert between(page(100), page(100))["metrics.frozen"] is True


def test_too_short_a_window_does_not_say_frozen() -> None:
    assert "metrics.frozen" not in between(BASE, BASE, seconds=0.5)


def test_recorded_busy_server_never_stands_still_and_the_stopped_one_does() -> None:
    with lzma.open(shared("h200/t_default/metrics_1hz.txt.xz"), "rt") as file:
        text = file.read()
    parts = re.split(r"^#### ([\d.]+) took [\d.]+ ?\n", text, flags=re.M)[1:]
    scrapes = [Scrape(parse(page), float(at)) for at, page in zip(parts[::2], parts[1::2], strict=True)]
    assert len(scrapes) > 60
    busy = 0
    for first, last in zip(scrapes, scrapes[2:], strict=False):
        x = numbers(windowed([first, last]))
        if x["requests.finished"]:
            busy += 1
            assert x["metrics.frozen"] is False
            assert 0 <= float(str(x["throughput.output"])) < 20_000
    assert busy > 20
    stopped = [
        Scrape(parse(shared(f"cpu/metrics_scheduler_stopped_{i}.txt").read_bytes()), 5.0 * i) for i in (1, 2)
    ]
    assert numbers(windowed(stopped))["metrics.frozen"] is True


@pytest.mark.parametrize("version", ["", "_0.5.10", "_0.5.16", "_0.5.23"])
def test_recorded_pages_of_every_version(version: str) -> None:
    idle = parse(shared(f"cpu/metrics_idle{version}.txt").read_bytes())
    load = parse(shared(f"cpu/metrics_under_load{version}.txt").read_bytes())
    x = numbers(windowed([Scrape(idle, 0.0), Scrape(load, 10.0)]))
    assert x["requests.retracted"] == 0
    assert float(str(x["throughput.output"])) > 5
    assert 0 < float(str(x["itl.p50"])) < 1000
    assert x["decode.cuda_graph_share"] == 0.0
    assert int(str(x["requests.running"])) >= 1
    assert int(str(x["kv.capacity_tokens"])) == 8192


PAGE = (BASE + 'sglang:realtime_tokens_total{mode="decode"} 7\n').encode()


@pytest.mark.parametrize(
    ("paths", "outcome", "says"),
    [
        ({"/metrics": answer(200, b"<!DOCTYPE html><html>no</html>", "text/html")}, "unavailable", "web page"),
        ({"/metrics": answer(200, b'{"a": 1}')}, "unavailable", "JSON"),
        ({"/metrics": answer(200, b"vllm:num_requests_running 3\n")}, "unavailable", "no sglang: series"),
        ({"/metrics": answer(200, b"")}, "unavailable", "no sglang: series"),
        ({"/metrics": answer(401, b"")}, "unavailable", "API key"),
        ({"/metrics": answer(302, b"", extra="location: http://127.0.0.1:9/x\r\n")}, "unavailable", "redirect"),
        ({"/metrics": answer(500, b"x")}, "unavailable", "HTTP 500"),
        ({"/metrics": raw(b"")}, "unavailable", "closed"),
        ({"/metrics": raw(b"\x00\x01garbage\r\n\r\n")}, "unavailable", "does not speak HTTP"),
        ({}, "unavailable", "neither /metrics nor /v1/loads"),
        ({"/metrics": answer(200, PAGE)}, "ok", None),
        ({"/metrics": answer(200, PAGE + b"half of a li")}, "ok", "could not be read"),
        (
            {"/metrics": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + PAGE + b"sglang:num_ru")},
            "ok",
            "cut",
        ),
    ],
)
async def test_bad_answers_end_in_one_clear_line(paths: dict[str, Say], outcome: str, says: str | None) -> None:
    async with serving(paths) as server:
        result = await look(server.target)
    assert result.outcome.value == outcome, result.reason
    assert (says is None and result.reason is None) or (says or "?") in (result.reason or "")
    assert (outcome == "ok") == bool(result.values)


@pytest.mark.parametrize("say", [silence, drip])
async def test_a_slow_page_is_given_up(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCRAPE_S", 0.4)
    async with serving({"/metrics": say}) as server:
        started = time.monotonic()
        result = await look(server.target)
        assert time.monotonic() - started < 5
    assert result.outcome is Outcome.UNAVAILABLE
    assert "did not answer within" in (result.reason or "")


async def test_an_endless_page_is_read_only_so_far() -> None:
    async with serving({"/metrics": endless}) as server:
        result = await look(server.target, window_s=0.0)
    assert result.values["requests.running"].x == 1
    assert "cut" in (result.reason or "")


async def test_nobody_there(free_port: int) -> None:
    result = await look(Target(port=free_port, remote=True))
    assert result.outcome is Outcome.NO_DATA
    assert "refused" in (result.reason or "")


async def test_metrics_off_falls_back_to_loads_and_says_how_to_turn_them_on() -> None:
    rows = [
        {
            "num_running_reqs": 4,
            "num_waiting_reqs": 7,
            "num_used_tokens": 90,
            "max_total_num_tokens": 100,
            "token_usage": u,
        }
        for u in (0.9, 0.5)
    ]
    body = json.dumps({"loads": rows}).encode()
    async with serving({"/v1/loads": answer(200, body, "application/json")}) as server:
        result = await look(server.target)
    x = numbers(result)
    assert (x["requests.running"], x["requests.queued"], x["kv.usage"]) == (8, 14, 0.9)
    assert x["server.metrics_enabled"] is False
    assert "throughput.output" not in x
    assert "--enable-metrics" in (result.remedy or "")


def test_recorded_loads() -> None:
    document = json.loads(shared("cpu/loads_under_load.json").read_text())
    assert metrics.loads(document["loads"])["requests.running"] == 16


async def test_a_stopped_target_is_not_confused_with_whoever_has_its_port() -> None:
    async with serving({"/metrics": answer(200, PAGE)}) as server:
        target = Target(port=server.port, launch=Launch(("python", "-m", "sglang.launch_server"), "/"))
        result = await look(target)
        assert server.seen == []
    assert result.outcome is Outcome.NO_DATA


async def test_a_saved_page_has_state_but_no_rates(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    path.write_bytes(PAGE + b"sglang:num_requests_total 2\nsglang:prompt_tokens_total 40\n")
    result = await look(Target(port=0, metrics_path=str(path)))
    x = numbers(result)
    assert x["requests.queued"] == 5
    assert "throughput.output" not in x
    assert "metrics.window_s" not in x
    assert result.values["requests.prompt_tokens_mean"].trust is Trust.ESTIMATED
    assert result.values["requests.queued"].trust is Trust.REPORTED


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_a_result(pages: list[bytes]) -> None:
    scrapes = []
    for i, page in enumerate(pages):
        try:
            scrapes.append(Scrape(parse(PAGE + page), 2.0 * i))
        except ValueError:
            continue
    if scrapes:
        assert set(windowed(scrapes).values) <= set(VOCABULARY)
