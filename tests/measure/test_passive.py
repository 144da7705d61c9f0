"""Live traffic from two pages of a server: rates, quantiles, restarts, failed scrapes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.measure.stand_in import StandIn, standing_in
from wizard.core.exposition import parse
from wizard.measure.passive import observe
from wizard.measure.scrape import state_values, traffic_values
from wizard.measure.wire import MeasureError

RECORDINGS = Path(os.environ.get("SGL_WIZARD_RECORDINGS", "/nonexistent"))


def page(
    decode: float, finished: float = 0, *, fast: float = 0, slow: float = 0, queue: float = 0, extra: str = ""
) -> str:
    ttft = "sglang:time_to_first_token_seconds"
    return (
        f'sglang:realtime_tokens_total{{mode="decode"}} {decode}\n'
        'sglang:realtime_tokens_total{mode="prefill_compute"} 99999\n'
        f'sglang:num_requests_total{{is_streaming="true"}} {finished}\n'
        f'{ttft}_bucket{{le="0.1"}} {fast}\n{ttft}_bucket{{le="0.2"}} {fast + slow}\n'
        f'{ttft}_bucket{{le="+Inf"}} {fast + slow}\n'
        f"sglang:num_queue_reqs {queue}\nsglang:token_usage 0.25\n{extra}"
    )


def test_rates_and_quantiles_of_the_window() -> None:
    before, after = parse(page(1000, 10, fast=10, queue=31)), parse(page(3000, 14, fast=10, slow=4, queue=2))
    values, samples = traffic_values(before, after, 4.0)
    assert samples == 4
    assert values == {
        "throughput.output": 500,
        "throughput.requests": 1,
        "ttft.p50": pytest.approx(150),
        "ttft.p99": pytest.approx(199),
    }
    assert state_values(before, after) == {"requests.queued": 31, "kv.usage": 0.25}


def test_counters_that_are_born_late_started_at_0() -> None:
    extra = 'sglang:num_aborted_requests_total 3\nsglang:num_retracted_requests_total{tp_rank="0"} 2\n'
    before, after = parse(page(0)), parse(page(10, extra=extra))
    assert traffic_values(before, after, 1.0)[0]["requests.failed"] == 3
    assert state_values(before, after)["requests.retracted"] == 2
    assert "requests.failed" not in traffic_values(before, parse(page(10)), 1.0)[0]  # not reported: absent


def test_a_restart_in_between_does_not_go_below_0() -> None:
    values, samples = traffic_values(parse(page(9000, 90, fast=90)), parse(page(100, 2, slow=2)), 1.0)
    assert values["throughput.output"] == 100
    assert samples == 2
    assert values["ttft.p50"] == pytest.approx(150)


def test_old_versions_count_at_the_end_of_requests() -> None:
    before, after = parse("sglang:generation_tokens_total 100\n"), parse("sglang:generation_tokens_total 300\n")
    assert traffic_values(before, after, 2.0)[0] == {"throughput.output": 100}


async def test_observe_a_server() -> None:
    async with standing_in(StandIn(metrics=page(0, queue=3))) as server:
        growing = asyncio.ensure_future(_grow(server))
        lines: list[str] = []
        found = await observe(server.url, 3, 0.4, progress=lines.append)
        growing.cancel()
    assert found.workload is None
    assert [round(w.seconds, 1) for w in found.windows] == pytest.approx([0.4] * 3, abs=0.3)
    assert all(w.values["throughput.output"] > 0 and w.samples > 0 for w in found.windows)
    assert found.totals["ttft.p50"] == pytest.approx(50)
    assert found.totals["requests.queued"] == 3
    assert lines == [f"watching window {n} of 3" for n in (1, 2, 3)]


async def _grow(server: StandIn) -> None:
    for step in range(1, 10_000):
        server.metrics = page(10 * step, step, fast=step, queue=3)
        await asyncio.sleep(0.02)


async def test_a_failed_scrape_leaves_its_windows_empty() -> None:
    async with standing_in(StandIn(metrics=page(0))) as server:

        def breaks(line: str) -> None:
            server.metrics = page(5) if "2" not in line.split()[2] else None

        found = await observe(server.url, 4, 0.1, progress=breaks)
    assert [bool(w.values) for w in found.windows] == [True, False, False, True]
    assert list(found.errors) == ["/metrics answered 404: start the server with --enable-metrics"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, "--enable-metrics"),
        ("<html></html>", "web page"),
        ("node_load1 2\n", "no metric of SGLang"),
    ],
)
async def test_no_page_is_one_clear_line(metrics: str | None, said: str) -> None:
    async with standing_in(StandIn(metrics=metrics)) as server:
        with pytest.raises(MeasureError, match=said):
            await observe(server.url, 1, 0.1)


async def test_stop_ends_it() -> None:
    async with standing_in(StandIn(metrics=page(1))) as server:
        stop = asyncio.Event()
        stop.set()
        found = await asyncio.wait_for(observe(server.url, 100, 60.0, stop=stop), 10)
    assert found.windows == ()
    assert "stopped" in found.note


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="SGL_WIZARD_RECORDINGS names no folder of recorded pages")
@pytest.mark.parametrize("version", ["", "_0.5.10", "_0.5.16", "_0.5.23"])
def test_recorded_pages_of_four_versions(version: str) -> None:
    idle, load = (
        parse((RECORDINGS / "cpu" / f"metrics_{what}{version}.txt").read_text())
        for what in ("idle", "under_load")
    )
    values, _ = traffic_values(idle, load, 10.0)
    assert values["throughput.output"] > 0
    assert values["ttft.p50"] > 0
    state = state_values(idle, load)
    assert state["kv.usage"] > 0
    assert state["requests.queued"] == 0
