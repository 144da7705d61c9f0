"""The operations of a server that somebody else starts and ends: stop and launch go through its holder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wizard.core.measurement import Measurement, Workload
from wizard.core.target import Identity, Launch, Target
from wizard.runner import processes
from wizard.runner.live import LiveOperations, cause_in, story_of
from wizard.runner.operations import MARK, PortOwner, Progress, Readiness, Released, Started, Stopped
from wizard.server import network, proc
from wizard.server.supervisors import journald
from wizard.server.supervisors.contract import StillStops, Supervisor, SupervisorError, Wish


class HeldOperations(LiveOperations):
    """As ``LiveOperations``, yet no process is signalled or started by the wizard itself."""

    def __init__(self, journal: Path, target: Target, supervisor: Supervisor) -> None:
        super().__init__(journal)
        assert target.launch is not None
        self._old = target.launch
        self._supervisor = supervisor
        self.by_hand = supervisor.by_hand
        self._now = target.identity
        self._is_back = False
        self._unit = target.held.name if target.held is not None and target.held.kind == "systemd" else ""

    async def stop(
        self, identity: Identity, *, drain_limit_s: float, escalate: bool, on_progress: Progress
    ) -> Stopped:
        self._stopped[identity] = tuple(proc.descendants_of(identity))
        try:
            how = await self._supervisor.stop(
                identity, drain_limit_s=drain_limit_s, escalate=escalate, say=on_progress
            )
        except SupervisorError as error:
            return Stopped(False, str(error), asked=isinstance(error, StillStops))
        return Stopped(True, how)

    def keeps(self) -> str:
        return self._supervisor.keeps()

    async def hold_still(self) -> None:
        await self._supervisor.hold_still(self._old)
        self._is_back = True

    def find_marked(self, mark: str) -> Identity | None:
        return super().find_marked(mark) or self._supervisor.changed()

    def end_orphans(self, root: Identity, mark: str) -> tuple[Identity, ...]:
        """The holder ends what it runs; what it started again by itself may carry the same mark."""
        return ()

    def port_owner(self, host: str, port: int) -> PortOwner | None:
        """Behind a process that forwards a published port stands the server. What the holder runs once the
        change is taken back is what ``launch`` asks it for, and is in nobody's way."""
        found = super().port_owner(host, port)
        behind = self._supervisor.owner_behind(found.identity.pid) if found and found.identity else None
        if behind is None:
            return found
        return None if self._is_back else processes.described(behind)

    def obstacle(self, old: Launch, new: Launch, identity: Identity | None) -> str:
        """Its holder keeps what starts it."""
        return ""

    def rival(self, launch: Launch, since_s: float) -> PortOwner | None:
        """Where the holder itself starts the server in one act, that is no rival's doing."""
        return None if self._supervisor.is_one_step else super().rival(launch, since_s)

    async def wait_released(
        self,
        identities: Sequence[Identity],
        target: Target,
        port: int,
        *,
        limit_s: float,
        on_progress: Progress,
    ) -> Released:
        if self.by_hand or self._supervisor.is_one_step:  # its holder may have started it again already
            return Released(True, "it is started where it is held")
        return await super().wait_released(identities, target, port, limit_s=limit_s, on_progress=on_progress)

    def log_end(self, launch: Launch) -> tuple[str | None, int]:
        """Its output goes where its holder sends it: to the same file as before, or to a journal."""
        if launch.stderr_path is None and launch.log_path is None:
            return None, 0
        return super().log_end(launch)

    async def launch(self, launch: Launch) -> Started:
        path, offset = self.log_end(launch)
        identity = self._now = await self._supervisor.start(wish_of(launch, self._old))
        return Started(identity, path or self._supervisor.log_path(), offset)

    def last_error(self, child: Started) -> str:
        if child.log_path is None and self._unit:
            return cause_in(story_of(journald.lines_since(self._unit, child.identity)))
        return super().last_error(child)

    # -- a server without a published port is reached at the address that its own network has now

    def _there(self, target: Target) -> Target:
        if target.inside_port is None or target.inside_port != target.port or self._now is None:
            return target
        return replace(target, host=network.address_of(self._now.pid) or target.host)

    async def healthy(self, target: Target, port: int, owner: Identity | None) -> bool:
        return await super().healthy(self._there(target), port, owner)

    async def wait_ready(
        self, child: Started, target: Target, port: int, *, deadline_s: float, on_progress: Progress
    ) -> Readiness:
        self._now = child.identity
        there = self._there(target)
        return await super().wait_ready(child, there, port, deadline_s=deadline_s, on_progress=on_progress)

    async def settings(
        self, target: Target, port: int, launch: Launch, identity: Identity | None
    ) -> Mapping[str, Any]:
        return await super().settings(self._there(target), port, launch, identity)

    async def measure(
        self, target: Target, port: int, launch: Launch, workload: Workload, *, salt: str, on_progress: Progress
    ) -> Measurement:
        there = self._there(target)
        return await super().measure(there, port, launch, workload, salt=salt, on_progress=on_progress)

    async def observe(
        self, target: Target, port: int, launch: Launch, *, windows: int, on_progress: Progress
    ) -> Measurement:
        there = self._there(target)
        return await super().observe(there, port, launch, windows=windows, on_progress=on_progress)


def wish_of(launch: Launch, old: Launch) -> Wish:
    """What differs from the old launch; the mark of a session alone is no difference."""
    names = {*launch.environ, *old.environ} - {MARK}
    changed = {n: launch.environ.get(n) for n in names if launch.environ.get(n) != old.environ.get(n)}
    if launch.argv == old.argv and not changed:
        return Wish()
    mark = {MARK: launch.environ[MARK]} if MARK in launch.environ else {}
    return Wish(launch.argv, {**changed, **mark})
