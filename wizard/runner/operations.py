"""What a transaction does to the world, as a contract. ``live.py`` keeps it; tests inject faults here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wizard.core.measurement import Measurement, Verdict, Workload
from wizard.core.plan import VerifyGoal
from wizard.core.target import MARK as MARK
from wizard.core.target import Identity, Launch, Target

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Stopped:
    """``ok``: no process of the tree is left. ``asked``: it was told to end, and may still do so; False:
    nothing was sent, it runs as before."""

    ok: bool
    detail: str
    asked: bool = True


@dataclass(frozen=True)
class Released:
    """``ok``: the port can be bound and the tree's card memory is back."""

    ok: bool
    detail: str
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """A child that was started; ``log_offset``: bytes that were in its log before. ``note``: what is not as it
    was, "" if all is."""

    identity: Identity
    log_path: str | None
    log_offset: int
    note: str = ""


@dataclass(frozen=True)
class Readiness:
    """``ok``: own tree alive and owning the port, health answered by it. ``kind`` else says what it was."""

    ok: bool
    detail: str
    kind: str = ""
    phase_times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PortOwner:
    """Who listens on a port. ``identity`` None: another user's process, cannot be seen. ``ancestors``: the
    pids above it. ``session``: the session whose transaction started it ("7"), or ""."""

    identity: Identity | None
    argv: tuple[str, ...]
    detail: str
    ancestors: tuple[int, ...] = ()
    session: str = ""


class Operations(Protocol):
    """Each may raise OSError or RuntimeError-like errors; the transaction turns them into a rollback.

    ``by_hand``: a person stops and starts the server; the waiting for that can be called off at any time.
    """

    by_hand: bool

    def keeps(self) -> str:
        """What a change that is kept leaves behind for a person to know of; "" for nothing."""
        ...

    def alive(self, identity: Identity) -> bool:
        """True while this very process runs (a zombie does not)."""
        ...

    def find_marked(self, mark: str) -> Identity | None:
        """The root of the tree whose environment carries MARK=mark."""
        ...

    def end_orphans(self, root: Identity, mark: str) -> tuple[Identity, ...]:
        """End what is left of a tree that this session launched and whose root has ended. Returns what was."""
        ...

    def port_owner(self, host: str, port: int) -> PortOwner | None: ...

    def rival(self, launch: Launch, since_s: float) -> PortOwner | None:
        """A process that somebody else started with this very command, so many seconds after boot or later:
        what a supervisor does."""
        ...

    def obstacle(self, old: Launch, new: Launch, identity: Identity | None) -> str:
        """Why the old command or the new one could not be started, should the old one be stopped now; "" for
        none. Looks only."""
        ...

    async def healthy(self, target: Target, port: int, owner: Identity | None) -> bool:
        """/health answered 200 within a few seconds (503 while draining), by the tree of ``owner``: what a
        stranger answers is nobody's health. None: whoever answers, where nobody knows who that is."""
        ...

    async def stop(
        self, identity: Identity, *, drain_limit_s: float, escalate: bool, on_progress: Progress
    ) -> Stopped: ...

    async def hold_still(self) -> None:
        """A changed server that its holder runs, or is about to start again, is ended and stays down. Nothing
        to do for a bare process."""
        ...

    async def wait_released(
        self,
        identities: Sequence[Identity],
        target: Target,
        port: int,
        *,
        limit_s: float,
        on_progress: Progress,
    ) -> Released: ...

    def log_end(self, launch: Launch) -> tuple[str | None, int]:
        """Where the launch will log, and how many bytes are there now."""
        ...

    async def launch(self, launch: Launch) -> Started: ...

    async def wait_ready(
        self, child: Started, target: Target, port: int, *, deadline_s: float, on_progress: Progress
    ) -> Readiness: ...

    async def settings(
        self, target: Target, port: int, launch: Launch, identity: Identity | None
    ) -> Mapping[str, Any]:
        """What the server of ``identity`` says it runs with (/server_info); empty when it does not say."""
        ...

    def environ(self, identity: Identity) -> Mapping[str, str]:
        """The environment that the process was started with; empty when it cannot be read."""
        ...

    def last_error(self, child: Started) -> str:
        """The line of the child's own log that names its failure (the earliest that is no victim), or ""."""
        ...

    async def measure(
        self, target: Target, port: int, launch: Launch, workload: Workload, *, salt: str, on_progress: Progress
    ) -> Measurement: ...

    async def observe(
        self, target: Target, port: int, launch: Launch, *, windows: int, on_progress: Progress
    ) -> Measurement: ...

    def compare(self, before: Measurement, after: Measurement, goal: VerifyGoal) -> Verdict: ...
