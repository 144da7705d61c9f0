"""No log, metrics page, command line or flow file makes the wizard crash, hang or eat memory.

Texts are made of what real ones are made of, torn and mixed: random text gets past no first test.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.clue import TEXT_CAP, search
from wizard.core.exposition import ExpositionError, parse
from wizard.core.logstory import LogReader
from wizard.core.logtext import LINE_CAP
from wizard.flowfile.lint import lint
from wizard.flowfile.load import parse_book

PIECES = [
    "[2026-01-02 03:04:05 TP0] ",
    "[2026-99-99 99:99:99] ",
    "Decode batch. #running-req: 8, #token: 1, token usage: 0.99, cuda graph: True, ",
    "#queue-req: 999999999999999999999",
    "Prefill batch. #new-seq: 1",
    "server_args=ServerArgs(model_path='x', port=30000, mem_fraction_static=0.8, api_key='k')",
    "Traceback (most recent call last):",
    '  File "/x/y.py", line 1, in forward_extend',
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.9 GiB. GPU 0 has a total capacity of",
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
    "The server is fired up and ready to roll!",
    "Load weight begin. avail mem=1e309 GB",
    "Capture cuda graph begin. avail mem=-3 GB",
    "\x1b[31m\x1b]0;title\x07",
    "\x00\xff\u202e",
    "\r",
    "\n",
    "[rank0]: [/x] {reading} %s %(x)s",
    "'" * 40,
    "(" * 200,
    "a" * 5000,
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=60).map("".join)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(TEXTS)
def test_no_log_breaks_the_reader(text: str) -> None:
    reader = LogReader(BOOK.signatures)
    for number, line in enumerate(text.split("\n"), 1):
        reader.feed(line, number)
    digest = reader.story.digest
    assert len(digest) < 200_000
    ids, quotes = search(BOOK.clues, "log", digest)
    assert len(ids) == len(quotes)


@SLOW
@given(TEXTS, st.sampled_from(["symptom", "command", "hardware"]))
def test_no_words_of_a_person_break_the_search(text: str, place: str) -> None:
    ids, quotes = search(BOOK.clues, place, text)
    assert len(ids) == len(quotes)


METRIC_PIECES = [
    "# HELP sglang:num_running_reqs x\n",
    "# TYPE sglang:num_running_reqs gauge\n",
    'sglang:num_running_reqs{model_name="a\\"b"} 3\n',
    'sglang:time_to_first_token_seconds_bucket{le="+Inf"} 9\n',
    'sglang:time_to_first_token_seconds_bucket{le="nan"} -1\n',
    "sglang:num_queue_reqs NaN\n",
    "sglang:num_queue_reqs 1e999\n",
    'x{a="' + "y" * 3000,
    "{}{}{}",
    "\n",
    " ",
]


@SLOW
@given(st.lists(st.one_of(st.sampled_from(METRIC_PIECES), st.text(max_size=20)), max_size=60).map("".join))
def test_no_metrics_page_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(ExpositionError):  # one clear line, never anything else
        parse(text)


@SLOW
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["flow: x\n", "causes:\n", "  a: {", "}", "[", "- ", "&a ", "*a ", "!!python/object:os.system ",
                 "clues:\n- {id: a, where: log, pattern: '(a+)+$', for: {ttft_high: 1}}\n", "? ", "\t", "---\n"]
            ),
            st.text(max_size=10),
        ),
        max_size=30,
    ).map("".join)
)  # fmt: skip
def test_no_yaml_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("flows")
    (folder / "a.yaml").write_text(text, errors="ignore")
    book, problems = parse_book(folder)
    assert isinstance([*problems, *lint(book)], list)


@pytest.mark.parametrize("number", range(12))
def test_no_pattern_takes_long_on_a_text_made_against_it(number: int) -> None:
    """Texts of the patterns' own literals, over and over: where backtracking hurts most."""
    patterns = [*BOOK.signatures, *BOOK.clues][number::12]
    slowest = ("", 0.0)
    for one in patterns:
        letters = "".join(c for c in one.pattern if c.isalnum() or c in " :'-_.")[:200] or "a"
        cap = LINE_CAP if one in BOOK.signatures else TEXT_CAP
        for text in ((letters * (cap // len(letters) + 1))[:cap], ((letters[:6] + " ") * cap)[:cap]):
            began = time.thread_time()
            if one in BOOK.signatures:
                one.matches(text, "serving")  # type: ignore[union-attr]
            else:
                search([one], one.places[0], text)  # type: ignore[list-item, union-attr]
            took = time.thread_time() - began
            slowest = max(slowest, (one.id, took), key=lambda pair: pair[1])
    assert slowest[1] < 5.0, slowest


def broken_inputs() -> dict[str, bytes]:
    """The corpus: what logs have turned out to be."""
    return {
        "empty": b"",
        "nul": b"\0" * 100_000,
        "one_line": b"A" * 20_000_000,
        "no_newline_traceback": b"Traceback (most recent call last):",
        "gzip": bytes.fromhex("1f8b0800000000000003") + bytes(range(256)) * 400,
        "utf16": "[2026-01-01 00:00:00] Load weight begin. avail mem=1 GB\n".encode("utf-16") * 100,
        "latin1": b"caf\xe9 \xff\xfe\n" * 1000,
        "crlf": b"[2026-01-01 00:00:00] Load weight begin. avail mem=79.0 GB\r\n" * 1000,
        "escapes": b"\x1b[2J\x1b]52;c;AAAA\x07\x1b[999999999C\n" * 1000,
        "progress": b"Loading: 10%\rLoading: 20%\r" * 50_000,
        "html": b"<html><body><h1>502 Bad Gateway</h1></body></html>" * 100,
        "json": b'{"log":"[2026-01-01 00:00:00] x\\n","stream":"stderr"}\n' * 1000,
        "braces": b"server_args=ServerArgs(" + b"(" * 500_000,
        "quotes": b"server_args=ServerArgs(model_path='" + b"\\'" * 500_000,
        "digits": b"Decode batch. #running-req: " + b"9" * 1_000_000 + b"\n",
        "many_signatures": b"RuntimeError: CUDA out of memory. Tried to allocate 1.00 GiB\n" * 200_000,
    }


@pytest.mark.parametrize("name", sorted(broken_inputs()))
def test_check_answers_on_every_broken_log(tmp_path: Path, name: str) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(broken_inputs()[name])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "check", "--log", str(path), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1, 3), done.stderr[-500:]
    assert json.loads(done.stdout)["verdict"] in ("healthy", "problem", "unknown")
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (1 << 29, 1 << 29))
from wizard.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
"""The command with at most 512 MiB of data: what leaks dies here."""
