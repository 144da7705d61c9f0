"""Stopping a server: SIGTERM to the parent alone, a drain with a limit, then, if agreed, the tree.

Sent to the whole group SIGTERM kills the scheduler first and cuts every stream (recordings/cpu); a
drain has no limit of its own, and a server hung on a taken port ignores SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import Gone, NotTheTarget, ProcessHandle, is_alive

POLL_S = 0.2
LOOK_S = 1.0
"""The tree is looked at so often during a drain: each look reads all of /proc."""
KILL_ROUNDS = 5
KILL_WAIT_S = 10.0
LINGER_S = 15.0
"""Children of a server that ended are given this long: they have PDEATHSIG, and CUDA takes seconds."""

How = Literal["already_gone", "drained", "escalated", "not_signalled", "draining", "cancelled"]
"""``not_signalled``: nothing was sent. ``draining``: it was asked to end and may not be killed."""


@dataclass(frozen=True)
class StopResult:
    """``ok``: nothing of the tree is left. ``survivors``: what is. ``tree``: all that belonged to it."""

    ok: bool
    how: How
    detail: str
    drained_s: float = 0.0
    survivors: tuple[Identity, ...] = ()
    tree: tuple[Identity, ...] = ()


async def stop_tree(
    identity: Identity,
    *,
    drain_limit_s: float,
    escalate: bool,
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
    remaining: Callable[[], int | None] | None = None,
) -> StopResult:
    """Stop the server and be sure that nothing of its tree is left.

    Without ``escalate`` a server that drains beyond the limit is left "draining", and after
    ``cancelled`` too: once asked it ends by itself. Refuses to stop what the wizard itself runs below.
    ``remaining``: how many requests still run, where that is known.
    """
    if is_alive(identity) and identity.pid in (1, os.getpid(), *proc.ancestors(os.getpid())):
        text = f"process {identity.pid} was not signalled: the wizard runs below it and would end with it"
        return StopResult(False, "not_signalled", text, 0.0, (identity,), (identity,))
    tree: dict[Identity, None] = {identity: None}
    started = time.monotonic()
    try:
        with ProcessHandle(identity) as parent:
            tree.update(dict.fromkeys(proc.descendants_of(identity)))
            parent.send(signal.SIGTERM)
            ended = await _drain(parent, tree, drain_limit_s, on_progress, cancelled, remaining)
    except (Gone, NotTheTarget) as error:
        return await _after(tree, "already_gone", str(error), 0.0, escalate)
    except PermissionError:
        text = f"no permission to signal process {identity.pid}"
        return StopResult(False, "not_signalled", text, 0.0, (identity,), tuple(tree))
    except OSError as error:
        text = f"process {identity.pid} cannot be held, so it was not signalled: {error.strerror}"
        return StopResult(False, "not_signalled", text, 0.0, (identity,), tuple(tree))
    drained = time.monotonic() - started
    if ended == "ended":
        return await _after(tree, "drained", f"it ended by itself after {drained:.0f} s", drained, escalate)
    stands = proc.state(identity.pid) in ("T", "t")
    goes_on = "it is stopped (SIGSTOP) and ends once it is continued" if stands else "it will end by itself"
    if ended == "cancelled":
        text = f"no longer waited for after {drained:.0f} s; {goes_on}"
        return StopResult(False, "cancelled", text, drained, (identity,), tuple(tree))
    if not escalate:
        text = f"it still drains after {drain_limit_s:g} s and may not be killed; {goes_on}"
        return StopResult(False, "draining", text, drained, (identity,), tuple(tree))
    on_progress(f"not gone after {drain_limit_s:g} s: killing its processes")
    _kill_tree(identity, tree)
    text = f"killed after a drain of {drained:.0f} s"
    return await _after(tree, "escalated", text, drained, True)


async def _drain(
    parent: ProcessHandle,
    tree: dict[Identity, None],
    limit_s: float,
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
    remaining: Callable[[], int | None] | None,
) -> Literal["ended", "limit", "cancelled"]:
    """Until it ends, the limit passes, or it is called off; children seen on the way are remembered."""
    begun = looked = time.monotonic()
    while True:
        left_s = limit_s - (time.monotonic() - begun)
        if await asyncio.to_thread(parent.wait, max(0.0, min(POLL_S, left_s))):
            return "ended"
        now = time.monotonic()
        if cancelled():
            return "cancelled"
        if now - begun >= limit_s:
            return "limit"
        if now - looked >= LOOK_S:
            looked = now
            tree.update(dict.fromkeys(await asyncio.to_thread(proc.descendants_of, parent.identity)))
        count = remaining() if remaining is not None else None
        what = "running requests may end" if count is None else f"{count} requests still run"
        on_progress(f"{what}: {now - begun:.0f} of {limit_s:g} s")


def _kill_tree(identity: Identity, tree: dict[Identity, None]) -> None:
    """All below, until none appears that is new, then the parent. ``tree`` learns of each."""
    for _ in range(KILL_ROUNDS):
        found = proc.descendants_of(identity)
        for one in tuple(tree):
            found += proc.descendants_of(one)  # below a child that was re-parented
        fresh = [one for one in found if one not in tree]
        tree.update(dict.fromkeys(fresh))
        _kill(one for one in tree if one != identity)
        if not fresh:
            break
    _kill([identity])


async def _after(
    tree: Iterable[Identity], how: How, detail: str, drained_s: float, escalate: bool
) -> StopResult:
    """The rest of the tree has to go too: wait, and kill leftovers of it by identity if agreed."""
    everyone = tuple(tree)
    killed = how == "escalated"
    deadline = time.monotonic() + (KILL_WAIT_S if killed else LINGER_S)
    while True:
        left = tuple(one for one in everyone if is_alive(one))
        if not left:
            return StopResult(True, how, detail, drained_s, (), everyone)
        if time.monotonic() >= deadline:
            if escalate and not killed:
                killed = True
                _kill(left)
                detail += f"; {len(left)} leftover process{'es' if len(left) > 1 else ''} killed"
                deadline = time.monotonic() + KILL_WAIT_S
                continue
            names = ", ".join(str(one.pid) for one in left)
            return StopResult(False, how, f"{detail}; still there: {names}", drained_s, left, everyone)
        await asyncio.sleep(0.1)


def _kill(identities: Iterable[Identity]) -> None:
    mine = {1, os.getpid(), *proc.ancestors(os.getpid())}
    for one in identities:
        if one.pid in mine:
            continue
        try:
            with ProcessHandle(one) as handle:
                handle.send(signal.SIGKILL)
        except (Gone, NotTheTarget, OSError):
            continue  # who could not be killed is named as a survivor
