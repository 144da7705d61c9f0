"""The requests of a workload, the same ones each time, and a workload that resembles a server's traffic."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from wizard.core.measurement import Workload

FIRST_ID, END_ID = 10, 1000
"""Token ids that every vocabulary has. One id outside of it kills the whole server (SGLang 0.5.17 on a GPU,
0.5.20 on a CPU: IndexError in the scheduler), so the range is far below the smallest vocabulary in use."""

MOST_CLIENTS = 256
MOST_INPUT_TOKENS = 8192
MOST_OUTPUT_TOKENS = 512
LEAST_OUTPUT_TOKENS = 8
MARGIN_TOKENS = 8
"""SGLang refuses a prompt longer than the pool or the context less 6 tokens (300-token pool: 294)."""

UNKNOWN_CLIENTS, UNKNOWN_INPUT, UNKNOWN_OUTPUT = 16, 512, 128
JITTER = 0.5
"""Lengths vary by half, as in the recordings of the H200: with equal lengths the clients of a closed loop march
in step, and the same server shows a median TTFT of 792 ms instead of 60."""


@dataclass(frozen=True)
class RequestSpec:
    """One request: its place in the sequence, its prompt, and how many tokens it asks for."""

    number: int
    input_ids: list[int]
    output_tokens: int


def requests(workload: Workload, salt: str = "") -> Iterator[RequestSpec]:
    """The endless sequence of a workload's requests; equal workloads and salts give equal sequences.

    Without a shared prefix no two prompts have more than their first token in common, so a prefix cache finds
    nothing to reuse. ``salt`` gives other prompts of the same lengths in the same order: the same work for a
    server that was measured before and still has the first prompts in its cache. Ids are in
    [FIRST_ID, END_ID).
    """
    ids = range(FIRST_ID, END_ID)
    rng = random.Random(f"{workload.seed}:{salt}")
    first, second = rng.randrange(len(ids)), rng.randrange(len(ids))
    share = min(1.0, max(0.0, workload.shared_prefix_share))
    longest = _jittered(workload.input_tokens, workload.length_jitter, 1.0)
    common = random.Random(f"{workload.seed}:{salt}:common").choices(ids, k=longest) if share else []
    number = 0
    while True:
        lengths = random.Random(f"{workload.seed}:{number}")
        length = _jittered(workload.input_tokens, workload.length_jitter, lengths.uniform(-1, 1))
        output = _jittered(workload.output_tokens, workload.length_jitter, lengths.uniform(-1, 1))
        prompt = random.Random(f"{workload.seed}:{salt}:{number}").choices(ids, k=length)
        prompt[: int(length * share)] = common[: int(length * share)]
        own = int(length * share)
        if own < length:
            prompt[own] = ids[(first + number) % len(ids)]
        if own + 1 < length:
            prompt[own + 1] = ids[(second + number // len(ids)) % len(ids)]
        yield RequestSpec(number, prompt, output)
        number += 1


def propose(
    running: float | None,
    queued: float | None,
    input_tokens: float | None,
    output_tokens: float | None,
    *,
    kv_capacity: int | None,
    context_length: int | None,
    quick: bool,
) -> Workload:
    """A workload of the size of the live load, bounded so that every request is one that the server takes.

    As many clients as requests run and wait now (16 when none are known to), mean lengths of the live
    requests (512 in, 128 out when unknown), prompt + output of the longest below context and pool.
    ``quick``: fewer and shorter windows and requests, for a first look.
    """
    load = (_positive(running) or 0.0) + (_positive(queued) or 0.0)
    clients = min(MOST_CLIENTS, max(1, math.ceil(load))) if load > 0 else UNKNOWN_CLIENTS
    longest_input, longest_output = MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS
    if quick:
        longest_input, longest_output = longest_input // 4, longest_output // 4
    prompt = min(float(longest_input), max(1.0, _positive(input_tokens) or float(UNKNOWN_INPUT)))
    output = min(
        float(longest_output),
        max(float(LEAST_OUTPUT_TOKENS), _positive(output_tokens) or float(UNKNOWN_OUTPUT)),
    )
    limits = [limit for limit in (kv_capacity, context_length) if limit is not None and limit > 0]
    jitter = JITTER
    if limits:
        room = min(limits) - MARGIN_TOKENS - 1
        if room / (1 + jitter) < 4 * LEAST_OUTPUT_TOKENS:
            jitter = 0.0
        fits = room / (1 + jitter) - 2  # both lengths are rounded
        if prompt + output > fits:
            shrink = fits / (prompt + output)
            output = max(float(LEAST_OUTPUT_TOKENS), output * shrink)
            prompt = max(1.0, min(prompt, fits - output))
    windows, window_s, warmup_s = (4, 3.0, 2.0) if quick else (6, 4.0, 4.0)
    return Workload(
        clients,
        int(prompt),
        int(output),
        windows=windows,
        window_s=window_s,
        warmup_s=warmup_s,
        length_jitter=jitter,
    )


def _jittered(tokens: int, jitter: float, draw: float) -> int:
    return max(1, round(tokens * (1 + min(1.0, max(0.0, jitter)) * draw)))


def _positive(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) and x > 0 else None
