"""What carries a log over many lines: docker's records, split lines, services of other programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.carried import Carriage, carriage_of

START = "[2026-01-02 03:00:00] server_args=ServerArgs(model_path='m', tp_size=1)"
LINES = [START, 'a "quoted" <tag> & \\ back\tslash \x1b[31mred', "", "Größe \u2028 \U0001f600", "  File x"]


def record(text: str, stream: str = "stderr", **more: object) -> str:
    """As docker writes it: no blanks, < > & and what is no ASCII escaped or not."""
    told = {"log": text, "stream": stream, **more, "time": "2026-01-02T03:04:05.123456789Z"}
    line = json.dumps(told, separators=(",", ":"), ensure_ascii=len(text) % 2 == 0)
    return line.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def bare(text: str) -> str:
    block = text.encode()
    return carriage_of(block).bare(block).decode()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda line: record(line + "\n"),
        lambda line: record(line + "\n", attrs={"tag": "sglang"}),
        lambda line: json.dumps({"log": line + "\n", "stream": "stdout", "time": "t"}),
        lambda line: json.dumps({"time": "t", "stream": "stdout", "log": line}),
    ],
)
def test_records_of_docker_are_the_lines_in_them(wrap: object) -> None:
    assert bare("\n".join(wrap(line) for line in LINES)) == "\n".join(LINES)  # type: ignore[operator]


def test_a_split_line_is_one_again_and_lines_keep_their_numbers() -> None:
    log = [record("first\n"), record("[2026-01-02 03:00:00] ser"), record("other\n", "stdout")]
    log += [record("ver_args={'a'"), record(": 1}\n"), record("last\n")]
    lines = bare("\n".join(log)).split("\n")
    assert lines == ["first", "other", "[2026-01-02 03:00:00] server_args={'a': 1}", "", "", "last"]


def test_what_is_no_record_between_records_stays() -> None:
    log = [record("one\n"), "-- cut --", record("two\n"), '{"log": 3}', "", record("three\n")]
    assert bare("\n".join(log)).split("\n") == ["one", "-- cut --", "two", '{"log": 3}', "", "three"]


def test_records_without_newlines_are_lines() -> None:
    assert bare("\n".join((record("one"), record("two")))) == "one\ntwo"


def test_lines_that_a_kubelet_split() -> None:
    time = "2026-01-02T03:04:05.123456789Z"
    log = f"{time} stderr P one\n{time} stdout F other\n{time} stderr P  and\n{time} stderr F  a half\nx"
    assert bare(log).split("\n") == ["other", "one and a half", "", "", "x"]


def test_a_block_ends_behind_a_whole_line() -> None:
    block = "\n".join(["", record("one\n"), record("tw"), record("o")]).encode()
    carriage = carriage_of(block)
    assert block[1 : carriage.whole(block, len(block), 0)].decode() == record("one\n")
    assert carriage.whole(block, len(block), len(block) - 3) == len(block)
    assert Carriage().whole(block, len(block), 0) == len(block)


MIXED = """\
web-1     | Traceback (most recent call last):
web-1     | torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB
sglang-1  | [2026-01-02 03:00:00] server_args=ServerArgs(model_path='m')
redis-1   | Ready to accept connections
sglang-1  | [2026-01-02 03:00:09] The server is fired up and ready to roll!
web-1     | RuntimeError: NCCL error
web-1     | ready
sglang-1  | more"""


@pytest.mark.parametrize(
    ("text", "muted"),
    [
        (MIXED, {"web-1", "redis-1"}),
        (MIXED.replace("sglang-1 ", "llm"), {"web-1", "redis-1"}),
        (MIXED.replace("-1", "_1"), {"web_1", "redis_1"}),
        (MIXED.replace("web-1  ", "\x1b[36mweb-1  ").replace("| ", "| \x1b[0m"), {"web-1", "redis-1"}),
        (
            MIXED.replace("web-1     |", "[pod/web-5/web]").replace("sglang-1  |", "[pod/llm-0/main]"),
            {"pod/web-5/web", "redis-1"},
        ),
        # nobody speaks: the name tells; without such a name everybody counts
        ("web-1 | CUDA error\nsglang-1 | CUDA error", {"web-1"}),
        ("web-1 | CUDA error\nllm-1 | CUDA error", set()),
        # a frame of its code is enough, and so is being a router of its making
        ('web-1 | x\nllm-1 |   File "/usr/lib/sglang/srt/x.py", line 1, in f', {"web-1"}),
        (MIXED + "\nsglang-router-1 | no worker", {"web-1", "redis-1"}),
    ],
)
def test_services_that_are_not_sglang_are_muted(text: str, muted: set[str]) -> None:
    assert carriage_of(text.encode()).muted == muted


def test_lines_of_other_services_are_left_empty() -> None:
    lines = bare(MIXED).split("\n")
    assert [(n, line[22:]) for n, line in enumerate(lines) if line] == [
        (2, "server_args=ServerArgs(model_path='m')"),
        (4, "The server is fired up and ready to roll!"),
        (7, ""),
    ]
    assert lines[7] == "more"


@pytest.mark.parametrize("text", ["", "\n\n", "a | b\nx\ny", START, "{}\n{}\n{}", "[[[[[" * 9999, "| x | y |"])
def test_what_nothing_carries_is_plain(text: str) -> None:
    assert carriage_of(text.encode()) == Carriage()
    assert carriage_of(text.encode()).plain


VLLM = [
    "(APIServer pid=1) INFO 11-20 10:00:07 [api_server.py:1896] vLLM API server version 0.10.2",
    "INFO 01-20 10:00:07 llm_engine.py:237] Initializing an LLM engine (v0.6.4) with config: model='m'",
]


@pytest.mark.parametrize("line", VLLM)
def test_a_log_of_vllm(line: str) -> None:
    assert carriage_of(line.encode()).vllm
    assert carriage_of(record(line + "\n").encode()).vllm
    assert carriage_of(f"web-1  | x\nvllm-1 | {line}\n".encode()).vllm
    assert not carriage_of(f"{line}\n{START}".encode()).vllm
    assert not carriage_of(b"x", f"{START}\n{line}".encode()).vllm
    assert not carriage_of(f"vllm-1 | {line}\nsglang-1 | {START}".encode()).vllm


@pytest.mark.parametrize(
    "line",
    [
        "INFO 01-20 10:00:01 __init__.py:190] Automatically detected platform cuda.",
        "ImportError: cannot import name 'x' from 'vllm' (/site-packages/vllm/model_executor/x.py)",
        "(EngineCore_DP0 pid=72) torch.OutOfMemoryError: CUDA out of memory.",
        '  File "/usr/lib/python3.12/dist-packages/vllm/v1/engine/core.py", line 699, in run_engine_core',
        "[2026-01-02 03:00:00] vllm is not installed; install it for AWQ",
    ],
)
def test_lines_that_both_may_have_are_judged(line: str) -> None:
    assert not carriage_of(line.encode()).vllm


parts = st.sampled_from([
    *(line.encode() for line in (*MIXED.split("\n"), *VLLM, *LINES)), record("a\n").encode(),
    record("b").encode(), b'{"log":', b"[", b"\xff\xfe", b"\r", b'{"log":"\\ud83d\\n"}',
    b"2026-01-02T03:04:05Z stderr P x", b"",
])  # fmt: skip


@given(st.lists(parts, max_size=30), st.sampled_from([b"\n", b"\r\n", b""]))
def test_any_bytes_keep_their_number_of_lines(lines: list[bytes], end: bytes) -> None:
    block = end.join(lines)
    carriage = carriage_of(block)
    assert carriage.bare(block).count(b"\n") >= block.count(b"\n")
    assert 0 <= carriage.whole(block, len(block), 0) <= len(block)
