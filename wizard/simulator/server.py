"""The parent process: starts the scheduler, then binds the port, serves, and follows signals as SGLang 0.5.20
does.

Signals and exits: recordings/cpu/FINDINGS.md, "Signals" and "Start failures".
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
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
from wizard.simulator.metrics import show_engine
from wizard.simulator.traffic import Traffic
from wizard.simulator.web import Connection
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
        self.status = "starting"
        self.draining = self.dead = self.bound = False
        self.heard = 0.0
        self.traffic = Traffic(args.served_model_name, self.tell)
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
        self.scheduler_pid = self.traffic.scheduler_pid = pid
        self._channel = parent_end
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
        show_engine(self.traffic.metrics, self.engine, self.args.page_size, self.tokenizer_s)

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
                lambda: Connection(api.handle, self.traffic.left), host, port, backlog=2048
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
        """Send to the scheduler, if there still is one."""
        if not self._to_scheduler.is_closing():
            self._to_scheduler.write(pack(message))

    async def ask(self, kind: str) -> dict[str, Any]:
        """Send and wait for the answer, for ever if the scheduler is stopped."""
        self._ask_number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[self._ask_number] = future
        self.tell((kind, self._ask_number))
        return await future

    def receive(self, data: bytes) -> None:
        """Bytes from the scheduler; several steps at once when this process was slow."""
        self.heard = time.monotonic()
        messages = self._unpacker.feed(data)
        for number, message in enumerate(messages):
            self._receive(message, flush=number == len(messages) - 1)

    def _receive(self, message: tuple[Any, ...], flush: bool = True) -> None:
        kind = message[0]
        if kind == "s":
            self.traffic.step(message, flush)
        elif kind == "stats":
            self.traffic.take_stats(message[1])
        elif kind == "i":
            future = self._asked.pop(message[1], None)
            if future and not future.done():
                future.set_result(message[2])
        elif kind == "a":
            self.traffic.abort(message[1], message[2], message[3])

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
            rids = list(self.traffic.flights)
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
        if self.traffic.flights:
            log.say("INFO:     Waiting for background tasks to complete. (CTRL+C to force quit)")
        while self.traffic.flights and not self.dead:  # noqa: ASYNC110 - a tenth of a second is near enough here
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
