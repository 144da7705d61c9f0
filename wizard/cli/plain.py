"""The prompt mode: the same session as the screens, top to bottom, with numbered answers.

For terminals that cannot draw, for screen readers, and for scripts that record what was asked.
"""

from __future__ import annotations

import argparse
import asyncio

from wizard.cli.fix import Progress, consent_for, describe_load, report_end
from wizard.cli.output import CliError, Exit, put, say
from wizard.cli.targets import load_flows, resolve
from wizard.core.session import (
    Answered,
    FlowChosen,
    LookForMe,
    OfferChosen,
    SessionState,
    StartedOver,
    Step,
    WentBack,
    current_cause,
    current_node,
    current_suggestion,
)
from wizard.core.triage import named
from wizard.session.driver import Driver
from wizard.session.proposal import stakes_of
from wizard.session.text import numbered, plan_lines
from wizard.session.untold import missing_lines

QUIT = "q"


def run(args: argparse.Namespace) -> int:
    """Ask and answer on stdin and stdout; ``q`` quits, ``b`` goes back."""
    from wizard.cli.main import build_parser, filled

    options = filled(build_parser().parse_args(["fix"]))
    for name, value in vars(args).items():
        setattr(options, name, value)
    options.json = False
    return asyncio.run(_converse(options))


async def _converse(args: argparse.Namespace) -> int:
    book = load_flows(args)
    target = resolve(args, relaunch=True)
    driver = Driver(book, read_only=args.read_only, version=args.sglang_version)
    put(f"{target.name or 'server'}  {target.base_url}" + ("  (SIMULATED)" if target.simulated else ""))
    state = await driver.examine(target)
    while True:
        if state.step is Step.CLASSIFY or state.ended:
            state_or_code = await _classify(driver, state)
        elif state.step is Step.DIAGNOSE:
            state_or_code = await _diagnose(driver, state)
        else:
            state_or_code = await _solve(args, driver, state)
        if isinstance(state_or_code, int):
            return state_or_code
        state = state_or_code


async def _ask(question: str) -> str:
    try:
        answer = await asyncio.to_thread(input, f"{question} ")
    except EOFError:
        return QUIT
    return answer.strip().lower()


async def _choose(count: int, default: int | None, extra: str = "") -> int | str:
    """A number from 0, or one of the words of ``extra`` and q, b."""
    hint = f" [{default + 1}]" if default is not None else ""
    while True:
        answer = await _ask(f"Number{hint}, b back, q quit{extra}:")
        if not answer and default is not None:
            return default
        if answer.isdigit() and 1 <= int(answer) <= count:
            return int(answer) - 1
        if answer in (QUIT, "b", "o", "m", "p", "y"):
            return answer
        say("That is none of them.")


async def _classify(driver: Driver, state: SessionState) -> SessionState | int:
    book = driver.book
    if state.ended:
        put(f"\n{state.ended}")
        state = await driver.dispatch(StartedOver())
    put("\n(1) Classify: what hurts?")
    labels = []
    for flow in book.ordered_flows():
        likely = flow.likely.evaluate(state.snapshot.get).truth if flow.likely else None
        says = (
            f"   <- likely: {flow.likely_says.render(state.snapshot.get)}"
            if likely and flow.likely_says
            else ""
        )
        labels.append(flow.title + says)
    labels.append("I don't know: look for me")
    put("\n".join(numbered(labels)))
    for line in missing_lines(state):
        say(line)
    answer = await _choose(len(labels), len(labels) - 1)
    if isinstance(answer, str):
        return int(Exit.OK if state.verdict == "healthy" else Exit.FOUND) if answer == QUIT else state
    if answer == len(labels) - 1:
        return await driver.dispatch(LookForMe())
    return await driver.dispatch(FlowChosen(book.ordered_flows()[answer].id))


async def _diagnose(driver: Driver, state: SessionState) -> SessionState | int:
    node, suggestion = current_node(state, driver.book), current_suggestion(state, driver.book)
    assert node is not None
    assert suggestion is not None
    put(f"\n(2) Diagnose: {node.ask}")
    labels = []
    for index, arm in enumerate(suggestion.arms):
        if suggestion.index == index:
            why = "; ".join(arm.says)
            labels.append(f"{arm.branch.label}   <- suggested" + (f": {why}" if why else ""))
        elif arm.truth is False:
            labels.append(f"{arm.branch.label}   (refuted: {'; '.join(arm.says)})")
        else:
            labels.append(arm.branch.label)
    put("\n".join(numbered(labels)))
    if suggestion.index is None:
        put(f"  The readings cannot tell. {node.unknown}")
    answer = await _choose(len(labels), suggestion.index)
    if answer == QUIT:
        return int(Exit.FOUND)
    if isinstance(answer, str):
        return await driver.dispatch(WentBack())
    by = "readings" if answer == suggestion.index else "person"
    return await driver.dispatch(Answered(answer, by))  # type: ignore[arg-type]


async def _solve(args: argparse.Namespace, driver: Driver, state: SessionState) -> SessionState | int:
    cause = current_cause(state, driver.book)
    hypothesis = next((h for h in named(state.hypotheses) if cause and h.cause.id == cause.id), None)
    put(f"\n(3) Solve: {cause.title if cause else state.cause_id}")
    for evidence in hypothesis.supporting if hypothesis else ():
        put(f"  for      {evidence.says}")
    if cause is not None:
        put(f"  why      {cause.why}\n  see it   {cause.see}")
    offers = state.offers or ()
    labels = [o.remedy.title + (f"   ({o.why_not})" if o.why_not else "") for o in offers]
    put("\n".join(numbered(labels)))
    for action in (a for o in offers if o.plan is None for a in o.actions):
        put(f"     - {action}")
    answer = await _choose(len(labels), state.offer_index if offers else None)
    if answer == QUIT:
        return int(Exit.FOUND)
    if isinstance(answer, str):
        return await driver.dispatch(WentBack())
    state = await driver.dispatch(OfferChosen(answer))
    offer = state.offer
    if offer is None or offer.plan is None:
        say(f"It cannot be applied here: {offer.why_not if offer else 'no remedy'}")
        return state
    consent, workload = consent_for(args, driver, offer.plan)
    version = state.target.version if state.target else None
    load = describe_load(consent, workload, state)
    live = state.target is not None and state.target.is_live
    put("\n".join(plan_lines(offer.plan, version, consent, load, live=live, stakes=stakes_of(state))))
    if state.read_only:
        say("Read-only: nothing is changed.")
        return state
    if await _ask("Apply it, measure and verify? Type yes:") not in ("y", "yes"):
        say("Nothing was changed.")
        return state
    put("\n(4) Verify")
    progress = Progress(quiet=False)
    driver.listen(progress.show)
    state = await driver.approve(consent, workload)
    if state.run is None:
        raise CliError(state.note or "the runner did not start", Exit.FOUND)
    return int(report_end(args, driver, state.run))
