"""Clues read whole words, and not what a person says is not there."""

from __future__ import annotations

import pytest

from wizard.core.clue import Clue, accusing, search

HANG = Clue("hang", ("symptom", "log"), r"hang(?:ing|s)?", {"server_hang": 3})
GATED = Clue("gated", ("symptom",), r"gated", {"gated_repo": 3})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it hangs", ("hang",)),
        ("changing the flag", ()),
        ("changing it, then it hangs", ("hang",)),
        ("disaggregated prefill", ()),
        ("a Gated model", ("gated",)),
        ("HFGatedError", ("gated",)),
        ("changing " * 5000, ()),
        ("no crash, no hang", ()),
        ("it doesn't hang, it just stops", ()),
        ("it does hang", ("hang",)),
    ],
)
def test_words_begin_where_a_word_begins(text: str, found: tuple[str, ...]) -> None:
    assert search([HANG, GATED], "symptom", text)[0] == found


def test_a_log_is_read_as_it_stands() -> None:
    assert search([HANG], "log", "changing")[0] == ("hang",)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no CUDA errors, slow", ", slow"),
        ("throughput is ok, TTFT is high", ", TTFT is high"),
        ("no kernel image error", "no kernel image error"),
        ("dmesg says nothing", ""),
        ("cannot hang", "cannot hang"),
    ],
)
def test_what_is_denied_accuses_nobody(text: str, left: str) -> None:
    assert accusing(text).strip() == left
