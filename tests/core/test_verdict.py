"""Verdicts as tables: what is said of which windows, and what is never said."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wizard.core.measurement import METRICS, Judgement, Measurement, Verdict, Window, Workload
from wizard.core.plan import VerifyGoal
from wizard.core.verdict import compare, pool, second_look

WORK = Workload(64, 1024, 256)
TOKENS = VerifyGoal("throughput.output", watch=("ttft.p50", "itl.p99", "requests.failed"))
READY = VerifyGoal("ready")
J = Judgement


def runs(
    *windows: dict[str, float], work: Workload | None = WORK, errors: dict[str, int] | None = None
) -> Measurement:
    """A measurement; names are metrics with ``_`` for ``.`` (``throughput_output=1``)."""
    made = tuple(
        Window(5.0, int(w.get("samples", 20)), {k.replace("_", "."): v for k, v in w.items() if k != "samples"})
        for w in windows
    )
    return Measurement(work, made, {}, errors or {})


def tokens(*values: float, **same: float) -> Measurement:
    return runs(*({"throughput_output": value, **same} for value in values))


SLOW = (1250.0, 1270.0, 1264.0, 1240.0)
FAST = (4100.0, 4180.0, 4138.0, 4120.0)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (tokens(*SLOW), tokens(*FAST), J.FIXED),
        (tokens(*FAST), tokens(*SLOW), J.WORSE),
        (tokens(*FAST), tokens(4110.0, 4170.0, 4150.0, 4105.0), J.NO_DIFFERENCE),
        (tokens(*FAST), tokens(*(x * 1.11 for x in FAST)), J.BETTER),  # 10 % are wanted, 8 are sure
        (tokens(100, 140, 90, 120), tokens(110, 150, 100, 135), J.CANNOT_TELL),
        (tokens(1264), tokens(4138), J.CANNOT_TELL),  # one window each
        (tokens(*SLOW), tokens(4138), J.CANNOT_TELL),
        (tokens(), tokens(), J.CANNOT_TELL),
        (tokens(*SLOW), runs({"ttft_p50": 5.0}, {"ttft_p50": 5.0}), J.CANNOT_TELL),
        (tokens(0, 0, samples=0), tokens(900, 950), J.FIXED),  # nothing came through before
        (tokens(900, 950), tokens(0, 0, samples=0), J.WORSE),
        (tokens(0, 0, samples=0), tokens(0, 0, samples=0), J.CANNOT_TELL),
    ],
)
def test_the_goal_alone(before: Measurement, after: Measurement, word: Judgement) -> None:
    verdict = compare(before, after, TOKENS)
    assert verdict.judgement is word, verdict.sentence
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert verdict == compare(before, after, TOKENS)
    assert verdict.sentence.endswith(".")
    assert "None" not in verdict.sentence
    assert "nan" not in verdict.sentence


def test_the_night_of_the_storyboard() -> None:
    """H200, a cap of 8 lifted: 3.3 times the tokens for a longer ITL is a fix, and the price is said."""
    before = tokens(
        *SLOW, ttft_p50=6720, ttft_p99=11440, itl_p50=5.3, itl_p99=27.9, requests_queued=31, requests_failed=0
    )
    after = tokens(
        *FAST, ttft_p50=60, ttft_p99=1530, itl_p50=7.8, itl_p99=76.5, requests_queued=2, requests_failed=0
    )
    verdict = compare(before, after, TOKENS)
    assert verdict.judgement is J.FIXED
    assert verdict.sentence == (
        "3.3 times the tokens a second (1,256 to 4,134), and the queue is gone. The price: inter-token latency "
        "(p99) rose from 28 ms to 76 ms; median inter-token latency rose from 5.3 ms to 7.8 ms."
    )
    words = {row.metric: row.judgement for row in verdict.comparisons}
    assert words["throughput.output"] is J.FIXED
    assert words["ttft.p50"] is words["requests.queued"] is J.BETTER
    assert words["itl.p50"] is J.WORSE
    assert words["requests.failed"] is J.NO_DIFFERENCE


def test_a_price_above_the_gain_is_not_a_fix() -> None:
    before, after = tokens(*SLOW, itl_p99=20), tokens(*(1.4 * x for x in SLOW), itl_p99=90)
    verdict = compare(before, after, TOKENS)
    assert verdict.judgement is J.BETTER
    assert "Too high a price: inter-token latency (p99) rose from 20 ms to 90 ms" in verdict.sentence
    unwatched = compare(before, after, VerifyGoal("throughput.output"))
    assert unwatched.judgement is J.FIXED
    assert "inter-token latency (p99) rose" in unwatched.sentence


def test_the_same_goal_with_a_watched_metric_ruined_is_worse() -> None:
    before, after = tokens(*FAST, ttft_p50=60), tokens(*FAST, ttft_p50=900)
    verdict = compare(before, after, TOKENS)
    assert verdict.judgement is J.WORSE
    assert verdict.sentence.startswith("Tokens a second stayed the same: 4,134 before, 4,134 after")
    assert verdict.sentence.endswith("Median time to first token rose from 60 ms to 900 ms.")


@pytest.mark.parametrize(
    ("failed_before", "failed_after", "word"),
    [(0, 0, J.FIXED), (0, 0.25, J.BETTER), (0, 30, J.WORSE), (30, 0, J.FIXED), (30, 30, J.FIXED)],
)
def test_new_failures_are_never_fixed(failed_before: float, failed_after: float, word: Judgement) -> None:
    before, after = tokens(*SLOW, requests_failed=failed_before), tokens(*FAST, requests_failed=failed_after)
    after = replace(
        after, errors={"HTTP 503: The request queue is full.": int(failed_after * 4)} if failed_after else {}
    )
    verdict = compare(before, after, TOKENS)
    assert verdict.judgement is word
    assert ("HTTP 503" in verdict.sentence) is (failed_after > failed_before)


@pytest.mark.parametrize(
    ("goal", "before", "after", "word"),
    [
        (VerifyGoal("ttft.p50", "lower"), {"ttft_p50": 6000.0}, {"ttft_p50": 60.0}, J.FIXED),
        (VerifyGoal("ttft.p50", "lower"), {"ttft_p50": 60.0}, {"ttft_p50": 6000.0}, J.WORSE),
        (VerifyGoal("ttft.p50", "lower", 0.5), {"ttft_p50": 100.0}, {"ttft_p50": 70.0}, J.BETTER),
        (VerifyGoal("requests.queued", "lower"), {"requests_queued": 31.0}, {"requests_queued": 0.0}, J.FIXED),
        (
            VerifyGoal("requests.queued", "lower"),
            {"requests_queued": 0.4},
            {"requests_queued": 1.2},
            J.NO_DIFFERENCE,
        ),
        (
            VerifyGoal("requests.retracted", "lower"),
            {"requests_retracted": 9.0},
            {"requests_retracted": 0.0},
            J.FIXED,
        ),
        (
            VerifyGoal("requests.retracted", "lower"),
            {"requests_retracted": 0.0},
            {"requests_retracted": 9.0},
            J.WORSE,
        ),
        (VerifyGoal("requests.failed", "lower"), {"requests_failed": 3.0}, {"requests_failed": 0.0}, J.FIXED),
        (VerifyGoal("kv.usage", "lower"), {"kv_usage": 0.98}, {"kv_usage": 0.5}, J.FIXED),
    ],
)
def test_goals_of_every_kind(
    goal: VerifyGoal, before: dict[str, float], after: dict[str, float], word: Judgement
) -> None:
    assert compare(runs(*[before] * 4), runs(*[after] * 4), goal).judgement is word


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (Measurement(None, ()), J.FIXED),  # being ready was enough
        (tokens(100), J.FIXED),
        (runs({"throughput_output": 0, "samples": 3}), J.FIXED),
        (runs({"throughput_output": 0, "samples": 0}), J.CANNOT_TELL),
        (runs({"requests_failed": 9, "samples": 0}, errors={"HTTP 500: boom": 9}), J.NO_DIFFERENCE),
    ],
)
def test_ready_is_the_goal(after: Measurement, word: Judgement) -> None:
    assert compare(Measurement(None, ()), after, READY).judgement is word


def test_other_workloads_cannot_be_compared_but_longer_ones_can() -> None:
    after = tokens(*FAST, *FAST)
    longer = replace(after, workload=replace(WORK, windows=8))
    assert compare(tokens(*SLOW), longer, TOKENS).judgement is J.FIXED
    for other in (replace(WORK, concurrency=8), replace(WORK, seed=8), None):
        verdict = compare(tokens(*SLOW), replace(after, workload=other), TOKENS)
        assert verdict.judgement is J.CANNOT_TELL
        assert "different workloads" in verdict.sentence


def test_live_traffic_says_so() -> None:
    before, after = replace(tokens(*SLOW), workload=None), replace(tokens(*FAST), workload=None)
    assert "live traffic" in compare(before, after, TOKENS).sentence


def test_cannot_tell_says_how_many_more_windows() -> None:
    verdict = compare(tokens(100, 140, 90, 120), tokens(110, 150, 100, 135), TOKENS)
    words = verdict.sentence.split("About ")[1].split()
    assert 1 <= int(words[0]) <= 60
    assert words[1:3] == ["more", "windows"]


def test_few_windows_must_lie_apart() -> None:
    verdict = compare(tokens(100, 101, 102, 118), tokens(117, 118, 119, 120), TOKENS)
    assert verdict.judgement is J.CANNOT_TELL


def test_a_count_in_one_window_of_four_proves_nothing() -> None:
    some = runs({"requests_retracted": 9}, *[{"requests_retracted": 0.0}] * 3)
    none = runs(*[{"requests_retracted": 0.0}] * 4)
    goal = VerifyGoal("requests.retracted", "lower")
    assert compare(some, none, goal).judgement is J.CANNOT_TELL
    assert compare(none, some, goal).judgement is J.CANNOT_TELL


def test_an_unchanged_server_is_rarely_called_changed() -> None:
    rng = random.Random(5)
    wrong = 0
    for _ in range(60):
        before, after = (tokens(*(1000 * rng.lognormvariate(0, 0.1) for _ in range(4))) for _ in range(2))
        verdict = compare(before, after, VerifyGoal("throughput.output"), resamples=300)
        wrong += verdict.judgement not in (J.CANNOT_TELL, J.NO_DIFFERENCE)
    assert wrong <= 6


def test_a_real_change_is_found_in_noise() -> None:
    rng = random.Random(6)
    found = 0
    for _ in range(30):
        before = tokens(*(1000 * rng.lognormvariate(0, 0.1) for _ in range(4)))
        after = tokens(*(2000 * rng.lognormvariate(0, 0.1) for _ in range(4)))
        found += compare(before, after, TOKENS, resamples=300).judgement is J.FIXED
    assert found >= 28


VALUES = st.one_of(st.just(0.0), st.floats(0.001, 1e6))
WINDOWS = st.lists(
    st.builds(
        lambda values, samples: Window(5.0, samples, values),
        st.dictionaries(st.sampled_from(sorted(METRICS)), VALUES, max_size=6),
        st.integers(0, 50),
    ),
    max_size=6,
)
MEASUREMENTS = st.builds(
    lambda windows, errors: Measurement(WORK, tuple(windows), {}, errors),
    WINDOWS,
    st.dictionaries(st.text(max_size=5), st.integers(1, 9), max_size=2),
)
GOALS = st.builds(
    lambda reading, better_by, watch: VerifyGoal(reading, "higher", better_by, watch),
    st.sampled_from(sorted(METRICS)),
    st.floats(0, 3),
    st.lists(st.sampled_from(sorted(METRICS)), max_size=3).map(tuple),
)


@given(MEASUREMENTS, MEASUREMENTS, GOALS)
@settings(max_examples=200, deadline=None)
def test_intervals_hold_their_ratio(before: Measurement, after: Measurement, goal: VerifyGoal) -> None:
    verdict = compare(before, after, goal, resamples=60)
    for row in verdict.comparisons:
        if row.low is not None and row.high is not None and row.ratio is not None:
            assert 0 <= row.low <= row.ratio <= row.high
    if len(before.windows) < 2 or len(after.windows) < 2:
        assert verdict.judgement not in (J.FIXED, J.BETTER, J.NO_DIFFERENCE)
    failing = sum(after.errors.values()) + sum(w.values.get("requests.failed", 0) for w in after.windows)
    if failing >= 1 and not before.errors and not any(w.values.get("requests.failed") for w in before.windows):
        assert verdict.judgement is not J.FIXED


@given(MEASUREMENTS, GOALS)
@settings(max_examples=200, deadline=None)
def test_the_same_twice_is_neither_fixed_nor_worse(measurement: Measurement, goal: VerifyGoal) -> None:
    verdict = compare(measurement, measurement, goal, resamples=60)
    assert verdict.judgement in (J.NO_DIFFERENCE, J.CANNOT_TELL), verdict


def verdict_of(word: Judgement) -> Verdict:
    return Verdict(word, f"{word.value} is said.")


@pytest.mark.parametrize(
    ("like", "pooled", "word"),
    [
        (J.FIXED, J.FIXED, J.BETTER),  # "before" cannot be measured longer any more
        (J.BETTER, J.FIXED, J.BETTER),
        (J.FIXED, J.CANNOT_TELL, J.CANNOT_TELL),  # the first, unclear look counts too
        (J.CANNOT_TELL, J.FIXED, J.CANNOT_TELL),
        (J.FIXED, J.WORSE, J.CANNOT_TELL),
        (J.WORSE, J.WORSE, J.WORSE),
        (J.NO_DIFFERENCE, J.NO_DIFFERENCE, J.NO_DIFFERENCE),
        (J.CANNOT_TELL, J.CANNOT_TELL, J.CANNOT_TELL),
    ],
)
def test_a_second_look_after_against_one_before(like: Judgement, pooled: Judgement, word: Judgement) -> None:
    verdict = second_look(verdict_of(like), verdict_of(pooled))
    assert verdict.judgement is word
    assert "two measurements after the change against one before" in verdict.sentence


def test_looks_are_pooled_with_all_that_failed_in_them() -> None:
    both = pool(
        (runs({"samples": 3}, errors={"503": 2}), runs({"samples": 4}, {}, errors={"503": 1, "reset": 1}))
    )
    assert [w.samples for w in both.windows] == [3, 4, 20]
    assert both.errors == {"503": 3, "reset": 1}
    assert both.workload is not None
    assert replace(both.workload, windows=WORK.windows) == WORK
    assert compare(tokens(*SLOW), both, TOKENS).judgement is J.CANNOT_TELL


def test_a_second_look_hardly_ever_calls_an_unchanged_server_better_and_never_fixed() -> None:
    """Windows of one server that resemble each other, measured once before and up to twice after.

    Noise of 6 % where neighbouring windows correlate by 0.3, as the rules assume.
    """
    rng = random.Random(3)

    def measured() -> Measurement:
        noise, values = rng.gauss(0, 0.06), []
        for _ in range(4):
            noise = 0.3 * noise + rng.gauss(0, 0.06 * (1 - 0.3**2) ** 0.5)
            values.append(1000 * (1 + noise))
        return tokens(*values)

    words = []
    for _ in range(250):
        before, first = measured(), measured()
        verdict = compare(before, first, TOKENS, resamples=200)
        if verdict.judgement is J.CANNOT_TELL:
            second = measured()
            like = compare(before, second, TOKENS, resamples=200)
            pooled = compare(before, pool((first, second)), TOKENS, resamples=200)
            verdict = second_look(like, pooled)
            assert verdict.judgement is not J.FIXED
        words.append(verdict.judgement)
    wrong = sum(word in (J.FIXED, J.BETTER) for word in words)
    assert wrong / len(words) <= 0.06, (
        wrong
    )  # half of about 7 in 100 on either side, and some for a second look
