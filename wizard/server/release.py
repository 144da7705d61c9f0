"""After a stop: the port can be bound again, and the card has the old tree's memory back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import is_alive
from wizard.server.ports import port_state

POLL_S = 0.2


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
    """Wait until nothing of the old tree holds the port or the card. Names holders; never kills."""
    old = tuple(identities)
    started = time.monotonic()
    while True:
        holders = await asyncio.to_thread(_holders, old, host, port, card_memory)
        waited = time.monotonic() - started
        if not holders:
            return ReleaseResult(True, f"free after {waited:.1f} s")
        if waited >= limit_s:
            return ReleaseResult(False, "; ".join(holders), holders)
        on_progress("; ".join(holders))
        await asyncio.sleep(POLL_S)


def _holders(
    old: tuple[Identity, ...], host: str, port: int, card_memory: Callable[[], Mapping[int, int]] | None
) -> tuple[str, ...]:
    found: list[str] = []
    state = port_state(host, port)
    if state.state == "listening":
        owner = f"process {state.owner.pid}" if state.owner else "a process that cannot be seen"
        found.append(f"port {port} is held by {owner}")
    memory = card_memory() if card_memory is not None and old else {}
    pids = {i.pid for i in old}
    for pid, size in memory.items():
        # Memory listed under a pid that no longer runs was the old tree's: the driver is still freeing it.
        ended = proc.state(pid) in ("", "Z", "X")
        if pid in pids or ended:
            alive = any(i.pid == pid and is_alive(i) for i in old)
            word = "still runs" if alive else "has ended"
            found.append(f"process {pid} {word} and holds {size / 2**30:.1f} GiB of the card")
    return tuple(found)
