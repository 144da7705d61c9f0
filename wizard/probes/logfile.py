"""Reading a log file of any size in bounded memory.

A log of a server that is gone is read whole. Of a live server's, which is read again and again, the last start
and the end; what lies between is passed over and said.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from wizard.core.carried import PLAIN, SAMPLE_BYTES, Carriage, carriage_of
from wizard.core.logscan import LONGEST_LINE, LogScanner, batches_of
from wizard.core.logstory import LogReader
from wizard.core.logtext import Signature
from wizard.core.story import MOST_SAMPLES, Batch, Story

HEAD_BYTES = 256 * 1024
LIVE_BYTES = 128 * 1024 * 1024
"""How much of a live log is read at its end: a quarter of a second."""
BLOCK = 4 * 1024 * 1024
SEARCH_BACK_BYTES = 1024 * 1024 * 1024
"""How far back the last start of a live server is searched for."""
BEFORE_START_BYTES = 16 * 1024
"""Warnings stand before the server_args line of the same start."""

START_MARK = b"server_args="


@dataclass(frozen=True)
class LogView:
    """What was read of a file. ``passed_over``: bytes not looked at line by line; 0 = all was read."""

    story: Story
    size: int
    modified: float
    passed_over: int = 0
    unsearched: int = 0
    carriage: Carriage = PLAIN


def read_live(path: str, signatures: Iterable[Signature]) -> LogView:
    """The last start and the end of a growing log. Raises OSError."""
    with _open(path) as file:
        size, modified = _measure(file)
        start = _last_start(file, size)
        carriage = _carriage(file, size)
        tail_at = _aligned(file, size - LIVE_BYTES)
        begin = _aligned(file, start - BEFORE_START_BYTES)
        head_end = min(_aligned(file, begin + HEAD_BYTES + BEFORE_START_BYTES), size)
        scan = _Scan(file, signatures, carriage)
        scan.skip(0, begin)
        if head_end >= tail_at:
            scan.read(begin, size)
            return LogView(scan.finish(), size, modified, carriage=carriage)
        scan.read(begin, head_end)
        scan.skip(head_end, tail_at)
        scan.read(tail_at, size)
        return LogView(scan.finish(), size, modified, tail_at - head_end, carriage=carriage)


def read_start(path: str) -> Story:
    """Only the last start of a log: its settings and sizes. Raises OSError."""
    with _open(path) as file:
        size, _ = _measure(file)
        begin = _aligned(file, _last_start(file, size) - BEFORE_START_BYTES)
        scan = _Scan(file, (), _carriage(file, size))
        scan.skip(0, begin)
        scan.read(begin, min(size, begin + HEAD_BYTES + BEFORE_START_BYTES))
        return scan.finish()


def read_saved(path: str, signatures: Iterable[Signature], seconds: float = 25.0, start: int = 0) -> LogView:
    """All of the log of a server that is gone, from ``start`` on. Raises OSError.

    When ``seconds`` have passed (a log of many GB on a slow disk) the rest but its end is left unsearched.
    """
    deadline = time.monotonic() + seconds
    with _open(path) as file:
        size, modified = _measure(file)
        carriage = _carriage(file, size)
        scan = _Scan(file, signatures, carriage)
        stopped = scan.read(min(start, size), size, deadline)
        if stopped >= size:
            return LogView(scan.finish(), size, modified, carriage=carriage)
        tail_at = _aligned(file, max(stopped, size - BLOCK))
        scan.skip(stopped, tail_at)
        scan.read(tail_at, size)
        return LogView(scan.finish(), size, modified, unsearched=tail_at - stopped, carriage=carriage)


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
        at = max(floor, end - BLOCK)
        file.seek(at)
        chunk = file.read(end - at + len(START_MARK))
        found = chunk.rfind(START_MARK)
        if found >= 0:
            return at + found
        end = at
    return 0


def _carriage(file: BinaryIO, size: int) -> Carriage:
    """How the log is carried; only a log of several services has more of it looked at than its first lines."""
    file.seek(0)
    head = file.read(min(size, HEAD_BYTES))
    tail_at = max(len(head), size - HEAD_BYTES)
    file.seek(tail_at)
    found = carriage_of(head, file.read(HEAD_BYTES))
    if found.services and size > 2 * HEAD_BYTES:
        file.seek(0)
        head = file.read(SAMPLE_BYTES)
        file.seek(max(len(head), size - SAMPLE_BYTES))
        found = carriage_of(head, file.read(SAMPLE_BYTES))
    return found


class _Scan:
    """Hands parts of a file to a LogScanner, block by block, in order."""

    def __init__(self, file: BinaryIO, signatures: Iterable[Signature], carriage: Carriage) -> None:
        self._file = file
        self._carriage = carriage
        self._scanner = LogScanner(LogReader(signatures, keeps_batches=False))
        self._bare_bytes = 0  # so many came out of a carried log: places in it are counted without its carrier
        self._with_batches: list[tuple[int, int, int, int]] = []

    def skip(self, start: int, end: int) -> None:
        """Only count the lines."""
        self._file.seek(start)
        while start < end:
            chunk = self._file.read(min(BLOCK, end - start))
            if not chunk:
                break
            self._scanner.number += chunk.count(b"\n")
            start += len(chunk)

    def read(self, start: int, end: int, deadline: float = float("inf")) -> int:
        """The lines of ``file[start:end]``; both stand at the beginning of a line. Gives where it stopped."""
        self._file.seek(start)
        buffer, at = bytearray(BLOCK + LONGEST_LINE + 1), start
        view = memoryview(buffer)
        held = 1  # bytes at the beginning of the buffer: the newline before a line, and what there is of it
        buffer[0] = ord("\n")
        line_at = start
        while at < end and time.monotonic() < deadline:
            got = self._file.readinto(view[held : held + min(BLOCK, end - at)])  # type: ignore[attr-defined]
            if not got:
                break
            began, at, filled = at - held, at + got, held + got
            cut = buffer.rfind(b"\n", 0, filled)
            if cut > 0:
                cut = self._carriage.whole(buffer, cut, max(0, filled - LONGEST_LINE))
                self._block(buffer, cut, began, line_at)
                line_at = began + cut + 1
            held = min(filled - cut, LONGEST_LINE + 1)  # the rest of a longer line is dropped
            buffer[:held] = buffer[cut : cut + held]
        if at < end:
            return line_at
        if held > 1:
            self._block(buffer, held, at - held, line_at)
        return at

    def _block(self, data: bytearray, cut: int, began: int, first_line: int) -> None:
        if self._carriage.plain:
            self._scanner.scan(data, cut, began)
            place, bare_end, has_batches = first_line, began + cut, data.find(b" batch", 0, cut) >= 0
        else:
            bare = b"\n" + self._carriage.bare(bytes(data[1:cut]))
            self._scanner.scan(bare, len(bare), self._bare_bytes)
            place, bare_end, has_batches = self._bare_bytes + 1, self._bare_bytes + len(bare), b" batch" in bare
            self._bare_bytes = bare_end
        if has_batches:
            self._with_batches.append((place, bare_end, first_line, began + cut))

    def finish(self) -> Story:
        """The story, with the last batch lines since its start."""
        story = self._scanner.reader.story
        found: list[list[Batch]] = []
        wanted = MOST_SAMPLES
        for place, place_end, start, end in reversed(self._with_batches):
            begin = max(place, self._scanner.story_at)
            if wanted <= 0 or begin >= place_end:
                break
            if self._carriage.plain:
                self._file.seek(begin)
                data = self._file.read(end - begin)
            else:
                self._file.seek(start)
                data = self._carriage.bare(self._file.read(end - start))[begin - place :]
            found.append(batches_of(data, wanted))
            wanted -= len(found[-1])
        for batches in reversed(found):
            story.batches.extend(batches)
        return story
