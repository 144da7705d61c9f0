"""``sgl-wizard tune GOAL``: a checklist read off the live server; what is missing is applied and measured."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from wizard.cli.fix import Progress, apply_offer
from wizard.cli.output import CliError, Exit, put, put_json
from wizard.cli.targets import load_flows, resolve
from wizard.core.checklist import Goal, Ticked, tick
from wizard.core.session import OfferChosen, SessionState
from wizard.session.checklist import checklist_document, checklist_lines, version_lines
from wizard.session.document import SCHEMA_VERSION, target_document
from wizard.session.driver import Driver
from wizard.session.text import offer_lines


def run(args: argparse.Namespace) -> int:
    """Exit 0 nothing to do or kept, 1 boxes are open and nothing was applied, 4 and 5 as for ``fix``."""
    return asyncio.run(tune(args))


async def tune(args: argparse.Namespace) -> int:
    book = load_flows(args)
    goal = book.goals.get(args.goal)
    if goal is None:
        raise CliError(f"there is no goal {args.goal}; there are {', '.join(book.goals)}", Exit.USAGE)
    target = resolve(args)  # never a start of something that is down: that is what fix is for
    progress = Progress(quiet=args.json)
    driver = Driver(book, read_only=args.read_only, window_s=args.window, version=args.sglang_version)
    driver.listen(progress.show)
    state = await driver.examine(target)
    ticked = tick(goal, state.snapshot.get)
    if all(box.status == "unknown" for box in ticked):
        raise CliError(
            "nothing of this server could be read: is it running? (sgl-wizard check says more)",
            Exit.COULD_NOT_EXAMINE,
        )
    if not args.json:
        put("\n".join([*checklist_lines(goal, ticked), *version_lines(driver.catalogue()), ""]))
    state = await driver.walk(goal.cause_id)
    if args.remedy is not None:
        index = next((i for i, o in enumerate(state.offers or ()) if o.remedy.id == args.remedy), None)
        if index is None:
            known = ", ".join(o.remedy.id for o in state.offers or ()) or "none"
            raise CliError(
                f"no open box of {goal.id} has the remedy {args.remedy}; they have {known}", Exit.USAGE
            )
        state = await driver.dispatch(OfferChosen(index))
    note = driver.catalogue().stands_in or None
    more = {"checklist": checklist_document(goal, ticked), "version_note": note}
    if state.offer is None or state.offer.plan is None:
        return _nothing_to_apply(args, goal, ticked, state, more)
    return await apply_offer(args, driver, state, more)


def _nothing_to_apply(
    args: argparse.Namespace,
    goal: Goal,
    ticked: tuple[Ticked, ...],
    state: SessionState,
    more: dict[str, Any],
) -> int:
    open_boxes = [t for t in ticked if t.status in ("not_done", "harmful")]
    if args.json:
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "session": None,
            "target": target_document(state.target),
            "cause": {"id": goal.cause_id, "title": goal.title},
            "plan": {"old": [], "new": [], "changes": []},
            "before": {},
            "after": {},
            "verdict": "cannot_tell" if open_boxes else "nothing_wrong",
            "report": None,
            **more,
        }
        put_json(document)
    elif not open_boxes:
        put("Nothing is open that the wizard can see.")
    elif state.target is not None and state.target.command_text and state.target.launch is None:
        put("In the command given, these would tick the open boxes (nothing is applied: no server is known):")
        for offer in state.offers or ():
            if offer.intents:
                put("\n".join(offer_lines(offer)))
    else:
        put("The open boxes are for a person to do; there is no change of the launch command to apply.")
        for offer in state.offers or ():
            if offer.why_not:
                put(f"  {offer.remedy.title}: {offer.why_not}")
    return Exit.FOUND if open_boxes else Exit.OK
