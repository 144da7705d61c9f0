"""Flow files: the shipped ones hold, and each kind of mistake is pointed at with file, line and column."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wizard.core.expr import parse
from wizard.flowfile.apart import never_together
from wizard.flowfile.graph import dot, tree
from wizard.flowfile.lint import lint
from wizard.flowfile.load import load_book, parse_book
from wizard.flowfile.resources import flows_dir
from wizard.flowfile.schema import schema
from wizard.flowfile.source import FlowFileError

GOOD = """\
flow: waits
title: Requests wait
summary: They wait.
family: performance
start: first
nodes:
  first:
    ask: Is there a queue?
    probes: [metrics]
    branches:
      - {to: cap, when: "requests.queued > 0", label: "yes"}
      - {to: fine, otherwise: true, label: "no"}
    unknown: Look at the log.
  cap: {cause: long_queue}
  fine: {end: Nothing waits.}
causes:
  long_queue:
    title: A cap
    family: performance
    why: Because.
    see: curl
    signs:
      - {when: "requests.queued > 0", weight: 4, says: "queue {requests.queued}"}
    remedies: [lift]
remedies:
  lift:
    title: Lift it
    change: {max_running_requests: unset}
    why: It is {server.max_running_requests}.
    cost: None.
    verify: {reading: throughput.output, better_by: 10 %}
"""


def book_of(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "a.yaml").write_text(text)
    book, problems = parse_book(tmp_path)
    return [str(p).replace(tmp_path.name, "flows") for p in [*problems, *lint(book)]]


def test_the_shipped_flows_have_no_problem() -> None:
    book = load_book(flows_dir())
    assert {"requests_wait", "out_of_memory", "kv_cache", "does_not_start", "tokens_slow"} <= book.flows.keys()
    for flow in book.flows.values():
        assert tree(flow, book)
    assert dot(book).startswith("digraph")


def test_the_shipped_flows_fit_the_schema_that_editors_get() -> None:
    checker = jsonschema.Draft202012Validator(schema())
    for path in flows_dir().glob("*.yaml"):
        document = json.loads(json.dumps(yaml.safe_load(path.read_text())))
        assert list(checker.iter_errors(document)) == []


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    assert book_of(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "probes: [metrics]",
            "probes: [metrix]",
            'flows/a.yaml:8:5 unknown probe "metrix"; did you mean "metrics"?',
        ),
        ("to: cap,", "to: cop,", 'flows/a.yaml:11:14 no node "cop" in this flow; did you mean "cap"?'),
        (
            'when: "requests.queued > 0", label',
            'when: "requests.queed > 0", label',
            'flows/a.yaml:11:26 unknown reading "requests.queed"; did you mean "requests.queued"?',
        ),
        (
            '"requests.queued > 0", weight',
            '"requests.queued >", weight',
            "flows/a.yaml:23:17 cannot read this condition",
        ),
        ("    cost: None.", "    coast: None.", 'unknown key "coast" in remedy lift; did you mean "cost"?'),
        ("cause: long_queue}", "cause: long_que}", 'unknown cause "long_que"; did you mean "long_queue"?'),
        ("max_running_requests: unset", "max_running_request: unset", "no catalogued SGLang has a flag"),
        ("    verify: {reading: throughput.output, better_by: 10 %}\n", "", 'so it needs "verify"'),
        ("start: first", "start: frist", 'no node "frist" in this flow; did you mean "first"?'),
        ("to: fine, otherwise: true", "to: first, otherwise: true", "runs in a circle"),
        ("- {to: fine, otherwise", "- {to: cap, otherwise", 'node "fine" cannot be reached'),
        (
            "otherwise: true, label",
            'when: "requests.running > 0", label',
            'has no last branch with "otherwise: true"',
        ),
        ("    unknown: Look at the log.\n", "", 'so it needs "unknown"'),
        ("remedies: [lift]", "remedies: [lift, left]", 'unknown remedy "left"; did you mean "lift"?'),
        (
            "max_running_requests: unset",
            'max_running_requests: {to: "requests.queued", direction: higher}',
            "is raised without a stop",
        ),
        ("better_by: 10 %", "better_by: much", '"much" is not a share such as 10 %'),
        ("reading: throughput.output", "reading: throughput.out", "did you mean"),
        ("title: A cap", "title: A cap\n    title: B", '"title" stands here twice'),
        ("weight: 4", "weight: 40", "a weight is between -10 and 10"),
        ("nodes:\n", "nodes: [\n", "is not YAML"),
        ("title: Lift it", "title: &a Lift it", "anchors and aliases"),
    ],
)
def test_each_mistake_is_pointed_at(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    problems = book_of(tmp_path, GOOD.replace(old, new, 1))
    assert any(expected in p for p in problems), problems
    assert all(p.startswith("flows/") for p in problems)


def test_remedies_that_fight_over_a_flag_are_found(tmp_path: Path) -> None:
    fight = GOOD.replace("remedies: [lift]", "remedies: [up, down]").replace(
        GOOD[GOOD.index("  lift:\n") :],
        """\
  up: {title: a,
       change: {chunked_prefill_size: {value: "8192", direction: higher}}, why: a, cost: 0, verify: ready}
  down: {title: a,
         change: {chunked_prefill_size: {value: "512", direction: lower}}, why: a, cost: b, verify: ready}
""",
    )
    assert any("in opposite directions" in p for p in book_of(tmp_path, fight))


SAID = "known(symptom.clues) and 'a' in symptom.clues"


@pytest.mark.parametrize(
    ("up", "down", "apart"),
    [
        (SAID, "known(symptom.clues) and not ('a' in symptom.clues)", True),
        (SAID, "requests.queued > 3 and known(symptom.clues) and not ('a' in symptom.clues)", True),
        (SAID, "known(log.clues) and not ('a' in log.clues)", False),
        (SAID, "not ('a' in symptom.clues)", True),  # unknown words: the first is false
        ("'a' in symptom.clues", "not ('a' in symptom.clues)", False),  # nothing said: both may apply
        (SAID, "known(symptom.clues) and 'b' in symptom.clues", False),
        (SAID + " and not ('b' in symptom.clues)", "known(symptom.clues) and 'b' in symptom.clues", True),
        ("requests.queued > 3", "requests.queued <= 3", False),  # numbers prove nothing here
        (SAID, "known(requests.queued) and 'a' in symptom.clues", False),
        ("known(requests.queued)", "not known(requests.queued)", False),
    ],
)
def test_two_ways_of_a_flag_need_conditions_that_never_meet(up: str, down: str, apart: bool) -> None:
    assert never_together(parse(up), parse(down)) is apart
    assert never_together(parse(down), parse(up)) is apart
    assert not never_together(parse(up), None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"", "is empty"),
        (b"- a\n- b\n", "a flow file must be a mapping"),
        (b"x: " + b"[" * 100000, "is nested more than 30 deep"),
        (b"#" * 1_000_001, "at most 1000000"),
        (b"flow: a\n", 'the flow lacks "title"'),
    ],
)
def test_bad_files_give_a_line_and_no_traceback(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(FlowFileError) as caught:
        load_book(tmp_path)
    assert expected in str(caught.value)


def test_a_folder_without_flows_is_said(tmp_path: Path) -> None:
    with pytest.raises(FlowFileError, match=r"has no \*.yaml file"):
        load_book(tmp_path)
    with pytest.raises(FlowFileError, match="is not a folder"):
        load_book(tmp_path / "none")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.text(max_size=5))
def test_a_file_damaged_anywhere_never_crashes(tmp_path: Path, at: int, junk: str) -> None:
    (tmp_path / "a.yaml").write_text(GOOD[:at] + junk + GOOD[at + 1 :], encoding="utf-8", errors="replace")
    book, problems = parse_book(tmp_path)
    for problem in [*problems, *lint(book)]:
        assert str(problem)
