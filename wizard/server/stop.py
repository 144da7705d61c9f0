"""Stopping a server: SIGTERM to the parent alone, a drain with a limit, then, if agreed, the tree.

Sent to the whole group SIGTERM kills the scheduler first and cuts every stream (recordings/cpu); a
drain has no limit of its own, and a server hung on a taken port ignores SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import Gone, NotTheTarget, ProcessHandle, is_alive

POLL_S = 0.2
KILL_WAIT_S = 10.0
LINGER_S = 15.0
"""Children of a server that ended are given this long: they have PDEATHSIG, and CUDA takes seconds."""

How = Literal["already_gone", "drained", "escalated", "refused", "cancelled"]


@dataclass(frozen=True)
class StopResult:
    """``ok``: nothing of the tree is left. ``survivors``: what is."""

    ok: bool
    how: How
    detail: str
    drained_s: float = 0.0
    survivors: tuple[Identity, ...] = ()


async def stop_tree(
    identity: Identity,
    *,
    drain_limit_s: float,
    escalate: bool,
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> StopResult:
    """Stop the server and be sure that nothing of its tree is left.

    Without ``escalate`` a server that drains beyond the limit is left draining ("refused"): it will
    still end by itself.
    """
    tree = {i: None for i in proc.descendants(identity.pid)} if is_alive(identity) else {}
    started = time.monotonic()
    try:
        with ProcessHandle(identity) as parent:
            parent.send(signal.SIGTERM)
            ended = await _drain(parent, identity, tree, drain_limit_s, on_progress, cancelled)
    except Gone:
        return await _after(identity, tree, "already_gone", "it was gone already", 0.0, escalate)
    except NotTheTarget as error:
        return StopResult(True, "already_gone", str(error))
    except PermissionError:
        return StopResult(False, "refused", f"no permission to signal process {identity.pid}")
    drained = time.monotonic() - started
    if ended == "cancelled":
        return StopResult(False, "cancelled", "called off while it drained", drained)
    if ended == "ended":
        return await _after(
            identity, tree, "drained", f"it ended by itself after {drained:.0f} s", drained, escalate
        )
    if not escalate:
        text = f"it still drains after {drain_limit_s:g} s and may not be killed; it will end by itself"
        return StopResult(False, "refused", text, drained, (identity,))
    on_progress(f"not gone after {drain_limit_s:g} s: killing its processes")
    _kill([*tree, *proc.descendants(identity.pid)])
    _kill([identity])
    text = f"killed after a drain of {drained:.0f} s"
    return await _after(identity, tree, "escalated", text, drained, True)


async def _drain(
    parent: ProcessHandle,
    identity: Identity,
    tree: dict[Identity, None],
    limit_s: float,
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> Literal["ended", "limit", "cancelled"]:
    """Until it ends, the limit passes, or it is called off; children seen on the way are remembered."""
    begun = time.monotonic()
    while True:
        if await asyncio.to_thread(parent.wait, POLL_S):
            return "ended"
        waited = time.monotonic() - begun
        if cancelled():
            return "cancelled"
        if waited >= limit_s:
            return "limit"
        tree.update(dict.fromkeys(proc.descendants(identity.pid)))
        on_progress(f"running requests may end: {waited:.0f} of {limit_s:g} s")


async def _after(
    identity: Identity, tree: Iterable[Identity], how: How, detail: str, drained_s: float, escalate: bool
) -> StopResult:
    """The rest of the tree has to go too: wait, and kill leftovers of it by identity if agreed."""
    everyone = [identity, *tree]
    deadline = time.monotonic() + (KILL_WAIT_S if how == "escalated" else LINGER_S)
    killed = how == "escalated"
    while True:
        left = tuple(i for i in everyone if is_alive(i))
        if not left:
            return StopResult(True, how, detail, drained_s)
        if time.monotonic() >= deadline:
            if escalate and not killed:
                killed = True
                _kill(left)
                detail += f"; {len(left)} leftover process{'es' if len(left) > 1 else ''} killed"
                deadline = time.monotonic() + KILL_WAIT_S
                continue
            names = ", ".join(str(i.pid) for i in left)
            return StopResult(False, how, f"{detail}; still there: {names}", drained_s, left)
        await asyncio.sleep(0.1)


def _kill(identities: Iterable[Identity]) -> None:
    for one in identities:
        try:
            with ProcessHandle(one) as handle:
                handle.send(signal.SIGKILL)
        except (Gone, NotTheTarget, PermissionError):
            continue
