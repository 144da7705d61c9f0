"""Readings in words: names and units for people, the live panel, the short history behind it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wizard.core.expr import show
from wizard.core.reading import Snapshot, Value
from wizard.core.vocabulary import PREFERENCE, VOCABULARY
from wizard.tui.format import Line, duration, milliseconds, one_line, pad, shorten, sparkline

if TYPE_CHECKING:
    from wizard.core.expr import Term
    from wizard.core.session import SessionState

LABELS: dict[str, str] = {
    "requests.queued": "queue",
    "requests.running": "running",
    "requests.retracted": "retracted",
    "kv.usage": "KV pool",
    "throughput.output": "tokens/s",
    "ttft.p50": "TTFT p50",
    "ttft.p99": "TTFT p99",
    "itl.p50": "ITL  p50",
    "itl.p99": "ITL  p99",
    "e2e.p50": "E2E  p50",
    "e2e.p99": "E2E  p99",
    "throughput.requests": "requests/s",
    "requests.failed": "failed",
    "gpu.utilization": "GPU",
    "gpu.memory_free_gb": "GPU free",
    "gpu.other_process": "on the GPU",
    "http.health": "/health",
    "port.state": "port",
    "port.owner_command": "port by",
    "log.signature": "log says",
    "log.phase": "log phase",
    "host.cpu_percent": "CPU",
    "process.uptime_s": "up",
    "server.max_running_requests": "cap",
    "server.max_running_requests_set": "cap",
}

PANEL = (
    "requests.queued",
    "requests.running",
    "kv.usage",
    "requests.retracted",
    "throughput.output",
    "ttft.p50",
    "itl.p50",
    "gpu.utilization",
    "gpu.memory_free_gb",
    "http.health",
    "log.phase",
    "log.signature",
    "gpu.other_process",
    "port.owner_command",
    "host.cpu_percent",
)
"""What the live panel shows, most telling first; what no probe has is left out."""

SPARKS = ("requests.queued", "requests.running", "kv.usage", "throughput.output", "ttft.p50", "itl.p50")
KEPT = 24


class History:
    """The last values of the readings that get a sparkline, one a sweep of the metrics probe."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = {}
        self._at: dict[str, float] = {}

    def clear(self) -> None:
        self._values.clear()
        self._at.clear()

    def add(self, state: SessionState) -> None:
        for name in SPARKS:
            value = state.snapshot.get(name)
            if value is None or isinstance(value.x, (bool, str, tuple)):
                continue
            results = state.snapshot.results
            at = next(
                (results[p].at for p in PREFERENCE[name] if p in results and name in results[p].values), 0.0
            )
            if self._at.get(name) == at:
                continue
            self._at[name] = at
            self._values.setdefault(name, deque(maxlen=KEPT)).append(float(value.x))

    def of(self, name: str) -> tuple[float, ...]:
        return tuple(self._values.get(name, ()))


def label_of(name: str) -> str:
    return LABELS.get(name, name)


def value_text(name: str, value: Value) -> str:
    """The value with its unit: ``31``, ``1 %``, ``6.72 s``, ``9.8 GiB``."""
    reading = VOCABULARY.get(name)
    unit = reading.unit if reading else ""
    x = value.x
    if isinstance(x, (bool, str, tuple)):
        return one_line(show(x))
    if unit == "ratio":
        return f"{x * 100:.0f} %" if x == 0 or abs(x) >= 0.01 else f"{x * 100:.1f} %"
    if unit == "ms":
        return milliseconds(float(x))
    if unit == "s":
        return duration(float(x))
    if unit == "%":
        return f"{x:.0f} %"
    if unit in ("GiB", "tokens", "tok/s", "W", "MHz", "C", "cores", "B/token"):
        return f"{show(x)} {unit}"
    return str(x) if unit in ("port", "pid", "code") else show(x)


def short_label(name: str) -> str:
    """``queue``, ``cap``, ``chunked prefill size``."""
    known = LABELS.get(name)
    return " ".join((known or name.partition(".")[2] or name).replace("_", " ").split())


def term_words(term: Term) -> str:
    """A condition with its numbers in it: ``running 8 >= cap 8``."""
    text = term.text
    if text.startswith("known("):
        return ", ".join(f"{short_label(n)} = {value_text(n, v) if v else 'unknown'}" for n, v in term.readings)
    for name, value in sorted(term.readings, key=lambda pair: -len(pair[0])):
        shown = one_line(show(value.x)) if value is not None else "?"
        pieces = re.split(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)
        text = f"{short_label(name)} {shown}".join(pieces)
    return one_line(text)


def panel_lines(snapshot: Snapshot, history: History | None, width: int, most: int) -> list[Line]:
    """The live panel: label, value, and a sparkline or the limit that the value is up against."""
    out: list[Line] = []
    for name in PANEL:
        value = snapshot.get(name)
        if value is None or (name == "requests.retracted" and not value.x):
            continue
        own = snapshot.get("port.owner_is_target")
        if name == "port.owner_command" and own is not None and own.x is True:
            continue
        text = value_text(name, value)
        if name == "requests.running":
            cap = snapshot.get("server.max_running_requests")
            text += f" / {show(cap.x)}" if cap is not None else ""
        elif name == "gpu.utilization":
            power = snapshot.get("gpu.power_w")
            text += f"  {value_text('gpu.power_w', power)}" if power is not None and width > 40 else ""
        past = history.of(name) if history is not None and name in SPARKS else ()
        spark = sparkline(past, width - 25) if len(past) > 1 else ""
        if isinstance(value.x, str):
            out.append(((" " + pad(label_of(name), 10), "dim"), (shorten(text, width - 12), "")))
        else:
            out.append(
                ((" " + pad(label_of(name), 10), "dim"), (pad(text, 12, right=True), ""), (f"  {spark}", "dim"))
            )
        if len(out) >= most:
            break
    return out


def shown_lines(names: Sequence[str], snapshot: Snapshot, width: int) -> list[Line]:
    """The readings that a question names: ``queue 31   running 8   KV pool 1 %``; unknown ones say so."""
    rows: list[list[tuple[str, str]]] = [[]]
    used = 0
    for name in names:
        value = snapshot.get(name)
        text = value_text(name, value) if value is not None else "unknown"
        label = short_label(name)
        size = len(label) + len(text) + 4
        if rows[-1] and used + size > width - 2:
            rows.append([])
            used = 0
        rows[-1] += [(f"{'   ' if rows[-1] else ' '}{label} ", "dim"), (text, "" if value else "dim")]
        used += size
    return [tuple(row) for row in rows if row]
