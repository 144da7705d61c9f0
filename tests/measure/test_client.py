"""The load client against a server on a real socket: what it counts, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from tests.measure.stand_in import StandIn, standing_in
from wizard.core.measurement import Measurement, Workload
from wizard.measure.client import measure
from wizard.measure.wire import Address, MeasureError

SMALL = Workload(4, 12, 10, windows=2, window_s=0.5, warmup_s=0.2)


async def test_counts_what_arrived() -> None:
    async with standing_in(StandIn()) as server:
        lines: list[str] = []
        found = await measure(server.url, SMALL, progress=lines.append)
    assert [w.seconds for w in found.windows] == [0.5, 0.5]
    assert found.errors == {}
    for window in found.windows:
        assert window.samples > 0
        # 10 tokens in 10 ms + 9 x 4 ms at the least: at most 217 tok/s a client
        assert 20 < window.values["throughput.output"] <= 4 * 230
        assert window.values["ttft.p50"] >= 10
        assert window.values["itl.p50"] >= 3
        assert window.values["e2e.p50"] >= 46
        assert window.values["requests.failed"] == 0
        assert "requests.queued" not in window.values  # it has no metrics: absent, not 0
    whole = found.totals["throughput.output"]
    parts = [w.values["throughput.output"] for w in found.windows]
    assert whole == pytest.approx(sum(parts) / 2)
    assert lines[0] == "warm-up"
    assert any(line.startswith("window 2 of 2") for line in lines)
    assert Measurement.from_json(found.to_json()) == found


async def test_asks_for_what_the_workload_says_and_closes_its_streams() -> None:
    async with standing_in(StandIn(token_s=0.05)) as server:
        await measure(server.url, replace(SMALL, output_tokens=1000), api_key=None)
        body = server.bodies[-1]
        assert len(body["input_ids"]) == 12  # type: ignore[arg-type]
        assert body["sampling_params"] == {"max_new_tokens": 1000, "ignore_eos": True, "temperature": 0}
        assert body["stream"] is True
        await server.until(lambda s: s.open_streams == 0)


async def test_slow_server_has_a_rate_although_no_request_ends() -> None:
    async with standing_in(StandIn(token_s=0.02)) as server:
        found = await measure(server.url, replace(SMALL, output_tokens=5000))
    for window in found.windows:
        assert window.samples == 0
        assert window.values["throughput.output"] > 0
        assert "e2e.p50" not in window.values
        assert "ttft.p50" not in window.values  # the first tokens came in the warm-up
        assert window.values["itl.p50"] >= 18


async def test_several_tokens_in_an_event_count_as_several() -> None:
    async with standing_in(StandIn(tokens_per_event=5, token_s=0.004)) as server:
        found = await measure(server.url, replace(SMALL, output_tokens=40))
        asked = len(server.bodies)
    tokens = found.totals["throughput.output"] * 1.0
    assert found.totals["throughput.requests"] * 40 == pytest.approx(tokens, rel=0.35)
    assert asked > 4
    assert 3 <= found.totals["itl.p50"] < 20  # 20 ms for five


async def test_fresh_prompts_of_the_same_lengths_in_each_call() -> None:
    async with standing_in(StandIn()) as server:
        work = replace(SMALL, concurrency=1, length_jitter=0.5, windows=1)
        await measure(server.url, work)
        first, server.bodies = server.bodies, []
        await measure(server.url, work)
        second = server.bodies
    firsts = [body["input_ids"] for body in first[1:4]]  # the one before is the knock
    seconds = [body["input_ids"] for body in second[1:4]]
    assert [len(ids) for ids in firsts] == [len(ids) for ids in seconds]  # type: ignore[arg-type]
    assert firsts != seconds


async def test_falls_back_to_completions() -> None:
    async with standing_in(StandIn(paths=("/v1/completions",))) as server:
        found = await measure(server.url, SMALL)
        assert server.bodies[-1]["model"] == "tiny"
    assert found.errors == {}
    assert found.totals["throughput.requests"] * 10 == pytest.approx(
        found.totals["throughput.output"], rel=0.35
    )


async def test_full_queue_inside_a_stream_is_a_failure() -> None:
    async with standing_in(StandIn(queue_limit=1, token_s=0.01)) as server:
        found = await measure(server.url, SMALL)
    assert found.errors["in the stream: 503 The request queue is full."] > 0
    assert sum(found.errors.values()) == sum(w.values["requests.failed"] for w in found.windows)
    assert sum(w.samples for w in found.windows) > 0


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("cut", "connection cut"),
        ("unfinished", "stream ended without a finish reason"),
        ("error_event", "in the stream: The input (9 tokens) is longer"),
        ("fail", "HTTP 500: boom ***"),
        ("silent", "no end within 0.2 s"),
        ("endless", "answer longer than"),
    ],
)
async def test_failures_by_what_they_say(mode: str, said: str) -> None:
    async with standing_in(StandIn(api_key="secret-key")) as server:
        task = asyncio.ensure_future(
            measure(server.url, replace(SMALL, request_timeout_s=0.2, windows=1), api_key="secret-key")
        )
        await server.until(lambda s: len(s.bodies) >= 2)
        server.mode = mode  # the first request was answered, so that it is known to be a server
        found = await task
    assert any(text.startswith(said) for text in found.errors), found.errors
    assert found.windows[0].values["requests.failed"] > 0


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (StandIn(api_key="k"), "API key"),
        (StandIn(paths=()), "neither /generate nor /v1/completions"),
        (StandIn(mode="html"), "no SGLang server"),
        (StandIn(mode="redirect"), "a redirect, not followed"),
        (StandIn(mode="refuse"), "The input is longer than the context."),
        (StandIn(mode="garbage"), "not an HTTP answer"),
    ],
)
async def test_refusals_are_one_clear_line(server: StandIn, said: str) -> None:
    async with standing_in(server):
        with pytest.raises(MeasureError) as error:
            await measure(server.url, SMALL)
        assert "/elsewhere" not in server.seen_paths
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_ends_although_answers_end_in_the_same_moment(path: str) -> None:
    """A cancellation that meets the end of an answer must not get lost: many short answers make it likely."""
    server = StandIn(paths=(path,), token_s=0.0, first_token_s=0.0)
    work = Workload(32, 4, 1, windows=1, window_s=0.2, warmup_s=0.0)
    async with standing_in(server):
        for _ in range(5):
            await asyncio.wait_for(measure(server.url, work), 15)
        await server.until(lambda s: s.open_streams == 0)
        seen = len(server.bodies)
        await asyncio.sleep(0.05)
        assert len(server.bodies) == seen


async def test_nobody_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(MeasureError, match="no server at"):
            await measure(f"http://127.0.0.1:{held.getsockname()[1]}", SMALL)


async def test_a_server_that_fails_everything_is_still_measured() -> None:
    async with standing_in(StandIn(mode="fail")) as server:
        found = await measure(server.url, SMALL)
    assert found.totals["throughput.output"] == 0
    assert found.totals["requests.failed"] > 0
    assert "ttft.p50" not in found.totals


async def test_a_server_that_goes_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wizard.measure.client.GONE_S", 0.5)
    async with standing_in(StandIn()) as server:
        task = asyncio.ensure_future(measure(server.url, replace(SMALL, windows=100)))
        await server.until(lambda s: len(s.bodies) >= 8)
        server.mode = "garbage"  # answers no more, then does not listen at all
    with pytest.raises(MeasureError, match="is gone"):
        await asyncio.wait_for(task, 20)


async def test_stop_keeps_the_whole_windows() -> None:
    async with standing_in(StandIn()) as server:
        stop = asyncio.Event()

        def watch(line: str) -> None:
            if line.startswith("window 2 of 50"):
                stop.set()

        found = await asyncio.wait_for(
            measure(server.url, replace(SMALL, windows=50), progress=watch, stop=stop), 20
        )
    assert 1 <= len(found.windows) <= 2
    assert found.note.startswith("stopped after")


async def test_queue_and_pool_come_from_the_metrics_page() -> None:
    page = (
        'sglang:num_queue_reqs{tp_rank="0"} 31\nsglang:num_queue_reqs{tp_rank="1"} 31\nsglang:token_usage 0.5\n'
    )
    async with standing_in(StandIn(metrics=page)) as server:
        found = await measure(server.url, SMALL)
    assert found.windows[0].values["requests.queued"] == 31
    assert found.totals["kv.usage"] == 0.5


@pytest.mark.parametrize(
    "change",
    [{"concurrency": 0}, {"concurrency": 10**6}, {"window_s": -1}, {"windows": 0}, {"output_tokens": 0}],
)
async def test_workloads_out_of_bounds(change: dict[str, int]) -> None:
    with pytest.raises(MeasureError, match="must lie between"):
        await measure("http://127.0.0.1:1", replace(SMALL, **change))


@pytest.mark.parametrize("url", ["", "127.0.0.1:30000", "ftp://127.0.0.1", "http://", "http://h:99999"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(MeasureError):
        Address.parse(url)


def test_addresses() -> None:
    assert Address.parse("http://127.0.0.1:30000/") == Address("127.0.0.1", 30000)
    assert Address.parse("https://[::1]/v2/") == Address("::1", 443, True, "/v2")
    assert str(Address.parse("http://[::1]:8")) == "[::1]:8"
