"""Clues and signatures as evidence: what they add, how they are damped, and that the sum can be shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.clue import TEXT_CAP, Clue, quoted, search
from wizard.core.expr import parse, parse_template
from wizard.core.flow import Cause, FlowBook, Sign
from wizard.core.logtext import Signature
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Value
from wizard.core.triage import PRIOR, PRIOR_TOLD, named, rank, verdict
from wizard.core.versions import within


def cause(name: str, *signs: Sign) -> Cause:
    return Cause(name, name, "f", "Why.", "see", signs, ())


def clue(name: str, pattern: str, places: tuple[str, ...] = ("symptom",), **weights: float) -> Clue:
    return Clue(name, places, pattern, weights)


def snapshot(**values: object) -> Snapshot:
    readings = {k.replace("__", "."): Value(v) for k, v in values.items()}  # type: ignore[arg-type]
    return Snapshot().with_result(ProbeResult("told", Outcome.OK, readings))


def test_a_clue_looks_at_its_places_only_and_can_be_silenced() -> None:
    late = Clue("late", ("symptom",), r"first token.{0,30}late", {"ttft_high": 4}, unless="not late")
    assert search([late], "symptom", "the First  Token comes late") == (("late",), ("First Token comes late",))
    assert search([late], "log", "first token late") == ((), ())
    assert search([late], "symptom", "first token is not late") == ((), ())
    assert search([late], "symptom", " " * TEXT_CAP + "first token late") == ((), ())


def test_a_log_line_that_a_person_quotes_speaks_for_its_cause_with_less_weight() -> None:
    lines = (
        Signature("no_config", r"does not appear to have a file named (?P<f>\S+)", "lead", cause="a", weight=4),
        Signature("peer", r"Connection closed by peer", "victim", cause="b", weight=4),
        Signature("plain", r"file named", "lead", cause="b"),
    )
    told = "It says: /m does not\nappear to have a file named config.json.  Connection closed by peer"
    ids, found = quoted(lines, told)
    assert (ids, found) == (("no_config",), ("does not appear to have a file named config.json.",))
    assert quoted(lines, " " * TEXT_CAP + told) == ((), ())
    book = FlowBook(causes={"a": cause("a"), "b": cause("b")}, signatures=lines)
    env = snapshot(symptom__clues=("x",), symptom__signatures=ids, symptom__lines=found).get
    first, second = rank(book, env)
    assert first.cause.id == "a"
    assert [e.weight for e in first.supporting] == [3]
    assert "the symptom quotes a line of the log" in first.supporting[0].says
    assert second.supporting == ()


@pytest.mark.parametrize(("place", "pattern"), [("sympton", "a"), ("log", "(")])
def test_a_clue_that_cannot_work_is_refused(place: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"place|compile"):
        Clue("x", (place,), pattern, {"a": 1}).check()


def test_evidence_of_one_text_is_damped_and_the_arithmetic_adds_up() -> None:
    book = FlowBook(
        causes={"a": cause("a"), "b": cause("b")},
        clues=(clue("one", "x", a=4, b=-1), clue("two", "y", a=2), clue("three", "z", ("log",), a=2)),
    )
    env = snapshot(symptom__clues=("two", "one"), symptom__quotes=("Y", "X"), log__clues=("three",)).get
    first, second = rank(book, env)
    assert [e.weight for e in first.supporting] == [4, 1, 2]
    assert first.arithmetic().startswith(f"{PRIOR_TOLD:g} + 4 + 1 + 2 = 6, so ")
    assert first.supporting[0].says == 'the symptom says "X"'
    assert second.against[0].weight == -1
    assert second.status == "refuted"
    assert [h.cause.id for h in named((first, second))] == ["a"]


def test_without_a_person_s_word_the_prior_is_low() -> None:
    book = FlowBook(causes={"a": cause("a")}, clues=(clue("one", "x", ("log",), a=2),))
    (only,) = rank(book, snapshot(log__clues=("one",)).get)
    assert only.prior == PRIOR
    assert only.status != "supported"


@pytest.mark.parametrize(
    ("lead", "found", "version", "weights"),
    [
        ("s", ("s",), None, [6.0]),
        ("t", ("t", "s"), None, [2.0]),
        ("v", ("v",), None, [4.0]),
        ("t", ("t", "v"), None, []),
        ("t", ("t", "i"), None, [1.5]),
        ("s", ("s",), "0.4.5", []),
        ("s", ("s",), "0.5.20", [6.0]),
    ],
)
def test_a_signature_with_a_weight_speaks_for_its_cause(
    lead: str, found: tuple[str, ...], version: str | None, weights: list[float]
) -> None:
    book = FlowBook(
        causes={"a": cause("a")},
        signatures=(
            Signature("s", "x", "lead", cause="a", weight=6, versions=">=0.5"),
            Signature("t", "x", "lead"),
            Signature("v", "x", "victim", cause="a", weight=4),
            Signature("i", "x", "info", cause="a", weight=1.5),
        ),
    )
    told: dict[str, object] = {"log__signature": lead, "log__signatures": found, "log__error": "boom"}
    if version:
        told["server__version"] = version
    (only,) = rank(book, snapshot(**told).get)
    assert [e.weight for e in only.supporting] == weights


def test_signs_and_clues_add_up() -> None:
    sign = Sign(parse("requests.queued > 0"), 3, parse_template("queue {requests.queued}"))
    book = FlowBook(causes={"a": cause("a", sign)}, clues=(clue("one", "x", a=2),))
    (only,) = rank(book, snapshot(requests__queued=4, symptom__clues=("one",)).get)
    assert only.arithmetic().startswith("-1 + 3 + 2 = 4, so ")


@pytest.mark.parametrize(
    ("version", "span", "inside"),
    [
        ("0.5.10", ">=0.5.10", True),
        ("0.5.9", ">=0.5.10", False),
        ("0.5.9.post1", ">=0.5.9,<0.5.10", True),
        (None, ">=0.5.10", True),
        ("dev", ">=0.5.10", True),
        ("0.4.1", "<0.4.1", False),
        ("0.4.1", "0.4.1", True),
    ],
)
def test_spans(version: str | None, span: str, inside: bool) -> None:
    assert within(version, span) is inside


def test_a_span_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="span"):
        within("0.5.1", "since 0.5")


@given(st.text(max_size=300), st.sampled_from(["symptom", "log", "command", "hardware"]))
def test_no_text_breaks_the_search(text: str, place: str) -> None:
    ids, quotes = search([clue("w", r"\w+", ("symptom", "log"), a=1)], place, text)
    assert len(ids) == len(quotes)
    assert bool(ids) == bool(re.search(r"\w", text) and place in ("symptom", "log"))


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({}, "unknown"),  # any web server has a good /health
        ({"kv__capacity_tokens": 905795}, "healthy"),
        ({"server__max_running_requests": 2048}, "healthy"),
        ({"requests__running": 0}, "healthy"),
        ({"log__phase": "serving"}, "healthy"),
        ({"log__phase": "loading"}, "unknown"),
        ({"server__info": "answered"}, "healthy"),
        ({"server__info": "locked", "requests__running": 0}, "healthy"),
        ({"server__info": "locked", "requests__running": 0, "metrics__frozen": True}, "unknown"),
        # a log, and what was read from it, may be of before it hung
        ({"server__info": "hung", "log__phase": "serving", "kv__capacity_tokens": 905795}, "unknown"),
        ({"server__info": "failed", "log__phase": "serving", "server__max_running_requests": 8}, "unknown"),
        ({"server__info": "missing", "log__phase": "serving"}, "unknown"),
        # the page of a frozen scheduler answers, with numbers that stand still: idle looks the same
        ({"server__info": "hung", "requests__running": 0, "requests__running_mean": 0.0}, "unknown"),
        ({"server__info": "missing", "requests__running": 0, "requests__running_mean": 0.0}, "healthy"),
        ({"server__info": "hung", "throughput__output": 80.5, "metrics__frozen": False}, "healthy"),
    ],
)
def test_a_good_health_check_alone_proves_no_scheduler(seen: dict[str, object], says: str) -> None:
    assert verdict(snapshot(http__health="serving", **seen), ()) == says
    assert verdict(snapshot(http__health="hung", **seen), ()) == "unknown"
