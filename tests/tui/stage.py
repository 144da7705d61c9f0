"""A terminal for tests: the app with a fake engine, and the text that a person would see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from tests.tui import samples
from wizard.core.session import Event, SessionState
from wizard.tui.app import WizardApp

SIZES = [(80, 24), (120, 40)]


class FakeEngine:
    """Keeps what it is asked; answers only what a test tells it to."""

    def __init__(
        self, on_state: Callable[..., Any], on_targets: Callable[..., Any], state: SessionState
    ) -> None:
        self.book = samples.BOOK
        self.on_state, self.on_targets = on_state, on_targets
        self.state = state
        self.sent: list[Event] = []
        self.calls: list[Any] = []
        self.log: tuple[str, ...] = ("first", samples.HOSTILE, "last")

    def start(self) -> None:
        self.calls.append("start")

    def find_targets(self) -> None:
        self.calls.append("find_targets")

    def send(self, event: Event) -> None:
        self.sent.append(event)

    def watch(self, on: bool) -> None:
        self.calls.append(("watch", on))

    def attach(self, session_id: str) -> None:
        self.calls.append(("attach", session_id))

    def proposal(self) -> Any:
        return samples.CONSENT, samples.WORKLOAD

    def log_tail(self, lines: int) -> tuple[str, ...]:
        return self.log[-lines:]

    def report(self) -> str:
        return f"# Report of session 7\n\n{samples.HOSTILE}"

    def stop(self) -> None:
        self.calls.append("stop")


class Shown:
    """An app under test."""

    def __init__(self, app: WizardApp, pilot: Pilot[Any], engine: FakeEngine) -> None:
        self.app, self.pilot, self.engine = app, pilot, engine

    async def settle(self) -> None:
        """Until every widget has handled what it was sent, workers included."""
        for _ in range(4):
            await self.pilot.pause(0)
        await self.app.workers.wait_for_complete([w for w in self.app.workers if w.group != "engine"])
        for _ in range(4):
            await self.pilot.pause(0)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def put(self, state: SessionState) -> None:
        self.engine.state = state
        self.engine.on_state(state)
        await self.settle()

    @property
    def screen(self) -> str:
        """The plain text of the terminal, row by row."""
        rows = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in rows)

    @property
    def rows(self) -> list[str]:
        return self.screen.split("\n")


@asynccontextmanager
async def shown(
    state: SessionState | None = None, *, size: tuple[int, int] = (80, 24), resume: str | None = None
) -> AsyncIterator[Shown]:
    """The app, its fake engine started and ``state`` shown."""
    made: list[FakeEngine] = []

    def factory(on_state: Callable[..., Any], on_targets: Callable[..., Any]) -> FakeEngine:
        made.append(FakeEngine(on_state, on_targets, state or SessionState()))
        return made[0]

    app = WizardApp(factory, resume=resume)
    app.host = "gpu-07"
    async with app.run_test(size=size) as pilot:
        while app.engine is None:
            await pilot.pause(0.01)
        view = Shown(app, pilot, made[0])
        await view.settle()
        if state is not None:
            await view.put(state)
        yield view
