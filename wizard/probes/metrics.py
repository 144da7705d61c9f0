"""What the server counts: rates and quantiles of a window between two scrapes, never lifetime averages.

Names and their spans: SGLang's collectors, 0.4.0 to 0.5.23, checked against recorded pages. Dead or
misleading gauges (utilization, is_cuda_graph, fwd_occupancy, cache_hit_rate of the last batch) are
left alone. Without --enable-metrics the same state comes from /v1/loads (0.5.8+).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from wizard.core.exposition import Exposition, ExpositionError, increase, observations, parse, quantile
from wizard.core.reading import Outcome, ProbeResult, Scalar, Trust, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, Unavailable, in_thread
from wizard.probes.web import WebError, get

SCRAPE_S = 5.0
STEP_S = 0.5
"""Gauges are looked at this often within the window: they are refreshed at each prefill and each
40th decode step only, so one look can miss a queue."""
ENABLE = "start the server with --enable-metrics to get rates and latencies"

GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "requests.running": (("sglang:num_running_reqs",), "total"),
    "requests.queued": (("sglang:num_queue_reqs",), "total"),
    "kv.usage": (("sglang:full_token_usage", "sglang:token_usage"), "max"),
    "kv.used_tokens": (("sglang:num_used_tokens", "sglang:kv_used_tokens"), "total"),
    "kv.capacity_tokens": (("sglang:max_total_num_tokens",), "total"),
    "kv.pool_gb": (("sglang:kv_cache_memory_usage_gb",), "max"),
    "weights.memory_gb": (("sglang:weight_memory_usage_gb",), "max"),
    "server.available_memory_gb": (("sglang:startup_available_gpu_memory_gb",), "max"),
}
"""Reading, metric names (newest first), and how to fold series of several ranks."""

COUNTERS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "output": (("sglang:realtime_tokens_total", {"mode": "decode"}), ("sglang:generation_tokens_total", {})),
    "input": (
        ("sglang:realtime_tokens_total", {"mode": "prefill_compute"}),
        ("sglang:prompt_tokens_total", {}),
    ),
    "finished": (("sglang:num_requests_total", {}),),
    "aborted": (("sglang:num_aborted_requests_total", {}),),
    "retracted": (
        ("sglang:num_retracted_requests_total", {}),
        ("sglang:total_retracted_reqs", {}),
        ("sglang:num_retractions_sum", {}),
    ),
    "prompt": (("sglang:prompt_tokens_total", {}),),
    "generated": (("sglang:generation_tokens_total", {}),),
    "cached": (("sglang:cached_tokens_total", {}),),
    "graph": (("sglang:cuda_graph_passes_total", {"mode": "decode_cuda_graph"}),),
    "no_graph": (("sglang:cuda_graph_passes_total", {"mode": "decode_none"}),),
}

HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "ttft": ("sglang:time_to_first_token_seconds",),
    "itl": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    "e2e": ("sglang:e2e_request_latency_seconds",),
    "queue": ("sglang:queue_time_seconds", "sglang:queue_time_s"),
}
QUANTILES = (
    ("ttft.p50", "ttft", 0.5),
    ("ttft.p99", "ttft", 0.99),
    ("itl.p50", "itl", 0.5),
    ("itl.p99", "itl", 0.99),
    ("e2e.p50", "e2e", 0.5),
    ("queue.p50", "queue", 0.5),
)


@dataclass(frozen=True)
class Scrape:
    page: Exposition
    at: float


class MetricsProbe:
    """Readings of the window. Its time-out is added to the window by the engine."""

    spec = ProbeSpec("metrics", "Metrics", timeout_s=2 * SCRAPE_S + 2, cost="GET /metrics a few times")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        target = ctx.target
        if target.metrics_path is not None:
            return await in_thread(_saved, target.metrics_path)
        if target.port == 0:
            raise NoData("the target is a saved log: there is no /metrics to read")
        try:
            first = await _scrape(target)
        except _Disabled as error:
            return await _from_loads(target, ctx.window_s, str(error))
        scrapes = [first]
        deadline = first.at + ctx.window_s
        while True:
            left = deadline - time.monotonic()
            await asyncio.sleep(max(0.05, min(STEP_S, left)))
            scrapes.append(await _scrape(target))
            if time.monotonic() >= deadline:
                break
        return _windowed(scrapes)


class _Disabled(Exception):
    """The server has no /metrics."""


async def _scrape(target: Target) -> Scrape:
    try:
        page = await get(target, "/metrics", SCRAPE_S)
    except WebError as error:
        if error.kind == "refused":
            raise NoData(str(error)) from None
        raise Unavailable(str(error)) from None
    if page.status == 404:
        raise _Disabled("/metrics answered 404: metrics are off")
    if page.status in (401, 403):
        raise Unavailable(f"/metrics answered {page.status}", "it wants the server's API key")
    if page.status != 200:
        raise Unavailable(f"/metrics answered {page.status}", "check that this is the server's own address")
    if page.is_html:
        raise Unavailable("/metrics is a web page, not metrics", "check that this is the server's own address")
    try:
        parsed = parse(page.body, cut=page.cut)
    except ExpositionError as error:
        raise Unavailable(f"/metrics: {error}", "check that this is the server's own address") from None
    if not any(name.startswith("sglang:") for name in parsed.names()):
        raise Unavailable("/metrics has no sglang: series", "check that this is the server's own address")
    return Scrape(parsed, time.monotonic())


def _gauge(page: Exposition, reading: str) -> float | None:
    names, fold = GAUGES[reading]
    for name in names:
        x = page.total(name) if fold == "total" else page.max(name)
        if x is not None:
            return x
    return None


def _counter(page: Exposition, key: str) -> tuple[str, float] | None:
    for name, labels in COUNTERS[key]:
        x = page.sum(name, **labels)
        if x is not None:
            return name, x
    return None


def _grown(first: Exposition, last: Exposition, key: str) -> float | None:
    """Growth of a counter; one that appeared within the window grew from 0."""
    now = _counter(last, key)
    if now is None:
        return None
    labels = dict(next(lbl for name, lbl in COUNTERS[key] if name == now[0]))
    return increase(first.sum(now[0], **labels) or 0.0, now[1])


def _histogram(page: Exposition, key: str) -> dict[float, float]:
    return next((h for h in (page.histogram(name) for name in HISTOGRAMS[key]) if h), {})


def _windowed(scrapes: list[Scrape]) -> ProbeResult:
    first, last = scrapes[0].page, scrapes[-1].page
    seconds = max(1e-6, scrapes[-1].at - scrapes[0].at)
    values: dict[str, Value] = {}

    def put(name: str, x: Scalar | None, source: str = "/metrics", trust: Trust = Trust.MEASURED) -> None:
        if x is not None:
            values[name] = Value(x, trust, source)

    for reading in GAUGES:
        seen = [x for x in (_gauge(s.page, reading) for s in scrapes) if x is not None]
        if not seen:
            continue
        x = max(seen)
        whole = reading.startswith("requests.") or reading.endswith("_tokens")
        put(reading, int(x) if whole else round(x, 4))
        if reading in ("requests.running", "requests.queued", "kv.usage"):
            put(f"{reading}_mean", round(sum(seen) / len(seen), 4))
    put("graph.memory_gb", _graph_memory(last))
    put("metrics.window_s", round(seconds, 2))
    put("server.metrics_enabled", True)
    _rates(first, last, seconds, put)
    for name, key, q in QUANTILES:
        seconds_q = quantile(_histogram(first, key) or None, _histogram(last, key), q)
        put(name, None if seconds_q is None else round(1000 * seconds_q, 2), "/metrics, window buckets")
    put("metrics.frozen", _frozen(scrapes))
    cut = last.truncated or last.skipped > 0
    reason = f"{last.skipped} lines of the page could not be read" if last.skipped else None
    if last.truncated:
        reason = "the page was cut: what was read is used"
    return ProbeResult("metrics", Outcome.OK, values, reason if cut else None)


def _rates(first: Exposition, last: Exposition, seconds: float, put: object) -> None:
    assert callable(put)
    output, fed = _grown(first, last, "output"), _grown(first, last, "input")
    put("throughput.output", None if output is None else round(output / seconds, 1))
    put("throughput.input", None if fed is None else round(fed / seconds, 1))
    finished = _grown(first, last, "finished")
    put("requests.finished", None if finished is None else int(finished))
    for reading, key in (("requests.aborted", "aborted"), ("requests.retracted", "retracted")):
        grown = _grown(first, last, key)
        put(reading, int(grown) if grown is not None else 0, "/metrics (no such series yet: none)")
    total = _counter(last, "retracted")
    put("requests.retracted_total", int(total[1]) if total else 0)
    prompt, cached = _grown(first, last, "prompt"), _grown(first, last, "cached")
    if prompt and cached is not None:
        put("cache.hit_ratio", round(min(1.0, cached / prompt), 4))
    _lengths(first, last, put)
    graph, eager = _grown(first, last, "graph"), _grown(first, last, "no_graph")
    passes = (graph or 0.0) + (eager or 0.0)
    if passes > 0:
        put("decode.cuda_graph_share", round((graph or 0.0) / passes, 3))


def _lengths(first: Exposition, last: Exposition, put: object) -> None:
    """Mean prompt and output of the requests that ended in the window, else of the server's life."""
    assert callable(put)
    for start, source, trust in (
        (first, "/metrics, requests that ended in the window", Trust.MEASURED),
        (Exposition(), "/metrics, since the server started", Trust.ESTIMATED),
    ):
        finished = _grown(start, last, "finished")
        prompt, generated = _grown(start, last, "prompt"), _grown(start, last, "generated")
        if not finished or prompt is None or generated is None:
            continue
        put("requests.prompt_tokens_mean", round(prompt / finished, 1), source, trust)
        put("requests.output_tokens_mean", round(generated / finished, 1), source, trust)
        put("requests.tokens_mean", round((prompt + generated) / finished, 1), source, trust)
        return


def _graph_memory(page: Exposition) -> float | None:
    x = page.sum("sglang:graph_memory_usage_gb")
    return None if x is None else round(x, 3)


def _frozen(scrapes: list[Scrape]) -> bool | None:
    """Requests run, yet neither tokens nor buckets moved over at least a second: the numbers stand still."""
    first, last = scrapes[0].page, scrapes[-1].page
    running = _gauge(last, "requests.running")
    if running is None or scrapes[-1].at - scrapes[0].at < 1.0:
        return None
    if running == 0:
        return False
    moved = (_grown(first, last, "output") or 0) + (_grown(first, last, "input") or 0)
    seen = observations(_histogram(first, "itl") or None, _histogram(last, "itl"))
    return moved == 0 and seen == 0


async def _from_loads(target: Target, window_s: float, why: str) -> ProbeResult:
    """State from /v1/loads (0.5.8+), which works without --enable-metrics."""
    seen: list[dict[str, float]] = []
    deadline = time.monotonic() + window_s
    while True:
        try:
            page = await get(target, "/v1/loads", SCRAPE_S)
            rows = page.document().get("loads") if page.status == 200 else None
        except WebError as error:
            raise Unavailable(f"{why}; /v1/loads: {error}", ENABLE) from None
        if not isinstance(rows, list) or not rows:
            raise Unavailable(f"{why}; /v1/loads answered {page.status} without loads", ENABLE)
        seen.append(_loads([r for r in rows if isinstance(r, dict)]))
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(STEP_S)
    values: dict[str, Value] = {"server.metrics_enabled": Value(False, Trust.MEASURED, "/metrics: 404")}
    for name in seen[-1]:
        numbers = [s[name] for s in seen if name in s]
        x = max(numbers)
        whole = name.startswith("requests.") or name.endswith("_tokens")
        values[name] = Value(int(x) if whole else x, Trust.REPORTED, "/v1/loads")
        if name in ("requests.running", "requests.queued", "kv.usage"):
            values[f"{name}_mean"] = Value(round(sum(numbers) / len(numbers), 4), Trust.REPORTED, "/v1/loads")
    return ProbeResult("metrics", Outcome.OK, values, f"{why}; state from /v1/loads", ENABLE)


_LOADS = (
    ("requests.running", "num_running_reqs", sum),
    ("requests.queued", "num_waiting_reqs", sum),
    ("kv.used_tokens", "num_used_tokens", sum),
    ("kv.capacity_tokens", "max_total_num_tokens", sum),
    ("kv.usage", "token_usage", max),
)


def _loads(rows: list[dict[str, object]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for reading, key, fold in _LOADS:
        numbers = [float(r[key]) for r in rows if isinstance(r.get(key), (int, float))]  # type: ignore[arg-type]
        if numbers:
            found[reading] = fold(numbers)
    return found


def _saved(path: str) -> ProbeResult:
    """One saved page: gauges as they stood; means over the server's life are estimates."""
    from wizard.core.exposition import MOST_BYTES

    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise NoData(f"{path}: {error.strerror}") from None
    try:
        page = parse(data[:MOST_BYTES], cut=len(data) > MOST_BYTES)
    except ExpositionError as error:
        raise Unavailable(f"{path}: {error}") from None
    if not any(name.startswith("sglang:") for name in page.names()):
        raise Unavailable(f"{path} has no sglang: series: it is no /metrics page of SGLang")
    values: dict[str, Value] = {}

    def put(name: str, x: Scalar | None, source: str = path, trust: Trust = Trust.REPORTED) -> None:
        if x is not None:
            values[name] = Value(x, trust, path)

    for reading in GAUGES:
        found = _gauge(page, reading)
        if found is not None:
            whole = reading.startswith("requests.") or reading.endswith("_tokens")
            put(reading, int(found) if whole else round(found, 4))
    total = _counter(page, "retracted")
    put("requests.retracted_total", int(total[1]) if total else 0)
    _lengths(Exposition(), page, put)
    put("graph.memory_gb", _graph_memory(page))
    return ProbeResult("metrics", Outcome.OK, values, "one saved page: no rates, no latencies of a window")
