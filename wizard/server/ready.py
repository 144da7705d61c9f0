"""Is the new server ready: its own process lives, its own tree owns the port, and that port answers.

The log's "fired up and ready to roll" proves nothing: on a port that another SGLang owns, the other
one answers the newcomer's warm-up (recordings: port_in_use_by_sglang, f_second_same_port). A bind
error is the end although the process may hang for minutes after it.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import is_alive

POLL_S = 0.2
HEALTH_TIMEOUT_S = 25.0
"""A dead scheduler's /health answers 503 after 20 s; a healthy one takes 1.0 s (recordings/cpu)."""
HEALTH_PAUSE_S = 0.3
GRACE_S = 120.0
"""Each sign of life in the log moves the deadline to at least so far ahead ..."""
MOST_STRETCH = 3.0
"""... but never beyond so many times the limit agreed to."""
CHUNK = 1 << 16

Kind = Literal["ready", "died", "timed_out", "cancelled", "wrong_owner", "log_fatal"]

_PHASES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("starting", re.compile(r"server_args=")),
    ("distributed init", re.compile(r"Init torch distributed begin")),
    ("loading weights", re.compile(r"Load weight begin")),
    ("KV cache", re.compile(r"Load weight end")),
    ("capturing graphs", re.compile(r"[Cc]apture .*graphs? begin")),
    ("warming up", re.compile(r"Application startup complete|Uvicorn running on")),
)
_FATAL = re.compile(r"\[Errno 98\]|address already in use", re.IGNORECASE)
_SHARDS = re.compile(r"shards:\s*(\d+)% Completed")


@dataclass(frozen=True)
class ReadyResult:
    """``phase_times``: seconds spent in each phase the log showed."""

    ok: bool
    kind: Kind
    detail: str
    exit_code: int | None = None
    phase_times: Mapping[str, float] = field(default_factory=dict)


class _LogFollower:
    """Reads what is new in a log and keeps phase, percentage and the last line."""

    def __init__(self, path: str | None, offset: int) -> None:
        self.path, self.offset = path, offset
        self.phase, self.percent, self.last = "starting", "", ""
        self.fatal = ""
        self.rest = b""
        self.times: dict[str, float] = {}
        self._since = time.monotonic()

    def read(self) -> bool:
        """True when there was something new."""
        if self.path is None:
            return False
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self.offset:
                    self.offset = 0  # it was cut (logrotate copytruncate)
                file.seek(self.offset)
                data = file.read(CHUNK)
        except OSError:
            return False
        self.offset += len(data)
        lines = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        self.rest = lines.pop()[-CHUNK:]
        for raw in lines:
            if raw.strip():
                self._line(raw[:4000].decode("utf-8", "replace"))
        return bool(data)

    def _line(self, line: str) -> None:
        self.last = line.strip()
        found = _SHARDS.search(line)
        if found:
            self.percent = f"{found.group(1)} %"
        if not self.fatal and _FATAL.search(line):
            self.fatal = self.last
        for name, pattern in _PHASES:
            if pattern.search(line) and name != self.phase:
                now = time.monotonic()
                self.times[self.phase] = round(self.times.get(self.phase, 0.0) + now - self._since, 2)
                self.phase, self._since, self.percent = name, now, ""

    def says(self) -> str:
        return f"{self.phase} {self.percent}".strip()


async def wait_ready(
    identity: Identity,
    host: str,
    port: int,
    *,
    log_path: str | Path | None,
    log_offset: int,
    deadline_s: float,
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> ReadyResult:
    """Wait until ready, dead, or out of time. Death is seen within a few tenths of a second.

    The deadline moves while the log shows progress. Sends nothing but GET /health to that port, and
    only once the server's own tree listens on it.
    """
    log = _LogFollower(str(log_path) if log_path else None, log_offset)
    started = time.monotonic()
    deadline, latest = started + deadline_s, started + deadline_s * MOST_STRETCH
    health: asyncio.Task[int | None] | None = None
    answer: int | None = None
    shown = ""

    def done(ok: bool, kind: Kind, detail: str) -> ReadyResult:
        times = {**log.times, "total": round(time.monotonic() - started, 2)}
        return ReadyResult(ok, kind, detail, None, times)

    try:
        while True:
            if log.read():
                deadline = min(latest, max(deadline, time.monotonic() + min(GRACE_S, deadline_s)))
            if not is_alive(identity):
                log.read()
                return done(False, "died", f"it ended while {log.says()}")
            if log.fatal:
                return done(False, "log_fatal", f"it could not bind its port: {log.fatal}")
            if cancelled():
                return done(False, "cancelled", "called off")
            owned = await asyncio.to_thread(_owns, identity, port)
            if owned is True and health is None:
                health = asyncio.ensure_future(_health(host, port))
            if health is not None and health.done():
                answer, health = health.result(), None
                if answer == 200 and owned is True and is_alive(identity):
                    took = time.monotonic() - started
                    return done(True, "ready", f"ready after {took:.0f} s: own process, own port, /health 200")
                await asyncio.sleep(HEALTH_PAUSE_S)
            now = time.monotonic()
            if now >= deadline:
                if owned is False:
                    return done(False, "wrong_owner", f"port {port} belongs to another process")
                last = f"/health last answered {answer}" if answer else "nothing answered /health"
                return done(False, "timed_out", f"not ready after {now - started:.0f} s, {log.says()}: {last}")
            text = f"{log.says()}, {now - started:.0f} s"
            if text != shown:
                shown = text
                on_progress(text)
            await asyncio.sleep(POLL_S)
    finally:
        if health is not None:
            health.cancel()


def _owns(identity: Identity, port: int) -> bool | None:
    """True: a process of the tree listens there. False: somebody else does. None: nobody."""
    found = proc.listeners(port)
    if not found:
        return None
    tree = {identity.pid, *(i.pid for i in proc.descendants(identity.pid))}
    return any(one.pid in tree for one in found)


async def _health(host: str, port: int) -> int | None:
    import httpx

    name = f"[{host}]" if ":" in host else host
    try:
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False) as client:
            return (await client.get(f"http://{name}:{port}/health")).status_code
    except httpx.HTTPError:
        return None
