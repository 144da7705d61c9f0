"""The last third of a transaction: measure again, compare, keep or put back."""

from __future__ import annotations

import asyncio
import time

from wizard.core.measurement import Judgement, Measurement, Verdict
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.verdict import pool, second_look
from wizard.runner.transaction import PutBack, Transaction, brief

MOST_LOOKS = 2
HEALTH_TRIES = 3
"""A health check may be late on a busy server: so many have to fail."""


async def judge(t: Transaction) -> Verdict:
    """Measure (unless the journal holds it) and compare. Raises PutBack when the new server died meanwhile."""
    known = t.state
    if known.verdict is not None:
        return known.verdict
    before = known.before
    if before is None or not t.measures_speed:
        t.skip(Stage.MEASURE, "nothing to compare with" if before is None else "not agreed to")
        t.intent(Stage.VERDICT)
        await t.abortable(_stays_up(t))
        return _settled(t, _unmeasured(t))
    looks = _looks(t)
    for look in range(1, MOST_LOOKS + 1):
        if len(looks) < look:
            found = await _after(t)
            looks += [found] if found is not None else []
        t.intent(Stage.VERDICT)
        verdict = _said(t, before, looks)
        if verdict.judgement is not Judgement.CANNOT_TELL or len(looks) >= MOST_LOOKS:
            break
        if look < MOST_LOOKS:
            t.result(Stage.VERDICT, True, "cannot tell yet: measuring once more, as before the change")
    return _settled(t, verdict)


def _looks(t: Transaction) -> list[Measurement]:
    """What the journal holds of the new server: a look that a dead runner took counts as one."""
    found: list[Measurement] = []
    for record in t.records:
        if record.kind == "launching" and record.data.get("role") == "new":
            found = []
        elif record.kind == "result" and record.stage == Stage.MEASURE.value and record.data.get("measurement"):
            found.append(Measurement.from_json(record.data["measurement"]))
    return found[:MOST_LOOKS]


def _said(t: Transaction, before: Measurement, looks: list[Measurement]) -> Verdict:
    """Each look has as many windows as the one before: a longer one would be compared with a shorter."""
    if not looks:
        return _failed()
    last = t.ops.compare(before, looks[-1], t.plan.goal)
    return last if len(looks) == 1 else second_look(last, t.ops.compare(before, pool(looks), t.plan.goal))


async def _after(t: Transaction) -> Measurement | None:
    """None when the measurement itself failed while the server lives."""
    t.intent(Stage.MEASURE)
    try:
        work = t.measured(Stage.MEASURE, t.new_port, t.new_launch)
        found = await t.abortable(work, measures=True)
    except PutBack:
        t.result(Stage.MEASURE, False, "aborted")
        raise
    except Exception as error:
        t.result(Stage.MEASURE, False, str(error) or type(error).__name__)
        require_alive(t)
        return None
    require_alive(t)
    t.result(Stage.MEASURE, True, brief(found), measurement=found.to_json())
    return found


def require_alive(t: Transaction) -> None:
    if t.new is not None and not t.ops.alive(t.new.identity):
        raise PutBack(t.with_error("The new server got ready and then died.", t.new))


async def _stays_up(t: Transaction) -> None:
    """A server may die or hang at its first requests: it has to live on for a while, and then answer. Raises
    PutBack."""
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < t.pace.settle_s:
        require_alive(t)
        t.progress(Stage.VERDICT)(f"whether it stays up: {waited_s:.0f} of {t.pace.settle_s:g} s")
        await asyncio.sleep(t.pace.poll_s)
    await require_answering(t)


async def require_answering(t: Transaction) -> None:
    """Raises PutBack when the new server has died, or does not answer its health check any more."""
    for _ in range(HEALTH_TRIES):
        require_alive(t)
        if t.new is None or await t.ops.healthy(t.target, t.new_port, t.new.identity):
            return
        await asyncio.sleep(t.pace.poll_s)
    require_alive(t)
    raise PutBack("The new server got ready and then stopped answering its health check.")


def _settled(t: Transaction, verdict: Verdict) -> Verdict:
    if t.state.stage(Stage.VERDICT).status != "active":
        t.intent(Stage.VERDICT)
    t.result(Stage.VERDICT, True, verdict.sentence, verdict=verdict.to_json())
    return verdict


def _failed() -> Verdict:
    return Verdict(Judgement.CANNOT_TELL, "The measurement after the change failed, so nothing can be said.")


def _unmeasured(t: Transaction) -> Verdict:
    if t.plan.goal.reading == "ready" or not t.was_up:
        first = "The server was down and is ready now" if not t.was_up else "The server is ready again"
        return Verdict(
            Judgement.FIXED, f"{first}: its own process owns the port and answered the health check."
        )
    return Verdict(
        Judgement.CANNOT_TELL,
        "No measurement was agreed to, so whether it helps is not known.",
    )


async def decide(t: Transaction, verdict: Verdict) -> RunState:
    """Keep, or raise PutBack. With keep="ask" the new server serves until somebody decides."""
    t.intent(Stage.DECIDE)
    unmeasured = verdict.judgement is Judgement.CANNOT_TELL and t.state.before is None
    if t.consent.keep == "ask":
        if not await _asked(t):
            raise PutBack("Put back on request.")
    elif verdict.judgement not in (Judgement.FIXED, Judgement.BETTER) and not unmeasured:
        t.result(Stage.DECIDE, True, "put back")
        raise PutBack(verdict.sentence)
    if t.aborted():
        raise PutBack("Aborted on request.")
    if t.consent.keep == "auto":
        await require_answering(t)
    require_alive(t)
    await t.require_no_rival()
    stays = t.ops.keeps()
    t.result(Stage.DECIDE, True, f"kept; {stays}" if stays else "kept")
    return t.end(Outcome.KEPT, "new", f"The new command serves. {verdict.sentence}")


async def _asked(t: Transaction) -> bool:
    """Wait without limit for keep or rollback. A decision that is in the journal already counts."""
    earlier = [r.data for r in t.records if r.kind == "awaiting"]
    asked_at = int(earlier[0].get("controls_from", 0)) if earlier else _last_control(t)
    if not earlier:
        t.say("awaiting", Stage.DECIDE, {"controls_from": asked_at})
    while True:
        for _, kind in t.journal.controls_since(asked_at):
            t.say("decided", Stage.DECIDE, {"keep": kind == "keep"})
            if kind == "keep":
                return True
            t.result(Stage.DECIDE, True, "put back on request")
            return False
        if t.aborted():
            t.say("decided", Stage.DECIDE, {"keep": False})
            t.result(Stage.DECIDE, True, "aborted")
            return False
        require_alive(t)
        await asyncio.sleep(t.pace.poll_s)


def _last_control(t: Transaction) -> int:
    seen = t.journal.controls_since(0)
    return seen[-1][0] if seen else 0
