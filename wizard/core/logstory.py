"""A log read line by line into one story: how far the start got, its numbers, its load, what failed.

Pure and bounded: a line goes in, a few numbers stay. Shapes were read off real servers (0.5.10 to 0.5.23 on
the CPU, 0.5.17 on an H200) and off log excerpts down to 0.4.0. A second start in the same file begins a
new story.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wizard.core.logtext import LINE_CAP, Hit, Line, Signature, first_match, read_line
from wizard.core.serverargs import MARK, has_settings
from wizard.core.story import PHASES, Story, read_batch

RESTART_GAP_S = 30.0

_UNIT_GB = {"KiB": 1 / 1024**2, "MiB": 1 / 1024, "GiB": 1.0, "KB": 1 / 1024**2, "MB": 1 / 1024, "GB": 1.0}
_NUMBER = r"(-?\d{1,12}(?:\.\d{1,9})?)"
_SIZE = r"(\d{1,9}(?:\.\d{1,9})?) ([KMG]i?B)"
_AVAIL = re.compile(rf"avail mem={_NUMBER} GB")
_USED = re.compile(rf"mem usage={_NUMBER} GB")
_TOKENS = re.compile(r"#tokens: (\d{1,12})")
_POOL_PART = re.compile(rf"\b(?:K|V|KV) size: {_NUMBER} GB")
_SUMMARY = re.compile(
    r"\b(max_total_num_tokens|max_running_requests|context_len|chunked_prefill_size)=(\d{1,12})"
)
_SUMMARY_AVAIL = re.compile(rf"available_(?:gpu|cpu)_mem={_NUMBER} GB")
_GRAPH = re.compile(r"Capture [\w \-]{0,60}graph (begin|end)", re.I)
_RETRACTED = re.compile(r"#retracted_reqs: (\d{1,9})")
_TRIED = re.compile(rf"Tried to allocate {_SIZE}")
_CAPACITY = re.compile(rf"total capaci?ty of {_SIZE} of which {_SIZE} is free")
_CAPACITY_OLD = re.compile(rf"{_SIZE} total capacity;.{{0,80}}?{_SIZE} free")
_OTHERS = re.compile(rf"Process \d{{1,10}} has {_SIZE} memory in use")
_INDIVISIBLE = re.compile(r"\b(\d{1,9}) is not divisible by (\d{1,3})\b")
_NEEDED = re.compile(rf"Raise --mem-fraction-static above {_NUMBER}")
_BIND = re.compile(r"attempting to bind on address \('[^']{0,80}', (\d{1,5})")
_FRAME = re.compile(r", in (\w{1,80})$")
_ACCESS = re.compile(
    r'INFO: .{0,1900}HTTP/1\.\d" (?P<uvicorn>[1-5])\d\d[A-Za-z -]{0,40}\s*$|'  # else another line is glued on
    r'(?!INFO: ).{0,2000}HTTP/1\.\d" (?P<other>[1-5])\d\d'
)

BATCH_STARTS = ("Decode batch", "Prefill batch")
REQUEST_STARTS = ("Receive: ", "Finish: ")
"""--log-requests: what people ask a model accuses no server."""
FACT_TEXTS = (
    MARK,
    "Traceback (most recent call last)",
    "fired up and ready to roll",
    "usage: ",
    "launch_server.py:",
    "SIGTERM received",
    "Finished server process",
    "Load weight begin",
    "Load weight end",
    "#tokens:",
    "Memory pool end",
    "raph ",
    "max_total_num_tokens=",
    "retracted_reqs:",
    "llocate",
    "mem-fraction-static above",
    "attempting to bind",
    *BATCH_STARTS,
    *REQUEST_STARTS,
    "HTTP/",
)
"""A line without any of these (and outside a traceback) says nothing but what signatures find in it."""

_FRAME_PHASES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("capture", re.compile(r"^(?:capture\w*|init_\w*(?:cuda|device)_graphs?|_capture\w*|kernel_warmup)$")),
    (
        "kv_allocation",
        re.compile(r"^(?:\w*init_\w*memory_pools?|_?alloc_memory_pool|_create_\w*buffers?|_init_pools?)$"),
    ),
    ("loading", re.compile(r"^(?:load_model|_?initialize_model|load_weights|create_weights|_load_\w{1,40})$")),
    (
        "serving",
        re.compile(
            r"^(?:event_loop\w*|run_batch|forward_(?:extend|decode|thread\w*|batch_\w*)|process_batch\w*)$"
        ),
    ),
)


_TRACEBACK_NOISE = ("exception_source_line",)
"""Lines of a traceback accuse nobody, yet its frames say where it was."""


class LogReader:
    """Feed it lines; ``story`` is of the last start. ``feed`` never raises, whatever the line holds."""

    def __init__(self, signatures: Iterable[Signature] = (), keeps_batches: bool = True) -> None:
        self.signatures = tuple(signatures)
        self._keeps_batches = keeps_batches
        self._frame_phase = ""
        self._in_traceback = False
        self.stamped = False  # set by a line with a time; reset by who wants to know
        self._retract_keys: tuple[float | None, set[str]] = (None, set())
        self.story = Story()

    @property
    def phase(self) -> str:
        """The phase that the next line is judged in."""
        return self._frame_phase or self.story.phase

    @property
    def in_traceback(self) -> bool:
        return self._in_traceback

    def feed(self, raw: str, number: int, candidates: Iterable[Signature] | None = None) -> None:
        """One line. ``candidates``: the only signatures that can match it, in order, where that is known."""
        line = read_line(raw[:LINE_CAP], number)
        text = line.text
        if not text or text.isspace():
            return
        batch = "atch" in text and text.startswith(BATCH_STARTS)
        access = _ACCESS.match(text) if not batch and "HTTP/1." in text else None
        request = text.startswith(REQUEST_STARTS)
        routine = batch or request or (access is not None and access[access.lastgroup or 0] in "123")
        if not routine and MARK in raw:
            self._start(raw, number)
        story = self.story
        story.last_line = number
        if line.stamp is not None:
            story.first_stamp = story.first_stamp if story.first_stamp is not None else line.stamp
            story.last_stamp = line.stamp
            self.stamped = True
        if routine or access is not None:
            self.reach_serving(batch)
        if batch and self._keeps_batches:
            story.batches.append(read_batch(line))
        if routine:
            return
        self._traceback(line)
        self._facts(line)
        self._signs(line, self.signatures if candidates is None else candidates)

    def pass_over(self, number: int, stamp: float | None, plain: bytes | None = None) -> None:
        """Lines up to ``number`` that change nothing but the clock; ``plain``: one that the digest may show."""
        story = self.story
        story.last_line = number
        if stamp is not None:
            story.last_stamp = stamp
        if plain is not None:
            if stamp is not None:
                self._in_traceback = False
            story.keep(plain)

    def reach_serving(self, batch: bool) -> None:
        """A batch line, or an answered request: an excerpt that begins after the start is serving."""
        if not self.story.settings_text or (batch and self.story.fired_up):
            self._advance("serving")

    def _start(self, raw: str, number: int) -> None:
        """A ``server_args=`` line: of this start, of another node that starts too, or of the next start."""
        text = raw[: 32 * LINE_CAP]
        if not has_settings(text):
            return
        story, stamp = self.story, read_line(raw[:240], number).stamp
        gap = stamp is not None and story.last_stamp is not None and stamp - story.last_stamp > RESTART_GAP_S
        over = (
            story.fired_up
            or story.phase in ("serving", "ended")  # without settings: the tail of an earlier start
            or any(h.signature.role in ("lead", "victim") for h in story.hits.values())
            or (bool(story.settings_text) and gap)
        )
        if over:
            self._begin(number)
        if not self.story.settings_text:
            self.story.settings_text, self.story.settings_line = text, number
            self.story.settings_stamp = stamp

    def _begin(self, number: int) -> None:
        self.story = Story(start_line=number)
        self._frame_phase, self._in_traceback = "", False
        self._retract_keys = (None, set())

    def _advance(self, phase: str) -> None:
        if PHASES.index(phase) > PHASES.index(self.story.phase):
            self.story.phase = phase

    def _note(self, name: str, x: float, number: int, keep: bool = True) -> None:
        if not keep or name not in self.story.numbers:
            self.story.numbers[name] = (x, number)

    def _traceback(self, line: Line) -> None:
        text = line.text
        if "Traceback (most recent call last)" in text:
            self._in_traceback, self._frame_phase = True, ""
        elif line.stamp is not None:
            self._in_traceback = False
        elif self._in_traceback and text.startswith("  File "):
            frame = _FRAME.search(text.rstrip())
            if frame is not None:
                for rank, (phase, pattern) in enumerate(_FRAME_PHASES):
                    known = [p for p, _ in _FRAME_PHASES[:rank]]
                    if pattern.match(frame[1]) and self._frame_phase not in known:
                        self._frame_phase = phase
                        break

    def _facts(self, line: Line) -> None:
        story, text, number = self.story, line.text, line.number
        if "fired up and ready to roll" in text:
            story.fired_up = True
            story.ready_stamp = line.stamp if story.ready_stamp is None else story.ready_stamp
            self._advance("ready")
        elif text.startswith("usage: ") or ("launch_server.py:" in text and "UserWarning" in text):
            if story.fired_up or story.phase == "ended" or (story.settings_text and story.hits):
                self._begin(number)
        elif "SIGTERM received" in text:
            story.draining = True
        elif "Finished server process" in text:
            if not any(h.signature.role == "lead" for h in story.hits.values()):
                self._advance("ended")
        elif "Load weight begin" in text:
            self._advance("loading")
            self._memory("log.avail_before_load_gb", _AVAIL, line, lowest=True)
        elif "Load weight end" in text:
            self._advance("kv_allocation")
            self._memory("log.avail_after_load_gb", _AVAIL, line, lowest=True)
            self._memory("weights.memory_gb", _USED, line)
        elif "#tokens:" in text and "allocated" in text:
            self._pool(line)
        elif "Memory pool end" in text:
            self._advance("kv_allocation")
        elif "raph " in text and (capture := _GRAPH.search(text)):
            self._advance("capture")
            used = _USED.search(text)
            if capture[1].lower() == "end" and used and not _other_rank(line):
                story.graph_gb += max(0.0, float(used[1]))
                self._note("graph.memory_gb", round(story.graph_gb, 3), number, keep=False)
        elif "max_total_num_tokens=" in text:
            for name, value in _SUMMARY.findall(text):
                self._note(name, float(value), number)
            self._memory("server.available_memory_gb", _SUMMARY_AVAIL, line, lowest=True)
        elif "retracted_reqs:" in text and (match := _RETRACTED.search(text)):
            self._retraction(line, int(match[1]))
        if "llocate" in text and (match := _TRIED.search(text)):
            self._out_of_memory(text, match, number)
        if "mem-fraction-static above" in text and (match := _NEEDED.search(text)):
            self._note("log.needed_fraction", float(match[1]), number)
        if "is not divisible by" in text and (match := _INDIVISIBLE.search(text)):
            self._note("log.fitting_ranks", float(fitting_ranks(int(match[1]), int(match[2]))), number)
        if "attempting to bind" in text and (match := _BIND.search(text)):
            self._note("log.port_taken", float(match[1]), number)

    def _memory(self, name: str, pattern: re.Pattern[str], line: Line, lowest: bool = False) -> None:
        """Ranks print the same fact each: the tightest rank counts for what is free, the largest for use."""
        match = pattern.search(line.text)
        if match is None:
            return
        x, known = float(match[1]), self.story.numbers.get(name)
        if known is None or (line.ranks and (x < known[0] if lowest else x > known[0])):
            self.story.numbers[name] = (x, line.number)

    def _pool(self, line: Line) -> None:
        sizes = [float(s) for s in _POOL_PART.findall(line.text)]
        tokens = _TOKENS.search(line.text)
        if sizes and tokens:
            self._note("kv.pool_gb", round(sum(sizes), 3), line.number)
            self._note("pool_tokens", float(tokens[1]), line.number)

    def _retraction(self, line: Line, count: int) -> None:
        stamp, seen = self._retract_keys
        if stamp != line.stamp or line.stamp is None:
            seen = set()
        self._retract_keys = (line.stamp, seen)
        if line.stamp is not None and line.text in seen:
            return  # every rank of a group says it
        seen.add(line.text)
        self.story.retracted += count
        self.story.retractions.append((line.stamp, count))

    def _out_of_memory(self, text: str, tried: re.Match[str], number: int) -> None:
        if "log.oom_tried_gb" in self.story.numbers:
            return
        self._note("log.oom_tried_gb", _gb(tried[1], tried[2]), number)
        capacity = _CAPACITY.search(text) or _CAPACITY_OLD.search(text)
        if capacity is not None:
            self._note("log.oom_total_gb", _gb(capacity[1], capacity[2]), number)
            self._note("log.oom_free_gb", _gb(capacity[3], capacity[4]), number)
            others = sum(_gb(size, unit) for size, unit in _OTHERS.findall(text))
            if others or "this process has" in text:
                self._note("log.oom_other_gb", round(others, 3), number)

    def _signs(self, line: Line, candidates: Iterable[Signature]) -> None:
        story = self.story
        phase = self.phase
        found = first_match(candidates, line.text, phase)
        noise = found is not None and found.role == "noise" and found.id not in _TRACEBACK_NOISE
        if not noise and MARK not in line.text:
            story.keep(line.text)
        if found is not None and found.id not in story.hits:
            story.hits[found.id] = Hit(found, line.number, line.text.strip(), phase)
            story.failed = story.failed or found.role == "lead"


def _other_rank(line: Line) -> bool:
    return "TP" in line.ranks and "TP0" not in line.ranks.split()


def _gb(size: str, unit: str) -> float:
    return round(float(size) * _UNIT_GB[unit], 4)


def fitting_ranks(size: int, ranks: int) -> int:
    """The largest power of two below ``ranks`` that divides ``size``; 1 when none other does.

    Powers of two: what else has to be divided (key-value heads, blocks of fp8) is mostly a multiple of them.
    """
    best = 1
    while best * 2 < ranks and size % (best * 2) == 0:
        best *= 2
    return best
