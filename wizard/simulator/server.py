"""The parent process: starts the scheduler, then binds the port, serves, and follows signals as SGLang 0.5.20
does.

Signals and exits: recordings/cpu/FINDINGS.md, "Signals" and "Start failures".
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import select
import shlex
import signal
import socket
import time
from collections.abc import Coroutine
from typing import Any

from wizard.simulator import failures, log
from wizard.simulator.api import Api
from wizard.simulator.argv import ServerArgs
from wizard.simulator.faults import Faults, StartClock
from wizard.simulator.gpu import CardModel, ModelSpec
from wizard.simulator.metrics import Metrics, show_engine, show_stats
from wizard.simulator.requests import Flight
from wizard.simulator.web import Connection, HttpRequest
from wizard.simulator.wire import Unpacker, pack
from wizard.simulator.worker import run as run_worker

WATCH_S = 5.0  # the shutdown watchdog's period and the wait before crash diagnostics


def die_hard() -> None:
    """kill_process_tree with the parent in it: SIGKILL to the own child, then to itself."""
    pid = os.getpid()
    log.say(f"kill_process_tree called: parent_pid={pid}, include_parent=True, pid={pid}")
    os.kill(pid, signal.SIGKILL)  # the scheduler dies with its parent


class Server:
    """One server from fork to exit; `run` returns the exit code."""

    version = "0.5.20"

    def __init__(self, args: ServerArgs, model: ModelSpec, card_model: CardModel, faults: Faults) -> None:
        self.args, self.model, self.card_model, self.faults = args, model, card_model, faults
        self.clock = StartClock()
        self.period_s = WATCH_S / self.clock.speed
        self.began = time.monotonic()
        self.engine: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}
        self.stats_at = time.time()
        self.status = "starting"
        self.draining = self.dead = self.bound = False
        self.heard = 0.0
        self.flights: dict[str, Flight] = {}
        self.decoding: dict[str, Flight] = {}
        self.metrics = Metrics(args.served_model_name)
        self.active: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ask_number = 0
        self._unpacker = Unpacker()
        self._interrupted = False

    # ---- start

    def run(self) -> int:
        """Start the scheduler, wait for it, serve."""
        parent_end, child_end = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            parent_end.close()
            run_worker(child_end, self.args, self.model, self.card_model, self.faults)
        child_end.close()
        self.scheduler_pid, self._channel = pid, parent_end
        signal.signal(signal.SIGQUIT, self._quit_while_starting)
        self._wait_for_scheduler()
        return asyncio.run(self._serve())

    def _quit_while_starting(self, *_: object) -> None:
        log.say("Received sigquit from a child process. It usually means the child failed.")
        die_hard()

    def _wait_for_scheduler(self) -> None:
        while not self.engine:
            select.select([self._channel], [], [])
            data = self._channel.recv(1 << 20)
            if not data:
                _, code = os.waitpid(self.scheduler_pid, 0)
                code = os.waitstatus_to_exitcode(code)
                log.raw(
                    failures.launch_traceback(
                        f"RuntimeError: Rank 0 scheduler died during initialization (exit code: {code}). If "
                        f"exit code "
                        "is -9 (SIGKILL), a common cause is the OS OOM killer. Run `dmesg -T | grep -i oom` "
                        "to check."
                    )
                )
                raise SystemExit(1)
            for message in self._unpacker.feed(data):
                if message[0] == "ready":
                    self.engine = message[1]
                else:
                    self._receive(message)
        seconds = self.engine["seconds"]
        self.tokenizer_s = (time.monotonic() - self.began) * self.clock.speed
        log.say(
            f"Engine startup timings (s): load_weight={seconds['load_weight']:.2f}, "
            f"kv_cache_allocation={seconds['kv_cache_allocation']:.2f}, "
            f"scheduler_e2e={seconds['scheduler_e2e']:.2f}, "
            f"cuda_graph={{prefill={seconds.get('prefill', 0):.2f}, decode={seconds.get('decode', 0):.2f}, "
            f"target_verify=0.00, draft_prefill=0.00, draft_decode=0.00, draft_extend=0.00}}, "
            f"tokenizer_e2e={self.tokenizer_s:.2f}"
        )
        show_engine(self.metrics, self.engine, self.args.page_size, self.tokenizer_s)

    async def _serve(self) -> int:
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int] = loop.create_future()
        self._channel.setblocking(False)
        transport, _ = await loop.create_unix_connection(lambda: _Channel(self), sock=self._channel)
        self._to_scheduler = transport
        for number, handler in (
            (signal.SIGTERM, self._terminate),
            (signal.SIGINT, self._interrupt),
            (signal.SIGQUIT, self._crash),
        ):
            loop.add_signal_handler(number, handler)
        pid = os.getpid()
        log.say(f"INFO:     Started server process [{pid}]")
        log.say("INFO:     Waiting for application startup.")
        sampling = {"temperature": 0.6, "top_p": 0.9}
        log.say(f"Using default chat sampling params from model generation config: {sampling}")
        log.say("INFO:     Application startup complete.")
        self.spawn(self._watch_shutdown())
        api, host, port = Api(self), self.args.host, self.args.port
        try:
            self._listener = await loop.create_server(
                lambda: Connection(api.handle, self._left), host, port, backlog=2048
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            log.say(
                f"ERROR:    [Errno {error.errno}] error while attempting to bind on address "
                f"('{host}', {port}): {reason}"
            )
            log.say("INFO:     Waiting for application shutdown.")
            if error.errno != errno.EADDRINUSE:
                return 1
        except OverflowError:  # port 99999: uvicorn says it runs, nobody can reach it
            log.say(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)")
            await asyncio.Event().wait()
        else:
            self.bound = True
            log.say(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)")
        self.spawn(self._warm_up())
        return await self._end

    async def _warm_up(self) -> None:
        """As SGLang does: over its own URL, so that another server on the port can answer in its place."""
        await asyncio.sleep(min(0.02 * self.clock.total_s, 0.5))
        host = "127.0.0.1" if self.args.host in ("0.0.0.0", "::", "") else self.args.host
        if not self.args.skip_server_warmup:
            for _ in range(120):
                status = await _fetch(host, self.args.port, "GET", "/model_info", b"", self.args.api_key)
                if status == 200:
                    break
                await asyncio.sleep(1.0 / self.clock.speed)
            else:
                log.say("Initialization failed. warmup error: the server did not answer GET /model_info")
                die_hard()
            prompt = {
                "text": "The capital city of France is",
                "sampling_params": {"temperature": 0, "max_new_tokens": 8},
            }
            await _fetch(
                host, self.args.port, "POST", "/generate", json.dumps(prompt).encode(), self.args.api_key
            )
        if not self.dead:
            self.status = "ready"
            log.say("The server is fired up and ready to roll!")
        if not self.bound:
            log.say("INFO:     Application shutdown complete.")
            self._finish(3)

    # ---- the scheduler

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send to the scheduler."""
        self._to_scheduler.write(pack(message))

    async def ask(self, kind: str) -> dict[str, Any]:
        """Send and wait for the answer, for ever if the scheduler is stopped."""
        self._ask_number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[self._ask_number] = future
        self.tell((kind, self._ask_number))
        return await future

    def launch(self, flight: Flight, keys: list[int], stop_after: int | None) -> None:
        """Hand a request to the scheduler."""
        self.flights[flight.rid] = flight
        flight.start()
        self.tell(("r", flight.rid, flight.prompt_tokens, keys, flight.max_new, stop_after))

    def receive(self, data: bytes) -> None:
        """Bytes from the scheduler; several steps at once when this process was slow."""
        self.heard = time.monotonic()
        messages = self._unpacker.feed(data)
        for number, message in enumerate(messages):
            self._receive(message, flush=number == len(messages) - 1)

    def _receive(self, message: tuple[Any, ...], flush: bool = True) -> None:
        kind = message[0]
        if kind == "s":
            self._step(message, flush)
        elif kind == "stats":
            self._take_stats(message[1])
        elif kind == "i":
            future = self._asked.pop(message[1], None)
            if future and not future.done():
                future.set_result(message[2])
        elif kind == "a":
            flight = self.flights.pop(message[1], None)
            if flight:
                self.metrics.add("num_aborted_requests_total", 1, **self.metrics.model)
                flight.finish = {
                    "type": "abort",
                    "message": message[3],
                    "status_code": message[2],
                    "err_type": None,
                }
                self._answer(flight)

    def _step(self, message: tuple[Any, ...], flush: bool) -> None:
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
            self._take_stats(report)

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

    def _take_stats(self, stats: dict[str, Any]) -> None:
        self.stats, self.stats_at = stats, time.time()
        show_stats(self.metrics, stats, self.scheduler_pid)

    def _left(self, connection: Connection) -> None:
        """A client closed its connection: its request is aborted."""
        if connection.on_done:
            connection.on_done(499)
            connection.on_done = None
        for flight in [each for each in self.flights.values() if each.connection is connection]:
            del self.flights[flight.rid]
            self.decoding.pop(flight.rid, None)
            self.metrics.add("num_aborted_requests_total", 1, **self.metrics.model)
            if not self.dead:
                self.tell(("x", flight.rid))

    # ---- what the API shows

    def describe(self, answer: dict[str, Any]) -> dict[str, Any]:
        """/server_info."""
        engine, seconds = self.engine, self.engine["seconds"]
        graphs = {
            phase: round(engine["graph_gb"].get(phase, 0.0), 3)
            for phase in ("prefill", "decode", "target_verify", "draft_prefill", "draft_decode", "draft_extend")
        }
        startup = {
            "load_weight": seconds["load_weight"],
            "kv_cache_allocation": seconds["kv_cache_allocation"],
            "scheduler_e2e": seconds["scheduler_e2e"],
            "cuda_graph": {phase: seconds.get(phase, 0.0) for phase in graphs},
        }
        internal = {
            **self.args.values,
            "world_size": self.args.tp_size,
            **answer,
            "memory_usage": {
                "weight": round(engine["weights_gb"], 3),
                "kvcache": round(engine["kv_gb"], 3),
                "startup_available": round(engine["available_gb"], 3),
                "token_capacity": engine["pool_tokens"],
                "token_capacity_swa": None,
                "graph": graphs,
            },
            "startup_time": startup,
            "effective_max_running_requests_per_dp": engine["max_running"],
        }
        return {
            **self.args.values,
            "launch_command": launch_command(self.args.argv),
            "status": "ready",
            "max_total_num_tokens": engine["pool_tokens"],
            "max_req_input_len": min(engine["context_len"], engine["pool_tokens"]) - 6,
            "startup_time": {**startup, "tokenizer_e2e": self.tokenizer_s},
            "internal_states": [internal],
            "version": self.version,
            "kv_events": None,
            "simulated": True,
        }

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

    # ---- the end

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background; a failure there is a defect and is shown by asyncio."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _terminate(self) -> None:
        if not self.draining:
            self.draining = True
            log.say("SIGTERM received. signum=None frame=None. Draining requests and shutting down...")

    async def _watch_shutdown(self) -> None:
        """Every 5 s: when told to stop, drain without a limit, then leave."""
        while True:
            await asyncio.sleep(self.period_s)
            if not self.draining or self.dead:
                continue
            rids = list(self.flights)
            log.say(
                f"Gracefully exiting... Remaining number of requests {len(rids)}. Remaining requests "
                f"remaining_rids={rids}."
            )
            if not rids and self.bound:
                pid = os.getpid()
                log.say(f"kill_process_tree called: parent_pid={pid}, include_parent=False, pid={pid}")
                self._goodbye()
                return

    def _interrupt(self) -> None:
        """SIGINT: the port closes at once, running streams finish."""
        if self._interrupted or not self.bound:
            return
        self._interrupted = True
        self._listener.close()
        log.say("INFO:     Shutting down")
        self.spawn(self._finish_streams())

    async def _finish_streams(self) -> None:
        if self.flights:
            log.say("INFO:     Waiting for background tasks to complete. (CTRL+C to force quit)")
        while self.flights and not self.dead:  # noqa: ASYNC110 - a tenth of a second is near enough here
            await asyncio.sleep(0.1)
        if not self.dead:
            self._goodbye()

    def _goodbye(self) -> None:
        if not self._interrupted:
            log.say("INFO:     Shutting down")
        log.say("INFO:     Waiting for application shutdown.")
        log.say("INFO:     Application shutdown complete.")
        log.say(f"INFO:     Finished server process [{os.getpid()}]")
        self._finish(0)

    def _finish(self, code: int) -> None:
        """Stop the scheduler, then return `code` from `run`."""
        pid = os.getpid()
        log.say(f"kill_process_tree called: parent_pid={pid}, include_parent=False, pid={pid}")
        self.dead = True
        self.tell(("q",))
        self.spawn(self._reap(code))

    async def _reap(self, code: int) -> None:
        for _ in range(50):
            if self._ended() is not None:
                break
            await asyncio.sleep(0.02)
        else:
            os.kill(self.scheduler_pid, signal.SIGKILL)
        if not self._end.done():
            self._end.set_result(code)

    def _ended(self) -> int | None:
        try:
            pid, code = os.waitpid(self.scheduler_pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return os.waitstatus_to_exitcode(code) if pid else None

    def scheduler_gone(self) -> None:
        """The channel closed: the scheduler died."""
        if not self.dead:
            self.spawn(self._after_scheduler())

    async def _after_scheduler(self) -> None:
        code = None
        for _ in range(50):
            code = self._ended()
            if code is not None:
                break
            await asyncio.sleep(0.02)
        if self.dead:
            return
        log.say(
            f"Subprocess scheduler_0 (pid={self.scheduler_pid}) crashed with exit code {code}. "
            "Triggering SIGQUIT for cleanup..."
        )
        self._crash()

    def _crash(self) -> None:
        """Five seconds in which the port accepts and answers nothing, then SIGKILL to itself."""
        if self.dead:
            return
        self.dead = True
        log.say("SIGQUIT received. signum=None, frame=None. It usually means one child failed.")
        log.say("Sleeping 5 seconds before crash diagnostics to let GPU activity settle.")
        self.spawn(self._die_later())

    async def _die_later(self) -> None:
        await asyncio.sleep(self.period_s)
        log.say("No live scheduler processes found; skipping py-spy and CUDA coredump.")
        die_hard()


class _Channel(asyncio.Protocol):
    """The socket to the scheduler."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def data_received(self, data: bytes) -> None:
        self._server.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.scheduler_gone()


def launch_command(argv: list[str]) -> str:
    """The arguments with the keys taken out, as /server_info shows them."""
    shown, hide = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide:
            shown.append("***")
            hide = False
        elif name in ("--api-key", "--admin-api-key", "--ssl-keyfile-password"):
            shown.append(f"{name}=***" if equals else word)
            hide = not equals
        else:
            shown.append(word)
    return shlex.join(shown).replace("'***'", "***")


async def _fetch(host: str, port: int, method: str, path: str, body: bytes, key: str | None) -> int:
    """Status of one request, 0 when nobody answers; waits for ever on a listener that says nothing."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return 0
    secret = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\n{secret}connection: close\r\n"
    try:
        writer.write(
            f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        words = (await reader.readline()).split()
        await reader.read()
    except OSError:
        return 0
    finally:
        writer.close()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
