"""After a stop: the port can be bound again, and the card has the old tree's memory back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import identify, is_alive
from wizard.server.ports import port_state

POLL_S = 0.2
STRANGER_S = 15.0
"""A process that is none of the old tree and listens on the port for so long is there to stay."""


@dataclass(frozen=True)
class ReleaseResult:
    """``holders``: who still holds the port or the card, in words."""

    ok: bool
    detail: str
    holders: tuple[str, ...] = ()


async def wait_released(
    identities: Iterable[Identity],
    host: str,
    port: int,
    *,
    card_memory: Callable[[], Mapping[int, int]] | None,
    limit_s: float,
    on_progress: Callable[[str], None],
) -> ReleaseResult:
    """Wait until nothing of the old tree runs or holds the port or the card. Names holders; never kills.

    A stranger who keeps the port is waited for only STRANGER_S: every second of it a server is down.
    ``identities``: the old tree (``StopResult.tree``). ``card_memory``: bytes by pid.
    """
    old = tuple(identities)
    started = since = time.monotonic()
    last: Identity | None = None
    while True:
        holders, stranger = await asyncio.to_thread(_holders, old, host, port, card_memory)
        now = time.monotonic()
        waited = now - started
        if not holders:
            return ReleaseResult(True, f"free after {waited:.1f} s")
        if stranger is None or stranger != last:
            last, since = stranger, now
        if waited >= limit_s or (stranger is not None and now - since >= STRANGER_S):
            return ReleaseResult(False, "; ".join(holders), holders)
        on_progress("; ".join(holders))
        await asyncio.sleep(POLL_S)


def _holders(
    old: tuple[Identity, ...], host: str, port: int, card_memory: Callable[[], Mapping[int, int]] | None
) -> tuple[tuple[str, ...], Identity | None]:
    """Who holds what, in words; and the process on the port, if it is none of the old tree."""
    found = [f"process {one.pid} of the old server still runs" for one in old if is_alive(one)]
    state = port_state(host, port)
    if state.state == "listening":
        owner = f"process {state.owner.pid}" if state.owner else "a process that cannot be seen"
        found.append(f"port {port} is held by {owner}")
    memory = card_memory() if card_memory is not None and old else {}
    for pid, size in memory.items():
        if _was_of(pid, old):
            word = "still runs" if identify(pid) is not None else "has ended"
            held = f"{size / 2**30:.1f} GiB" if size else "memory"
            found.append(f"process {pid} {word} and holds {held} of the card")
    return tuple(found), None if state.owner in old else state.owner


def _was_of(pid: int, old: tuple[Identity, ...]) -> bool:
    """Whether memory listed under a pid is the old tree's: its own, or of a process that has ended.

    A pid that is nobody's here is one the driver is still freeing; except in a container, where the
    driver counts pids of the host and any neighbour's would look ended.
    """
    found = proc.stat(pid)
    ended = found.ended if found is not None else not proc.exists(pid)
    if any(one.pid == pid for one in old):
        return ended or identify(pid) in old
    return ended and proc.in_first_pid_namespace()
