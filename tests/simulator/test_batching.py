"""The pure parts: admission, retraction, the pool's books, output bytes, numbers of the metrics page."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wizard.simulator.batching import Request, Scheduler
from wizard.simulator.gpu import H200, MODELS, decode_ms, prefill_ms
from wizard.simulator.metrics import Metrics, number_text
from wizard.simulator.outputs import SPEECH
from wizard.simulator.prefix_cache import BLOCK, block_keys


def scheduler(pool: int, running: int = 1000, **changes: Any) -> Scheduler:
    args = {
        "disable_radix_cache": False,
        "chunked_prefill_size": 8192,
        "max_prefill_tokens": 16384,
        "max_queued_requests": None,
        "enable_mixed_chunk": False,
        "schedule_policy": "fcfs",
        "schedule_conservativeness": 1.0,
    }
    return Scheduler(SimpleNamespace(**{**args, **changes}), pool, running)


def request(name: str, prompt: int, output: int, shared: int = 0) -> Request:
    tokens = [7] * shared + [hash(name) + index for index in range(prompt - shared)]
    return Request(name, prompt, list(block_keys(tokens)), output)


def drain(core: Scheduler, limit: int = 100_000) -> dict[str, int]:
    """Run to the end; outputs by request. The pool never holds more than it can."""
    done: dict[str, int] = {}
    for _ in range(limit):
        batch = core.next_batch()
        if batch is None:
            assert core.idle, "waiting requests and nothing to run"
            return done
        for ended, _ in core.complete(batch):
            done[ended.rid] = ended.out
        assert core.pool.used + core.pool.evictable <= core.pool.capacity + 1
        assert min(core.pool.private, core.pool.locked, core.pool.evictable) >= 0
        assert len(core.running) <= core.max_running
    raise AssertionError("does not end")


def test_cap_holds_and_the_rest_waits() -> None:
    core = scheduler(100_000, running=8)
    for number in range(20):
        core.add(request(f"r{number}", 100, 10))
    batch = core.next_batch()
    assert batch
    assert len(batch.fresh) == 8
    assert len(core.waiting) == 12
    core.complete(batch)
    following = core.next_batch()
    assert following
    assert following.kind == "decode"
    core.complete(following)
    assert set(drain(core).values()) == {10}


def test_chunks_split_long_prompts_and_prefill_goes_first() -> None:
    core = scheduler(100_000, chunked_prefill_size=512)
    core.add(request("long", 1200, 5))
    kinds = []
    for _ in range(4):
        batch = core.next_batch()
        assert batch
        kinds.append((batch.kind, batch.tokens))
        core.complete(batch)
    assert kinds == [("prefill", 512), ("prefill", 512), ("prefill", 176), ("decode", 0)]


def test_optimistic_admission_retracts_and_still_finishes() -> None:
    core = scheduler(3000, schedule_conservativeness=0.1)
    for number in range(30):
        core.add(request(f"r{number}", 100, 400))
    done = drain(core)
    assert len(done) == 30
    assert set(done.values()) == {400}
    assert core.retracted_total > 0
    careful = scheduler(3000)
    for number in range(30):
        careful.add(request(f"r{number}", 100, 400))
    drain(careful)
    assert careful.retracted_total < core.retracted_total


def test_shared_prefix_is_cached_unless_turned_off() -> None:
    for off, cached in ((False, 640), (True, 0)):
        core = scheduler(100_000, disable_radix_cache=off)
        core.add(request("first", 700, 4, shared=640))
        drain(core)
        core.add(request("second", 700, 4, shared=640))
        batch = core.next_batch()
        assert batch
        assert batch.cached == cached


def test_queue_limit_refuses() -> None:
    core = scheduler(1000, running=1, max_queued_requests=2)
    assert [core.add(request(f"r{n}", 10, 5)) for n in range(4)] == [True, True, False, False]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(1, 200), st.integers(0, 4)), min_size=1, max_size=25),
    st.integers(1000, 4000),
    st.sampled_from([64, 512, 8192, -1]),
    st.sampled_from([0.1, 1.0]),
    st.booleans(),
)
def test_every_request_ends_and_the_books_balance(
    sizes: list[tuple[int, int, int]], pool: int, chunk: int, careful: float, mixed: bool
) -> None:
    core = scheduler(
        pool, 12, chunked_prefill_size=chunk, schedule_conservativeness=careful, enable_mixed_chunk=mixed
    )
    for number, (prompt, output, shared) in enumerate(sizes):
        core.add(request(f"r{number}", prompt, output, min(shared * BLOCK, prompt)))
    done = drain(core)
    assert done == {f"r{number}": output for number, (_, output, _) in enumerate(sizes)}
    assert core.pool.private == 0
    assert core.pool.locked == 0
    core.pool.flush()
    assert core.pool.free == pool


@pytest.mark.parametrize(
    ("batch", "kv_tokens", "measured_ms"),
    [(1, 1150, 4.79), (8, 9200, 5.25), (64, 73_600, 7.7), (256, 300_000, 17.6)],
)
def test_decode_speed_is_the_recorded_one(batch: int, kv_tokens: int, measured_ms: float) -> None:
    assert decode_ms(MODELS["8b"], H200, batch, kv_tokens, True) == pytest.approx(measured_ms, rel=0.1)


def test_prefill_speed_is_the_recorded_one() -> None:
    assert 65536 / 8192 * prefill_ms(MODELS["8b"], 8192, 512, True) == pytest.approx(1500, rel=0.05)


def test_output_text_is_json_safe_and_additive() -> None:
    whole = SPEECH.text(0, 500)
    assert json.loads(b'"' + whole + b'"') == whole.decode()
    assert b"".join(SPEECH.text(at, at + 1) for at in range(500)) == whole
    assert len(json.loads(b"[" + SPEECH.ids(0, 500) + b"]")) == 500


@pytest.mark.parametrize(
    ("value", "text"),
    [(1474560.0, "1.47456e+06"), (905795, "905795.0"), (0, "0.0"), (1e6, "1e+06"), (float("nan"), "NaN")],
)
def test_numbers_as_prometheus_client_writes_them(value: float, text: str) -> None:
    assert number_text(value) == text


def test_histogram_is_absent_then_cumulative() -> None:
    metrics = Metrics("m")
    series = metrics.histogram("queue_time_seconds", **metrics.rank)
    assert "queue_time_seconds" not in metrics.render()
    series.observe(0.0)
    series.observe(1e9)
    lines = [line for line in metrics.render().splitlines() if "queue_time_seconds_bucket" in line]
    counts = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 2
    assert 'le="+Inf"' in lines[-1]
