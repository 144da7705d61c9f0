"""The measurement before a change: nothing was touched yet, and the server may still die in it."""

from __future__ import annotations

import asyncio

from wizard.core.progress import Stage
from wizard.runner.ledger import CalledOff
from wizard.runner.transaction import PutBack, Transaction, brief


async def baseline(t: Transaction) -> None:
    """Measure the old server where that was agreed to. Raises CalledOff, or PutBack when the server died."""
    if not t.was_up:
        t.skip(Stage.BASELINE, "the server was down: nothing to measure")
        return
    if not t.measures_speed:
        ready_only = t.plan.goal.reading == "ready"
        t.skip(Stage.BASELINE, "being ready is the goal" if ready_only else "no measurement was agreed to")
        return
    t.intent(Stage.BASELINE)
    try:
        work = t.measured(Stage.BASELINE, t.target.port, t.old_launch)
        found = await t.abortable(work, measures=True)
    except CalledOff:
        t.result(Stage.BASELINE, False, "aborted")
        raise
    except Exception as error:
        t.result(Stage.BASELINE, False, str(error))
        await _require_old(t)
        raise CalledOff(f"The measurement before the change failed: {error}") from error
    if not any(w.samples or w.values.get("throughput.output", 0.0) > 0 for w in found.windows):
        why = next(iter(found.errors), found.note or "no request finished")
        t.result(Stage.BASELINE, False, why)
        await _require_old(t)
        raise CalledOff(f"The measurement before the change saw nothing: {why}.")
    t.result(Stage.BASELINE, True, brief(found), measurement=found.to_json())


async def _require_old(t: Transaction) -> None:
    """After a measurement that failed: raises PutBack when the server died in it, perhaps of our own load.

    A scheduler that died takes its server along some seconds later: a server that does not answer is looked
    at for that long before it is believed to live.
    """
    identity, waited = t.target.identity, 0.0
    while identity is not None:
        if not t.ops.alive(identity):
            t.touched = True  # a restart was consented to, and what was up must not stay down
            raise PutBack("The old server died while it was measured, before anything was changed.")
        if waited >= t.pace.dying_s or await t.ops.healthy(t.target, t.target.port, identity):
            return
        await asyncio.sleep(t.pace.health_s)
        waited += t.pace.health_s
