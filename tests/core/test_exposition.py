"""The metrics page parser against the reference parser, hand-made pages, real pages and garbage."""

from __future__ import annotations

import math
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wizard.core.exposition import ExpositionError, increase, observations, parse, quantile

RECORDINGS = Path(os.environ.get("SGL_WIZARD_RECORDINGS", "/nonexistent"))

PAGE = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 8.0
sglang:num_running_reqs{dp_rank="0",tp_rank="1"} 8.0
sglang:num_running_reqs{dp_rank="1",tp_rank="0"} 5.0
sglang:num_queue_reqs 31.0
# TYPE sglang:time_to_first_token_seconds histogram
sglang:time_to_first_token_seconds_sum{is_streaming="true"} 4.5
sglang:time_to_first_token_seconds_bucket{is_streaming="true",le="0.1"} 10.0
sglang:time_to_first_token_seconds_bucket{is_streaming="true",le="0.2"} 30.0
sglang:time_to_first_token_seconds_bucket{is_streaming="true",le="+Inf"} 40.0
sglang:time_to_first_token_seconds_count{is_streaming="true"} 40.0
sglang:time_to_first_token_seconds_bucket{is_streaming="false",le="0.1"} 1.0
sglang:time_to_first_token_seconds_bucket{is_streaming="false",le="0.2"} 2.0
sglang:time_to_first_token_seconds_bucket{is_streaming="false",le="+Inf"} 2.0
"""


def test_samples_sums_and_ranks() -> None:
    page = parse(PAGE)
    assert page.has("sglang:num_queue_reqs")
    assert not page.has("sglang:num_queue")
    assert page.sum("sglang:num_running_reqs") == 21
    assert page.sum("sglang:num_running_reqs", dp_rank="1") == 5
    assert page.max("sglang:num_running_reqs") == 8
    assert page.total("sglang:num_running_reqs") == 13  # tensor ranks once, data-parallel ranks added
    assert page.samples("sglang:num_queue_reqs")[0].labels == {}
    assert page.sum("nothing") is None
    assert page.max("nothing") is None
    assert page.total("nothing") is None


def test_priority_series_that_holds_all_is_taken_alone() -> None:
    page = parse('q{priority=""} 7\nq{priority="1"} 3\nq{priority="2"} 4\n')
    assert page.total("q") == 7


def test_histogram_is_summed_over_series() -> None:
    assert parse(PAGE).histogram("sglang:time_to_first_token_seconds") == {0.1: 11, 0.2: 32, math.inf: 42}
    assert parse(PAGE).histogram("sglang:time_to_first_token_seconds", is_streaming="false")[math.inf] == 2
    assert parse(PAGE).histogram("sglang:e2e") == {}


def test_histogram_of_a_cut_page_is_completed_or_left_out() -> None:
    assert parse('h_bucket{le="1"} 2\nh_count 5\n').histogram("h") == {1.0: 2, math.inf: 5}
    assert parse('h_bucket{le="1"} 2\n').histogram("h") == {}
    different = 'h_bucket{a="1",le="1"} 2\nh_bucket{a="1",le="+Inf"} 3\nh_bucket{a="2",le="2"} 2\n'
    different += 'h_bucket{a="2",le="+Inf"} 4\n'
    assert parse(different).histogram("h") == {math.inf: 7}


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ('m{a="x"} 1', {"a": "x"}, 1.0),
        (
            'm{a="q\\"uote",b="back\\\\slash",c="new\\nline"} 1',
            {"a": 'q"uote', "b": "back\\slash", "c": "new\nline"},
            1.0,
        ),
        ('m{a="} 7",} 2 1700000000000', {"a": "} 7"}, 2.0),
        ('m { a = "x" , b = "y" }  +Inf', {"a": "x", "b": "y"}, math.inf),
        ("m -Inf", {}, -math.inf),
        ("m\t3e+06", {}, 3e6),
        ('m_bucket{le="1"} 4 # {trace_id="x"} 0.5', {"le": "1"}, 4.0),
        ("m 5\r", {}, 5.0),
    ],
)
def test_lines_of_every_shape(line: str, labels: dict[str, str], value: float) -> None:
    page = parse(line + "\n")
    (name,) = page.names()
    (sample,) = page.samples(name)
    assert sample.labels == labels
    assert sample.value == value


@pytest.mark.parametrize(
    "line", ["m", "m{", 'm{a="x"', 'm{a="x" 1', "m{a=x} 1", "1m 2", "m abc", "m 1_0", "{} 1 m", "m-x 3"]
)
def test_what_is_no_sample_is_skipped_and_counted(line: str) -> None:
    page = parse(f"ok 1\n{line}\n")
    assert page.names() == ("ok",)
    assert page.skipped == 1


def test_nan_is_no_number() -> None:
    page = parse('m{a="1"} NaN\nm{a="2"} 3\nn NaN\n')
    assert page.sum("m") == 3
    assert page.max("m") == 3
    assert page.sum("n") is None
    assert page.has("n")


@pytest.mark.parametrize("text", ["<!DOCTYPE html><html>", "  \n<html>", '{"detail":"Not Found"}', "[1]"])
def test_other_documents_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ExpositionError) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_a_cut_page_loses_only_its_last_line() -> None:
    whole = "a 1\nb 12345\n"
    assert parse(whole[:-3], cut=True).names() == ("a",)
    assert parse("a 1\nb 2").names() == ("a", "b")  # a file saved without the last newline
    page = parse("a 1\n" * 10 + "b 12345", max_bytes=44)
    assert page.truncated
    assert page.names() == ("a",)


def test_huge_input_is_bounded() -> None:
    page = parse('m{a="' + "x" * 3_000_000 + '"} 1\n' + "y 2\n" * 500_000, max_bytes=100_000)
    assert page.truncated
    assert page.names() == ()
    started = time.thread_time()
    parse('m{a="' + "\\" * 400_000 + "\n" + "m{" + "a" * 400_000 + "\n" + "m{" + " ," * 200_000 + "\n")
    assert time.thread_time() - started < 5


def test_quantile_of_the_window_only() -> None:
    before = {0.1: 100.0, 0.2: 100.0, math.inf: 100.0}
    after = {0.1: 100.0, 0.2: 110.0, math.inf: 110.0}
    assert quantile(before, after, 0.5) == pytest.approx(0.15)
    assert quantile(None, after, 0.5) == pytest.approx(0.055)
    assert quantile(after, after, 0.5) is None
    assert quantile(None, {}, 0.5) is None
    assert observations(before, after) == 10
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(before, after, 99)


def test_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(None, {0.1: 0.0, 0.2: 0.0, math.inf: 4.0}, 0.5) == 0.2
    assert quantile(None, {math.inf: 4.0}, 0.5) is None


def test_restart_between_scrapes_counts_everything_after() -> None:
    before = {0.1: 100.0, 0.2: 100.0, math.inf: 100.0}
    after = {0.1: 0.0, 0.2: 4.0, math.inf: 4.0}
    assert quantile(before, after, 0.5) == pytest.approx(0.15)
    assert observations(before, after) == 4
    assert quantile({0.5: 3.0, math.inf: 3.0}, after, 0.5) == pytest.approx(0.15)
    assert increase(100, 4) == 4
    assert increase(100, 104) == 4
    assert increase(None, 4) is None
    assert increase(math.nan, 4) is None


@given(st.lists(st.floats(0.0001, 9.0), min_size=1, max_size=80), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    bounds = [0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0]
    after = {b: float(sum(v <= b for v in values)) for b in [*bounds, math.inf]}
    found = quantile(None, after, q)
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    upper = next(b for b in bounds if true <= b)
    lower = max([b for b in bounds if b < upper], default=0.0)
    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


def test_agrees_with_the_reference_parser() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    rng = random.Random(7)
    histogram = client.Histogram("h_seconds", "a\nb", ["model", "rank"], registry=registry)
    gauge = client.Gauge("g", 'it says "so"', ["path"], registry=registry)
    counter = client.Counter("sglang:c", "c", ["mode"], registry=registry)
    for i in range(60):
        histogram.labels('a\\b"c\nd,e}', str(i % 3)).observe(rng.expovariate(2))
        gauge.labels(f"/srv/{i}=x {{}}").set(rng.choice([math.inf, -math.inf, rng.random() * 1e9, 0.0]))
        counter.labels("decode" if i % 2 else "").inc(i)
    text = client.generate_latest(registry).decode()
    _assert_same(text, parser)


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="SGL_WIZARD_RECORDINGS names no folder of recorded pages")
def test_recorded_pages_agree_with_the_reference_parser() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    pages = sorted(RECORDINGS.glob("cpu/metrics_*.txt")) + sorted(RECORDINGS.glob("h200/*/metrics_*.txt"))
    assert pages
    for page in pages:
        if page.read_text().startswith("# "):  # two "pages" hold what a refused connection said instead
            _assert_same(page.read_text(), parser)


def _assert_same(text: str, parser: object) -> None:
    mine = parse(text)
    assert mine.skipped == 0
    expected = [
        (sample.name, dict(sample.labels), sample.value)
        for family in parser.text_string_to_metric_families(text)  # type: ignore[attr-defined]
        for sample in family.samples
    ]
    assert expected
    for name in {name for name, _, _ in expected}:
        theirs = sorted((sorted(labels.items()), value) for n, labels, value in expected if n == name)
        ours = sorted((sorted(s.labels.items()), s.value) for s in mine.samples(name))
        assert repr(ours) == repr(theirs)
    assert set(mine.names()) == {name for name, _, _ in expected}


PIECES = st.sampled_from(
    [
        "sglang:a",
        "_bucket",
        "{",
        "}",
        '"',
        "\\",
        "\n",
        " ",
        ",",
        "=",
        "le",
        '="+Inf"',
        "1",
        "NaN",
        "#",
        "1e999",
        "\x00",
        "é",
    ]
)


@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=120).map("".join)), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
@example('a{b="\\', 10)
def test_any_text_is_parsed_or_refused(text: str, limit: int) -> None:
    try:
        page = parse(text, max_bytes=limit)
        parse(text.encode("utf-8", "replace"), max_bytes=limit)
    except ExpositionError:
        return
    for name in page.names():
        page.sum(name)
        page.max(name)
        page.total(name)
    assert quantile(None, page.histogram("sglang:a"), 0.5) is None or page.histogram("sglang:a")
