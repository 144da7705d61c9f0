"""Reading a log file of any size in bounded memory, from the last start on.

A live server's log is read at its last start (256 kB) and at its end (2 MB). A log of a server that is gone
is read whole, but of the middle of a large one only the lines that hold a word that matters; what was passed
over is said.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from wizard.core.logstory import LogReader, Story
from wizard.core.logtext import Signature
from wizard.core.redact import clean

HEAD_BYTES = 256 * 1024
TAIL_BYTES = 2 * 1024 * 1024
WHOLE_BYTES = 16 * 1024 * 1024
"""A saved log up to this size is parsed line by line; of the middle of a larger one, lines with a word."""
CHUNK = 1024 * 1024
LONGEST_LINE = 128 * 1024
SEARCH_BACK_BYTES = 256 * 1024 * 1024
"""How far back the last start of a live server is searched for."""
BEFORE_START_BYTES = 16 * 1024
"""Warnings stand before the server_args line of the same start."""

START_MARK = b"server_args="
_WORDS = tuple(
    word.encode()
    for word in (
        "Traceback",
        "rror",
        "emory",
        "xception",
        "ssert",
        "atchdog",
        "retracted_reqs",
        "igquit",
        "SIGQUIT",
        "SIGTERM",
        "crashed",
        "ailed",
        "server_args=",
        "fired up",
        "avail mem=",
        "illed",
        "queue is full",
        "not found",
        "not supported",
        "mismatch",
        '  File "',
    )
)


@dataclass(frozen=True)
class LogView:
    """What was read of a file. ``passed_over``: bytes not looked at line by line; 0 = all was read."""

    story: Story
    size: int
    modified: float
    passed_over: int = 0
    unsearched: int = 0


def read_live(path: str, signatures: Iterable[Signature]) -> LogView:
    """The last start and the end of a growing log. Raises OSError."""
    with _open(path) as file:
        size, modified = _measure(file)
        start = _last_start(file, size)
        reader = LogReader(signatures)
        tail_at = _aligned(file, size - TAIL_BYTES)
        begin = _aligned(file, start - BEFORE_START_BYTES)
        head_end = min(_aligned(file, begin + HEAD_BYTES + BEFORE_START_BYTES), size)
        number = _count_lines(file, 0, begin)
        if head_end >= tail_at:
            _feed(reader, file, begin, size, number)
            return LogView(reader.story, size, modified, passed_over=0)
        number = _feed(reader, file, begin, head_end, number)
        number += _count_lines(file, head_end, tail_at)
        _feed(reader, file, tail_at, size, number)
        return LogView(reader.story, size, modified, passed_over=tail_at - head_end)


def read_start(path: str) -> Story:
    """Only the last start of a log: its settings and sizes. Raises OSError."""
    with _open(path) as file:
        size, _ = _measure(file)
        start = _last_start(file, size)
        begin = _aligned(file, start - BEFORE_START_BYTES)
        reader = LogReader()
        end = min(size, begin + HEAD_BYTES + BEFORE_START_BYTES)
        _feed(reader, file, begin, end, _count_lines(file, 0, begin))
        return reader.story


def read_saved(path: str, signatures: Iterable[Signature], seconds: float = 20.0) -> LogView:
    """The whole log of a server that is gone, within about ``seconds``. Raises OSError."""
    deadline = time.monotonic() + seconds
    with _open(path) as file:
        size, modified = _measure(file)
        reader = LogReader(signatures)
        if size <= WHOLE_BYTES:
            _feed(reader, file, 0, size, 0)
            return LogView(reader.story, size, modified)
        tail_at = _aligned(file, size - TAIL_BYTES)
        at, passed_over = _aligned(file, HEAD_BYTES), 0
        number = _feed(reader, file, 0, at, 0)
        while at < tail_at and time.monotonic() < deadline:
            end = min(_aligned(file, at + CHUNK), tail_at)
            file.seek(at)
            chunk = file.read(end - at)
            looked_at = _feed_matching(reader, chunk, number)
            number += chunk.count(b"\n")
            passed_over += len(chunk) - looked_at
            at = end
        _feed(reader, file, tail_at, size, number)
        return LogView(reader.story, size, modified, passed_over, unsearched=max(0, tail_at - at))


def tail_text(path: str, most_bytes: int = 64 * 1024) -> str:
    """The end of a file as text; empty when it cannot be read."""
    try:
        with _open(path) as file:
            size, _ = _measure(file)
            file.seek(max(0, size - most_bytes))
            return file.read(most_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def _open(path: str) -> BinaryIO:
    """Opened without waiting for anybody: opening a pipe nobody writes to would wait for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(handle, "rb")


def _aligned(file: BinaryIO, at: int) -> int:
    """The beginning of the next line at or after a place (the place itself inside an overlong line)."""
    if at <= 0:
        return 0
    file.seek(at - 1)
    newline = file.read(LONGEST_LINE).find(b"\n")
    return at + newline if newline >= 0 else at


def _measure(file: BinaryIO) -> tuple[int, float]:
    """Size and age of a regular file; reading a pipe or a device could wait for ever, so OSError for those."""
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    return found.st_size, found.st_mtime


def _last_start(file: BinaryIO, size: int) -> int:
    """Where the last server_args line stands; 0 when none is found in the last part."""
    end, floor = size, max(0, size - SEARCH_BACK_BYTES)
    while end > floor:
        at = max(floor, end - 4 * CHUNK)
        file.seek(at)
        chunk = file.read(end - at + len(START_MARK))
        found = chunk.rfind(START_MARK)
        if found >= 0:
            return at + found
        end = at
    return 0


def _count_lines(file: BinaryIO, start: int, end: int) -> int:
    if end - start > SEARCH_BACK_BYTES:
        return 0
    count, at = 0, start
    file.seek(start)
    while at < end:
        chunk = file.read(min(CHUNK, end - at))
        if not chunk:
            break
        count += chunk.count(b"\n")
        at += len(chunk)
    return count


def _feed(reader: LogReader, file: BinaryIO, start: int, end: int, number: int) -> int:
    """Feed the lines of ``file[start:end]``; gives the number of the last line."""
    for raw in _raw_lines(file, start, end):
        number += 1
        _feed_line(reader, raw, number)
    return number


def _feed_matching(reader: LogReader, chunk: bytes, number: int) -> int:
    """Feed only the lines of a chunk that hold one of the words; gives how many bytes they were."""
    spans: set[tuple[int, int]] = set()
    for word in _WORDS:
        at = chunk.find(word)
        while at >= 0:
            end = chunk.find(b"\n", at)
            end = len(chunk) if end < 0 else end
            spans.add((chunk.rfind(b"\n", 0, at) + 1, end))
            at = chunk.find(word, end)
    counted, looked_at = 0, 0
    for start, end in sorted(spans):
        number += chunk.count(b"\n", counted, start)
        counted = start
        _feed_line(reader, chunk[start : min(end, start + LONGEST_LINE)], number + 1)
        looked_at += end - start
    return looked_at


def _feed_line(reader: LogReader, raw: bytes, number: int) -> None:
    for piece in _pieces(raw):
        text = piece.decode("utf-8", "replace")
        if not text.isprintable():
            text = clean(text.replace("\t", " ")).replace("\n", " ")
        reader.feed(text, number)


def _raw_lines(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Lines without their newline, each at most LONGEST_LINE; the rest of a longer one is dropped."""
    file.seek(start)
    carry, at = b"", start
    while at < end:
        chunk = file.read(min(CHUNK, end - at))
        if not chunk:
            break
        at += len(chunk)
        lines = chunk.split(b"\n")
        lines[0] = carry + lines[0]
        carry = lines.pop()
        for line in lines:
            yield line[:LONGEST_LINE]
        if len(carry) > LONGEST_LINE:
            carry = carry[:LONGEST_LINE]
    if carry:
        yield carry


def _pieces(raw: bytes) -> list[bytes]:
    """A line as a terminal would leave it: of bars rewritten with CR only what is no bar, or the last."""
    if b"\r" not in raw:
        return [raw]
    pieces = [p for p in raw.split(b"\r") if p]
    return [p for i, p in enumerate(pieces) if i == len(pieces) - 1 or (b"it/s" not in p and b"s/it" not in p)]
