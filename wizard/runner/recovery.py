"""Bringing a session to an end whose runner died: by what the journal says and what really runs now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from wizard.core.plan import Order
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Target
from wizard.runner.fold import children, intended
from wizard.runner.journal import Journal, here
from wizard.runner.ledger import CalledOff
from wizard.runner.operations import Operations
from wizard.runner.rollback import is_own, living_child, put_back
from wizard.runner.transaction import Pace, PutBack, Transaction

How = Literal["auto", "finish", "rollback"]
HOWS: tuple[How, ...] = ("auto", "finish", "rollback")


async def resume(
    journal: Journal,
    order: Order,
    target: Target,
    ops: Operations,
    how: How = "auto",
    *,
    pace: Pace | None = None,
    term: Callable[[], bool] | None = None,
) -> RunState:
    """To an end state.

    ``auto``: nothing was touched -> called off; a rollback had begun -> completed; the new server runs
    (starting or ready) -> waited for, judged, kept or rolled back; it does not -> the old command is put
    back. ``finish``: goes on with the change also when the new server has to be started. ``rollback``:
    the old command, also after a session that had ended as kept. What ``superseded`` refuses is not begun.
    """
    t = Transaction(journal, order, target, ops, pace=pace, term=term)
    if superseded(t, how):
        return t.state
    ended = t.state.outcome
    if ended is not None:
        again = ended is Outcome.ROLLBACK_FAILED or (ended is Outcome.KEPT and how == "rollback")
        if not again:
            return t.state
        t.say("reopened", None, {"how": how})
        return await t.guarded(_undo(t, "Rolled back on request."))
    return await t.guarded(_go_on(t, how))


async def _undo(t: Transaction, reason: str) -> RunState:
    return await put_back(t, reason)


async def _go_on(t: Transaction, how: How) -> RunState:
    if how == "finish":
        seen = t.journal.controls_since(0)
        t.controls_from = seen[-1][0] if seen else 0  # "finish" overrules an earlier abort
    if not t.touched:
        if how == "finish":
            return await t.forward()
        raise CalledOff("The runner died before anything was stopped.")
    if intended(t.records, Stage.ROLLBACK):
        return await put_back(t, _last_reason(t))
    if how == "rollback":
        return await put_back(t, "Rolled back on request, after the runner had died.")
    child = living_child(t, "new")
    if child is not None:
        await t.await_ready(child)
        return await t.judge_and_decide()
    if how == "auto" or children(t.records):
        why = "died too" if children(t.records) else "had not been started"
        raise PutBack(f"The runner died, and the new server {why}.")
    identity = t.target.identity
    if identity is not None:
        await t.stop_old()
    await t.start_new()
    return await t.judge_and_decide()


def superseded(t: Transaction, how: How) -> str:
    """Why the old command cannot come back now: somebody else's living process, often a later session's
    server, owns its port. "" when nothing stands in the way. Looks only; nothing is written or signalled.
    """
    outcome = t.state.outcome
    undoes = how == "rollback" or outcome is Outcome.ROLLBACK_FAILED
    if not t.touched or outcome in (Outcome.ROLLED_BACK, Outcome.CALLED_OFF):
        return ""
    if not t.was_up and any(c.identity is not None and t.ops.alive(c.identity) for c in children(t.records)):
        return ""  # nothing to put back: that server is only stopped
    port = t.target.port if t.was_up else t.new_port
    owner = t.ops.port_owner(t.target.host, port)
    if owner is None or is_own(t, owner) or owner.argv == t.old_launch.argv:
        return ""
    if not undoes and not (outcome is None and owner.session):
        return ""
    if owner.session:
        return (
            f"port {port} is served by {owner.detail}, started by session {owner.session}: "
            "roll that one back first. Nothing was touched."
        )
    return f"port {port} is held by {owner.detail}: end that one first. Nothing was touched."


def belongs_elsewhere(journal: Journal) -> str:
    """Why this session cannot be resumed here (its pids mean nothing on this machine), or "".

    A reboot changes the boot id but not the machine: that is resumed (all identities are dead then).
    """
    was, now = journal.meta("host") or {}, here()
    if was.get("machine_id") and now["machine_id"]:
        same = was["machine_id"] == now["machine_id"]
    else:
        same = was.get("hostname") == now["hostname"]
    return (
        "" if same else f"this session was made on {was.get('hostname') or 'another machine'}: resume it there."
    )


def _last_reason(t: Transaction) -> str:
    reasons = [
        str(r.data.get("detail", ""))
        for r in t.records
        if r.kind == "intent" and r.stage == Stage.ROLLBACK.value and not r.data.get("again")
    ]
    return reasons[-1] if reasons else "Rolled back."
