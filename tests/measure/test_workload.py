"""Requests are deterministic and safe; a proposed workload always fits the server."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wizard.core.measurement import Workload
from wizard.measure.workload import END_ID, FIRST_ID, propose, requests

WORK = Workload(8, 100, 20, length_jitter=0.5)


def test_the_same_workload_gives_the_same_requests() -> None:
    first = list(islice(requests(WORK), 50))
    assert first == list(islice(requests(replace(WORK)), 50))
    assert first != list(islice(requests(replace(WORK, seed=8)), 50))
    assert {len(r.input_ids) for r in first} > {len(first[0].input_ids)}
    assert all(50 <= len(r.input_ids) <= 150 and 10 <= r.output_tokens <= 30 for r in first)


def test_salt_changes_the_ids_but_not_the_lengths() -> None:
    first, second = (list(islice(requests(WORK, salt), 50)) for salt in ("a", "b"))
    assert [(len(r.input_ids), r.output_tokens) for r in first] == [
        (len(r.input_ids), r.output_tokens) for r in second
    ]
    assert all(x.input_ids[:2] != y.input_ids[:2] for x in first for y in second)


def test_no_prompt_begins_like_another() -> None:
    prompts = [tuple(r.input_ids) for r in islice(requests(replace(WORK, input_tokens=6)), 2500)]
    assert len({p[0] for p in prompts[:900]}) == 900
    assert len({p[:2] for p in prompts}) == 2500


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_shared_prefix_is_shared_and_the_rest_is_not(share: float) -> None:
    work = replace(WORK, input_tokens=40, length_jitter=0.0, shared_prefix_share=share)
    prompts = [r.input_ids for r in islice(requests(work), 200)]
    common = int(40 * share)
    assert len({tuple(p[:common]) for p in prompts}) == 1
    assert len({tuple(p[: common + 1]) for p in prompts}) == (200 if share < 1 else 1)


@given(
    st.builds(
        Workload,
        concurrency=st.just(1),
        input_tokens=st.integers(1, 300),
        output_tokens=st.integers(1, 300),
        seed=st.integers(),
        shared_prefix_share=st.floats(-1, 2),
        length_jitter=st.floats(-1, 2),
    ),
    st.text(max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_ids_are_in_every_vocabulary(work: Workload, salt: str) -> None:
    for request in islice(requests(work, salt), 5):
        assert request.input_ids
        assert request.output_tokens >= 1
        assert all(FIRST_ID <= token < END_ID for token in request.input_ids)


MAYBE = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 10_000))


@given(
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    st.one_of(st.none(), st.integers(24, 10**7)),
    st.one_of(st.none(), st.integers(24, 10**6)),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_a_proposal_fits(
    running: float | None,
    queued: float | None,
    tokens_in: float | None,
    tokens_out: float | None,
    pool: int | None,
    context: int | None,
    quick: bool,
) -> None:
    work = propose(
        running, queued, tokens_in, tokens_out, kv_capacity=pool, context_length=context, quick=quick
    )
    assert 1 <= work.concurrency <= 256
    assert work.output_tokens >= 8
    assert work.input_tokens >= 1
    room = min([x for x in (pool, context) if x is not None], default=10**9)
    for request in islice(requests(work), 8):
        assert len(request.input_ids) + request.output_tokens < room - 8
    assert work.seconds <= 60


@pytest.mark.parametrize(
    ("running", "queued", "clients"), [(8, 31, 39), (None, None, 16), (0, 0, 16), (200, 300, 256), (1, None, 1)]
)
def test_as_many_clients_as_the_load_has(running: float | None, queued: float | None, clients: int) -> None:
    work = propose(running, queued, 900.2, 200, kv_capacity=905_795, context_length=131_072, quick=False)
    assert (work.concurrency, work.input_tokens, work.output_tokens) == (clients, 900, 200)


def test_the_tiny_model_of_the_cpu_gets_small_requests() -> None:
    work = propose(None, None, None, None, kv_capacity=600, context_length=2048, quick=True)
    assert (work.input_tokens + work.output_tokens) * 1.5 < 600 - 8
    assert work.output_tokens >= 8
