"""The scanner in blocks against the plain reader, line by line: one story."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bench.biglog import END, MIDDLE, RETRACT, START
from tests.books import BOOK
from wizard.core import logscan
from wizard.core.logscan import LogScanner, feed_line
from wizard.core.logstory import LogReader
from wizard.core.story import MOST_SAMPLES, Story
from wizard.probes import logfile

SIGNATURES = BOOK.signatures


def plainly(data: bytes) -> Story:
    reader = LogReader(SIGNATURES)
    for number, line in enumerate(data.split(b"\n"), 1):
        feed_line(reader, line, number)
    return reader.story


def told(story: Story) -> dict[str, Any]:
    """A story as data, its digest as one shows it."""
    lazy = ("tail", "around", "_settings")
    return {f.name: getattr(story, f.name) for f in fields(story) if f.name not in lazy} | {
        "digest": story.digest,
        "settings": story.settings,
    }


def in_blocks(path: Any, data: bytes) -> Story:
    path.write_bytes(data)
    return logfile.read_saved(str(path), SIGNATURES).story


def stamped(text: str, stamp: str = "2026-01-02 03:04:05") -> str:
    return f"[{stamp}] {text}"


DECODE = (
    "Decode batch, #running-req: 8, #token: 90, token usage: 0.31, cuda graph: True, "
    "gen throughput (token/s): 1.0, #queue-req: 5"
)
PREFILL = "Prefill batch, #new-seq: 1, #new-token: 11, token usage: 0.02, #running-req: 7, #queue-req: 9"
ACCESS = 'INFO:     10.0.0.1:4711 - "POST /generate HTTP/1.1" 200 OK'
STARTED = START.replace("{stamp}", "2026-01-02 03:00:00")
LINES = [
    *STARTED.splitlines(),
    *MIDDLE.replace("{stamp}", "2026-01-02 03:04:09").splitlines(),
    *END.replace("{stamp}", "2026-01-02 04:04:09").splitlines(),
    *(stamped(text) for text in (DECODE, PREFILL, ACCESS, RETRACT)),
    *(stamped(text, "2026-01-02 03:09:59 TP1") for text in (DECODE, PREFILL, RETRACT)),
    *(stamped(text, "2026-01-02 03:09:59.123") for text in (DECODE, ACCESS)),
    *(stamped(text, "2026-99-99 99:99:99") for text in (DECODE, ACCESS, "x")),
    f"(pod-7) stdout F {stamped(DECODE)}",
    f"(pod-7) stdout F {stamped('Load weight begin. avail mem=5.00 GB')}",
    "[TP0] " + DECODE,
    "[2, 3, 4] is a list",
    ACCESS,
    ACCESS.replace("200 OK", "404 Not Found"),
    stamped(ACCESS.replace("200 OK", "404 Not Found")),
    stamped(ACCESS.replace("200 OK", "500 Internal Server Error")),
    stamped(ACCESS.replace("/generate", "/x?server_args={'a': 1}")),
    'sent "GET / HTTP/1.1" 200 by a proxy',
    stamped(DECODE) + " server_args={'model_path': 'm'}",
    "server_args={'model_path': 'n'}",
    "usage: sglang serve [-h]",
    "sglang serve: error: unrecognized arguments: --cuda-graph-max-bs 8",
    "/venv/sglang/launch_server.py:9: UserWarning: old",
    stamped("SIGTERM received."),
    stamped("INFO:     Finished server process [77]"),
    stamped("something new 17"),
    stamped("something new 18"),
    "no time at all",
    "\tat the tab",
    "",
    "   ",
    stamped(""),
    stamped("\x1b[31mCUDA out of mem\x1b[0mory. Tried to allocate 1.00 GiB"),
    stamped("CUDA error: an illegal memory access was encountered"),
    "KeyError: 'fancy'",
    stamped("Receive: obj=GenerateReqInfo(rid='1', text='CUDA out of memory. Tried to allocate 1.00 GiB')"),
    "Finish: obj=GenerateReqInfo(rid='1')",
    "100%|#| 1/2 [00:01<00:00, 2.1it/s]\r100%|#| 2/2 [00:01<00:00, 2.1it/s]",
    "exit code: 7 \u2588\u200b of memory",
]  # fmt: skip

line = st.sampled_from([text.encode() for text in LINES])
broken = st.one_of(
    st.tuples(line, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]]),
    st.tuples(line, line).map(b"".join),
    st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")),
    st.tuples(line, st.sampled_from([b"\xff\xfe", b"\x00" * 9, b"\r", b"\x1b[1m", b"\xc2\x9b1m", b"\t"])).map(
        b"".join
    ),
    st.tuples(st.sampled_from([b"\x00\x00", b"\xe2\x96\x88", b"\x1b]0;"]), line).map(b"".join),
    st.tuples(line, st.integers(4000, 9000)).map(lambda pair: pair[0] + b"y" * pair[1]),
)
repeated = st.tuples(line, st.integers(2, 60)).map(lambda pair: b"\n".join([pair[0]] * pair[1]))
counted = st.tuples(line, st.integers(2, 60)).map(
    lambda pair: b"\n".join(pair[0] + b" %d" % n for n in range(pair[1]))
)
whole_start = st.just(STARTED.encode().rstrip(b"\n"))
logs = st.tuples(
    st.lists(st.one_of(line, line, broken, repeated, counted, whole_start), max_size=40),
    st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"]),
    st.booleans(),
).map(lambda parts: parts[1].join(parts[0]).replace(b"\r\n", parts[1]) + (parts[1] if parts[2] else b""))


@given(logs, st.sampled_from([200, 1000, 7000, logfile.BLOCK]), st.sampled_from([0, 3, 4000]))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_log_gives_the_story_of_the_plain_reader(
    tmp_path_factory: Any, data: bytes, block: int, odd: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfile, "BLOCK", block)
        patch.setattr(logscan, "MOST_SHAPES", 5)
        patch.setattr(logscan, "MOST_ODD", odd)
        patch.setattr(logscan, "UNLEARNED", odd)
        patch.setattr(logscan, "LONGEST_LINE", 5000)
        patch.setattr(logfile, "LONGEST_LINE", 5000)
        assert told(in_blocks(path, data)) == told(plainly(data))


def test_many_starts_in_one_block_are_one_story(tmp_path: Any) -> None:
    warned = STARTED.replace("[2026", "/venv/sglang/launch_server.py:9: UserWarning: old\n[2026", 1)
    for start in (STARTED, warned):
        data = (start * 30 + MIDDLE.replace("{stamp}", "2026-01-02 03:04:09") + stamped(DECODE)).encode()
        scanned, plain = in_blocks(tmp_path / "x.log", data), plainly(data)
        assert told(scanned) == told(plain)
        assert scanned.start_line > 400


def test_starts_before_the_last_are_not_taken_apart(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    real = feed_line
    monkeypatch.setattr(logscan, "feed_line", lambda r, raw, n, c=None: (fed.append(n), real(r, raw, n, c)))
    in_blocks(tmp_path / "x.log", (STARTED * 100).encode())
    assert 0 < len(fed) < 100
    assert len(STARTED.splitlines()) * 100 > 1000


def test_lines_seen_before_are_not_taken_apart(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    real = feed_line
    monkeypatch.setattr(logscan, "feed_line", lambda r, raw, n, c=None: (fed.append(n), real(r, raw, n, c)))
    refused = stamped(ACCESS.replace("200 OK", "404 Not Found"))
    lines = [*STARTED.splitlines(), refused, *[stamped("line 7 of many"), "plain 8", stamped(DECODE)] * 5000]
    story = in_blocks(tmp_path / "x.log", "\n".join(lines).encode())
    assert len(fed) < logscan.UNLEARNED + 100
    assert "request_refused" in story.hits
    assert story.digest.endswith("plain 8")


def test_the_clock_comes_from_routine_lines_too(tmp_path: Any) -> None:
    """A start half a minute after the last batch line is the next one."""
    first = stamped("server_args={'model_path': 'a'}", "2026-01-02 03:00:00")
    busy = stamped(DECODE, "2026-01-02 03:10:00")
    second = stamped("server_args={'model_path': 'b'}", "2026-01-02 03:10:05")
    data = "\n".join((first, busy, second)).encode()
    assert in_blocks(tmp_path / "x.log", data).settings == {"model_path": "a"}
    later = data.replace(b"03:10:05", b"03:10:50")
    assert in_blocks(tmp_path / "x.log", later).settings == {"model_path": "b"}
    for one in (data, later):
        assert told(in_blocks(tmp_path / "x.log", one)) == told(plainly(one))


def test_recorded_logs_give_the_story_of_the_plain_reader(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.probes.recordings import shared

    root = shared("h200").parent
    paths = sorted([*root.glob("cpu/*.log"), *root.glob("h200/*/*.log")])
    assert len(paths) > 50
    for path in paths:
        data = path.read_bytes()
        assert told(logfile.read_saved(str(path), SIGNATURES).story) == told(plainly(data)), path
    monkeypatch.setattr(logfile, "BLOCK", 5000)
    all_of_them = b"".join(path.read_bytes() for path in paths[::3])
    assert told(in_blocks(tmp_path / "x.log", all_of_them)) == told(plainly(all_of_them))


def test_batches_are_the_last_ones_of_the_story(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "BLOCK", 5000)
    lines = [stamped(DECODE.replace("8", str(n))) for n in range(300)]
    data = "\n".join((*lines, STARTED.strip(), *lines[:120], *[stamped(ACCESS)] * 200)).encode()
    story = in_blocks(tmp_path / "x.log", data)
    assert [b.running for b in story.batches] == list(range(120))
    assert len(story.batches) <= MOST_SAMPLES


def test_a_scanner_counts_lines_without_a_newline_at_the_end() -> None:
    scanner = LogScanner(LogReader(SIGNATURES))
    data = ("\n" + "\n".join([stamped(DECODE)] * 3 + ["x"] + [stamped(DECODE)])).encode()
    scanner.scan(data, len(data))
    assert (scanner.number, scanner.reader.story.last_line) == (5, 5)


def test_what_a_carriage_return_hides_in_a_routine_line_is_read(tmp_path: Any) -> None:
    data = (STARTED + stamped(DECODE) + "\rRuntimeError: NCCL error\n" + stamped(DECODE)).encode()
    story = in_blocks(tmp_path / "x.log", data)
    assert told(story) == told(plainly(data))
    assert "nccl_error" in story.hits


def test_what_people_ask_a_model_accuses_no_server(tmp_path: Any) -> None:
    asked = "Receive: obj=GenerateReqInfo(text='why CUDA out of memory. Tried to allocate 1.00 GiB')"
    for text in (asked, asked.replace("Receive", "Finish")):
        story = in_blocks(tmp_path / "x.log", (STARTED + stamped(text)).encode())
        assert not story.failed


def docker(line: str, split: int = 9000) -> list[str]:
    line += "\n"
    parts = [line[at : at + split] for at in range(0, len(line), split)]
    return [json.dumps({"log": part, "stream": "stderr", "time": "2026-01-02T03:04:05Z"}) for part in parts]


CARRIED_LINES = [
    *STARTED.splitlines(),
    *[stamped(DECODE.replace("8", str(n))) for n in range(60)],
    *MIDDLE.replace("{stamp}", "2026-01-02 03:04:09").splitlines(),
    *[stamped(DECODE), stamped(ACCESS), "at \tthe tab", ""] * 9,
]


@pytest.mark.parametrize("block", [300, 2000, logfile.BLOCK])
def test_a_log_that_docker_holds_is_the_same_story(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(logfile, "BLOCK", block)
    for lines in (CARRIED_LINES, [*STARTED.splitlines(), stamped(DECODE), *CARRIED_LINES]):
        plain = told(plainly("\n".join(lines).encode()))
        whole = "\n".join(record for line in lines for record in docker(line))
        assert told(in_blocks(tmp_path / "x.log", whole.encode())) == plain
        assert len(plain["batches"]) == 69
        split = in_blocks(tmp_path / "x.log", "\n".join(r for line in lines for r in docker(line, 80)).encode())
        for same in ("phase", "numbers_", "settings", "batches", "digest_lines", "hit_ids"):
            assert of_story(split, same) == of_story(in_blocks(tmp_path / "y.log", whole.encode()), same)


def of_story(story: Story, what: str) -> Any:
    """A part of a story without the numbers of its lines."""
    if what == "numbers_":
        return {name: x for name, (x, _) in story.numbers.items()}
    if what == "hit_ids":
        return [(h.signature.id, h.text, h.phase) for h in story.ordered_hits]
    return story.digest if what == "digest_lines" else getattr(story, what)


@pytest.mark.parametrize("block", [300, logfile.BLOCK])
def test_other_services_lines_change_no_story(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(logfile, "BLOCK", block)
    others = ["RuntimeError: NCCL error", "KeyError: 'fancy'", "server_arg", "usage: x", ACCESS]
    mixed, alone = [], []
    for n, text in enumerate(CARRIED_LINES[:-30]):
        mixed += [f"web-1     | {others[n % 5]}", f"sglang-1  | {text}"]
        alone += ["", text]
    scanned = in_blocks(tmp_path / "x.log", "\n".join(mixed).encode())
    assert told(scanned) == told(plainly("\n".join(alone).encode()))
    assert "gpu_oom_runtime" in scanned.hits
