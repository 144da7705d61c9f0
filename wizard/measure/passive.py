"""The live traffic, watched through ``/metrics`` at the borders of windows. Nothing is sent but scrapes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from wizard.core.exposition import Exposition, quantile
from wizard.core.measurement import Measurement, Window
from wizard.measure.scrape import HISTOGRAMS, ScrapeError, histogram, scrape, state_values, traffic_values
from wizard.measure.wire import Address, MeasureError

Progress = Callable[[str], None]
MOST_WINDOWS = 1000
MOST_WINDOW_S = 600.0


async def observe(
    base_url: str,
    windows: int = 4,
    window_s: float = 5.0,
    *,
    api_key: str | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> Measurement:
    """What the server counted of its own traffic in consecutive windows; ``workload`` is None.

    Each window stands on its own two scrapes, so a restart between two observations does no harm. A window
    whose scrape failed has no values, and the failure is in ``errors``. Quantiles are as fine as the buckets.

    Raises MeasureError when the first scrape fails: not reachable, or started without --enable-metrics.
    """
    if not 1 <= windows <= MOST_WINDOWS or not 0.05 <= window_s <= MOST_WINDOW_S:
        raise MeasureError(
            f"{windows} windows of {window_s:g} s: at most {MOST_WINDOWS} of {MOST_WINDOW_S:g} s"
        )
    address = Address.parse(base_url)
    loop = asyncio.get_running_loop()
    try:
        page: Exposition | None = await scrape(address, api_key)
    except ScrapeError as error:
        raise MeasureError(f"{address}: {error}") from error
    at = started = loop.time()
    pages = [page]
    found: list[Window] = []
    errors: Counter[str] = Counter()
    for number in range(windows):
        if progress is not None:
            progress(f"watching window {number + 1} of {windows}")
        if await _stopped(stop, started + (number + 1) * window_s - loop.time()):
            break
        before, began = page, at
        try:
            page = await scrape(address, api_key)
        except ScrapeError as error:
            page = None
            errors[str(error)] += 1
        at = loop.time()
        seconds = max(at - began, 1e-6)
        values: dict[str, float] = {}
        samples = 0
        if before is not None and page is not None:
            values, samples = traffic_values(before, page, seconds)
            values.update(state_values(before, page))
        pages.append(page)
        found.append(Window(seconds, samples, values))
    note = "" if len(found) == windows else f"stopped after {len(found)} of {windows} windows"
    if found and not any(window.values for window in found):
        raise MeasureError(f"{address}: {next(iter(errors), 'no metrics')}")
    return Measurement(None, tuple(found), _totals(found, pages), dict(errors), note)


def _totals(windows: Sequence[Window], pages: Sequence[Exposition | None]) -> Mapping[str, float]:
    """Rates weighted by time, sums of counts, largest of gauges, and quantiles over first and last scrape."""
    totals: dict[str, float] = {}
    for metric in sorted({name for window in windows for name in window.values}):
        having = [window for window in windows if metric in window.values]
        values = [window.values[metric] for window in having]
        if metric.startswith("throughput."):
            seconds = sum(window.seconds for window in having)
            totals[metric] = sum(w.values[metric] * w.seconds for w in having) / seconds
        elif metric in ("requests.failed", "requests.retracted"):
            totals[metric] = sum(values)
        elif metric in ("requests.queued", "kv.usage"):
            totals[metric] = max(values)
    known = [page for page in pages if page is not None]
    if len(known) > 1:
        for metric in HISTOGRAMS:
            now, then = histogram(known[-1], metric), histogram(known[0], metric)
            for label, q in (("p50", 0.5), ("p99", 0.99)):
                x = quantile(then or None, now, q) if now else None
                if x is not None:
                    totals[f"{metric}.{label}"] = x * 1000
    return totals


async def _stopped(stop: asyncio.Event | None, seconds: float) -> bool:
    if stop is None:
        await asyncio.sleep(max(0.0, seconds))
        return False
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), max(0.0, seconds))
    return stop.is_set()
