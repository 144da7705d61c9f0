"""What a scheduler does before it serves: distributed init, weights, KV pool, graphs, each taken from the card.

Memory formulas: facts/memory_model.md, verified against recordings/h200/memory.csv (error at most 0.02 GB):
KV_GB = available_after_load - (available_before_load + 0.10) * (1 - mem_fraction_static); all "GB" are GiB.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from wizard.simulator import failures, log
from wizard.simulator.argv import ServerArgs
from wizard.simulator.card import CardFile, OutOfMemory
from wizard.simulator.faults import Faults, StartClock
from wizard.simulator.gpu import CONTEXT_GB, DISTRIBUTED_GB, GIB, MIB, CardModel, ModelSpec

PROCESS = "sglang::scheduler"


class StartFailure(Exception):
    """The scheduler cannot start; the text is the traceback that it logs."""


@dataclass
class Engine:
    """A started scheduler's figures: memory in GiB, times in seconds."""

    pool_tokens: int
    max_running: int
    context_len: int
    weights_gb: float
    kv_gb: float
    available_gb: float
    graph_gb: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def weight_gb(model: ModelSpec, args: ServerArgs) -> float:
    """Weights of one rank; fp8 halves them, four bits quarter them (embeddings stay)."""
    scale = {None: 1.0, "fp8": 0.53, "w8a8_int8": 0.53, "awq": 0.31, "gptq": 0.31}.get(args.quantization, 1.0)
    return model.weights_gb * scale / float(max(args.tp_size, 1))


def kv_bytes(model: ModelSpec, args: ServerArgs) -> int:
    """Bytes a token takes on one rank."""
    width = 1 if str(args.kv_cache_dtype).startswith("fp8") else 2
    heads = max(1, model.kv_heads // max(args.tp_size, 1))
    return int(heads * model.head_dim * 2 * model.layers * width)


def decode_graph_gb(largest: int) -> float:
    """0.06 GiB up to 16, 0.31 at 256 (memory.csv); linear beyond."""
    return 0.06 if largest <= 16 else 0.06 + 0.25 * (largest - 16) / 240


def prefill_graph_gb(largest: int) -> float:
    """0.37 GiB for 512 tokens, 0.61 for 2048, 1.47 for 8192 (memory.csv)."""
    points = [(0, 0.3), (512, 0.37), (2048, 0.61), (8192, 1.47), (16384, 2.6)]
    for (x0, y0), (x1, y1) in pairwise(points):
        if largest <= x1:
            return y0 + (y1 - y0) * (largest - x0) / (x1 - x0)
    return points[-1][1]


def activation_bytes(model: ModelSpec, tokens: int, graphed: bool) -> int:
    """What a prefill of so many tokens adds to the process the first time.

    With prefill graphs 224 MiB at 8192 tokens (NVML in healthy/), without 968 MiB (t_no_cuda_graph).
    """
    return int(tokens * model.mlp_mib_per_token * (0.5 if graphed else 2.16) * MIB)


class Starter:
    """Runs the phases in order; `run` returns the engine or raises `StartFailure`."""

    def __init__(
        self, args: ServerArgs, model: ModelSpec, card_model: CardModel, card: CardFile, faults: Faults
    ) -> None:
        self.args, self.model, self.card_model, self.card, self.faults = args, model, card_model, card, faults
        self.clock = StartClock()

    def run(self) -> Engine:
        began = time.monotonic()
        args, model = self.args, self.model
        self.clock.spend(0.10)
        log.say("Init torch distributed begin.")
        self._take(CONTEXT_GB, "load")
        self._take(DISTRIBUTED_GB, "load")
        log.say("Init torch distributed ends. elapsed=0.03 s, mem usage=0.09 GB")
        self._fault("load")
        before = self._available()
        self.clock.spend(0.05)
        log.say(f"Load weight begin. avail mem={before:.2f} GB")
        weights = weight_gb(model, args)
        self._take(weights, "load", chunk=max(int(model.mlp_mib_per_token * 4096), 32) * MIB)
        load_s = self.clock.spend(0.15)
        after = self._available()
        log.say(
            f"Load weight end. elapsed={load_s:.2f} s, type={model.architecture}, avail mem={after:.2f} GB, "
            f"mem usage={before - after:.2f} GB."
        )
        engine = self._pool(before, after, weights)
        engine.seconds["load_weight"] = load_s
        self._graphs(engine)
        engine.seconds["scheduler_e2e"] = (time.monotonic() - began) * self.clock.speed
        self._fault("ready")
        return engine

    def _pool(self, before: float, after: float, weights: float) -> Engine:
        args, cell = self.args, kv_bytes(self.model, self.args)
        fraction, pre = args.mem_fraction_static, before + DISTRIBUTED_GB
        budget = after - pre * (1 - fraction)
        self._fault("kv")
        kv_s = self.clock.spend(0.08)
        if budget <= 0:
            lowest = 1 - after / pre
            raise StartFailure(
                failures.traceback_text(
                    "kv",
                    "ValueError: Loaded weights leave no GPU memory for the KV cache under "
                    "--mem-fraction-static="
                    f"{fraction}. Raise --mem-fraction-static above {lowest + 0.0005:.3f} (minimum viable = "
                    f"1 - available/pre = {lowest:.4f}). If using speculative decoding, draft weights are "
                    f"now counted.",
                )
            )
        tokens = int(budget * GIB) // cell
        if args.max_total_tokens is not None:
            if args.max_total_tokens > tokens:
                log.say(
                    f"max_total_tokens={args.max_total_tokens} is larger than the profiled value {tokens}. "
                    "Use the profiled value instead."
                )
            tokens = min(tokens, args.max_total_tokens)
        tokens -= tokens % max(args.page_size, 1)
        if tokens <= 16:
            raise StartFailure(
                failures.traceback_text(
                    "kv",
                    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
                    f"Current value: self.server_args.mem_fraction_static={fraction}",
                )
            )
        context = args.context_length or self.model.context_len
        guess = min(max(int(tokens / context * 512), 2048), 4096)
        running = min(args.max_running_requests or guess, max(tokens // 2, 1))
        kv_gb = tokens * cell / GIB
        self._take(kv_gb, "kv", chunk=int(kv_gb * GIB / self.model.layers / 2) or None)
        dtype = "torch.float8_e4m3fn" if str(args.kv_cache_dtype).startswith("fp8") else "torch.bfloat16"
        log.say(
            f"KV Cache is allocated. dtype: {dtype}, #tokens: {tokens}, "
            f"K size: {kv_gb / 2:.2f} GB, V size: {kv_gb / 2:.2f} GB"
        )
        # req_to_token, int32 [running, context + 4], and 0.07 GB of small buffers (t_default against
        # t_max_running_8)
        self._take(running * (context + 4) * 4 / GIB + 0.065, "kv")
        log.say(f"Memory pool end. avail mem={self._available():.2f} GB")
        return Engine(tokens, running, context, weights, kv_gb, 0.0, seconds={"kv_cache_allocation": kv_s})

    def _graphs(self, engine: Engine) -> None:
        args = self.args
        prefill, decode = args.prefill_graphs, args.decode_graphs
        self._take(0.14, "kv")  # between "Memory pool end" and the next line, with graphs or without
        if prefill:
            self._capture(
                engine,
                "prefill",
                f"backend=breakable, num_tokens={prefill}",
                prefill_graph_gb(max(prefill)),
                peak=2.2 * max(prefill) / 8192 * self.model.mlp_mib_per_token / 0.0547,
                share=0.30,
            )
        else:
            log.say(
                "Disable prefill CUDA graph because cuda_graph_config resolved prefill.backend='disabled' "
                "(e.g. via --cuda-graph-backend-prefill=disabled or auto-disable rules)."
            )
        if decode:
            self._capture(
                engine,
                "decode",
                f"backend=full, num_tokens_per_req=1, bs={decode}",
                decode_graph_gb(max(decode)),
                peak=0.12 + 0.6 * max(decode) / 256,
                share=0.15,
            )
        engine.available_gb = self._available()
        log.say(
            f"max_total_num_tokens={engine.pool_tokens}, chunked_prefill_size={args.chunked_prefill_size}, "
            f"max_prefill_tokens={args.max_prefill_tokens}, max_running_requests={engine.max_running}, "
            f"context_len={engine.context_len}, available_gpu_mem={engine.available_gb:.2f} GB"
        )
        kind = "ChunkCache" if args.disable_radix_cache else "UnifiedRadixCache"
        log.say(
            f"Tree cache initialized: source=default impl={kind} hybrid_swa=False hybrid_ssm=False "
            "hicache_attached=False streaming_wrapped=False"
        )

    def _capture(
        self, engine: Engine, phase: str, what: str, size_gb: float, peak: float, share: float
    ) -> None:
        before = self._available()
        log.say(f"Capture target {phase} CUDA graph begin. {what}, avail mem={before:.2f} GB")
        self._fault("capture")
        try:
            free = self.card.free_bytes()
            if free < peak * GIB:  # the largest size is captured first and needs its activations too
                self.card.allocate(int(free - free % MIB), PROCESS) if free > MIB else None
                self.card.allocate(int(min(peak / 2, 0.44) * GIB), PROCESS)
            seconds = self.clock.spend(share)
            self.card.allocate(int(size_gb * GIB), PROCESS)
        except OutOfMemory as error:
            label = "prefill CUDA" if phase == "prefill" else "CUDA"
            raise StartFailure(failures.capture_traceback(str(error), label)) from None
        engine.graph_gb[phase] = size_gb
        engine.seconds[phase] = seconds
        log.say(
            f"Capture target {phase} CUDA graph end. elapsed={seconds:.2f} s, mem usage={size_gb:.2f} GB, "
            f"avail mem={self._available():.2f} GB."
        )

    def _available(self) -> float:
        return self.card.free_bytes() / GIB

    def _take(self, size_gb: float, stage: str, chunk: int | None = None) -> None:
        try:
            self.card.allocate(int(size_gb * GIB), PROCESS, chunk)
        except OutOfMemory as error:
            last = f"torch.OutOfMemoryError: {error}"
            raise StartFailure(failures.traceback_text(stage, last)) from None

    def _fault(self, place: str) -> None:
        if self.faults.hang_at == place or (place == "ready" and self.faults.never_ready):
            while True:
                time.sleep(3600)
        if self.faults.crash_at == place:
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
