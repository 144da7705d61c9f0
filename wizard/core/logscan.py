"""A log read in large blocks: the lines that cannot matter are passed over at the speed of C.

A busy server writes millions of batch and access lines, then repeats a few hundred others. So one pattern jumps
from newline to newline over the former; of the latter each *shape* (the line without its digits) is looked
at once, for the texts that signatures and facts need. Only lines that may change the story are taken apart.
The story is the same as that of LogReader.feed, line by line; tests/core/test_logscan.py compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wizard.core.literals import required_texts
from wizard.core.logstory import BATCH_STARTS, FACT_TEXTS, LogReader
from wizard.core.logtext import LINE_CAP, Signature, read_line
from wizard.core.redact import clean
from wizard.core.serverargs import MARK, has_settings
from wizard.core.story import Batch, Story, read_batch

LONGEST_LINE = 128 * 1024
"""Bytes of a line that are read; the rest of a longer one is dropped."""
MOST_SHAPES, LONGEST_SHAPE = 4096, 16_000
UNLEARNED = 400
"""Lines that are taken apart without more ado: a short log is read before the patterns were looked through."""
MOST_SHAPE_BYTES = 16_000_000
MOST_ODD = 4000
"""Lines with control characters in a block up to which they are looked for one by one."""
DENSE = 1 / 10_000
"""Unusual lines a byte from which on it is worth while to look whether a later start ends their story."""

_DIGITS = b"0123456789"
_RANKS = rb"(?:[.,]\d{1,6})?(?: ?(?:[A-Z_]{2,12}|DisaggregationMode\.[A-Z]{1,20})\d{0,4}){0,8}\] ?"
_TIME = rb"\[2[0-9-]{9} [0-9:]{8}(?:\] |" + _RANKS + rb")"


def _unusual(char: bytes, rest: bytes, end: bytes) -> re.Pattern[bytes]:
    """A newline before a line that is *not* a batch line or an answered request of SGLang and uvicorn.

    It must know no line as routine that LogReader.feed does not (read_line is as lax about the time); one
    too few costs only time. ``char``: what may stand in such a line; ``rest``: all of the rest of a batch line.
    """
    access = rb"INFO: " + char + rb'{0,1900}HTTP/1\.\d" [123]\d\d[A-Za-z -]{0,40}' + end
    starts = (rb"Decode batch", rb"Prefill batch", rb"Receive: ", rb"Finish: ")
    said = rb"(?:" + rb"|".join(start + rest for start in starts) + rb"|" + access + rb")"
    time = rb"\[2" + char + rb"{18}(?:\] |" + _RANKS + rb")"
    shapes = (time + said, access, rb"[ -Z\\-~]{1,120}" + _TIME + said)
    return re.compile(rb"\n(?!(?:" + rb"|".join(shapes) + rb"))")


_UNUSUAL = _unusual(rb".", rb"", rb"(?:\n|\Z)")
_UNUSUAL_OR_ODD = _unusual(rb"[ -~]", rb"[ -~]*\r?(?:\n|\Z)", rb"\r?(?:\n|\Z)")
"""For blocks with control characters: a line that holds any is taken apart."""
_ODD = (b"\x00", b"\r", b"\x1b", b"\xc2")
_REFUSED = re.compile(rb"(?:" + _TIME + rb')?INFO: [ -~]{0,1900}HTTP/1\.\d" [45]\d\d[A-Za-z -]{0,40}')
_BATCH = re.compile(rb"\] ?(?:Decode|Prefill) batch")
_USAGE = re.compile(rb"(?:\n|\] |\r)usage: ")
_MARK, _FIRED, _LAUNCHED = MARK.encode(), b"fired up and ready to roll", b"launch_server.py:"

Shape = tuple[bool, bool, tuple[Signature, ...]]
"""Of the lines of a shape: whether each is taken apart; unless it is a request that was refused; the signatures
that can match them."""


class LogScanner:
    """Feeds a LogReader from blocks of bytes. ``story_at``: behind the line that began its story."""

    def __init__(self, reader: LogReader) -> None:
        self.reader = reader
        self.number = 0
        self.story_at = 0
        self._shapes: dict[bytes, Shape] = {}
        self._shape_bytes = 0
        self._stamp: tuple[bytes, float | None] = (b"", None)
        self._runs: list[tuple[int, int]] = []
        self._facts = tuple(_without_digits(text) for text in FACT_TEXTS)
        self._needs: list[tuple[Signature, tuple[bytes, ...]]] = []
        self._with_digits: dict[str, tuple[bytes, ...] | None] = {}
        self._fed = 0

    def scan(self, data: bytes | bytearray, end: int, at: int = 0) -> None:
        """The lines of ``data[1:end]``, after the newline that ``data`` begins with.

        ``data[end:end+1]`` is the newline after the last of them, or not looked at. ``at``: where in the file
        ``data`` begins. ``data`` is not kept.
        """
        places = _places(data, end)
        done = 1
        if len(places) > DENSE * end:
            done = self._skip_to_last_start(data, end, set(places)) or 1
        for start in places:
            if start < done:
                continue
            if start > done:
                self._pass_run(data, done, start - 1)
            stop = data.find(b"\n", start, end)
            stop = end if stop < 0 else stop
            self.number += 1
            raw = bytes(data[start : min(stop, start + LONGEST_LINE)])
            if self._runs and _MARK in raw:
                self._settle_clock(data)
            self._line(raw, at + start)
            done = stop + 1
        if done < end:
            self._pass_run(data, done, end)
        self._settle_clock(data)

    def _line(self, raw: bytes, at: int) -> None:
        reader = self.reader
        story = reader.story
        shape = raw.translate(None, _DIGITS)
        always, refusal, candidates = self._shapes.get(shape) or self._learn(shape)
        if refusal and story.phase in ("serving", "ended") and _REFUSED.fullmatch(raw):
            always = False
        if not (
            always
            or story.eager
            or (story.first_stamp is None and b"[" in raw)
            or (candidates and self._may_be_new(raw, candidates))
            or (reader.in_traceback and (b"[" in raw or raw[:6] == b"  File"))
        ):
            stamp = self._stamp_of(raw)
            if stamp is not None:
                self._runs.clear()
            reader.pass_over(self.number, stamp, raw)
            return
        reader.stamped = False
        feed_line(reader, raw, self.number, candidates)
        if reader.stamped or reader.story is not story:
            self._runs.clear()
        if reader.story is not story:
            self.story_at = at + len(raw)

    def _may_be_new(self, raw: bytes, candidates: tuple[Signature, ...]) -> bool:
        """Whether a line can be the first that a signature matches."""
        hits, phase = self.reader.story.hits, self.reader.phase
        for s in candidates:
            if s.id not in hits and (not s.phases or phase in s.phases):
                texts = self._with_digits.get(s.id)
                if texts is None or any(t in raw for t in texts):
                    return True
        return False

    def _learn(self, shape: bytes) -> Shape:
        """What lines of a shape can say. A control character may split what it hides, so it decides nothing."""
        self._fed += 1
        if self._fed <= UNLEARNED:
            return (True, False, self.reader.signatures)
        if not self._needs:
            self._needs = [(s, _needed(s)) for s in self.reader.signatures]
            self._with_digits = {s.id: _texts_with_digits(s) for s in self.reader.signatures}
        text = shape.replace(b"\t", b" ")
        if not text.decode("utf-8", "replace").isprintable():
            return (True, False, self.reader.signatures)
        seen = text[:LINE_CAP] if text.isascii() else text  # patterns see no more of a line
        candidates = tuple(s for s, texts in self._needs if any(t in seen for t in texts))
        facts = {fact for fact in self._facts if fact in text}
        always = (
            bool(facts)
            or any(s.role == "noise" for s in candidates)
            or text.rstrip()[-1:] in (b"", b"]")  # nothing, or nothing behind the time
        )
        refusal = facts == {b"HTTP/"} and not any(s.role == "noise" for s in candidates)
        known = (always, refusal, candidates)
        if len(shape) <= LONGEST_SHAPE:
            self._shape_bytes += len(shape)
            if len(self._shapes) >= MOST_SHAPES or self._shape_bytes > MOST_SHAPE_BYTES:
                self._shapes.clear()
                self._shape_bytes = len(shape)
            self._shapes[shape] = known
        return known

    def _pass_run(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Routine lines only, ``data[start:end]``."""
        reader = self.reader
        story = reader.story
        self.number += data.count(b"\n", start, end) + 1
        if story.phase not in ("serving", "ended"):
            reader.reach_serving(batch=_BATCH.search(data, start, end) is not None)
        if story.first_stamp is None and data.find(b"[2", start, end) >= 0:
            story.first_stamp = next((s for s in _stamps(data, start, end) if s is not None), None)
        reader.pass_over(self.number, None)
        self._runs.append((start, end))

    def _settle_clock(self, data: bytes | bytearray) -> None:
        """The clock of the last routine line, unless a later line told the time."""
        while self._runs:
            start, end = self._runs.pop()
            stamp = self._last_stamp(data, start, end)
            if stamp is not None:
                self.reader.story.last_stamp = stamp
                self._runs.clear()

    def _last_stamp(self, data: bytes | bytearray, start: int, end: int) -> float | None:
        while end > start:
            line = data.rfind(b"\n", start, end) + 1 or start
            stamp = self._stamp_of(bytes(data[line : min(end, line + 1000)]))
            if stamp is not None:
                return stamp
            end = data.rfind(b"[2", start, line)
            end = -1 if end < 0 else data.find(b"\n", end)
        return None

    def _stamp_of(self, raw: bytes) -> float | None:
        """The clock of a line; the same head was read a moment ago as a rule."""
        head = raw[:22]
        if head == self._stamp[0]:
            return self._stamp[1]
        if b"[" not in raw[:960]:
            return None
        stamp = read_line(raw[:960].decode("utf-8", "replace").replace("\t", " "), 0).stamp
        if head[:2] == b"[2" and head[-2:] == b"] ":
            self._stamp = (head, stamp)
        return stamp

    def _skip_to_last_start(self, data: bytes | bytearray, end: int, places: set[int]) -> int:
        """Of several starts in a block only the last one's story is asked for: the place to go on at, or 0.

        A start is certain to begin a story when the server of the one before said that it is ready.
        """
        before = end
        while (mark := data.rfind(_MARK, 0, before)) >= 0:
            line = data.rfind(b"\n", 0, mark) + 1
            fired = data.rfind(_FIRED, max(0, data.rfind(_MARK, 0, line)), line)
            if fired >= 0 and _USAGE.search(data, fired, line) is None:
                ready = data.rfind(b"\n", 0, fired) + 1
                launched = data.find(_LAUNCHED, fired, line)
                begin = line if launched < 0 else data.rfind(b"\n", 0, launched) + 1
                known = begin > ready and {line, ready, begin} <= places
                if known and self._is_start(data, end, line, ready, begin):
                    self.number += data.count(b"\n", 1, begin)
                    self.reader.story = Story(fired_up=True)
                    return begin
            before = max(0, line - 1)
        return 0

    @staticmethod
    def _is_start(data: bytes | bytearray, end: int, line: int, ready: int, begin: int) -> bool:
        def text(at: int) -> bytes:
            stop = data.find(b"\n", at, end)
            return bytes(data[at : min(stop if stop >= 0 else end, at + LONGEST_LINE)])

        settings, said, first = text(line), text(ready)[:900], text(begin)[:900]
        before = settings.partition(_MARK)[0].rstrip()
        if (before and before[-1:] != b"]") or any(c in one for one in (settings, said, first) for c in _ODD):
            return False
        if any(word in one for one in (said, first[:200]) for word in (b"HTTP/", b" batch", b"\t")):
            return False
        warned = begin == line or (b"UserWarning" in first and _LAUNCHED in first)
        return warned and _FIRED in said and has_settings(settings.decode("utf-8", "replace"))


def _places(data: bytes | bytearray, end: int) -> list[int]:
    """Where the lines begin that are not routine, or hold a control character."""
    odd: set[int] = set()
    for char in _ODD:
        at = data.find(char, 0, end)
        while at >= 0 and len(odd) <= MOST_ODD:
            odd.add(data.rfind(b"\n", 0, at) + 1)
            after = data.find(b"\n", at, end)
            at = data.find(char, after, end) if after >= 0 else -1
    if len(odd) > MOST_ODD:
        return [m.end() for m in _UNUSUAL_OR_ODD.finditer(data, 0, end)]
    places = [m.end() for m in _UNUSUAL.finditer(data, 0, end)]
    return sorted(odd.union(places)) if odd else places


def _needed(signature: Signature) -> tuple[bytes, ...]:
    """Texts without digits of which a matching line's shape holds one; one empty text when nothing is sure."""
    texts = required_texts(signature.pattern)
    return (b"",) if texts is None else tuple(_without_digits(text) for text in texts)


def _texts_with_digits(signature: Signature) -> tuple[bytes, ...] | None:
    """The texts themselves, when a shape has lost some of their characters; None when it has not."""
    texts = required_texts(signature.pattern)
    if texts is None or not any(char.isdigit() for text in texts for char in text):
        return None
    return tuple(text.encode() for text in texts)


def _without_digits(text: str) -> bytes:
    return text.encode().translate(None, _DIGITS)


def _stamps(data: bytes | bytearray, start: int, end: int) -> Iterator[float | None]:
    while start < end:
        stop = data.find(b"\n", start, end)
        stop = end if stop < 0 else stop
        yield read_line(data[start : min(stop, start + 960)].decode("utf-8", "replace"), 0).stamp
        start = stop + 1


def feed_line(
    reader: LogReader, raw: bytes, number: int, candidates: tuple[Signature, ...] | None = None
) -> None:
    """One raw line, at most LONGEST_LINE of it, as a terminal would leave it."""
    for text in _texts(raw):
        reader.feed(text, number, candidates)


def _texts(raw: bytes) -> Iterator[str]:
    for piece in _pieces(raw[:LONGEST_LINE]):
        text = piece.decode("utf-8", "replace")
        yield text if text.isprintable() else clean(text.replace("\t", " ")).replace("\n", " ")


def _pieces(raw: bytes) -> list[bytes]:
    """Of bars rewritten with CR only what is no bar, or the last."""
    if b"\r" not in raw:
        return [raw]
    pieces = [p for p in raw.split(b"\r") if p]
    return [p for i, p in enumerate(pieces) if i == len(pieces) - 1 or (b"it/s" not in p and b"s/it" not in p)]


def batches_of(data: bytes, most: int) -> list[Batch]:
    """The last ``most`` batch lines of a block that begins and ends between lines, oldest first."""
    found: list[Batch] = []
    end = len(data)
    while len(found) < most and (at := data.rfind(b" batch", 0, end)) >= 0:
        start = data.rfind(b"\n", 0, at) + 1
        stop = data.find(b"\n", at)
        found.extend(reversed(_batches_in(data[start : stop if stop >= 0 else len(data)])))
        end = start
    return found[:most][::-1]


def _batches_in(raw: bytes) -> list[Batch]:
    lines = [read_line(text[:LINE_CAP], 0) for text in _texts(raw)]
    return [read_batch(line) for line in lines if line.text.startswith(BATCH_STARTS)]
