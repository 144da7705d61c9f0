"""The relaunch as a transaction: save, measure, stop, start, ready, measure, compare, keep or put back.

Each stage writes its intent, acts, writes its result. Promises:

* nothing is stopped before the old launch command is on disk;
* consent bounds everything: no load is sent, no tree is killed that was not agreed to;
* what was up is never left down silently: any failure, abort or defect after the stop ends in
  ``put_back`` (rollback.py), and if that fails in the exact command to type.

When cannot_tell: measured once more, with the windows that the old server was measured with, as that cannot be
asked again. What both looks say counts, "better" at most (wizard.core.verdict.second_look). If it still cannot
be told, and something could have been measured, the change is rolled back: an unproven change is not left in
production (``keep="ask"`` leaves that to the person).
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from wizard.core.commandline import parse
from wizard.core.effective import MODEL, Agreement, agreement
from wizard.core.measurement import Measurement
from wizard.core.plan import Order
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Launch, Target
from wizard.runner.journal import Journal, JournalError
from wizard.runner.ledger import CalledOff, Ledger, Serving
from wizard.runner.operations import MARK, Operations, PortOwner, Started
from wizard.server import proc
from wizard.server.catalogue import for_version

T = TypeVar("T")
WATCHED_WINDOWS = 4
"""Of live traffic, before and after."""


class PutBack(Exception):
    """Undo: the new command did not work out, or the person asked for it."""


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, and how long they may take. Seconds."""

    poll_s: float = 0.2
    health_s: float = 2.0
    release_limit_s: float = 60.0
    rollback_attempts: int = 2
    dying_s: float = 15.0
    rival_s: float = 10.0
    rival_look_s: float = 0.5
    settle_s: float = 5.0
    """A server that nothing was measured of, or that was put back, has to stay up so long."""
    patience: float = 10.0
    """What was asked to end and may not be killed is waited for, at most so many times the drain limit ..."""
    least_patience_s: float = 30.0
    """... and at least so long."""


class Transaction(Ledger):
    """One run over one journal. ``term`` is asked too whether to abort (SIGTERM to the runner)."""

    def __init__(
        self,
        journal: Journal,
        order: Order,
        target: Target,
        ops: Operations,
        *,
        pace: Pace | None = None,
        term: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(journal, order, target)
        self.ops = ops
        self.pace = pace or Pace()
        self.term = term or (lambda: False)
        self.controls_from = 0  # an abort sent while no runner lived counts for the next one
        self.new: Started | None = None
        self.was_up = target.identity is not None
        self._aborted = False

    # -- what the person wants meanwhile

    def aborted(self) -> bool:
        """An abort (or rollback) was asked for in this session. Stays true."""
        if not self._aborted:
            try:
                asked = {k for _, k in self.journal.controls_since(self.controls_from)}
            except JournalError:
                asked = set()
            self._aborted = self.term() or bool(asked & {"abort", "rollback"})
        return self._aborted

    async def abortable(self, work: Awaitable[T], *, measures: bool = False) -> T:
        """Wait for it; PutBack when an abort comes first, or a supervisor (the work is cancelled).

        While it measures, nobody looks for a supervisor: reading /proc would slow down the clients.
        """
        task = asyncio.ensure_future(work)
        looked = time.monotonic()
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=self.pace.poll_s)
                if done:
                    return task.result()
                if self.aborted():
                    raise self._on_abort()
                if self.touched and not measures and time.monotonic() - looked >= self.pace.rival_look_s:
                    await self.require_no_rival()
                    looked = time.monotonic()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=15.0)

    def _on_abort(self) -> Exception:
        return PutBack("Aborted on request.") if self.touched else CalledOff("Aborted on request.")

    # -- the stages

    async def guarded(self, work: Awaitable[RunState]) -> RunState:
        """Run stages to an end state, whatever happens in them."""
        from wizard.runner.rollback import put_back

        try:
            return await work
        except CalledOff as reason:
            return self.call_off(str(reason))
        except PutBack as reason:
            return await put_back(self, str(reason))
        except Exception as error:  # a defect or a failed act must not leave the server down
            traceback.print_exc()
            line = f"{type(error).__name__}: {error}"
            if self.touched:
                return await put_back(self, f"The relaunch failed ({line}).")
            return self.call_off(line)

    def call_off(self, reason: str) -> RunState:
        """End untouched. A server that went away by itself is not said to serve: its command is told."""
        sentence, identity = f"Called off, nothing was changed. {reason}", self.target.identity
        if identity is None or self.ops.alive(identity):
            serving: Serving = "old" if self.was_up else "none"
            return self.end(Outcome.CALLED_OFF, serving, sentence)
        owner = self.ops.port_owner(self.target.host, self.target.port)
        now = "nothing serves" if owner is None else f"its port is held by {owner.detail}"
        sentence += f" The server's process has ended by itself; {now}."
        told = self.to_type(can_roll_back=False)
        return self.end(Outcome.CALLED_OFF, "none" if owner is None else "unknown", sentence, told)

    async def forward(self) -> RunState:
        from wizard.runner.baseline import baseline

        await self.snapshot()
        await baseline(self)
        await self.stop_old()
        await self.start_new()
        return await self.judge_and_decide()

    async def snapshot(self) -> None:
        self.intent(Stage.SNAPSHOT)
        self._check_possible()
        self.say("serving", None, {"serving": "old" if self.was_up else "none"})
        identity, port = self.target.identity, self.target.port
        healthy = await self.ops.healthy(self.target, port, identity) if self.was_up else None
        said = await self.ops.settings(self.target, port, self.old_launch, identity) if healthy else {}
        saved = "the old command, environment, folder and log are in the session file"
        self.result(Stage.SNAPSHOT, True, saved, healthy=healthy, model=said.get(MODEL))

    def _check_possible(self) -> None:
        launch, identity = self.old_launch, self.target.identity
        if self.target.remote and self.target.local:
            raise CalledOff("The server's process cannot be seen from here: run as its user or as root.")
        if self.target.remote:
            raise CalledOff("The server runs on another machine: it can only be relaunched from there.")
        if identity is not None and os.geteuid() not in (0, launch.uid):
            raise CalledOff(f"The server runs as user id {launch.uid}: run sgl-wizard as that user or as root.")
        if identity is not None and not self.ops.alive(identity):
            self.was_up = False
            raise CalledOff(f"Process {identity.pid} ended before the change began.")
        if not self.was_up or self.new_port != self.target.port:
            owner = self.ops.port_owner(self.target.host, self.new_port)
            if owner is not None:
                raise CalledOff(f"Port {self.new_port} is held by {owner.detail}.")

    async def measured(self, stage: Stage, port: int, launch: Launch) -> Measurement:
        workload = self.order.workload
        tell = self.progress(stage)
        if self.consent.load_test and workload is not None:
            return await self.ops.measure(
                self.target, port, launch, workload, salt=self._salt(stage), on_progress=tell
            )
        return await self.ops.observe(self.target, port, launch, windows=WATCHED_WINDOWS, on_progress=tell)

    def _salt(self, stage: Stage) -> str:
        """The same prompts before and after, but never twice to one server: its prefix cache would help it."""
        tries = sum(r.kind == "intent" and r.stage == stage.value for r in self.records)
        session = f"session {self.journal.path.stem}"
        return session if tries <= 1 else f"{session}, try {tries}"

    async def stop_old(self) -> None:
        identity = self.target.identity
        if identity is None:
            self.skip(Stage.STOP, "nothing was running")
            return
        if self.aborted():
            raise self._on_abort()
        why = self.ops.obstacle(self.old_launch, self.new_launch, identity)
        if why:  # looked at again: people think, and a baseline takes minutes
            raise CalledOff(f"It was not stopped, as it could not be started again: {why}.")
        limit = self.consent.drain_limit_s
        self.intent(Stage.STOP, detail=f"running requests may finish, at most {limit:g} s")
        self.touched = True
        stop = self.ops.stop(
            identity, drain_limit_s=limit, escalate=self.consent.escalate, on_progress=self.progress(Stage.STOP)
        )
        stopped = await (self.abortable(stop) if self.ops.by_hand else stop)
        self.result(Stage.STOP, stopped.ok, stopped.detail, asked=stopped.asked)
        if not stopped.ok:
            raise PutBack(f"The old server did not stop: {stopped.detail}.")
        self.say("serving", None, {"serving": "none"})
        if self.aborted():
            raise self._on_abort()

    async def start_new(self) -> None:
        identities = [self.target.identity] if self.target.identity else []
        self.intent(Stage.RELEASE)
        freed = await self.abortable(
            self.ops.wait_released(
                identities,
                self.target,
                self.new_port,
                limit_s=self.pace.release_limit_s,
                on_progress=self.progress(Stage.RELEASE),
            )
        )
        self.result(Stage.RELEASE, freed.ok, freed.detail, holders=list(freed.holders))
        if not freed.ok:
            if not self.touched:
                raise CalledOff(f"Not free: {freed.detail}.")
            raise PutBack(f"Not free for the new server: {freed.detail}.")
        await self.require_no_rival()
        if self.journal_broken:
            raise PutBack(f"The journal cannot be written any more: {self.journal_broken}")
        self.intent(Stage.LAUNCH)
        try:
            child = await self.launch_as("new", self.new_launch, self.new_port, Stage.LAUNCH)
        except PutBack:
            raise
        except Exception as error:
            self.result(Stage.LAUNCH, False, str(error))
            raise PutBack(f"The new command could not be started: {error}.") from error
        logs = (None, self.new_launch.log_path, self.new_launch.stderr_path)
        elsewhere = f"; its log is now {child.log_path}" if child.log_path not in logs else ""
        self.result(Stage.LAUNCH, True, f"process {child.identity.pid}{elsewhere}")
        await self.await_ready(child)

    async def require_no_rival(self) -> None:
        """Raises PutBack when somebody else started the old command again: a supervisor is not fought."""
        found = await asyncio.to_thread(self.rival)  # it reads all of /proc
        if found is not None:
            self.say("rival", None, {"text": found.detail})
            raise PutBack(
                f"The old command was started again by somebody else ({found.detail}), so something supervises "
                "this server: change its command there."
            )

    def rival(self) -> PortOwner | None:
        """Who runs the old command since this session began, and was not started by it."""
        began = next((r.data.get("boot_s") for r in self.records if r.kind == "runner"), None)
        identity = self.target.identity
        if identity is not None and identity.boot_id != proc.boot_id():
            began = 0.0  # whatever runs was started since: boot_s is of another boot
        known = self.was_up and isinstance(began, int | float)
        return self.ops.rival(self.old_launch, float(began)) if known and began is not None else None

    async def launch_as(self, role: str, launch: Launch, port: int, stage: Stage) -> Started:
        """Start a server that carries a mark; the intent is on disk before, the identity right after."""
        mark = f"{self.journal.path.stem}:{uuid.uuid4().hex[:16]}"
        environ = {**launch.environ, MARK: mark}
        log_path, log_offset = self.ops.log_end(launch)
        about = {"role": role, "mark": mark, "port": port, "log_path": log_path, "log_offset": log_offset}
        self.say("launching", stage, about)
        if self.journal_broken and role == "new":  # nobody would find it again
            raise PutBack(f"The journal cannot be written any more: {self.journal_broken}")
        self.touched = True
        child = await self.ops.launch(replace(launch, environ=environ))
        found = {
            "identity": child.identity.to_json(),
            "log_path": child.log_path,
            "log_offset": child.log_offset,
        }
        self.say("launched", stage, {**about, **found})
        if child.note:
            self.say("note", stage, {"text": child.note})
        if role == "new":
            self.new = child
        return child

    async def await_ready(self, child: Started) -> None:
        self.new = child
        self.intent(Stage.READY)
        ready = await self.abortable(
            self.ops.wait_ready(
                child,
                self.target,
                self.new_port,
                deadline_s=self.consent.ready_limit_s,
                on_progress=self.progress(Stage.READY),
            )
        )
        agreed = await self._agreement(child) if ready.ok else Agreement()
        ok, detail = ready.ok and not agreed.against, "; ".join((ready.detail, *agreed.against, *agreed.notes))
        self.result(Stage.READY, ok, detail, kind=ready.kind, phase_times=dict(ready.phase_times))
        if not ready.ok:
            raise PutBack(f"The new server did not get ready: {self.with_error(ready.detail, child)}")
        self.say("serving", None, {"serving": "new"})
        if not ok:
            raise PutBack(f"The new server is not as it was asked to be: {'; '.join(agreed.against)}.")

    async def _agreement(self, child: Started) -> Agreement:
        """What the new server really runs with: its environment, and what it says of itself."""
        has = self.ops.environ(child.identity)
        odd = [n for n, value in self.plan.environ.items() if has and has.get(n) != value]
        snapshots = [r for r in self.records if r.kind == "result" and r.stage == Stage.SNAPSHOT.value]
        said = await self.abortable(
            self.ops.settings(self.target, self.new_port, self.new_launch, child.identity)
        )
        found = agreement(
            self.plan.changes,
            parse(self.plan.new_argv, for_version(self.target.version)),
            {MODEL: snapshots[-1].data.get("model")} if snapshots else {},
            said,
        )
        names = tuple(f"its variable {name} is not as asked (set elsewhere too?)" for name in odd)
        return replace(found, against=(*names, *found.against))

    def with_error(self, detail: str, child: Started) -> str:
        """``detail`` and the child's own last error line."""
        try:
            said = self.ops.last_error(child)
        except OSError:
            said = ""
        return f"{detail.rstrip('.')}. Its log says: {said}" if said and said not in detail else detail

    async def judge_and_decide(self) -> RunState:
        from wizard.runner.judging import decide, judge

        verdict = await judge(self)
        return await decide(self, verdict)


def brief(measurement: Measurement) -> str:
    parts = []
    for name, unit in (("throughput.output", "tok/s"), ("ttft.p50", "ms TTFT")):
        if name in measurement.totals:
            parts.append(f"{measurement.totals[name]:.0f} {unit}")
    return ", ".join(parts) or measurement.note or "measured"


async def run(
    journal: Journal,
    order: Order,
    target: Target,
    ops: Operations,
    *,
    pace: Pace | None = None,
    term: Callable[[], bool] | None = None,
) -> RunState:
    """The whole transaction from its start to an end state. Never raises for a failing server or act."""
    transaction = Transaction(journal, order, target, ops, pace=pace, term=term)
    return await transaction.guarded(transaction.forward())
