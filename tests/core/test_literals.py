from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.literals import SHORTEST, all_texts, required_texts
from wizard.core.logtext import Signature
from wizard.flowfile.lint import lint
from wizard.flowfile.load import load_book
from wizard.flowfile.resources import flows_dir

SIGNATURES = BOOK.signatures


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("abc", {"abc"}),
        ("CUDA out of memory|cudaErrorMemoryAllocation", {"CUDA out of memory", "cudaErrorMemoryAllocation"}),
        (r"(?:CUDA|HIP) out of memory", {"CUDA out of memory", "HIP out of memory"}),
        (r"[Oo]ut of memory\b", {"Out of memory", "out of memory"}),
        (r"colou?rful", {"colorful", "colourful"}),
        (r"\d+ is not divisible by \d+", {" is not divisible by "}),
        (r"^(?:\w{1,60}\.){0,6}\w{0,60}(?:Error|Exception): \S", {"Error: ", "Exception: "}),
        (r"(?:abcdef)+x{0,3}", {"abcdef"}),
        (r"(?:abcdef)*ghij", {"ghij"}),
        (r"(?i)ABC 123 def", {" 123 "}),
        (r"(?i:word)longer", {"longer"}),
        (r"abcd(?!efgh)", {"abcd"}),
        (r"\w+\d*", None),
        (r"ab|cdef", None),
        (r".*", None),
    ],
)
def test_texts_of_a_pattern(pattern: str, texts: set[str] | None) -> None:
    assert required_texts(pattern) == texts


def test_lines_that_a_log_is_full_of_tell_nothing_apart() -> None:
    assert required_texts(r'"POST /\S{1,60} HTTP/1\.\d" 4\d\d') == {'" 4'}


def test_every_signature_of_the_flows_has_texts() -> None:
    """One without would be tried on every line: see wizard.core.logscan."""
    without = [s.id for s in SIGNATURES if required_texts(s.pattern) is None]
    assert without == []
    assert min(map(len, all_texts(s.pattern for s in SIGNATURES))) >= SHORTEST


def test_a_text_within_another_is_enough() -> None:
    assert all_texts(["out of memory", "CUDA out of memory", r"\w"]) == ("out of memory",)


PIECES = st.sampled_from(
    ["abc", "Error", r"\d{1,3}", "[xy]", "(?:left|right side)", "z?", "(?:go )+", r"\w*", "^",
     "(?i:Case)", "(tail|)", "(?=ab)", "[^q]", r"\.", "(?:a|b|c)d"]
)  # fmt: skip


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.data())
@settings(max_examples=200, deadline=None)
def test_what_matches_holds_a_text(pattern: str, data: st.DataObject) -> None:
    texts = required_texts(pattern)
    string = data.draw(st.from_regex(re.compile(pattern)))
    assert texts is None or any(text in string for text in texts)


def test_lint_refuses_a_signature_that_every_line_must_be_tried_on() -> None:
    book = load_book(flows_dir())
    costly = Signature("costly", r"\w+: \d+", "info")
    problems = lint(replace(book, signatures=(*book.signatures, costly)))
    assert [p.message for p in problems] == [
        'the pattern of "costly" needs no certain text: costly on large logs'
    ]
