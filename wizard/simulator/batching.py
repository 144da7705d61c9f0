"""The batching scheduler: who runs, who waits, who is retracted. Pure: no clock, no I/O.

Rules as in SGLang 0.5.20 (managers/schedule_policy.py, managers/schedule_batch.py): prefill goes before decode;
a request is admitted when its prompt and its whole output fit beside the share `new_token_ratio` of what the
running ones may still produce; a decode step that does not fit retracts those with the fewest outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from wizard.simulator.prefix_cache import BLOCK, KvPool

CLIP_NEW_TOKENS = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
INIT_RATIO, MIN_FACTOR, DECAY_STEPS = 0.7, 0.14, 600  # SGLANG_*NEW_TOKEN_RATIO*
RETRACT_STEPS = 20


@dataclass(eq=False)
class Request:
    """One request. `stop_after` is where the model would end by itself, None for never."""

    rid: str
    prompt_tokens: int
    keys: list[Hashable]
    max_new: int
    stop_after: int | None = None
    arrived: float = 0.0
    out: int = 0
    locked: int = 0  # blocks of `keys` this request holds in the cache
    private: int = 0  # tokens of its own
    computed: int = 0  # tokens of prompt+out that have KV, while prefilling
    cached: int = 0
    retractions: int = 0
    live: bool = False  # in the running list

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.out


@dataclass
class Batch:
    """A step to run. `decode` holds those that produce a token in it."""

    kind: str  # "prefill" or "decode"
    tokens: int = 0  # prompt tokens computed
    cached: int = 0
    context: int = 0  # tokens already in the cache that attention looks at
    fresh: list[Request] = field(default_factory=list)  # newly admitted
    done_prefill: list[Request] = field(default_factory=list)  # get their first token
    decode: list[Request] = field(default_factory=list)
    retracted: list[Request] = field(default_factory=list)
    retract_line: str = ""


class Scheduler:
    """`next_batch` decides, `complete` books the result."""

    def __init__(self, args: Any, pool_tokens: int, max_running: int) -> None:
        self.pool = KvPool(pool_tokens, caching=not args.disable_radix_cache)
        self.max_running = max_running
        self.chunk = args.chunked_prefill_size if args.chunked_prefill_size > 0 else 1 << 40
        self.max_prefill = args.max_prefill_tokens
        self.queue_limit = args.max_queued_requests
        self.mixed = args.enable_mixed_chunk
        self.policy = args.schedule_policy
        self.init_ratio = min(INIT_RATIO * args.schedule_conservativeness, 1.0)
        self.min_ratio = min(self.init_ratio * MIN_FACTOR, 1.0)
        self.ratio = self.init_ratio
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.chunked: Request | None = None
        self.retracted_total = self.retracted_input = self.retracted_output = 0
        self.retracted_since_report = 0

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running or self.chunked)

    @property
    def kv_tokens(self) -> int:
        return sum(request.tokens for request in self.running)

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that wait and are not cached."""
        pending = sum(
            request.tokens - BLOCK * self.pool.match(request.keys, request.tokens) for request in self.waiting
        )
        return pending + (self.chunked.tokens - self.chunked.computed if self.chunked else 0)

    def add(self, request: Request) -> bool:
        """Queue a request; False when --max-queued-requests is reached."""
        if self.queue_limit is not None and len(self.waiting) >= self.queue_limit:
            return False
        self.waiting.append(request)
        return True

    def abort(self, rid: str) -> None:
        """Forget a request whose client left."""
        for request in list(self.waiting):
            if request.rid == rid:
                self.waiting.remove(request)
                return
        for request in self.running:
            if request.rid == rid:
                self.running.remove(request)
                self._release(request, keep=True)
                return
        if self.chunked and self.chunked.rid == rid:
            self._release(self.chunked, keep=False)
            self.chunked = None

    def next_batch(self) -> Batch | None:
        """A prefill when one is possible, else a decode step, else None."""
        batch = self._prefill()
        if batch is None and self.running:
            batch = self._decode()
            if not batch.decode:
                return self._prefill()
        if batch is None and self.idle:
            self.ratio = self.init_ratio
        return batch

    def _prefill(self) -> Batch | None:
        if not self.waiting and self.chunked is None:
            return None
        batch = Batch("prefill")
        room = self.pool.available - sum(
            min(request.max_new - request.out, CLIP_NEW_TOKENS) * self.ratio for request in self.running
        )
        chunk_left, input_left = self.chunk, self.max_prefill
        if self.chunked is not None:
            request = self.chunked
            step = min(request.tokens - request.computed, chunk_left)
            if not self.pool.reclaim(step):
                return None
            self._compute(request, step, batch)
            chunk_left -= step
            room -= step + min(request.max_new, CLIP_NEW_TOKENS)
            if request.computed < request.tokens:
                return batch
            self.chunked = None
        if self.policy == "lpm" and 1 < len(self.waiting) <= 128:
            ordered = sorted(self.waiting, key=lambda each: -self.pool.match(each.keys, each.tokens))
            self.waiting = deque(ordered)
        elif self.policy == "lof":
            self.waiting = deque(sorted(self.waiting, key=lambda each: -each.max_new))
        while self.waiting and chunk_left > 0:
            if len(self.running) + len(batch.done_prefill) >= self.max_running:
                break
            request = self.waiting[0]
            blocks = self.pool.match(request.keys, request.tokens)
            extend = request.tokens - blocks * BLOCK
            cost = extend + min(request.max_new - request.out, CLIP_NEW_TOKENS)
            cost += self.pool.unused_among(request.keys[:blocks])
            if cost >= room or (batch.tokens and extend > input_left):
                break
            self.waiting.popleft()
            self.pool.lock(request.keys[:blocks])
            request.locked, request.computed = blocks, blocks * BLOCK
            request.cached = request.computed
            batch.cached += request.computed
            batch.fresh.append(request)
            step = min(extend, chunk_left)
            self.pool.reclaim(step)
            self._compute(request, step, batch)
            room -= cost
            chunk_left -= step
            input_left -= step
            if step < extend:
                self.chunked = request
                break
        if not batch.tokens:
            return None
        if self.mixed:
            batch.decode = list(self.running)
            if not self.pool.reclaim(len(batch.decode)):
                batch.decode = []
        return batch

    def _compute(self, request: Request, step: int, batch: Batch) -> None:
        self.pool.take(step)
        batch.context += request.computed + step // 2
        request.private += step
        request.computed += step
        batch.tokens += step
        if request.computed >= request.tokens:
            batch.done_prefill.append(request)

    def _decode(self) -> Batch:
        batch = Batch("decode")
        if not self.pool.reclaim(len(self.running)):
            self._retract(batch)
        self.ratio = max(self.ratio - (self.init_ratio - self.min_ratio) / DECAY_STEPS, self.min_ratio)
        batch.decode = list(self.running)
        return batch

    def _retract(self, batch: Batch) -> None:
        """Retract until the rest can take RETRACT_STEPS more steps (schedule_batch.retract_decode)."""
        order = sorted(self.running, key=lambda each: (each.out, -each.prompt_tokens), reverse=True)
        before, gained = self.ratio, self.pool.available
        while len(order) > 1 and (not batch.retracted or self.pool.available < len(order) * RETRACT_STEPS):
            request = order.pop()
            self._release(request, keep=False)
            request.retractions += 1
            batch.retracted.append(request)
            self.retracted_input += request.prompt_tokens
            self.retracted_output += request.out
        self.running = [request for request in self.running if request not in batch.retracted]
        self.waiting.extend(batch.retracted)
        self.retracted_total += len(batch.retracted)
        self.retracted_since_report += len(batch.retracted)
        self.pool.reclaim(len(self.running))
        produced = sum(request.out for request in self.running)
        asked = sum(request.max_new for request in self.running)
        self.ratio = min((produced + RETRACT_STEPS * len(self.running)) / (asked + 1), 1.0)
        batch.retract_line = (
            f"KV cache pool is full. Retract requests. #retracted_reqs: {len(batch.retracted)}, "
            f"#new_tokens_gained: {self.pool.available - gained}, "
            f"#new_token_ratio: {before:.4f} -> {self.ratio:.4f}"
        )

    def complete(self, batch: Batch) -> list[tuple[Request, str]]:
        """Book a finished step; returns the requests that ended with their reason."""
        ended: list[tuple[Request, str]] = []
        for request in batch.decode:
            if not request.live:
                continue  # aborted while the step ran
            request.private += 1
            self.pool.take(1)
            request.out += 1
            self._end_if_due(request, ended)
        for request in batch.done_prefill:
            if self.pool.caching:
                full = (request.prompt_tokens // BLOCK) if request.keys else 0
                fresh = request.keys[request.locked : full]
                self.pool.insert(fresh)
                request.private -= BLOCK * len(fresh)
                request.locked += len(fresh)
            request.out += 1
            request.private += 1
            self.pool.reclaim(1)
            self.pool.take(1)
            request.live = True
            self.running.append(request)
            self._end_if_due(request, ended)
        return ended

    def _end_if_due(self, request: Request, ended: list[tuple[Request, str]]) -> None:
        reason = ""
        if request.stop_after is not None and request.out >= request.stop_after:
            reason = "stop"
        elif request.out >= request.max_new:
            reason = "length"
        if reason:
            ended.append((request, reason))
            self.running.remove(request)
            self._release(request, keep=True)

    def _release(self, request: Request, keep: bool) -> None:
        request.live = False
        self.pool.unlock(request.keys[: request.locked])
        if keep and self.pool.caching:
            self.pool.insert_tail(request.private)
        else:
            self.pool.give_back(request.private)
        request.locked = request.private = request.computed = 0
