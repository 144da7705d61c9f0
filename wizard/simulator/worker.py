"""The scheduler process, `sglang::scheduler`: holds the card's memory and runs the batches in real time."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from typing import Any

from wizard.simulator import failures, log
from wizard.simulator.argv import ServerArgs
from wizard.simulator.batching import Batch, Request, Scheduler
from wizard.simulator.card import CardFile, OutOfMemory, card_path
from wizard.simulator.faults import Faults
from wizard.simulator.gpu import CardModel, ModelSpec, decode_ms, prefill_ms
from wizard.simulator.startup import PROCESS, Engine, Starter, StartFailure, activation_bytes
from wizard.simulator.wire import Unpacker, pack

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
IDLE_REPORT_S = 30.0
CATCH_UP_S = 0.25  # how far behind the simulated card may be before lost time is given up


def become(title: str, keep_signals: bool = False) -> None:
    """Die with the parent, and wear the title: comm cut to 15, argv overwritten, environ wiped, as
    setproctitle does."""
    parent = os.getppid()
    libc = ctypes.CDLL(None)
    if not keep_signals:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    libc.prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rsplit(b") ", 1)[1].split()
        start, env_end = int(fields[45]), int(fields[48])
    except (OSError, IndexError, ValueError):
        return  # no title then; the simulator works without
    if env_end > start > 0:
        text = title.encode()[: env_end - start - 1]
        ctypes.memset(start, 0, env_end - start)
        ctypes.memmove(start, text, len(text))


def hold_after_death(seconds: float) -> int:
    """Fork a process that outlives this one by `seconds`; it owns the card's memory (fault release_slowly)."""
    gate_read, gate_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(gate_read)
        os.set_inheritable(gate_write, False)
        return pid
    os.close(gate_write)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(null, handle)
    os.closerange(3, gate_read)
    os.closerange(gate_read + 1, 64)
    os.read(gate_read, 1)
    time.sleep(seconds)
    os._exit(0)


def run(
    channel: socket.socket, args: ServerArgs, model: ModelSpec, card_model: CardModel, faults: Faults
) -> None:
    """Child's whole life; never returns."""
    become(PROCESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    owner = hold_after_death(faults.release_slowly_s) if faults.release_slowly_s else None
    card = CardFile(card_path(), card_model, owner)
    try:
        try:
            engine = Starter(args, model, card_model, card, faults).run()
        except StartFailure as failure:
            raise SystemExit(str(failure)) from None
        channel.sendall(pack(("ready", engine.as_dict())))
        Worker(channel, args, model, card_model, card, engine, faults).serve()
    except SystemExit as failure:
        log.say(f"Scheduler hit an exception: {failure}")
        card.release()
        os.kill(os.getppid(), signal.SIGQUIT)
        os._exit(1)
    card.release()
    os._exit(0)


class Worker:
    """The event loop. Steps take their modelled time on an absolute clock, so that sleeping late does not add
    up."""

    def __init__(
        self,
        channel: socket.socket,
        args: ServerArgs,
        model: ModelSpec,
        card_model: CardModel,
        card: CardFile,
        engine: Engine,
        faults: Faults,
    ) -> None:
        self.channel, self.args, self.model, self.card_model = channel, args, model, card_model
        self.card, self.engine, self.faults = card, engine, faults
        self.core = Scheduler(args, engine.pool_tokens, engine.max_running)
        self.unpacker = Unpacker()
        self.decode_graph_max = max(args.decode_graphs, default=0)
        self.prefill_graph_max = max(args.prefill_graphs, default=0)
        self.grown = 0
        self.clock = time.monotonic()
        self.stopping = False
        self.log_every = max(args.decode_log_interval, 1)
        self.decode_steps = self.tokens_since = 0
        self.last_report = self.last_prefill = time.monotonic()
        self.throughput = self.hit_rate = 0.0
        self.busy_s = self.busy_total_s = 0.0
        self.card_shown = time.monotonic()
        self.idle_shown = False
        self.last_batch = 0
        self.is_graph = False
        self.serving_since = time.monotonic()

    def serve(self) -> None:
        """Until told to stop."""
        self._send(("stats", self._stats()))
        while not self.stopping:
            self._receive(0.0)
            self._faults_while_serving()
            batch = self.core.next_batch()
            if batch is None:
                self._idle()
                continue
            self._run(batch)

    def _send(self, message: Any) -> None:
        try:
            self.channel.sendall(pack(message))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)

    def _receive(self, wait_s: float) -> bool:
        """Take what the parent sent; False when nothing came in time."""
        readable, _, _ = select.select([self.channel], [], [], max(wait_s, 0.0))
        if not readable:
            return False
        data = self.channel.recv(1 << 20)
        if not data:
            os._exit(1)
        for message in self.unpacker.feed(data):
            self._handle(message)
        return True

    def _handle(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "r":
            _, rid, prompt, keys, max_new, stop_after = message
            request = Request(rid, prompt, keys, max_new, stop_after, time.monotonic())
            if not self.core.add(request):
                self._send(("a", rid, 503, "The request queue is full."))
        elif kind == "x":
            self.core.abort(message[1])
        elif kind == "h":
            if self.core.idle:
                self.core.add(Request(message[1], 1, [], 1))
        elif kind == "i":
            self._send(("i", message[1], {"last_gen_throughput": self.throughput}))
        elif kind == "f":
            idle = self.core.idle
            if idle:
                self.core.pool.flush()
                log.say("Cache flushed successfully!")
            self._send(("i", message[1], {"idle": idle}))
        elif kind == "k":
            last = "torch.AcceleratorError: CUDA error: device-side assert triggered"
            raise SystemExit(failures.traceback_text("serving", last))
        elif kind == "q":
            self.stopping = True

    def _idle(self) -> None:
        now = time.monotonic()
        if now - self.card_shown >= 1.0 and not self.idle_shown:
            self._show_card(now)
        wait = 1.0 if not self.idle_shown else IDLE_REPORT_S - (now - self.last_report)
        if not self._receive(wait) and time.monotonic() - self.last_report >= IDLE_REPORT_S:
            self.throughput, self.last_batch = 0.0, 0
            self.last_report = time.monotonic()
            self._send(("stats", self._stats()))
        self.clock = time.monotonic()

    def _run(self, batch: Batch) -> None:
        now = time.monotonic()
        if batch.retract_line:
            log.say(batch.retract_line)
        step_ms = self._step_ms(batch)
        self.clock = max(self.clock, now - CATCH_UP_S) + step_ms / 1e3
        self.busy_s += step_ms / 1e3
        self.busy_total_s += step_ms / 1e3
        self.idle_shown = False
        if batch.kind == "prefill":
            self._grow(batch.tokens)
        delay = self.clock - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        done = time.monotonic()
        first = [(r.rid, r.cached, max(now - r.arrived, 0.0), step_ms / 1e3) for r in batch.done_prefill]
        decoded = len(batch.decode)
        ended = [(request.rid, reason) for request, reason in self.core.complete(batch)]
        report = None
        self.tokens_since += decoded + len(first)
        if batch.kind == "prefill":
            report = self._report_prefill(batch, done)
        else:
            self.decode_steps += 1
            self.last_batch = decoded
            if self.decode_steps % self.log_every == 0:
                report = self._report_decode(decoded, done)
        retracted = [request.rid for request in batch.retracted]
        self._send(
            (
                "s",
                batch.kind,
                batch.tokens,
                batch.cached,
                first,
                decoded,
                ended,
                retracted,
                self.is_graph,
                report,
            )
        )
        if done - self.card_shown >= 1.0:
            self._show_card(done)

    def _step_ms(self, batch: Batch) -> float:
        model, card = self.model, self.card_model
        if batch.kind == "prefill":
            self.is_graph = batch.tokens <= self.prefill_graph_max
            step = prefill_ms(model, batch.tokens, batch.context // max(len(batch.fresh), 1), self.is_graph)
            if batch.decode:
                step += decode_ms(model, card, len(batch.decode), self.core.kv_tokens, True) * 0.3
        else:
            self.is_graph = len(batch.decode) <= self.decode_graph_max
            step = decode_ms(model, card, len(batch.decode), self.core.kv_tokens, self.is_graph)
        return step * self.faults.slow_host

    def _grow(self, tokens: int) -> None:
        """Activations: what the largest prefill so far has made the process grow by; a card too full ends it
        all."""
        need = activation_bytes(self.model, tokens, tokens <= self.prefill_graph_max)
        if need <= self.grown:
            return
        try:
            self.card.allocate(need - self.grown, PROCESS, chunk=max(need // 4, 2 << 20))
        except OutOfMemory as error:
            raise SystemExit(failures.traceback_text("serving", f"torch.OutOfMemoryError: {error}")) from None
        self.grown = need

    def _report_prefill(self, batch: Batch, now: float) -> dict[str, Any]:
        core = self.core
        speed = batch.tokens / max(now - self.last_prefill, 1e-6)
        self.last_prefill = now
        self.hit_rate = batch.cached / max(batch.cached + batch.tokens, 1)
        stats = self._stats()
        log.say(
            f"Prefill batch, #new-seq: {len(batch.fresh) or 1}, #new-token: {batch.tokens}, "
            f"#cached-token: {batch.cached}, token usage: {stats['token_usage']:.2f}, "
            f"#running-req: {len(core.running) - len([r for r in batch.done_prefill if r.live])}, "
            f"#queue-req: {len(core.waiting)}, #pending-token: {core.pending_tokens}, "
            f"cuda graph: {self.is_graph}, input throughput (token/s): {speed:.2f}"
        )
        core.retracted_since_report = 0
        return stats

    def _report_decode(self, decoded: int, now: float) -> dict[str, Any]:
        self.throughput = self.tokens_since / max(now - self.last_report, 1e-6)
        self.tokens_since, self.last_report = 0, now
        stats = self._stats()
        log.say(
            f"Decode batch, #running-req: {decoded}, #token: {self.core.pool.used}, "
            f"token usage: {stats['token_usage']:.2f}, cuda graph: {self.is_graph}, "
            f"gen throughput (token/s): {self.throughput:.2f}, #queue-req: {len(self.core.waiting)}"
        )
        self.core.retracted_since_report = 0
        return stats

    def _stats(self) -> dict[str, Any]:
        core, pool = self.core, self.core.pool
        usage = pool.used / pool.capacity
        return {
            "num_running_reqs": len(core.running),
            "num_queue_reqs": len(core.waiting),
            "gen_throughput": self.throughput,
            "cache_hit_rate": self.hit_rate,
            "decode_sum_seq_lens": core.kv_tokens,
            "token_usage": round(usage, 2),
            "full_token_usage": usage,
            "num_used_tokens": pool.used,
            "kv_available_tokens": pool.free,
            "kv_evictable_tokens": pool.evictable,
            "kv_used_tokens": pool.used,
            "new_token_ratio": core.ratio,
            "is_cuda_graph": int(self.is_graph),
            "num_retracted_reqs": core.retracted_since_report,
            "pending_tokens": core.pending_tokens,
            "retracted": (core.retracted_total, core.retracted_input, core.retracted_output),
            "evicted": pool.evicted_total,
            "cpu_s": time.process_time(),
            "idle_s": max(time.monotonic() - self.serving_since - self.busy_total_s, 0.0),
        }

    def _show_card(self, now: float) -> None:
        """NVML's view, once a second: recordings/h200/tuning.csv, gpu_util, power_w, sm_mhz."""
        share = min(self.busy_s / max(now - self.card_shown, 1e-3), 1.0)
        graphed = 1.0 if self.is_graph or share == 0 else 0.6
        batch = max(self.last_batch, 1)
        hot = 440 + 38 * (batch.bit_length() - 1) if share else 0
        power = 118 + (min(hot, 690) - 118) * share * graphed if share else 118.0
        self.card.show(
            utilization=round(100 * share * graphed),
            power_w=round(power, 1),
            sm_clock_mhz=1980 if power < 450 else round(1980 - (power - 450) * 0.9),
            temperature_c=round(33 + power / 18),
        )
        self.busy_s, self.card_shown, self.idle_shown = 0.0, now, share == 0.0

    def _faults_while_serving(self) -> None:
        passed = time.monotonic() - self.serving_since
        if self.faults.crash_at == "serving" and passed >= self.faults.crash_after_s:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.faults.hang_at == "serving" and passed >= self.faults.hang_after_s:
            while True:
                time.sleep(3600)
