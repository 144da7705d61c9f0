"""Text helpers: what they promise, without a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.tui import samples
from wizard.tui import format as fmt
from wizard.tui.command import both_commands, change_words
from wizard.tui.outcome import change_text, metric_text, progress_lines, sure_text, verdict_lines
from wizard.tui.readings import History, term_words, value_text
from wizard.tui.screens.address import parse_address


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (samples.HOSTILE, samples.HOSTILE_SHOWN + " "),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1bP1$q\x1b\\b", "ab"),
        ("\x9b31mred", "red"),
        ("over\rwrite", "overwrite"),
        ("evil\u202etxt", "eviltxt"),
        ("tab\there", "tab    here"),
        ("two\r\nlines", "two\nlines"),
    ],
)
def test_clean_removes_what_a_terminal_would_obey(raw: str, shown: str) -> None:
    assert fmt.clean(raw) == shown


@given(st.text(max_size=200), st.integers(4, 100))
def test_wrapped_lines_fit_and_hold_no_control_characters(text: str, width: int) -> None:
    for one in fmt.wrap(text, width):
        assert fmt.width_of(one) <= max(width, 3)
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in fmt.plain(one))


@given(st.text(alphabet="ab 漢字é", max_size=60), st.integers(1, 30))
def test_pad_is_exact(text: str, width: int) -> None:
    assert cell_len(fmt.pad(text, width)) == width


@given(
    st.lists(st.tuples(st.text(alphabet="abc漢", min_size=1, max_size=9), st.just("dim")), max_size=6),
    st.integers(1, 30),
)
def test_cut_fits(spans: list[tuple[str, str]], width: int) -> None:
    assert fmt.width_of(fmt.cut(tuple(spans), width)) <= width


def test_wrapping_loses_no_word() -> None:
    text = "one two three four five six seven"
    assert " ".join(fmt.wrap_text(text, 9)).split() == text.split()
    assert "".join(fmt.wrap_text("x" * 50, 9)) == "x" * 50


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (8.1, "8.1 s"),
        (20.4, "20 s"),
        (65, "1 m 05 s"),
        (11520, "3 h 12 m"),
        (356400, "4 d 3 h"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert fmt.duration(seconds) == shown


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.35, "0.35 ms"), (5.3, "5.3 ms"), (120, "120 ms"), (6720, "6.72 s")]
)
def test_milliseconds(ms: float, shown: str) -> None:
    assert fmt.milliseconds(ms) == shown


def test_sparkline_goes_from_zero_to_the_largest() -> None:
    assert fmt.sparkline([0, 1, 2, 4], 10) == "▁▃▅█"
    assert fmt.sparkline([0, 0], 10) == "▁▁"
    assert fmt.sparkline(range(100), 5) == "███████"[:5]
    assert fmt.sparkline([1], 0) == ""


def test_the_footer_keeps_help_and_quit() -> None:
    keys = [("a", "x" * 30), ("b", "y" * 30), ("?", "keys"), ("q", "quit")]
    text = fmt.plain(fmt.keys_line(keys, 50))
    assert "? keys" in text
    assert "q quit" in text
    assert "b y" not in text


def test_stages_say_in_words_and_marks_where_we_are() -> None:
    assert fmt.plain(fmt.stages_line("solve")) == " ✓ Classify ─── ✓ Diagnose ─── (3) Solve ─── 4 Verify"


def test_readings_have_units() -> None:
    seen = samples.snapshot()
    shown = {name: value_text(name, value) for name, value in seen.values().items()}
    assert shown["ttft.p50"] == "6.72 s"
    assert shown["kv.usage"] == "1 %"
    assert shown["throughput.output"] == "1,264 tok/s"
    assert shown["process.uptime_s"] == "3 h 12 m"


def test_a_condition_reads_with_its_numbers() -> None:
    node = samples.BOOK.flows["requests_wait"].nodes["what_limits"]
    when = node.branches[1].when
    assert when is not None
    assert term_words(when.evaluate(samples.snapshot().get).terms[0]) == "running 8 >= cap 8"


def test_history_takes_one_value_a_sweep() -> None:
    history = History()
    for at, queue in ((1.0, 5), (1.0, 5), (2.0, 9)):
        history.add(samples.classify(samples.snapshot(at, requests__queued=queue)))
    assert history.of("requests.queued") == (5.0, 9.0)
    history.clear()
    assert history.of("requests.queued") == ()


def test_the_verdict_table_in_words() -> None:
    first, second, third, last = samples.COMPARISONS
    assert change_text(first) == ("+227 %", "better")
    assert sure_text(first) == "3.1x to 3.4x"
    assert sure_text(second) == "-99 to -99 %"
    assert change_text(third)[1] == "worse"
    assert change_text(last) == ("", "cannot tell")
    assert metric_text("ttft.p50", None) == "-"


def test_a_failed_rollback_says_first_what_to_type_and_shortens_nothing() -> None:
    text = "\n".join(fmt.plain(one) for one in verdict_lines(samples.rollback_failed(), 80))
    assert text.startswith(" ROLLBACK FAILED. Neither command starts.")
    joined = text.replace("\n ", "")
    assert joined.count("--very-long-flag value") == 8
    assert "…" not in text.split("What to type now")[1]


def test_progress_names_each_state_in_words() -> None:
    text = "\n".join(fmt.plain(one) for one in progress_lines(samples.running(1000.0), 1000.0, 80))
    assert "✓ measure before" in text
    assert "20 s" in text
    assert "● start" in text
    assert "skipped: nothing to wait for" in text
    assert "sgl-wizard sessions resume 7" in text


def test_commands_can_be_pasted_and_hide_secrets() -> None:
    from dataclasses import replace

    plan = replace(samples.PLAN, old_argv=(*samples.OLD, "--api-key", "sk-verysecret"), new_argv=samples.NEW)
    text = both_commands(plan)
    assert "sk-verysecret" not in text
    assert "--max-running-requests 8" in text
    assert change_words(samples.PLAN.changes[0]) == ("--max-running-requests 8", "(left to SGLang)")


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("30001", "http://127.0.0.1:30001"),
        ("gpu-1:30002", "http://gpu-1:30002"),
        ("https://gpu-1", "https://gpu-1:443"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("gpu-1", "http://gpu-1:30000"),
    ],
)
def test_addresses(typed: str, address: str) -> None:
    found = parse_address(typed)
    assert not isinstance(found, str)
    assert found.base_url == address


@pytest.mark.parametrize("typed", ["", "ftp://x", "http://", "host:notaport", "70000", "0", "http://[bad"])
def test_what_is_no_address_says_so(typed: str) -> None:
    assert isinstance(parse_address(typed), str)
