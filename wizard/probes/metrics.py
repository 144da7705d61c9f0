"""What the server counts: rates and quantiles of a window between two scrapes, never lifetime averages.

Without --enable-metrics the same state comes from /v1/loads (0.5.8+). A frozen scheduler leaves a page that
still answers 200 with numbers that stand still (recordings: scheduler stopped): that is looked for too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wizard.core.exposition import (
    MOST_BYTES,
    Exposition,
    ExpositionError,
    increase,
    observations,
    parse,
    quantile,
)
from wizard.core.reading import Outcome, ProbeResult, Trust, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, Unavailable, in_thread
from wizard.probes.fetch import FetchError, client_for, fetch
from wizard.probes.metric_names import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    LOADS,
    QUANTILES,
    ZERO_WHEN_ABSENT,
    Fold,
)
from wizard.probes.reach import why_not_ask, why_somebody_else

if TYPE_CHECKING:
    import httpx

SCRAPE_S = 5.0
STEP_S = 0.5
"""Gauges are looked at this often within the window: they are refreshed at each prefill and each
40th decode step only, so one look can miss a queue."""
FROZEN_AFTER_S = 1.5
"""So long may a busy server count nothing; recordings of an H200 never stood still for a whole second."""
FEWEST_FINISHED = 3
"""With fewer requests ended in the window, mean lengths are taken over the server's life."""
ENABLE = "start the server with --enable-metrics to get rates and latencies"
OWN_ADDRESS = "check that this is the address of the SGLang server itself, not of a proxy or router"

_MAX_AND_MEAN = ("requests.running", "requests.queued", "kv.usage")


@dataclass(frozen=True)
class Scrape:
    page: Exposition
    at: float


@dataclass
class _Readings:
    """Values being collected; None is never put."""

    source: str
    trust: Trust = Trust.MEASURED
    values: dict[str, Value] = field(default_factory=dict)

    def put(
        self, name: str, x: float | int | bool | None, source: str | None = None, trust: Trust | None = None
    ) -> None:
        if x is not None:
            self.values[name] = Value(x, trust or self.trust, source or self.source)


class MetricsProbe:
    """Readings of the window. Its time-out is added to the window by the engine."""

    spec = ProbeSpec("metrics", "Metrics", timeout_s=2 * SCRAPE_S + 2, cost="GET /metrics a few times")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        target = ctx.target
        if target.metrics_path is not None:
            return await in_thread(_saved, target.metrics_path)
        why = why_not_ask(target)
        why = why or await in_thread(why_somebody_else, target)
        if why is not None:
            raise NoData(why)
        try:
            async with client_for(target) as client:
                try:
                    scrapes = await _scrapes(client, ctx.window_s)
                except _MetricsOff as off:
                    return await _from_loads(client, target, ctx.window_s, str(off))
        except FetchError as error:
            raise _explained(error) from None
        return await in_thread(windowed, scrapes)


class _MetricsOff(Exception):
    """The server has no /metrics."""


def _explained(error: FetchError) -> NoData | Unavailable:
    if error.kind == "refused":
        return NoData(str(error), "SGLang opens its port only after the model is loaded: see the log")
    if error.kind == "unauthorized":
        return Unavailable(str(error), "give the server's own command (its --api-key is used, never shown)")
    if error.kind in ("redirect", "status", "garbled", "address"):
        return Unavailable(str(error), OWN_ADDRESS)
    return Unavailable(str(error))


async def _scrapes(client: httpx.AsyncClient, window_s: float) -> list[Scrape]:
    """At least two pages over the window. Once one was read, a later failure ends the window early."""
    scrapes = [await _scrape(client)]
    deadline = scrapes[0].at + window_s
    while len(scrapes) < 2 or time.monotonic() < deadline:
        await asyncio.sleep(max(0.05, min(STEP_S, deadline - time.monotonic())))
        try:
            scrapes.append(await _scrape(client))
        except (FetchError, Unavailable, _MetricsOff):
            break
    return scrapes


async def _scrape(client: httpx.AsyncClient) -> Scrape:
    at = time.monotonic()
    try:
        page = await fetch(client, "/metrics", seconds=SCRAPE_S, most_bytes=MOST_BYTES)
    except FetchError as error:
        if error.status == 404:
            raise _MetricsOff("/metrics answered 404: metrics are off") from None
        raise
    if page.is_html:
        raise Unavailable("/metrics is a web page, not a metrics page", OWN_ADDRESS)
    try:
        parsed = await in_thread(lambda: parse(page.body, cut=page.cut))
    except ExpositionError as error:
        raise Unavailable(f"/metrics: {error}", OWN_ADDRESS) from None
    if not any(name.startswith("sglang:") for name in parsed.names()):
        raise Unavailable("/metrics has no sglang: series", OWN_ADDRESS)
    return Scrape(parsed, at)


def fold(page: Exposition, name: str, how: Fold) -> float | None:
    """One number of all series of a name; None when there is none."""
    if how == "total":
        return page.total(name)
    if how == "max":
        return page.max(name)
    samples = [s for s in page.samples(name) if s.value == s.value]
    if not samples:
        return None
    if how == "min":
        return min(s.value for s in samples)
    phases: dict[str, float] = {}
    for sample in samples:
        phase = sample.labels.get("phase", "")
        phases[phase] = max(phases.get(phase, 0.0), sample.value)
    return sum(phases.values())


def gauge(page: Exposition, reading: str) -> float | None:
    names, how = GAUGES[reading]
    return next((x for x in (fold(page, name, how) for name in names) if x is not None), None)


def counted(page: Exposition, key: str) -> float | None:
    """A counter's value; 0 when it has not begun on a version that has it; None when it cannot be told."""
    for name, labels in COUNTERS[key]:
        x = page.total(name, **labels)
        if x is not None:
            return x
    return 0.0 if any(page.has(name) for name in ZERO_WHEN_ABSENT[key]) else None


def grown(first: Exposition, last: Exposition, key: str) -> float | None:
    """Growth of a counter over the window; one that appeared within it grew from 0."""
    for name, labels in COUNTERS[key]:
        x = last.total(name, **labels)
        if x is not None:
            return increase(first.total(name, **labels) or 0.0, x)
    return 0.0 if counted(last, key) == 0.0 else None


def histogram(page: Exposition, key: str) -> dict[float, float]:
    return next((h for h in (page.histogram(name) for name in HISTOGRAMS[key]) if h), {})


def windowed(scrapes: Sequence[Scrape]) -> ProbeResult:
    """The readings of some pages of one server; of a single page, its state without rates."""
    first, last = scrapes[0].page, scrapes[-1].page
    seconds = scrapes[-1].at - scrapes[0].at
    out = _Readings("/metrics")
    out.put("server.metrics_enabled", True)
    for reading in GAUGES:
        seen = [x for x in (gauge(s.page, reading) for s in scrapes) if x is not None]
        if seen:
            x = max(seen) if reading in _MAX_AND_MEAN else seen[-1]
            out.put(reading, _rounded(reading, x))
            if reading in _MAX_AND_MEAN:
                out.put(f"{reading}_mean", round(sum(seen) / len(seen), 4))
    total = counted(last, "retracted")
    out.put("requests.retracted_total", None if total is None else int(total))
    reason = None
    if len(scrapes) > 1 and seconds > 0:
        out.put("metrics.window_s", round(seconds, 2))
        _rates(first, last, seconds, out)
        _latencies(first, last, out)
        out.put("metrics.frozen", frozen(scrapes))
    else:
        reason = "only one page could be read: no rates, no latencies"
    _lengths(first, last, out)
    if last.truncated:
        reason = "the page was cut: what was whole is used"
    elif last.skipped:
        reason = f"{last.skipped} lines of the page could not be read"
    return ProbeResult("metrics", Outcome.OK, out.values, reason)


def _rounded(reading: str, x: float) -> float | int:
    return int(x) if reading.startswith("requests.") or reading.endswith("_tokens") else round(x, 4)


def _rates(first: Exposition, last: Exposition, seconds: float, out: _Readings) -> None:
    def rate(growth: float | None) -> float | None:
        return None if growth is None else round(growth / seconds, 1)

    def whole(growth: float | None) -> int | None:
        return None if growth is None else int(growth)

    output, computed = grown(first, last, "output"), grown(first, last, "computed")
    if output is not None:
        out.put("throughput.output", rate(output), "/metrics, realtime_tokens_total")
    else:
        seen = observations(histogram(first, "itl") or None, histogram(last, "itl"))
        generated = grown(first, last, "generated")
        if seen:
            seen += observations(histogram(first, "ttft") or None, histogram(last, "ttft"))
            out.put("throughput.output", rate(seen), "/metrics, latencies observed", Trust.ESTIMATED)
        else:
            out.put("throughput.output", rate(generated), "/metrics, requests that ended", Trust.ESTIMATED)
    if computed is not None:
        reused = grown(first, last, "reused") or 0.0
        out.put("throughput.input", rate(computed + reused), "/metrics, realtime_tokens_total")
        if computed + reused > 0:
            out.put("cache.hit_ratio", round(reused / (computed + reused), 4), "/metrics, token counters")
    else:
        prompt, cached = grown(first, last, "prompt"), grown(first, last, "cached")
        out.put("throughput.input", rate(prompt), "/metrics, requests that ended", Trust.ESTIMATED)
        if prompt and cached is not None:
            out.put("cache.hit_ratio", round(min(1.0, cached / prompt), 4), "/metrics, requests that ended")
    for key in ("finished", "aborted", "retracted"):
        out.put(f"requests.{key}", whole(grown(first, last, key)))
    graph, eager = grown(first, last, "graph"), grown(first, last, "eager")
    if graph is not None and eager is not None and graph + eager > 0:
        out.put("decode.cuda_graph_share", round(graph / (graph + eager), 3))


def _latencies(first: Exposition, last: Exposition, out: _Readings) -> None:
    """Quantiles in ms. Within the first bucket (TTFT under 100 ms) the value is only interpolated."""
    for name, key, q in QUANTILES:
        buckets = histogram(last, key)
        x = quantile(histogram(first, key) or None, buckets, q)
        if x is not None:
            trust = Trust.ESTIMATED if x <= min(buckets) else Trust.MEASURED
            out.put(name, round(1000 * x, 2), "/metrics, buckets of the window", trust)


def _lengths(first: Exposition, last: Exposition, out: _Readings) -> None:
    """Mean prompt and output of the requests that ended in the window, else of the server's life."""
    for start, fewest, source, trust in (
        (first, FEWEST_FINISHED, "/metrics, requests that ended in the window", Trust.MEASURED),
        (Exposition(), 1, "/metrics, since the server started", Trust.ESTIMATED),
    ):
        finished = grown(start, last, "finished")
        prompt, generated = grown(start, last, "prompt"), grown(start, last, "generated")
        if finished is None or finished < fewest or prompt is None or generated is None:
            continue
        out.put("requests.prompt_tokens_mean", round(prompt / finished, 1), source, trust)
        out.put("requests.output_tokens_mean", round(generated / finished, 1), source, trust)
        out.put("requests.tokens_mean", round((prompt + generated) / finished, 1), source, trust)
        return


def frozen(scrapes: Sequence[Scrape]) -> bool | None:
    """Requests run or wait, yet no token and no bucket was counted. None = the window is too short to say.

    Not a proof: for up to 30 s after a load its last gauges may stand (SGLang refreshes them when idle every
    30 s). A frozen scheduler also fails /health after 20 s.
    """
    first, last = scrapes[0].page, scrapes[-1].page
    running, queued = gauge(last, "requests.running"), gauge(last, "requests.queued")
    if running is None or scrapes[-1].at - scrapes[0].at < FROZEN_AFTER_S:
        return None
    if running + (queued or 0.0) == 0:
        return False
    counts = [grown(first, last, key) for key in ("output", "computed", "reused", "finished", "graph", "eager")]
    seen = observations(histogram(first, "itl") or None, histogram(last, "itl"))
    return not any(counts) and seen == 0


async def _from_loads(client: httpx.AsyncClient, target: Target, window_s: float, why: str) -> ProbeResult:
    """State from /v1/loads (0.5.8+), which works without --enable-metrics."""
    seen: list[dict[str, float]] = []
    deadline = time.monotonic() + window_s
    while True:
        try:
            page = await fetch(client, "/v1/loads", seconds=SCRAPE_S, most_bytes=1 << 20)
        except FetchError as error:
            if seen:
                break
            if error.status == 404 and not await _answers_as_sglang(client):
                raise Unavailable(
                    f"{target.base_url} has neither /metrics nor /v1/loads", OWN_ADDRESS
                ) from None
            raise Unavailable(f"{why}; {error}", ENABLE) from None
        document = page.json()
        rows = document.get("loads") if isinstance(document, dict) else None
        if not isinstance(rows, list) or not rows:
            raise Unavailable(f"{why}; /v1/loads holds no loads", ENABLE)
        seen.append(loads([r for r in rows if isinstance(r, dict)]))
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(STEP_S)
    out = _Readings("/v1/loads", Trust.REPORTED)
    out.put("server.metrics_enabled", False, "/metrics: 404", Trust.MEASURED)
    for name in dict.fromkeys(name for found in seen for name in found):
        numbers = [s[name] for s in seen if name in s]
        out.put(name, _rounded(name, max(numbers) if name in _MAX_AND_MEAN else numbers[-1]))
        if name in _MAX_AND_MEAN:
            out.put(f"{name}_mean", round(sum(numbers) / len(numbers), 4))
    return ProbeResult("metrics", Outcome.OK, out.values, f"{why}; state from /v1/loads", ENABLE)


async def _answers_as_sglang(client: httpx.AsyncClient) -> bool:
    for path in ("/model_info", "/get_model_info"):
        try:
            document = (await fetch(client, path, seconds=SCRAPE_S, most_bytes=1 << 20)).json()
        except FetchError:
            continue
        if isinstance(document, dict) and "model_path" in document:
            return True
    return False


def loads(rows: Sequence[dict[str, object]]) -> dict[str, float]:
    """Rows of /v1/loads as readings; fields that are no numbers are left out."""
    found: dict[str, float] = {}
    for reading, key, how in LOADS:
        numbers = [r[key] for r in rows] if all(key in r for r in rows) else []
        known = [float(n) for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
        if known:
            found[reading] = sum(known) if how == "sum" else max(known)
    return found


def _saved(path: str) -> ProbeResult:
    """One saved page: gauges as they stood; means over the server's life are estimates."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read: {error.strerror}", "check the path given with --metrics"
        ) from None
    try:
        page = parse(data[:MOST_BYTES], cut=len(data) > MOST_BYTES or not data.endswith(b"\n"))
    except ExpositionError as error:
        raise Unavailable(f"{path}: {error}") from None
    if not any(name.startswith("sglang:") for name in page.names()):
        raise Unavailable(f"{path} has no sglang: series: it is no /metrics page of SGLang")
    result = windowed([Scrape(page, 0.0)])
    values = {
        name: Value(v.x, Trust.ESTIMATED if v.trust is Trust.ESTIMATED else Trust.REPORTED, path)
        for name, v in result.values.items()
    }
    why = "one saved page: no rates and no latencies of a window"
    return ProbeResult("metrics", Outcome.OK, values, f"{why}; it is cut" if page.truncated else why)
