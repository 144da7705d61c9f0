"""Writes a large server log of the shapes that real servers print, with the failures where they are asked for.

``python -m tests.bench.biglog FILE [MEGABYTES]``
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MB = 1024 * 1024
STAMP = b"@@@@-@@-@@ @@:@@:@@"

START = """\
[{stamp}] server_args=ServerArgs(model_path='/models/llama-8b', tp_size=1, mem_fraction_static=0.85, port=30000)
[{stamp}] Ignore import error when loading sglang.srt.models.midashenglm: No module named 'torchaudio'
[{stamp}] Using default HuggingFace chat template with detected content format: string
[{stamp}] Init torch distributed begin.
[{stamp}] Init torch distributed ends. elapsed=0.03 s, mem usage=0.09 GB
[{stamp}] Load weight begin. avail mem=138.51 GB
[{stamp}] Load weight end. elapsed=4.11 s, type=LlamaForCausalLM, avail mem=123.30 GB, mem usage=15.21 GB.
[{stamp}] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 905795, K size: 55.29 GB, V size: 55.29 GB
[{stamp}] Memory pool end. avail mem=11.80 GB
[{stamp}] Capture cuda graph begin. This can take up to several minutes. avail mem=11.70 GB
[{stamp}] Capture cuda graph end. Time elapsed: 6.20 s. mem usage=1.92 GB. avail mem=9.78 GB.
[{stamp}] max_total_num_tokens=905795, chunked_prefill_size=8192, max_prefill_tokens=16384, \
max_running_requests=3538, context_len=131072, available_gpu_mem=9.78 GB
[{stamp}] INFO:     Started server process [4711]
[{stamp}] INFO:     Waiting for application startup.
[{stamp}] INFO:     Application startup complete.
[{stamp}] INFO:     Uvicorn running on http://0.0.0.0:30000 (Press CTRL+C to quit)
[{stamp}] The server is fired up and ready to roll!
"""
MIDDLE = """\
[{stamp}] Scheduler hit an exception: Traceback (most recent call last):
  File "/venv/sglang/srt/managers/scheduler.py", line 2733, in run_scheduler_process
    scheduler.event_loop_overlap()
  File "/venv/sglang/srt/managers/tp_worker.py", line 301, in forward_extend
    return self.model.forward(batch)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of \
139.80 GiB of which 154.31 MiB is free.

[{stamp}] Received sigquit from a child process. It usually means the child failed.
"""
END = """\
[{stamp}] Detokenizer hit an exception: Traceback (most recent call last):
  File "/venv/sglang/srt/managers/detokenizer_manager.py", line 99, in event_loop
    self.step()
RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error
[{stamp}] Subprocess scheduler_0 (pid=77) crashed with exit code -9. Triggering SIGQUIT for cleanup.
"""
RETRACT = (
    "KV cache pool is full. Retract requests. #retracted_reqs: 1, #new_tokens_gained: 905, "
    "#new_token_ratio: 0.7 -> 1.0"
)


def second(pick: random.Random, lines: int = 240) -> bytes:
    """The lines of one busy second, their time still open."""
    told = []
    for _ in range(lines):
        kind = pick.random()
        run, queue, tokens = pick.randrange(1, 3000), pick.randrange(0, 90), pick.randrange(900_000)
        if kind < 0.4:
            text = (
                f"Decode batch, #running-req: {run}, #token: {tokens}, token usage: {tokens / 9e5:.2f}, "
                f"cuda graph: True, gen throughput (token/s): {pick.random() * 9e3:.2f}, #queue-req: {queue}"
            )
        elif kind < 0.6:
            text = (
                f"Prefill batch, #new-seq: {pick.randrange(1, 40)}, #new-token: {pick.randrange(8192)}, "
                f"#cached-token: {pick.randrange(8192)}, token usage: {tokens / 9e5:.2f}, #running-req: {run}, "
                f"#queue-req: {queue}, #pending-token: 0, cuda graph: True, "
                f"input throughput (token/s): {pick.random() * 9e4:.2f}"
            )
        elif kind < 0.99:
            path = pick.choice(
                [
                    "POST /v1/chat/completions",
                    "POST /generate",
                    "GET /health",
                    "GET /metrics",
                    "POST /v1/completions",
                ]
            )
            text = (
                f'INFO:     10.0.{run % 250}.{queue}:{pick.randrange(1024, 65535)} - "{path} HTTP/1.1" 200 OK'
            )
        elif kind < 0.997:
            port = pick.randrange(1024, 65535)
            text = f'INFO:     10.0.0.{queue}:{port} - "GET /favicon.ico HTTP/1.1" 404 Not Found'
        else:
            text = RETRACT
        told.append(b"[" + STAMP + b"] " + text.encode() + b"\n")
    return b"".join(told)


def stamps(began: float = 1_767_322_800.0) -> Iterator[bytes]:
    while True:
        yield time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began)).encode()
        began += 1


def write(path: Path, size: int, middle: str = MIDDLE, end: str = END, seed: int = 7) -> None:
    """A log of about ``size`` bytes: a start, busy seconds, ``middle`` half-way, ``end`` at the end."""
    pick, clock = random.Random(seed), stamps()
    seconds = [second(pick) for _ in range(60)]
    with path.open("wb") as file:

        def put(text: str) -> None:
            file.write(text.replace("{stamp}", next(clock).decode()).encode())

        put(START)
        told = False
        while file.tell() < size:
            if not told and file.tell() >= size // 2:
                put(middle)
                told = True
            file.write(pick.choice(seconds).replace(STAMP, next(clock)))
        put(end)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 1024) * MB)
