"""Requests at the parent: the scheduler's steps become events for clients, answers, and metrics."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

from wizard.simulator.metrics import Metrics, show_stats
from wizard.simulator.requests import Flight
from wizard.simulator.web import Connection, HttpRequest


class Traffic:
    """All requests in flight, and the metrics that they move. `tell` sends to the scheduler."""

    def __init__(self, model_name: str, tell: Callable[[tuple[Any, ...]], None]) -> None:
        self.tell = tell
        self.scheduler_pid = 0
        self.metrics = Metrics(model_name)
        self.stats: dict[str, Any] = {}
        self.stats_at = time.time()
        self.flights: dict[str, Flight] = {}
        self.decoding: dict[str, Flight] = {}
        self.active: dict[tuple[str, str], int] = {}

    def launch(self, flight: Flight, keys: list[int], stop_after: int | None) -> None:
        """Hand a request to the scheduler."""
        self.flights[flight.rid] = flight
        flight.start()
        self.tell(("r", flight.rid, flight.prompt_tokens, keys, flight.max_new, stop_after))

    def abort(self, rid: str, status: int, text: str) -> None:
        """The scheduler refused a request."""
        flight = self.flights.pop(rid, None)
        if flight:
            self.metrics.add("num_aborted_requests_total", 1, **self.metrics.model)
            flight.finish = {"type": "abort", "message": text, "status_code": status, "err_type": None}
            self._answer(flight)

    def step(self, message: tuple[Any, ...], flush: bool) -> None:
        """Book one step; events go out only with the last one of several (`flush`)."""
        _, kind, tokens, cached, first, decoded, ended, retracted, graphed, report = message
        now, metrics, rank = time.monotonic(), self.metrics, self.metrics.rank
        mode = f"{kind}_{'cuda_graph' if graphed else 'none'}"
        metrics.add("cuda_graph_passes_total", 1, mode=mode, **rank)
        if kind == "prefill":
            metrics.add("realtime_tokens_total", tokens, mode="prefill_compute", **rank)
            metrics.add("prefill_effective_tokens_total", tokens, mode="input", **rank)
            metrics.add("prefill_effective_tokens_total", cached, mode="device_hit", **rank)
            if cached:
                metrics.add("realtime_tokens_total", cached, mode="prefill_cache", **rank)
        if decoded or first:
            metrics.add("realtime_tokens_total", decoded + len(first), mode="decode", **rank)
        for rid in retracted:
            flight = self.decoding.pop(rid, None)
            if flight:
                flight.retractions += 1
        finished = dict(ended)
        if decoded:
            between = metrics.histogram("inter_token_latency_seconds", **metrics.model)
            for flight in self.decoding.values():
                flight.out += 1
                between.observe(now - flight.last)
                flight.last = now
                if flush and flight.stream and flight.rid not in finished:
                    self._push(flight)
        for rid, hit, queue_s, step_s in first:
            flight = self.flights.get(rid)
            if flight is None:
                continue
            self.decoding[rid] = flight
            flight.out += 1
            flight.last = now
            if not flight.first:
                self._first_token(flight, hit, queue_s, step_s, now)
            if flight.stream and rid not in finished:
                self._push(flight)
        for rid, reason in ended:
            self.decoding.pop(rid, None)
            flight = self.flights.pop(rid, None)
            if flight:
                flight.finish = (
                    {"type": reason, "matched": 128009}
                    if reason == "stop"
                    else {"type": reason, "length": flight.out}
                )
                self._answer(flight)
                self._count_end(flight, now)
        if report is not None:
            self.take_stats(report)

    def _push(self, flight: Flight) -> None:
        """An event for what is new; a client that is behind gets more tokens in its next one."""
        due = flight.out - flight.sent >= flight.interval or not flight.sent
        if due and not flight.connection.behind:
            flight.connection.send_event(flight.event())

    def _first_token(self, flight: Flight, hit: int, queue_s: float, step_s: float, now: float) -> None:
        metrics = self.metrics
        flight.first, flight.cached, flight.queue_s = now, hit, queue_s
        streaming = {"is_streaming": str(flight.stream).lower(), **metrics.model}
        metrics.histogram("time_to_first_token_seconds", **streaming).observe(now - flight.began)
        metrics.histogram("queue_time_seconds", **metrics.rank).observe(queue_s)
        stages = (("request_process", 5e-5), ("prefill_waiting", queue_s), ("prefill_forward", step_s))
        for stage, seconds in stages:
            metrics.histogram("per_stage_req_latency_seconds", stage=stage, **metrics.rank).observe(seconds)

    def _answer(self, flight: Flight) -> None:
        connection, finish = flight.connection, flight.finish
        assert finish is not None
        if flight.stream:
            connection.send_event(flight.ending())
            connection.end_stream()
        elif finish["type"] == "abort":
            status = finish["status_code"]
            body = {
                "object": "error",
                "message": finish["message"],
                "type": str(status),
                "param": None,
                "code": status,
            }
            connection.respond_json(status, body)
        else:
            connection.respond_json(200, flight.document())

    def _count_end(self, flight: Flight, now: float) -> None:
        """Token counters move when a request ends."""
        metrics = self.metrics
        streaming = {"is_streaming": str(flight.stream).lower(), **metrics.model}
        metrics.add("prompt_tokens_total", flight.prompt_tokens, **streaming)
        metrics.add("generation_tokens_total", flight.out, **streaming)
        metrics.add("num_requests_total", 1, **streaming)
        if flight.cached:
            metrics.add("cached_tokens_total", flight.cached, cache_source="device", **metrics.model)
        metrics.histogram("e2e_request_latency_seconds", **streaming).observe(now - flight.began)
        metrics.histogram("prompt_tokens_histogram", **metrics.model).observe(flight.prompt_tokens)
        uncached = flight.prompt_tokens - flight.cached
        metrics.histogram("uncached_prompt_tokens_histogram", **metrics.model).observe(uncached)
        metrics.histogram("generation_tokens_histogram", **metrics.model).observe(flight.out)

    def take_stats(self, stats: dict[str, Any]) -> None:
        """The scheduler reported."""
        self.stats, self.stats_at = stats, time.time()
        show_stats(self.metrics, stats, self.scheduler_pid)

    def left(self, connection: Connection) -> None:
        """A client closed its connection: its request is aborted."""
        if connection.on_done:
            connection.on_done(499)
            connection.on_done = None
        for flight in [each for each in self.flights.values() if each.connection is connection]:
            del self.flights[flight.rid]
            self.decoding.pop(flight.rid, None)
            self.metrics.add("num_aborted_requests_total", 1, **self.metrics.model)
            self.tell(("x", flight.rid))

    def count_http(self, connection: Connection, request: HttpRequest) -> None:
        """HTTP counters; the response is counted when it ends."""
        key = (request.path, request.method)
        self.active[key] = self.active.get(key, 0) + 1
        self.metrics.add("http_requests_total", 1, endpoint=key[0], method=key[1])

        def done(status: int) -> None:
            self.active[key] -= 1
            self.metrics.add("http_responses_total", 1, endpoint=key[0], method=key[1], status_code=str(status))

        connection.on_done = done

    def refresh_http_gauges(self) -> None:
        """Gauges that are computed when /metrics is read."""
        for (endpoint, method), count in self.active.items():
            self.metrics.set("http_requests_active", count, endpoint=endpoint, method=method)
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.metrics.set("process_cpu_seconds_total", used.ru_utime + used.ru_stime, component="tokenizer")
