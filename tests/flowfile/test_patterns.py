"""The bound on what a pattern may cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from wizard.flowfile.lint import lint
from wizard.flowfile.load import parse_book
from wizard.flowfile.patterns import steps_of, too_slow


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [("foo", 1), ("a.{0,80}b", 81), ("a.{0,80}b.{0,80}c", 6561), ("a.*b", 400), ("(?:a+)+b", 160_000)],
)
def test_gaps_multiply(pattern: str, steps: float) -> None:
    assert steps_of(pattern) == steps


def test_an_anchored_pattern_starts_once() -> None:
    assert too_slow(r"(?:\w+\.)+x", 32_000) is not None
    assert too_slow(r"^(?:\w+\.)+x", 32_000) is None


def test_lint_names_the_pattern_that_could_stop_the_wizard(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "clues:\n  - {id: slow, where: log, pattern: '(?:a+)+(?:b+)+', for: {ttft_high: 1}}\n"
        "  - {id: quick, where: log, pattern: 'a.{0,80}b', for: {ttft_high: 1}}\n"
    )
    book, problems = parse_book(tmp_path)
    found = [str(p) for p in [*problems, *lint(book)]]
    assert [p for p in found if '"slow"' in p]
    assert not [p for p in found if '"quick"' in p]
