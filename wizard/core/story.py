"""What a log's lines add up to: the story of one start, its batches, and the lines that its digest keeps."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from wizard.core.logtext import Hit, Line, read_line
from wizard.core.serverargs import parse_server_args

PHASES = ("starting", "loading", "kv_allocation", "capture", "ready", "serving", "ended")
MOST_SAMPLES = 20_000
"""Batch lines that are remembered: the last quarter of an hour of a very busy server."""

HEAD_LINES, BEFORE_LINES, AROUND_LINES, TAIL_LINES = 40, 20, 100, 100
DIGEST_CHARS = 300

_RUNNING = re.compile(r"#running-req: (\d{1,9})")
_QUEUED = re.compile(r"#queue-req: (\d{1,9})")
_USAGE = re.compile(r"(?:token|mamba) usage: (\d{1,3}\.\d{1,4})")
_GRAPH_USED = re.compile(r"\b(?:cuda|npu|musa|xpu|hip) graph: ([Tt]rue|[Ff]alse)")


@dataclass(frozen=True)
class Batch:
    """One Prefill or Decode batch line."""

    stamp: float | None
    decode: bool
    running: int | None
    queued: int | None
    usage: float | None
    graph: bool | None


@dataclass
class Story:
    """What the lines since the last start said. Sizes in GiB; a field is None until a line said it."""

    phase: str = "starting"
    start_line: int = 0
    last_line: int = 0
    settings_text: str = ""
    """The line that holds the settings; taken apart when somebody asks for them."""
    settings_line: int = 0
    numbers: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Name of a reading -> its number and the line it stood in."""
    hits: dict[str, Hit] = field(default_factory=dict)
    fired_up: bool = False
    draining: bool = False
    batches: deque[Batch] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    retractions: deque[tuple[float | None, int]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    retracted: int = 0
    first_stamp: float | None = None
    last_stamp: float | None = None
    settings_stamp: float | None = None
    ready_stamp: float | None = None
    graph_gb: float = 0.0
    head: list[str] = field(default_factory=list)
    tail: deque[str | bytes] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    """Bytes: a raw line that nobody has taken apart yet, of which most are never asked for."""
    around: list[str | bytes] = field(default_factory=list)
    failed: bool = False
    _settings: tuple[str, dict[str, Any]] | None = field(default=None, compare=False, repr=False)

    @property
    def start_s(self) -> float | None:
        """Seconds from the settings to "fired up", both of this start; the imports before are not in it."""
        if self.settings_stamp is None or self.ready_stamp is None or self.ready_stamp < self.settings_stamp:
            return None
        return self.ready_stamp - self.settings_stamp

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of this start; empty until a line told them."""
        if self._settings is None or self._settings[0] != self.settings_text:
            self._settings = (self.settings_text, parse_server_args(self.settings_text))
        return self._settings[1]

    def keep(self, text: str | bytes) -> None:
        """A line that is not routine, for the digest."""
        if isinstance(text, str):
            text = text[:DIGEST_CHARS].rstrip()
        if len(self.head) < HEAD_LINES:
            self.head.append(_shown(text))
            return
        if self.failed and len(self.around) < AROUND_LINES:
            if not self.around:
                self.around.extend(list(self.tail)[-BEFORE_LINES:])
                self.tail.clear()
            self.around.append(text)
        else:
            self.tail.append(text)

    @property
    def eager(self) -> bool:
        """Whether the next line matters to the digest, whatever it says."""
        return len(self.head) < HEAD_LINES or (self.failed and len(self.around) < AROUND_LINES)

    @property
    def digest(self) -> str:
        """Its lines that are neither batches, answered requests, settings nor noise: the first of them, those
        around the first failure, the last."""
        return "\n".join((*self.head, *map(_shown, self.around), *map(_shown, self.tail)))

    @property
    def ordered_hits(self) -> list[Hit]:
        return sorted(self.hits.values(), key=lambda h: h.number)


def _shown(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    line = read_line(text.decode("utf-8", "replace").replace("\t", " "), 0)
    return line.text[:DIGEST_CHARS].rstrip()


def read_batch(line: Line) -> Batch:
    """The numbers of a Prefill or Decode batch line."""
    text = line.text
    decode = text.startswith("Decode batch")
    running, queued = _RUNNING.search(text), _QUEUED.search(text)
    usages = [float(u) for u in _USAGE.findall(text)]
    graph = _GRAPH_USED.search(text) if decode else None
    return Batch(
        line.stamp,
        decode,
        int(running[1]) if running else None,
        int(queued[1]) if queued else None,
        min(1.0, max(usages)) if usages else None,
        graph[1].lower() == "true" if graph else None,
    )
