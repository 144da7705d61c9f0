"""The operations of a server that somebody else starts and ends: stop and launch go through its holder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wizard.core.target import Identity, Launch, Target
from wizard.runner.live import LiveOperations
from wizard.runner.operations import MARK, Progress, Released, Started, Stopped
from wizard.server import proc
from wizard.server.supervisors.contract import Supervisor, SupervisorError, Wish


class HeldOperations(LiveOperations):
    """As ``LiveOperations``, yet no process is signalled or started by the wizard itself."""

    def __init__(self, journal: Path, target: Target, supervisor: Supervisor) -> None:
        super().__init__(journal)
        assert target.launch is not None
        self._old = target.launch
        self._supervisor = supervisor
        self.by_hand = target.held is not None and not target.held.is_managed

    async def stop(
        self, identity: Identity, *, drain_limit_s: float, escalate: bool, on_progress: Progress
    ) -> Stopped:
        self._stopped[identity] = tuple(proc.descendants_of(identity))
        try:
            how = await self._supervisor.stop(
                identity, drain_limit_s=drain_limit_s, escalate=escalate, say=on_progress
            )
        except SupervisorError as error:
            return Stopped(False, str(error), "refused")
        return Stopped(True, how, "drained")

    async def hold_still(self) -> None:
        await self._supervisor.hold_still(self._old)

    async def wait_released(
        self,
        identities: Sequence[Identity],
        target: Target,
        port: int,
        *,
        limit_s: float,
        on_progress: Progress,
    ) -> Released:
        if self.by_hand:  # its holder may have started it again already
            return Released(True, "it is started where it is held")
        return await super().wait_released(identities, target, port, limit_s=limit_s, on_progress=on_progress)

    def log_end(self, launch: Launch) -> tuple[str | None, int]:
        """Its output goes where its holder sends it: to the same file as before, or to a journal."""
        if launch.stderr_path is None and launch.log_path is None:
            return None, 0
        return super().log_end(launch)

    async def launch(self, launch: Launch) -> Started:
        path, offset = self.log_end(launch)
        identity = await self._supervisor.start(wish_of(launch, self._old))
        return Started(identity, path, offset)


def wish_of(launch: Launch, old: Launch) -> Wish:
    """What differs from the old launch; the mark of a session alone is no difference."""
    names = {*launch.environ, *old.environ} - {MARK}
    changed = {n: launch.environ.get(n) for n in names if launch.environ.get(n) != old.environ.get(n)}
    if launch.argv == old.argv and not changed:
        return Wish()
    mark = {MARK: launch.environ[MARK]} if MARK in launch.environ else {}
    return Wish(launch.argv, {**changed, **mark})
