"""The load test: a closed loop of streaming requests, and what its clients saw, window by window.

Latencies are taken at the client: TTFT from sending to the first token, ITL from one arrival to the next
divided by the tokens that came with it (as SGLang's own histogram does), E2E to the end of the stream. Tokens
count in the window in which they arrive, whether or not their request ends in it, so a slow server still has a
rate. The server's queue, pool and retractions come from ``/metrics`` at the borders of the windows, where it
has one. What no request showed in a window is absent from it.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wizard.core.exposition import Exposition
from wizard.core.measurement import Measurement, Window, Workload
from wizard.measure.api import Api, what_it_said
from wizard.measure.api import choose as choose_api
from wizard.measure.scrape import ScrapeError, scrape, state_values
from wizard.measure.stream import Stream
from wizard.measure.wire import Address, ConnectError, Connection, MeasureError, WireError, base_headers
from wizard.measure.workload import RequestSpec, requests

MOST_CLIENTS = 1024
MOST_SECONDS = 3600.0
MOST_REQUESTS = 200_000
MOST_SAMPLES = 1_000_000
"""Inter-token samples kept of one window: 8 MB."""
ENOUGH_FOR_P99 = 20
BACK_OFF_S = 0.25
GONE_S = 5.0
"""Connections refused for this long with no token from anywhere: the server is gone."""
BUSY_SHARE = 0.85

Progress = Callable[[str], None]


@dataclass
class _Tally:
    """What arrived in one window."""

    tokens: int = 0
    finished: int = 0
    failed: int = 0
    ttft_s: list[float] = field(default_factory=list)
    e2e_s: list[float] = field(default_factory=list)
    itl_s: array[float] = field(default_factory=lambda: array("d"))


async def measure(
    base_url: str,
    workload: Workload,
    *,
    api_key: str | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    salt: str | None = None,
) -> Measurement:
    """Run ``workload`` against a server and say what its clients saw.

    ``progress`` gets a short line about once a second. ``stop`` ends it early: the windows that are whole by
    then are given. Lengths and their order come from the workload's seed; the token ids are fresh in each call
    unless ``salt`` fixes them, because a server that saw these prompts before answers them from its prefix
    cache (a second run of the same prompts on one server gave 10 % more tokens a second). At the end requests
    in flight are given up: their connections are closed, and SGLang then aborts them. A server without
    ``/generate`` is asked on ``/v1/completions``.

    Raises MeasureError when the server cannot be reached, refuses, or disappears meanwhile.
    """
    _check(workload)
    address = Address.parse(base_url)
    run = _Run(
        address,
        await choose_api(address, api_key),
        workload,
        api_key,
        os.urandom(8).hex() if salt is None else salt,
    )
    return await run.conduct(progress or (lambda line: None), stop or asyncio.Event())


class _Run:
    def __init__(self, address: Address, api: Api, workload: Workload, api_key: str | None, salt: str) -> None:
        self.address = address
        self.api = api
        self.workload = workload
        self.api_key = api_key
        self.specs = requests(workload, salt)
        self.headers = base_headers(api_key)
        self.tallies = [_Tally() for _ in range(workload.windows)]
        self.warm_up = _Tally()
        self.begins = math.inf  # loop time at which the first window begins
        self.errors: Counter[str] = Counter()
        self.refusals = 0  # answers 4xx, of all failures
        self.short_answers = 0
        self.sent = 0
        self.over = asyncio.Event()
        self.answering: set[int] = set()  # clients that have had a first token
        self.last_token = 0.0
        self.fatal: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    # -- the loop of each client

    async def client(self, number: int) -> None:
        try:
            ramp = min(1.0, self.workload.warmup_s / 2)
            await asyncio.sleep(ramp * number / self.workload.concurrency)
            await self._ask_on_and_on(number)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self.fatal.done():
                self.fatal.set_exception(error)

    async def _ask_on_and_on(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        refused_since: float | None = None
        try:
            while self.sent < MOST_REQUESTS and not self.over.is_set():
                self.sent += 1
                spec = next(self.specs)
                stream = _CountedStream(self, number, loop.time())
                try:
                    for again in (True, False):
                        if connection is None or not connection.reusable:
                            if connection is not None:
                                connection.close()
                            connection = await Connection.open(self.address, self.headers)
                            if self.over.is_set():
                                return
                        try:
                            await self._ask(connection, spec, stream)
                            break
                        except WireError as error:
                            # An idle connection that the server closed just then: ask once more on a new one.
                            if not (again and error.fresh and connection.exchanges > 1):
                                raise
                    refused_since = None
                    continue
                except ConnectError as error:
                    now = loop.time()
                    refused_since = refused_since or now
                    if now - max(refused_since, self.last_token) > GONE_S:
                        raise MeasureError(f"the server at {self.address} is gone: {error}") from error
                    self._failed(str(error))
                except (WireError, _AnswerError) as error:
                    self._failed(str(error))
                await asyncio.sleep(BACK_OFF_S)
        finally:
            if connection is not None:
                connection.close()

    async def _ask(self, connection: Connection, spec: RequestSpec, stream: _CountedStream) -> None:
        """Raises WireError or _AnswerError when the request fails."""
        # Each event of /generate repeats the whole text and all ids so far: the sum grows with the square.
        limit = 1_000_000 + spec.output_tokens * (4096 + 40 * spec.output_tokens)
        answer = await connection.exchange(
            "POST",
            self.api.path,
            self.api.body(spec),
            sink=stream.feed,
            limit=limit,
            timeout_s=self.workload.request_timeout_s,
        )
        if answer.status != 200:
            self.refusals += 400 <= answer.status < 500
            raise _AnswerError(what_it_said(answer))
        if stream.error is not None:
            raise _AnswerError(f"in the stream: {stream.error}")
        if not stream.finished:
            raise _AnswerError("stream ended without a finish reason")
        now = asyncio.get_running_loop().time()
        tally = self.tally(now)
        if tally is not None:
            tally.finished += 1
            tally.e2e_s.append(now - stream.sent_at)
            self.short_answers += stream.tokens < spec.output_tokens

    def _failed(self, why: str) -> None:
        if self.api_key:
            why = why.replace(self.api_key, "***")
        tally = self.tally(asyncio.get_running_loop().time())
        if tally is not None:
            tally.failed += 1
            self.errors[why if why in self.errors or len(self.errors) < 20 else "other"] += 1

    def tally(self, now: float) -> _Tally | None:
        """The tally of a moment; None after the last window."""
        if now < self.begins:
            return self.warm_up
        index = int((now - self.begins) / self.workload.window_s)
        return self.tallies[index] if index < len(self.tallies) else None

    # -- the clock

    async def conduct(self, tell: Progress, stop: asyncio.Event) -> Measurement:
        loop = asyncio.get_running_loop()
        work = self.workload
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        clients = [asyncio.ensure_future(self.client(number)) for number in range(work.concurrency)]
        pages: list[asyncio.Task[Exposition | None]] = []
        whole = 0
        cpu, started = time.process_time(), loop.time()
        try:
            tell("warm-up")
            await self._warm(stopped, started, tell)
            self._refuse_bad_requests()
            self.begins = loop.time()
            self.errors.clear()
            pages.append(asyncio.ensure_future(self._page()))
            while whole < work.windows and not stopped.done():
                if not await self._wait(stopped, self.begins + (whole + 1) * work.window_s, tell):
                    break
                whole += 1
                pages.append(asyncio.ensure_future(self._page()))
            busy = (time.process_time() - cpu) / max(loop.time() - started, 1e-9)
            await asyncio.gather(*pages)
        finally:
            self.over.set()
            for task in (stopped, *clients, *pages):
                task.cancel()
            await asyncio.gather(stopped, *clients, *pages, return_exceptions=True)
            if self.fatal.done():
                self.fatal.exception()  # seen
            else:
                self.fatal.cancel()
        return self._result(whole, [page.result() for page in pages], busy)

    async def _warm(self, stopped: asyncio.Future[Any], started: float, tell: Progress) -> None:
        """Until ``warmup_s`` is over and every client has had a token, at most three times as long.

        The first requests meet an empty queue: where a long one is normal, their TTFT is not.
        """
        work = self.workload
        if not await self._wait(stopped, started + work.warmup_s, None):
            return
        longest = started + 3 * work.warmup_s
        loop = asyncio.get_running_loop()
        while loop.time() < longest and len(self.answering) < work.concurrency and not self.errors:
            tell(f"warm-up: {len(self.answering)} of {work.concurrency} clients have an answer")
            if not await self._wait(stopped, min(longest, loop.time() + 0.5), None):
                return

    async def _wait(self, stopped: asyncio.Future[Any], until: float, tell: Progress | None) -> bool:
        """Wait until a moment; False when stopped before. Raises what made a client give up."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            await asyncio.wait(
                {stopped, self.fatal}, timeout=min(1.0, left), return_when=asyncio.FIRST_COMPLETED
            )
            if self.fatal.done():
                self.fatal.result()
            if stopped.done():
                return False
            if tell is not None:
                tell(self._where(loop.time()))
        return True

    def _where(self, now: float) -> str:
        elapsed = max(now - self.begins, 1e-9)
        index = min(int(elapsed / self.workload.window_s), len(self.tallies) - 1)
        rate = sum(tally.tokens for tally in self.tallies) / elapsed
        failed = sum(tally.failed for tally in self.tallies)
        tail = f", {failed} failed" if failed else ""
        return f"window {index + 1} of {len(self.tallies)}, {rate:,.0f} tok/s{tail}"

    def _refuse_bad_requests(self) -> None:
        if self.refusals and not self.answering and self.refusals == self.warm_up.failed:
            why = next(iter(self.errors), "refused")
            raise MeasureError(f"{self.address} refuses every request of the workload: {why}")

    async def _page(self) -> Exposition | None:
        with suppress(ScrapeError):
            return await scrape(self.address, self.api_key)
        return None

    # -- the result

    def _result(self, whole: int, pages: list[Exposition | None], busy: float) -> Measurement:
        seconds = self.workload.window_s
        windows = []
        for index in range(whole):
            tally = self.tallies[index]
            values = _values([tally], seconds)
            before, after = pages[index], pages[index + 1]
            if before is not None and after is not None:
                values.update(state_values(before, after))
            windows.append(Window(seconds, tally.finished, values))
        totals = _values(self.tallies[:whole], seconds * whole) if whole else {}
        for metric, fold in (("requests.queued", max), ("kv.usage", max), ("requests.retracted", sum)):
            seen = [window.values[metric] for window in windows if metric in window.values]
            if seen:
                totals[metric] = float(fold(seen))
        notes = []
        if whole < self.workload.windows:
            notes.append(f"stopped after {whole} of {self.workload.windows} windows")
        if self.short_answers:
            notes.append(
                f"{self.short_answers} answers were shorter than asked for: the KV pool or context cut them"
            )
        if busy > BUSY_SHARE:
            notes.append(f"the load client used {busy:.0%} of a core: the server may be faster than this")
        return Measurement(self.workload, tuple(windows), totals, dict(self.errors), "; ".join(notes))


class _CountedStream(Stream):
    """A stream that books what arrives into the run's tallies."""

    __slots__ = ("_last", "_number", "_run", "sent_at")

    def __init__(self, run: _Run, number: int, sent_at: float) -> None:
        super().__init__()
        self._run = run
        self._number = number
        self.sent_at = sent_at
        self._last = 0.0

    def feed(self, data: bytes) -> None:
        before = self.tokens
        super().feed(data)
        new = self.tokens - before
        if new <= 0:
            return
        run = self._run
        now = asyncio.get_running_loop().time()
        run.last_token = now
        tally = run.tally(now)
        if tally is not None:
            tally.tokens += new
            if not before:
                tally.ttft_s.append(now - self.sent_at)
                run.answering.add(self._number)
            elif len(tally.itl_s) < MOST_SAMPLES:
                if new == 1:
                    tally.itl_s.append(now - self._last)
                else:
                    tally.itl_s.extend([(now - self._last) / new] * min(new, 1000))
        self._last = now


class _AnswerError(Exception):
    """The server answered, but not with tokens to the end."""


def _values(tallies: list[_Tally], seconds: float) -> dict[str, float]:
    values = {
        "throughput.output": sum(t.tokens for t in tallies) / seconds,
        "throughput.requests": sum(t.finished for t in tallies) / seconds,
        "requests.failed": float(sum(t.failed for t in tallies)),
    }
    for metric, lists in (
        ("ttft", [t.ttft_s for t in tallies]),
        ("itl", [t.itl_s for t in tallies]),
        ("e2e", [t.e2e_s for t in tallies]),
    ):
        ordered = sorted(x for part in lists for x in part)
        if ordered:
            values[f"{metric}.p50"] = 1000 * _quantile(ordered, 0.5)
        if len(ordered) >= ENOUGH_FOR_P99:
            values[f"{metric}.p99"] = 1000 * _quantile(ordered, 0.99)
    return values


def _quantile(ordered: list[float], q: float) -> float:
    """Linear between the two nearest of the sorted samples."""
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _check(work: Workload) -> None:
    limits = (
        ("concurrency", work.concurrency, 1, MOST_CLIENTS),
        ("input_tokens", work.input_tokens, 1, 1_000_000),
        ("output_tokens", work.output_tokens, 1, 100_000),
        ("windows", work.windows, 1, 1000),
        ("window_s", work.window_s, 0.05, 600.0),
        ("warmup_s", work.warmup_s, 0.0, 600.0),
        ("request_timeout_s", work.request_timeout_s, 0.05, 3600.0),
        ("seconds in all", work.seconds, 0.0, MOST_SECONDS),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise MeasureError(
                f"the workload's {name} is {value:g}: it must lie between {least:g} and {most:g}"
            )
