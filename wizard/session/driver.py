"""Carries the session's commands out: probes, offers, the runner. Headless faces use it directly.

One asyncio loop owns a Driver. ``on_state`` is called with each new state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from wizard.core.flags import Catalogue
from wizard.core.flow import FlowBook
from wizard.core.measurement import Workload
from wizard.core.plan import Consent, Order
from wizard.core.reading import ProbeResult
from wizard.core.session import (
    Answered,
    Approved,
    CauseChosen,
    Command,
    Event,
    LookForMe,
    MakeOffers,
    Noted,
    Offer,
    OffersMade,
    Opened,
    ReadingsArrived,
    ReadOnlySet,
    RunChanged,
    RunProbes,
    RunRefused,
    RunStarted,
    SendControl,
    SessionState,
    StartRun,
    Step,
    advance,
    current_cause,
    current_suggestion,
)
from wizard.core.target import Target
from wizard.core.vocabulary import PROBES

StateSink = Callable[[SessionState], None]

MOST_STEPS = 50
"""A headless walk ends after so many answers; lint forbids circles, this bounds what lint missed."""


PORT_WAIT_S = 600.0
PORT_POLL_S = 0.5


class Driver:
    """A session and its doings. ``dispatch`` returns when the event's commands are done."""

    def __init__(
        self,
        book: FlowBook,
        *,
        read_only: bool = False,
        on_state: StateSink | None = None,
        window_s: float = 2.0,
        version: str | None = None,
    ) -> None:
        self.book = book
        self.state = SessionState(read_only=read_only)
        self.window_s = window_s
        self.version = version
        self._on_state = on_state
        self._generation = 0
        self._watching: asyncio.Task[None] | None = None
        self.session_path: Path | None = None
        self.before_start: Callable[[Order], None] | None = None

    def listen(self, on_state: StateSink) -> None:
        """Tell one more listener of each new state."""
        first = self._on_state

        def both(state: SessionState) -> None:
            if first is not None:
                first(state)
            on_state(state)

        self._on_state = both

    async def dispatch(self, event: Event) -> SessionState:
        """Advance and carry out; commands of the event run one after the other."""
        if isinstance(event, Opened):
            self._generation += 1
        if isinstance(event, ReadOnlySet):
            from wizard.runner import latch

            latch.close(event.on)
        self.state, commands = advance(self.state, event, self.book)
        if self._on_state is not None:
            self._on_state(self.state)
        for command in commands:
            await self._perform(command)
        return self.state

    async def _perform(self, command: Command) -> None:
        if isinstance(command, RunProbes):
            await self.probe(command.names)
        elif isinstance(command, MakeOffers):
            await self._offers(command.cause_id)
        elif isinstance(command, StartRun):
            await self._start(command.order)
        elif isinstance(command, SendControl) and self.session_path is not None:
            from wizard.runner import client

            try:
                client.send(self.session_path, command.control)
            except client.StartError as error:
                await self.dispatch(Noted(str(error)))

    async def probe(self, names: Iterable[str] = (), window_s: float | None = None) -> None:
        """Run probes (all when none is named); results arrive one by one as readings."""
        from wizard.probes.base import ProbeContext, sweep

        target = self.state.target
        if target is None:
            return
        generation = self._generation
        wanted = tuple(names) or PROBES

        def arrived(result: ProbeResult) -> None:
            if generation != self._generation:
                return
            snapshot = self.state.snapshot.with_result(result)
            self.state, _ = advance(self.state, ReadingsArrived(snapshot), self.book)
            if self._on_state is not None:
                self._on_state(self.state)

        context = ProbeContext(
            target=target,
            window_s=self.window_s if window_s is None else window_s,
            signatures=self.book.signatures,
            clues=self.book.clues,
            rules=self.book.command_rules,
            now=time.time,
            previous=self.state.snapshot,
        )
        await sweep(wanted, context, arrived)

    async def _offers(self, cause_id: str) -> None:
        from wizard.session.planner import make_offers

        cause = self.book.cause(cause_id, self.state.snapshot.get)
        assert cause is not None, cause_id
        target = self.state.target or Target()
        catalogue = self.catalogue()
        offers = make_offers(cause, self.book, target, self.state.snapshot, catalogue)
        checked = [await self.checked(offer) for offer in offers]
        await self.dispatch(OffersMade(cause_id, tuple(checked)))

    async def checked(self, offer: Offer) -> Offer:
        """The offer with its pre-flight checks."""
        from wizard.session.preflight import check_plan

        if offer.plan is None:
            return offer
        target = self.state.target or Target()
        return replace(
            offer, plan=await asyncio.to_thread(check_plan, offer.plan, target, self.state.snapshot.get)
        )

    def catalogue(self) -> Catalogue:
        """The flags of the version at hand: given, installed, or reported; else the newest known."""
        from wizard.server.catalogue import for_version

        target = self.state.target
        reported = self.state.snapshot.get("server.version")
        version = (
            self.version or (target.version if target else None) or (str(reported.x) if reported else None)
        )
        return for_version(version)

    def proposal(self) -> tuple[Consent, Workload]:
        """The consent to ask for and the workload that resembles what the server sees now."""
        from wizard.session.proposal import propose_run

        return propose_run(self.state)

    async def _start(self, order: Order) -> None:
        from wizard.runner import client
        from wizard.runner.state_dir import StateDirError
        from wizard.session.document import case_document

        # What was agreed to was agreed to for this server: whatever is opened meanwhile is another matter.
        target, case = self.state.target, case_document(self.state, self.book)
        assert target is not None
        if order.plan.waits_for_port and not await self._port_freed(target, order):
            return
        if self.state.starting is not order:
            return
        if self.before_start is not None:
            self.before_start(order)
        try:
            path = await asyncio.to_thread(client.start, target, order, case)
        except (client.StartError, StateDirError, OSError) as error:
            await self.dispatch(RunRefused(str(error)))
            return
        self.session_path = path
        await self.dispatch(RunStarted(client.session_id(path)))
        self._watching = asyncio.ensure_future(self._follow(path))

    async def _port_freed(self, target: Target, order: Order) -> bool:
        """Wait for the person to free the port, saying who holds it; False when called off or too long."""
        from wizard.server.ports import port_state

        for waited in range(int(PORT_WAIT_S / PORT_POLL_S)):
            state = await asyncio.to_thread(port_state, target.host, target.port)
            if self.state.starting is not order:
                return False
            if state.state == "free":
                return True
            if waited % 20 == 0:
                owner = f"pid {state.owner.pid}" if state.owner else "somebody"
                await self.dispatch(
                    Noted(f"Waiting for port {target.port}: {owner} still listens on it. Back calls it off.")
                )
            await asyncio.sleep(PORT_POLL_S)
        await self.dispatch(RunRefused(f"Port {target.port} was not freed within {PORT_WAIT_S:g} s."))
        return False

    async def attach(self, session_id: str) -> None:
        """Follow an existing session's journal instead of starting a run."""
        from wizard.runner import client

        path = client.find(session_id)
        self.session_path = path
        target, _ = client.read_order(path)
        self.state = replace(self.state, target=target)
        await self.dispatch(RunChanged(client.read(path)))
        self._watching = asyncio.ensure_future(self._follow(path))

    async def _follow(self, path: Path) -> None:
        from wizard.runner import client

        async for run in client.watch(path):
            await self.dispatch(RunChanged(run))

    async def run_ended(self) -> SessionState:
        """Wait until the transaction has ended (or its runner died)."""
        if self._watching is not None:
            await self._watching
        return self.state

    async def close(self) -> None:
        """Stop watching; the runner goes on by itself."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def examine(self, target: Target) -> SessionState:
        """Classify and diagnose by the readings alone: open, probe, rank."""
        await self.dispatch(Opened(target))
        return self.state

    async def walk(self, cause_id: str | None = None) -> SessionState:
        """Walk the best flow as far as the readings answer, to a cause and its offers.

        Stops in DIAGNOSE where a question needs a person; with ``cause_id`` goes straight there.
        """
        if cause_id is not None:
            return await self.dispatch(CauseChosen(cause_id))
        await self.dispatch(LookForMe())
        for _ in range(MOST_STEPS):
            if self.state.step is not Step.DIAGNOSE or self.state.ended:
                break
            suggestion = current_suggestion(self.state, self.book)
            if suggestion is None or suggestion.index is None:
                break
            await self.dispatch(Answered(suggestion.index, "readings"))
        return self.state

    async def approve(self, consent: Consent, workload: Workload | None) -> SessionState:
        """Start the transaction and wait for its end."""
        await self.dispatch(Approved(consent, workload))
        return await self.run_ended()

    def cause_title(self) -> str:
        cause = current_cause(self.state, self.book)
        return cause.title if cause else ""
