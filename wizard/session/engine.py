"""A Driver on its own thread with its own loop, for faces that have a loop of their own to keep free.

Nothing here runs on the face's thread except the thread-safe hand-overs. States come out through
``on_state``, called on the engine's thread: a face only posts a message from it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wizard.core.flow import FlowBook
from wizard.core.measurement import Workload
from wizard.core.plan import Consent, Order
from wizard.core.session import Event, Opened, SessionState
from wizard.core.target import Target

if TYPE_CHECKING:
    from wizard.runner.client import SessionSummary

WATCHED = ("metrics", "gpu", "process", "sglang", "log")
"""What a live screen refreshes each second. /health takes 1 s by design, so it goes every fifth time."""

TargetsSink = Callable[[tuple[Target, ...], "tuple[SessionSummary, ...]"], None]


class Engine:
    """The session behind a screen. ``start`` it, ``send`` events, get states, ``stop`` it."""

    def __init__(
        self,
        *,
        target: Target | None = None,
        read_only: bool = False,
        flows_dir: Path | None = None,
        version: str | None = None,
        before_start: Callable[[Order], None] | None = None,
        on_state: Callable[[SessionState], None],
        on_targets: TargetsSink,
    ) -> None:
        self.book = FlowBook()
        self.error = ""
        self._target = target
        self._read_only = read_only
        self._flows_dir = flows_dir
        self._version = version
        self._before_start = before_start
        self._on_state = on_state
        self._on_targets = on_targets
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._watched = False
        self._watch_task: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._driver: Any = None

    @property
    def state(self) -> SessionState:
        return self._driver.state if self._driver is not None else SessionState(read_only=self._read_only)

    def start(self) -> None:
        """Start the thread; flows are loaded there. A broken flow file shows as ``state.note``."""
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._open)
        self._loop.run_forever()
        self._loop.close()

    def _open(self) -> None:
        from dataclasses import replace

        from wizard.flowfile.load import load_book
        from wizard.flowfile.resources import flows_dir
        from wizard.flowfile.source import FlowFileError
        from wizard.session.driver import Driver

        try:
            self.book = load_book(self._flows_dir or flows_dir(), proven=self._flows_dir is None)
        except FlowFileError as error:
            self.error = str(error.problems[0])
        self._driver = Driver(
            self.book, read_only=self._read_only, on_state=self._on_state, window_s=1.0, version=self._version
        )
        self._driver.before_start = self._before_start
        if self.error:
            self._driver.state = replace(self._driver.state, note=self.error)
        self._ready.set()
        self._on_state(self._driver.state)
        if self._target is not None:
            self._spawn(self._driver.dispatch(Opened(self._target)))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work, loop=self._loop)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        """A defect in a command becomes one line on the screen, never a dead session."""
        if task.cancelled() or task.exception() is None:
            return
        from dataclasses import replace

        from wizard.core.redact import redact_text

        error = task.exception()
        text = redact_text(f"{type(error).__name__}: {error}".splitlines()[0])
        self._driver.state = replace(self._driver.state, note=text)
        self._on_state(self._driver.state)

    def _submit(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        def begin() -> None:
            if self._driver is not None:
                self._spawn(work())

        self._loop.call_soon_threadsafe(begin)

    def send(self, event: Event) -> None:
        """Hand an event over; thread-safe, returns at once."""
        self._submit(lambda: self._driver.dispatch(event))

    def find_targets(self) -> None:
        """Look for local servers and past sessions; answers through ``on_targets``."""
        self._submit(self._find)

    async def _find(self) -> None:
        from wizard.runner import client
        from wizard.server.discovery import find_servers

        found = await asyncio.to_thread(find_servers)
        sessions = await asyncio.to_thread(client.list_sessions)
        self._on_targets(tuple(found), tuple(sessions))

    def attach(self, session_id: str) -> None:
        """Follow a session's journal, whoever runs it."""
        self._submit(lambda: self._driver.attach(session_id))

    def watch(self, on: bool) -> None:
        """Re-probe about once a second while a screen shows live readings."""

        async def switch() -> None:
            self._watched = on
            if on and (self._watch_task is None or self._watch_task.done()):
                self._watch_task = asyncio.ensure_future(self._watch())

        self._submit(switch)

    async def _watch(self) -> None:
        """Done, then wait: a slow source can never pile up work."""
        turn = 0
        while self._watched:
            turn += 1
            if self._driver.state.target is not None:
                names = (*WATCHED, "http") if turn % 5 == 0 else WATCHED
                await self._driver.probe(names, window_s=1.0)
            await asyncio.sleep(0.3)

    def proposal(self) -> tuple[Consent, Workload]:
        consent, workload = self._driver.proposal()
        return consent, workload

    def log_tail(self, lines: int) -> tuple[str, ...]:
        """The end of the target's log, redacted and cleaned. Blocking: call it in a worker."""
        from wizard.session.logview import log_tail

        target = self.state.target
        return log_tail(target.log_path, lines) if target is not None else ()

    def report(self) -> str:
        """The report of the current run as text. Blocking: call it in a worker."""
        from wizard.runner.report import report

        path = self._driver.session_path if self._driver is not None else None
        return report(path) if path is not None else "There is no session to report on yet."

    def stop(self) -> None:
        """End the thread. A runner that works on a change goes on by itself."""

        def end() -> None:
            self._watched = False
            self._loop.stop()

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(end)
            self._thread.join(timeout=1.0)
