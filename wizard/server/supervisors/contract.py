"""What every holder of a server can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from wizard.core.target import Identity, Launch

Say = Callable[[str], None]


class SupervisorError(Exception):
    """The holder did not do what it was asked; one line says what it answered."""


class StillStops(SupervisorError):
    """The server was told to end and does not within its limit; it may still end by itself."""


@dataclass(frozen=True)
class Steps:
    """The exact words to type, to make a change and to take it back; comments begin with ``#``."""

    apply: tuple[str, ...]
    undo: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """The server as it shall run. ``argv`` None: as its holder had it before (the change is taken back).

    ``environ``: variables that differ from what it had; None removes one.
    """

    argv: tuple[str, ...] | None = None
    environ: Mapping[str, str | None] | None = None

    @property
    def is_old(self) -> bool:
        return self.argv is None


class Supervisor(Protocol):
    """Acts through the holder's own client, never by signals of the wizard's own.

    Every method may be called again from any half-way point: after a runner died, in a rollback. All raise
    SupervisorError. ``by_hand``: a person acts, and is waited for.
    """

    by_hand: bool
    why: str
    """Why a person has to act, ready to be put behind what is said of it; "" where nobody has to."""

    @property
    def is_one_step(self) -> bool:
        """One act of the holder ends the old server and starts the new one: ``stop`` does both."""
        ...

    def steps(self, old: Launch, wish: Wish) -> Steps:
        """What a person would type for the same; secrets are left out."""
        ...

    async def stop(self, identity: Identity, *, drain_limit_s: float, escalate: bool, say: Say) -> str:
        """The server is gone and its holder does not start it again. Returns how it ended, in words.

        The server's own process gets SIGTERM first and drains as long as ``drain_limit_s``.
        """
        ...

    async def hold_still(self, old: Launch) -> None:
        """A changed server that its holder runs or is about to start again is ended and stays down; one that
        runs as ``old`` does, or was never changed, is left alone. The change itself is taken back."""
        ...

    async def start(self, wish: Wish) -> Identity:
        """The server runs as wished, under its holder; its own process, not a wrapper above it."""
        ...

    def keeps(self) -> str:
        """What a change that is kept leaves behind for a person to know of; "" for nothing."""
        ...

    def changed(self) -> Identity | None:
        """The changed server as its holder runs it, where no mark in its environment tells; else None."""
        ...

    def owner_behind(self, pid: int) -> Identity | None:
        """The server behind a process of the holder's: one that forwards a published port to it, or one of
        its own; None for any other process."""
        ...

    def log_path(self) -> str | None:
        """Where the server's output goes since it was started, where its launch does not tell."""
        ...


class Plain:
    """The answers of a holder whose servers run as plain processes of this host."""

    by_hand = False
    why = ""
    is_one_step = False

    def keeps(self) -> str:
        return ""

    def changed(self) -> Identity | None:
        return None

    def owner_behind(self, pid: int) -> Identity | None:
        return None

    def log_path(self) -> str | None:
        return None
