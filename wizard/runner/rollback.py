"""Putting the old command back, and saying exactly what to type when that fails."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import Literal

from wizard.core.effective import MODEL
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Identity
from wizard.runner.fold import Child, children, fold
from wizard.runner.operations import PortOwner, Started
from wizard.runner.transaction import Transaction

HEALTHY_TWICE = 3
"""So many good health answers in a row after a stop that failed: the server is not draining (a draining
one answers 503 at once, SGLang 0.5.20 recorded)."""

RIVAL_TRIES = 4
"""So many restarts by a supervisor are waited for before the old command is started beside it."""

NOT_READY_EITHER = "runs but does not answer, as before the change"


STRANGER_S = 15.0
"""For a stranger's answer: a person waits for what to type."""


class CannotPutBack(Exception):
    """The old command cannot be started; the text says why."""


async def put_back(t: Transaction, reason: str) -> RunState:
    """Make the old command serve again and verify it. Never raises; ends the session."""
    if reason and reason[-1] not in ".!?":
        reason += "."
    already = any(r.kind == "intent" and r.stage == Stage.ROLLBACK.value for r in t.records)
    t.intent(Stage.ROLLBACK, detail=reason, again=already)
    try:
        return await _put_back(t, reason)
    except CannotPutBack as error:
        return await _failed(t, reason, str(error))
    except Exception as error:  # the last line of defence: whatever it is, the person gets the command
        traceback.print_exc()
        return await _failed(t, reason, f"{type(error).__name__}: {error}")


async def _put_back(t: Transaction, reason: str) -> RunState:
    await _end_new(t)
    await t.ops.hold_still()
    if not t.was_up:
        t.result(Stage.ROLLBACK, True, "down, as it was before")
        sentence = f"{reason} The server was down before the change and is down now."
        return t.end(Outcome.ROLLED_BACK, "none", sentence)
    identity = t.target.identity
    if identity is not None and t.ops.alive(identity) and (_never_asked(t) or await _still_serves(t, identity)):
        t.result(Stage.ROLLBACK, True, "not needed: the old server never stopped")
        goes_on = "goes on serving" if served_before(t) else "runs on as it was: it did not answer before"
        return t.end(Outcome.CALLED_OFF, "old", f"{reason} The old server did not stop and {goes_on}.")
    last = ""
    for attempt in range(1, t.pace.rollback_attempts + 1):
        try:
            last = await _start_old(t, attempt)
        except CannotPutBack:
            raise
        except Exception as error:
            traceback.print_exc()
            last = f"{type(error).__name__}: {error}"
        if not last:
            t.say("serving", None, {"serving": "old"})
            verified = " ".join(filter(None, (_verified(t), await _otherwise(t))))
            t.result(Stage.ROLLBACK, True, verified)
            return t.end(Outcome.ROLLED_BACK, "old", f"{reason} {verified}")
        t.say("note", Stage.ROLLBACK, {"text": f"attempt {attempt}: {last}"})
    raise CannotPutBack(last)


def _never_asked(t: Transaction) -> bool:
    """Whether nothing that ends the old server was sent to it; a stop that a runner died in may have been."""
    tries = [r for r in t.records if r.stage == Stage.STOP.value and r.kind in ("intent", "result")]
    ends = [r for r in tries if r.kind == "result"]
    return 2 * len(ends) == len(tries) and all(r.data.get("asked") is False for r in ends)


def served_before(t: Transaction) -> bool:
    """Whether the old server answered its health check before the change (unknown counts as yes)."""
    known = [r.data.get("healthy") for r in t.records if r.kind == "result" and r.stage == Stage.SNAPSHOT.value]
    return known[-1] is not False if known else True


def _verified(t: Transaction) -> str:
    notes = [str(r.data.get("text", "")) for r in t.records if r.kind == "note"]
    if any(text.startswith(NOT_READY_EITHER) for text in notes):
        return "The old command runs again, but does not answer, as it did not before the change."
    return "The old command was put back and serves."


async def _failed(t: Transaction, reason: str, why: str) -> RunState:
    t.result(Stage.ROLLBACK, False, why)
    sentence = f"{reason} The old command could not be put back: {why}"
    help_ = t.to_type()
    return t.end(Outcome.ROLLBACK_FAILED, await _who_serves(t), sentence, help_)


async def _who_serves(t: Transaction) -> Literal["new", "none", "unknown"]:
    """Who answers now: the new server, nobody, or ("unknown") somebody else. Never raises."""
    try:
        for _, identity in _living(t, "new"):
            if await asyncio.wait_for(t.ops.healthy(t.target, t.new_port, identity), STRANGER_S):
                return "new"
        owner = t.ops.port_owner(t.target.host, t.target.port)
        if owner is None or is_own(t, owner):
            return "none"
        asked = t.ops.healthy(t.target, t.target.port, owner.identity)
        return "unknown" if await asyncio.wait_for(asked, STRANGER_S) else "none"
    except Exception:
        traceback.print_exc()
        return "none"


def is_own(t: Transaction, owner: PortOwner) -> bool:
    """Whether the owner of a port is this session's old server, one it launched, or below them."""
    if owner.session and owner.session == t.state.session_id:
        return True
    born = (c.identity or t.ops.find_marked(c.mark) for c in children(t.records))
    known = [i for i in (t.target.identity, *born) if i is not None]
    if owner.identity in known:
        return True
    return any(i.pid in owner.ancestors and t.ops.alive(i) for i in known)


def _living(t: Transaction, role: str) -> list[tuple[Child, Identity]]:
    """Children of this session that run now, recorded or not."""
    found = []
    for child in children(t.records):
        if child.role != role:
            continue
        identity = child.identity or t.ops.find_marked(child.mark)
        if identity is not None and t.ops.alive(identity):
            found.append((child, identity))
    return found


def living_child(t: Transaction, role: str) -> Started | None:
    """The latest launched server of this role that still runs; an unrecorded one is recorded now."""
    alive = _living(t, role)
    if not alive:
        return None
    child, identity = alive[-1]
    if child.identity is None:
        port = t.new_port if role == "new" else t.target.port
        about = {"role": role, "mark": child.mark, "port": port, "identity": identity.to_json()}
        t.say("launched", None, {**about, "log_path": child.log_path, "log_offset": child.log_offset})
    return Started(identity, child.log_path, child.log_offset)


async def _end_new(t: Transaction) -> None:
    """No server of the new command is left. One that served gets the agreed drain; one that never did, 10 s."""
    for _, identity in _living(t, "new"):
        served = fold("", t.records).serving == "new"
        limit = t.consent.drain_limit_s if served else min(10.0, t.consent.drain_limit_s)
        t.progress(Stage.ROLLBACK)(f"stopping the new server (process {identity.pid})")
        t.say("serving", None, {"serving": "none"})
        stopped = await t.ops.stop(
            identity,
            drain_limit_s=limit,
            escalate=t.consent.escalate or not served,
            on_progress=t.progress(Stage.ROLLBACK),
        )
        if not stopped.ok and not stopped.asked and t.ops.alive(identity):
            raise CannotPutBack(f"the new server (process {identity.pid}) cannot be ended: {stopped.detail}")
        if not stopped.ok:
            await _wait_gone(t, identity, "new")
    await _end_orphans(t)


async def _end_orphans(t: Transaction) -> None:
    """Nothing is left of a server of this session whose root has ended: it would hold memory and ports."""
    for child in children(t.records):
        if child.identity is None or t.ops.alive(child.identity):
            continue  # unrecorded: what carries its mark may be the server itself
        ended = await asyncio.to_thread(t.ops.end_orphans, child.identity, child.mark)
        if ended:
            names = ", ".join(str(one.pid) for one in ended)
            t.say(
                "note",
                Stage.ROLLBACK,
                {"text": f"left over from a server that had died, ended: process {names}"},
            )


async def _still_serves(t: Transaction, identity: Identity) -> bool:
    """True: the old server was never stopped and answers. False: it is gone now.

    It may be draining after the SIGTERM: then it will go down, and what was up must not stay down, so
    this waits as long as the drain takes (or ends it, where that was agreed to).
    """
    good = 0
    while t.ops.alive(identity):
        good = good + 1 if await t.ops.healthy(t.target, t.target.port, identity) else 0
        if good >= HEALTHY_TWICE:
            return True
        if good:
            await asyncio.sleep(t.pace.health_s)
            continue
        if not t.consent.escalate:
            await _wait_gone(t, identity, "old", until_healthy=True)
            continue
        stopped = await t.ops.stop(
            identity,
            drain_limit_s=t.consent.drain_limit_s,
            escalate=True,
            on_progress=t.progress(Stage.ROLLBACK),
        )
        if not stopped.ok and t.ops.alive(identity):
            raise CannotPutBack(f"the old process {identity.pid} neither serves nor ends: {stopped.detail}")
    return False


async def _wait_gone(t: Transaction, identity: Identity, which: str, until_healthy: bool = False) -> None:
    """Until a server that was asked to end has ended. Raises CannotPutBack when it does not: it may be frozen,
    and nobody agreed to have it killed."""
    tell = t.progress(Stage.ROLLBACK)
    began = time.monotonic()
    limit_s = max(t.pace.least_patience_s, t.pace.patience * t.consent.drain_limit_s)
    end_it = f"kill -KILL {identity.pid} ends it at once"
    while t.ops.alive(identity):
        waited_s = time.monotonic() - began
        if waited_s >= limit_s:
            raise CannotPutBack(
                f"the {which} server (process {identity.pid}) was asked to end, still runs after "
                f"{waited_s:.0f} s more and may not be killed from here; {end_it}"
            )
        answers = f"the {which} server was asked to end and answers what still runs"
        tell(f"{answers}; {waited_s:.0f} of {limit_s:.0f} s ({end_it})")
        await asyncio.sleep(t.pace.health_s)
        if until_healthy and await t.ops.healthy(t.target, t.target.port, identity):
            return


async def _start_old(t: Transaction, attempt: int) -> str:
    """One attempt; "" when the old command serves, else why not. Raises CannotPutBack when trying is no use."""
    tell, port = t.progress(Stage.ROLLBACK), t.target.port
    child = living_child(t, "old")
    if child is None:
        owner = t.ops.port_owner(t.target.host, port)
        if owner is not None and await _judge_owner(t, owner) == "ours":
            return ""  # at once: it serves, there is nothing to wait for
        gone = [i for i in (t.target.identity, *(c.identity for c in children(t.records))) if i is not None]
        freed = await t.ops.wait_released(
            gone, t.target, port, limit_s=t.pace.release_limit_s, on_progress=tell
        )
        owner = t.ops.port_owner(t.target.host, port)
        if owner is not None:
            match await _judge_owner(t, owner):
                case "ours":
                    return ""
                case _:
                    raise CannotPutBack(f"port {port} is held by {owner.detail}, which was left alone.")
        if await _by_rival(t):
            return ""
        if not freed.ok:
            t.say("note", Stage.ROLLBACK, {"text": f"starting although not all is free: {freed.detail}"})
        tell("starting the old command" if attempt == 1 else f"starting the old command, attempt {attempt}")
        child = await t.launch_as("old", t.old_launch, port, Stage.ROLLBACK)
    ready = await t.ops.wait_ready(child, t.target, port, deadline_s=t.consent.ready_limit_s, on_progress=tell)
    if ready.ok:
        return await _stays(t, child)
    why = t.with_error(ready.detail, child)
    if t.ops.alive(child.identity) and not served_before(t):
        t.say("note", Stage.ROLLBACK, {"text": f"{NOT_READY_EITHER}: {why}"})
        return ""
    if t.ops.alive(child.identity):
        await t.ops.stop(child.identity, drain_limit_s=5.0, escalate=True, on_progress=tell)
    await _end_orphans(t)
    return why


async def _stays(t: Transaction, child: Started) -> str:
    """ "" when the server that was put back lives on and answers once more, else why not."""
    began, tell = time.monotonic(), t.progress(Stage.ROLLBACK)
    while t.ops.alive(child.identity) and (waited_s := time.monotonic() - began) < t.pace.settle_s:
        tell(f"whether the old command stays up: {waited_s:.0f} of {t.pace.settle_s:g} s")
        await asyncio.sleep(t.pace.poll_s)
    for _ in range(HEALTHY_TWICE):
        if not t.ops.alive(child.identity):
            await _end_orphans(t)
            return t.with_error("it got ready and then died", child)
        if await t.ops.healthy(t.target, t.target.port, child.identity):
            return ""
        await asyncio.sleep(t.pace.poll_s)
    await t.ops.stop(child.identity, drain_limit_s=5.0, escalate=True, on_progress=tell)
    await _end_orphans(t)
    return "it got ready and then stopped answering its health check"


async def _otherwise(t: Transaction) -> str:
    """How the server that was put back differs from the one before, one sentence; or ""."""
    known = [r.data.get("model") for r in t.records if r.kind == "result" and r.stage == Stage.SNAPSHOT.value]
    if not known or known[-1] is None:
        return ""
    child = living_child(t, "old")
    identity = child.identity if child is not None else None
    try:
        said = await t.ops.settings(t.target, t.target.port, t.old_launch, identity)
    except Exception:
        traceback.print_exc()
        return ""
    now = said.get(MODEL)
    if now == known[-1]:
        return ""
    told = f"says that its model is {str(now)[:120]}" if now is not None else "does not say its model any more"
    return f"But it is not as before: it {told}, and was {str(known[-1])[:120]}."


async def _by_rival(t: Transaction) -> bool:
    """Whether a supervisor's restart of the old command gets ready: a second one beside it would take its card.

    One that was seen in this session is waited for, as between two of its attempts there is nothing to see; and
    the first of them may still die of what the new server held.
    """
    for _ in range(RIVAL_TRIES):
        rival = await _next_rival(t)
        if rival is None or rival.identity is None:
            return False
        log_path, log_offset = t.ops.log_end(t.old_launch)
        text = f"{rival.detail} was started by somebody else with the old command"
        t.say("note", Stage.ROLLBACK, {"text": text})
        ready = await t.ops.wait_ready(
            Started(rival.identity, log_path, log_offset),
            t.target,
            t.target.port,
            deadline_s=t.consent.ready_limit_s,
            on_progress=t.progress(Stage.ROLLBACK),
        )
        if ready.ok:
            return True
        if t.ops.alive(rival.identity):
            raise CannotPutBack(f"{text}, does not get ready and was left alone: {ready.detail}")
    return False


async def _next_rival(t: Transaction) -> PortOwner | None:
    waited = 0.0
    while (rival := t.rival()) is None:
        if waited >= t.pace.rival_s or not any(r.kind == "rival" for r in t.records):
            return None
        await asyncio.sleep(t.pace.poll_s)
        waited += t.pace.poll_s
    return rival


async def _judge_owner(t: Transaction, owner: PortOwner) -> Literal["ours", "foreign"]:
    """Somebody already listens. With the very old command line it was restarted by its supervisor or a
    person: that is the old command serving."""
    same = bool(owner.argv) and owner.argv == t.old_launch.argv
    if same and await t.ops.healthy(t.target, t.target.port, owner.identity):
        t.say(
            "note",
            Stage.ROLLBACK,
            {"text": f"{owner.detail} was started by somebody else with the old command"},
        )
        return "ours"
    return "foreign"
