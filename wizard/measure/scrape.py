"""What the server itself counted between two pages of ``/metrics``.

Counter and histogram names over 0.4.0 to 0.5.23 are in order of preference, newest first.
"""

from __future__ import annotations

from wizard.core.exposition import Exposition, ExpositionError, increase, parse, quantile
from wizard.measure.wire import Address, WireError, fetch

PAGE_BYTES = 8 * 1024 * 1024
SCRAPE_S = 3.0

HISTOGRAMS = {
    "ttft": ("sglang:time_to_first_token_seconds",),
    "itl": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    "e2e": ("sglang:e2e_request_latency_seconds",),
}
_RETRACTED = ("sglang:num_retracted_requests_total", "sglang:total_retracted_reqs")


class ScrapeError(Exception):
    """There is no page. The message is one line; ``status`` is the HTTP status when there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


async def scrape(address: Address, api_key: str | None = None) -> Exposition:
    """The metrics page of a server. Raises ScrapeError."""
    try:
        answer = await fetch(address, "/metrics", api_key, limit=PAGE_BYTES, timeout_s=SCRAPE_S)
    except WireError as error:
        raise ScrapeError(f"/metrics: {error}") from error
    if answer.status == 404:
        raise ScrapeError("/metrics answered 404: start the server with --enable-metrics", 404)
    if answer.status != 200:
        raise ScrapeError(f"/metrics answered {answer.status}", answer.status)
    try:
        page = parse(answer.body)
    except ExpositionError as error:
        raise ScrapeError(f"/metrics: {error}", 200) from error
    if not any(name.startswith("sglang:") for name in page.names()):
        raise ScrapeError("/metrics holds no metric of SGLang: is this its address?", 200)
    return page


def state_values(before: Exposition, after: Exposition) -> dict[str, float]:
    """Queue and KV pool (the larger of both scrapes) and retractions in between; absent when not reported.

    The gauges are refreshed at each prefill, every 40th decode step and every 30 s when idle.
    """
    values: dict[str, float] = {}
    for metric, name in (("requests.queued", "sglang:num_queue_reqs"), ("kv.usage", "sglang:token_usage")):
        fold = Exposition.total if metric == "requests.queued" else Exposition.max
        seen = [x for x in (fold(before, name), fold(after, name)) if x is not None]
        if seen:
            values[metric] = max(seen)
    for name in _RETRACTED:
        retracted = grown(before, after, name)
        if retracted is not None:
            values["requests.retracted"] = retracted
            break
    return values


def traffic_values(before: Exposition, after: Exposition, seconds: float) -> tuple[dict[str, float], int]:
    """Rates, latency quantiles (ms) and finished requests of the traffic between two scrapes.

    ``realtime_tokens_total`` (0.5.8+) grows with each step; ``generation_tokens_total`` only when a request
    ends, so with it short windows are lumpy.
    """
    values: dict[str, float] = {}
    tokens = grown(before, after, "sglang:realtime_tokens_total", mode="decode")
    if tokens is None:
        tokens = grown(before, after, "sglang:generation_tokens_total")
    if tokens is not None:
        values["throughput.output"] = tokens / seconds
    finished = grown(before, after, "sglang:num_requests_total")
    if finished is not None:
        values["throughput.requests"] = finished / seconds
    failed = grown(before, after, "sglang:num_aborted_requests_total")
    if failed is not None:
        values["requests.failed"] = failed
    for metric in HISTOGRAMS:
        now = histogram(after, metric)
        then = histogram(before, metric) or None
        for label, q in (("p50", 0.5), ("p99", 0.99)):
            x = quantile(then, now, q) if now else None
            if x is not None:
                values[f"{metric}.{label}"] = x * 1000
    return values, int(finished or 0)


def histogram(page: Exposition, metric: str) -> dict[float, float]:
    """The buckets (s) of ``ttft``, ``itl`` or ``e2e``; empty when nothing was observed yet."""
    return next((found for name in HISTOGRAMS[metric] if (found := page.histogram(name))), {})


def grown(before: Exposition, after: Exposition, name: str, **labels: str) -> float | None:
    """Growth of a counter; one that appears in between started at 0 (labelled series are born late)."""
    now = after.total(name, **labels)
    if now is None:
        return None
    return increase(before.total(name, **labels) or 0.0, now)
