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
from typing import TYPE_CHECKING, Literal

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import is_alive
from wizard.server.network import listens_there
from wizard.server.ports import is_port

if TYPE_CHECKING:
    import httpx

POLL_S = 0.2
HEALTH_TIMEOUT_S = 25.0
"""A dead scheduler's /health answers 503 after 20 s; a healthy one takes 1.0 s (recordings/cpu)."""
HEALTH_PAUSE_S = 0.3
FOREIGN_S = 5.0
"""A stranger that holds the port for so long will not go away: the server binds it last, minutes later."""
GRACE_S = 120.0
"""Each sign of life in the log moves the deadline to at least so far ahead ..."""
MOST_STRETCH = 3.0
"""... but never beyond so many times the limit agreed to."""
CHUNK = 1 << 16
READ_MOST = 4 << 20
"""Bytes of log read at a time, at most: the rest is for the next look."""

Kind = Literal["ready", "died", "timed_out", "cancelled", "wrong_owner", "log_fatal"]

_PHASES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("starting", re.compile(r"server_args=")),
    ("setting up torch.distributed", re.compile(r"Init torch distributed begin")),
    ("loading weights", re.compile(r"Load weight begin")),
    ("allocating the KV cache", re.compile(r"Load weight end")),
    ("capturing graphs", re.compile(r"[Cc]apture .*graphs? begin")),
    ("warming up", re.compile(r"Application startup complete|Uvicorn running on")),
)
_FATAL = re.compile(r"\[Errno \d+\] error while attempting to bind on address(?: \('[^']*', (\d+))?")
"""asyncio's words: 98 taken, 99 an address that is not this host's, 13 a port for root alone. The server's
other listeners say the same of their own ports, and go on without them."""
_ECHO = re.compile(r'"[A-Z]{3,8} \S{1,2000}(?: HTTP/\d(?:\.\d)?)?" \d{3}\b|Health check (?:failed|request)')
"""Lines that a request causes, our own GET /health too (uvicorn's access log): no sign of a start going on."""
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
    """Reads what is new in a log and keeps phase, percentage and the last line. ``steps`` counts the lines that
    tell of a start going on: all but those that a request to the server causes."""

    def __init__(self, path: str | None, offset: int, port: int | None = None) -> None:
        self.path, self.offset, self.port = path, offset, port
        self.phase, self.percent, self.last = "starting", "", ""
        self.fatal = ""
        self.steps = 0
        self.rest = b""
        self.times: dict[str, float] = {}
        self._since = time.monotonic()

    def read(self) -> bool:
        """True when the start went on: a line that is not the echo of a request."""
        before = self.steps
        budget = READ_MOST
        while budget > 0 and (data := self._chunk()):
            budget -= len(data)
            self.offset += len(data)
            lines = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
            self.rest = lines.pop()[-CHUNK:]
            for raw in lines:
                if raw.strip():
                    self._line(raw[:4000].decode("utf-8", "replace"))
        return self.steps != before

    def _chunk(self) -> bytes:
        if self.path is None:
            return b""
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset:
                    self.offset = 0  # it was cut (logrotate copytruncate)
                file.seek(self.offset)
                return file.read(CHUNK)
        except OSError:
            return b""

    def _line(self, line: str) -> None:
        if _ECHO.search(line):
            return
        self.last = line.strip()
        self.steps += 1
        found = _SHARDS.search(line)
        if found:
            self.percent = f"{found.group(1)} %"
        bind = None if self.fatal else _FATAL.search(line)
        if bind and (None in (bind[1], self.port) or int(bind[1]) == self.port):
            self.fatal = self.last
        for name, pattern in _PHASES:
            if pattern.search(line) and name != self.phase:
                self.times = self.spent()
                self.phase, self._since, self.percent = name, time.monotonic(), ""

    def spent(self) -> dict[str, float]:
        """Seconds in each phase so far, the present one included."""
        now = self.times.get(self.phase, 0.0) + time.monotonic() - self._since
        return {**self.times, self.phase: round(now, 2)}

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
    poll: Callable[[], int | None] | None = None,
    scheme: str = "http",
    inside_port: int | None = None,
) -> ReadyResult:
    """Wait until ready, dead, or out of time. Death is seen within a few tenths of a second.

    The deadline moves while the log shows progress (access lines are none). Sends nothing but GET /health
    to that port, and only once the server's own tree answers there. ``poll``: the exit code, where the
    caller is the parent (``Launched.poll``). ``inside_port``: what the server listens on in a network
    of its own.
    """
    log = _LogFollower(str(log_path) if log_path else None, log_offset, inside_port or port)
    started = time.monotonic()
    deadline, latest = started + deadline_s, started + deadline_s * MOST_STRETCH
    health: asyncio.Task[int | None] | None = None
    health_at = 0.0
    foreign_since: float | None = None
    answer: int | None = None
    shown = ""

    def done(ok: bool, kind: Kind, detail: str) -> ReadyResult:
        code = poll() if poll is not None and kind == "died" else None
        times = {**log.spent(), "total": round(time.monotonic() - started, 2)}
        return ReadyResult(ok, kind, detail, code, times)

    try:
        while True:
            if log.read():
                deadline = min(latest, max(deadline, time.monotonic() + min(GRACE_S, deadline_s)))
            if not is_alive(identity):
                log.read()
                if log.fatal:
                    return done(False, "died", f"it could not bind its port and ended: {log.fatal}")
                return done(False, "died", f"it ended while {log.says()}")
            if log.fatal:
                return done(False, "log_fatal", f"it could not bind its port: {log.fatal}")
            if cancelled():
                return done(False, "cancelled", "called off")
            owned = await asyncio.to_thread(owns, identity, host, port, inside_port)
            now = time.monotonic()
            if owned is True and health is None and now >= health_at:
                health = asyncio.ensure_future(_health(scheme, host, port))
            if health is not None and health.done():
                answer, health, health_at = health.result(), None, now + HEALTH_PAUSE_S
                if answer == 200 and owned is True and is_alive(identity):
                    took = now - started
                    return done(True, "ready", f"ready after {took:.0f} s: own process, own port, /health 200")
            foreign_since = (foreign_since or now) if owned is False else None
            if foreign_since is not None and (now - foreign_since >= FOREIGN_S or now >= deadline):
                return done(False, "wrong_owner", f"port {port} belongs to another process")
            if now >= deadline:
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


def owns(identity: Identity, host: str, port: int, inside_port: int | None = None) -> bool | None:
    """Who answers there. True: that server's own tree and nobody else; False: somebody else; None: nobody.

    ``inside_port``: what it listens on in a network of its own.
    """
    if inside_port is None:
        return _owns(identity, host, port)
    return listens_there(identity.pid, inside_port)


def _owns(identity: Identity, host: str, port: int) -> bool | None:
    """True: the tree, and nobody else, answers at the address. False: somebody else does. None: nobody."""
    if not is_port(port) or not proc.listeners(port, among=()):
        return None
    tree = {identity.pid, *(one.pid for one in proc.descendants_of(identity))}
    answering = proc.answering(host, proc.listeners(port, among=tree))
    return all(one.pid is not None for one in answering) if answering else None


async def _health(scheme: str, host: str, port: int) -> int | None:
    import httpx

    name = f"[{host}]" if ":" in host else host
    try:
        # verify=False: servers sign their own certificates, and whose port it is was seen already.
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False, verify=False) as client:
            url = f"{scheme}://{name}:{port}/health"
            return await asyncio.wait_for(status_of(client, url), HEALTH_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, asyncio.TimeoutError):
        return None


async def status_of(client: httpx.AsyncClient, url: str) -> int:
    """The status alone: a body is not read, as a stranger's may be endless. httpx's limits hold for each read
    only, so the caller sets one for the whole. Raises httpx.HTTPError."""
    async with client.stream("GET", url) as answer:
        return answer.status_code
