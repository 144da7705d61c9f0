"""``sgl-wizard fix``: diagnose, agree, apply, measure, keep or roll back."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import replace
from typing import Any

from wizard.cli.output import CliError, Exit, put, put_json, say
from wizard.cli.targets import load_flows, resolve
from wizard.core.measurement import Workload
from wizard.core.plan import Consent, Plan
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.redact import redact_argv
from wizard.core.session import Offer, OfferChosen, OffersMade, SessionState, Step
from wizard.core.target import Target
from wizard.core.triage import named
from wizard.session.document import SCHEMA_VERSION, cause_document, change_document, target_document
from wizard.session.driver import Driver
from wizard.session.layout import wrapped
from wizard.session.planner import forced_offer
from wizard.session.proposal import stakes_of
from wizard.session.text import cause_lines, ending_lines, finding_lines, offer_lines, plan_lines, stage_line
from wizard.session.untold import cannot_tell_line


def run(args: argparse.Namespace) -> int:
    """Exit 0 fixed or healthy, 1 found but not applied, 3 cannot tell, 4 rolled back, 5 rollback failed."""
    return asyncio.run(fix(args))


async def fix(args: argparse.Namespace, driver: Driver | None = None, target: Target | None = None) -> int:
    """The whole command (``demo --headless`` brings its own driver and target)."""
    book = load_flows(args)
    target = target or _resolved(args)
    progress = Progress(quiet=args.json)
    driver = driver or Driver(book, read_only=args.read_only, window_s=args.window, version=args.sglang_version)
    driver.listen(progress.show)
    state = await driver.examine(target)
    if args.set or args.unset:
        state = await _forced(driver, args)
    else:
        if args.cause is not None and args.cause not in book.causes:
            from wizard.flowfile.source import nearest

            near = nearest(args.cause, book.causes)
            raise CliError(f"there is no cause {args.cause}{near}; see: sgl-wizard flows list", Exit.USAGE)
        if args.cause is None and not named(state.hypotheses):
            return _nothing(args, state)
        state = await driver.walk(args.cause)
        if state.step is not Step.SOLVE and named(state.hypotheses):
            state = await driver.walk(named(state.hypotheses)[0].cause.id)
    if args.remedy is not None:
        index = next((i for i, o in enumerate(state.offers or ()) if o.remedy.id == args.remedy), None)
        if index is None:
            known = ", ".join(o.remedy.id for o in state.offers or ()) or "none"
            raise CliError(f"{state.cause_id} has no remedy {args.remedy}; it has {known}", Exit.USAGE)
        state = await driver.dispatch(OfferChosen(index))
    return await apply_offer(args, driver, state)


def _resolved(args: argparse.Namespace) -> Target:
    """The target. A change of it that is under way, or was cut off and left it down, comes first: CliError."""
    from wizard.cli.unfinished import unfinished, words

    target, error = None, None
    try:
        target = resolve(args, relaunch=True)
    except CliError as refused:
        if refused.code is not Exit.COULD_NOT_EXAMINE:
            raise
        error = refused
    found = unfinished(target.port if target is not None else None)
    if found is not None and (target is None or not target.is_elsewhere):
        text = words(found)
        if target is not None:  # a change on top of one that nobody judged would take its way back
            raise CliError(text, Exit.COULD_NOT_EXAMINE)
        say(f"sgl-wizard: {text}")
    if target is None:
        assert error is not None
        raise error
    return target


async def _forced(driver: Driver, args: argparse.Namespace) -> SessionState:
    changes: list[tuple[str, str | None]] = []
    for item in args.set:
        flag, separator, value = item.partition("=")
        changes.append((flag, value if separator else ""))
    changes += [(flag, None) for flag in args.unset]
    target = driver.state.target
    assert target is not None
    try:
        offer = forced_offer(target, driver.catalogue(), changes)
    except ValueError as error:
        raise CliError(str(error), Exit.USAGE) from None
    driver.state = replace(driver.state, step=Step.SOLVE, cause_id="asked_for")
    return await driver.dispatch(OffersMade("asked_for", (await driver.checked(offer),)))


def _nothing(args: argparse.Namespace, state: SessionState) -> int:
    """No cause: healthy, or not enough to go by."""
    code = Exit.OK if state.verdict == "healthy" else Exit.COULD_NOT_EXAMINE
    if args.json:
        verdict = "nothing_wrong" if state.verdict == "healthy" else "cannot_tell"
        put_json(_document(state, None, verdict))
    else:
        put("\n".join(finding_lines(state, {})))
    if state.verdict != "healthy":
        say(f"sgl-wizard: {cannot_tell_line(state)}")
    return code


def _document(state: SessionState, plan: Plan | None, verdict: str) -> dict[str, Any]:
    """The ``fix --json`` document when no transaction ran."""
    hypothesis = next((h for h in state.hypotheses if h.cause.id == state.cause_id), None)
    launch = state.target.launch if state.target else None
    argv = launch.argv if launch is not None else ()
    return {
        "schema_version": SCHEMA_VERSION,
        "session": None,
        "target": target_document(state.target),
        "cause": cause_document(hypothesis, state.offers or ()) if hypothesis else {},
        "plan": {
            "old": list(redact_argv(plan.old_argv if plan else argv)),
            "new": list(redact_argv(plan.new_argv if plan else argv)),
            "changes": [change_document(c) for c in plan.changes] if plan else [],
        },
        "before": {},
        "after": {},
        "verdict": verdict,
        "report": None,
        "note": state.note,
    }


async def apply_offer(
    args: argparse.Namespace, driver: Driver, state: SessionState, more: dict[str, Any] | None = None
) -> int:
    """Agree on the chosen offer, apply it, measure, and report; ``more`` goes into the JSON document."""
    offer = state.offer
    cause = next((h for h in state.hypotheses if h.cause.id == state.cause_id), None)
    if not args.json and cause is not None:
        put("\n".join([*cause_lines(cause), ""]))
    if offer is None or offer.plan is None:
        return _not_applicable(args, state, offer)
    consent, workload = consent_for(args, driver, offer.plan)
    load = describe_load(consent, workload, state)
    if not args.json:
        version = state.target.version if state.target else None
        live = state.target is not None and state.target.is_live
        put("\n".join(plan_lines(offer.plan, version, consent, load, live=live, stakes=stakes_of(state))))
    why_not = _refusal(args, offer.plan)
    if why_not is None and not args.yes and not _agreed():
        why_not = "You did not agree: nothing was changed."
    if why_not is not None:
        if args.json:
            put_json({**_document(replace(state, note=why_not), offer.plan, "cannot_tell"), **(more or {})})
        say(why_not)
        return Exit.FOUND
    try:
        state = await driver.approve(consent, workload)
    except asyncio.CancelledError:
        say(still_running(driver))
        raise
    if state.run is None:
        raise CliError(state.note or "the runner did not start", Exit.FOUND)
    return report_end(args, driver, state.run, more)


def still_running(driver: Driver) -> str:
    """What an interrupted face leaves behind: the runner does not end with it."""
    from wizard.runner.client import session_id

    if driver.session_path is None:
        return "Nothing was changed."
    number = session_id(driver.session_path)
    return (
        f"The change of session {number} GOES ON by itself. Follow it: sgl-wizard sessions resume {number}. "
        f"End it and put the old command back: sgl-wizard sessions abort {number}."
    )


def _not_applicable(args: argparse.Namespace, state: SessionState, offer: Offer | None) -> int:
    """A cause without a change that the wizard can make here: say what a person can do."""
    if args.json:
        put_json(_document(state, None, "cannot_tell"))
        return Exit.FOUND
    put("Nothing was changed: no remedy can be applied by the wizard here.")
    for one in state.offers or ():
        put("\n".join(offer_lines(one)))
        if one.why_not:
            put("\n".join(wrapped(f"({one.why_not})", " " * 11)))
    return Exit.FOUND


def _refusal(args: argparse.Namespace, plan: Plan) -> str | None:
    if args.read_only:
        return "Read-only: the plan is shown, nothing is changed."
    if args.dry_run:
        return "Dry run: the plan is shown, nothing is changed."
    failed = [f"{name}: {detail}" for name, passed, detail in plan.checks if not passed]
    if failed:
        return "Pre-flight failed, nothing was changed: " + "; ".join(failed)
    if plan.by_hand and not sys.stdin.isatty():
        return "Nobody sits here: what holds this server has to be changed by a person (run fix in a terminal)."
    if not args.yes and (args.json or not sys.stdin.isatty()):
        return "Nobody can be asked here. Give --yes to agree to this plan."
    return None


def _agreed() -> bool:
    try:
        return input("Apply this plan? Type yes: ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def consent_for(args: argparse.Namespace, driver: Driver, plan: Plan) -> tuple[Consent, Workload | None]:
    """What ``--yes`` and the options agree to."""
    consent, workload = driver.proposal()
    given = {
        "concurrency": args.clients,
        "input_tokens": args.input_tokens,
        "output_tokens": args.output_tokens,
        "windows": args.windows,
        "window_s": args.window_s,
        "warmup_s": args.warmup_s,
    }
    workload = replace(workload, **{k: v for k, v in given.items() if v is not None})
    ready_only = plan.goal.reading == "ready"
    consent = replace(
        consent,
        load_test=consent.load_test and not (args.passive or args.no_load_test or ready_only),
        passive=args.passive and not ready_only,
        drain_limit_s=args.drain,
        escalate=not args.no_escalate,
        ready_limit_s=args.ready_limit if args.ready_limit is not None else consent.ready_limit_s,
    )
    return consent, workload if consent.load_test else None


def describe_load(consent: Consent, workload: Workload | None, state: SessionState) -> str:
    if workload is not None and state.target is not None:
        return f"{workload.describe()}, sent to {state.target.base_url} only, before and after"
    if consent.passive:
        return "the live traffic is watched before and after; nothing is sent"
    return "nothing is sent; being ready is what is verified"


def report_end(
    args: argparse.Namespace, driver: Driver, run: RunState, more: dict[str, Any] | None = None
) -> int:
    """Print how it ended, and the exit code that says the same."""
    from wizard.runner.journal import JournalError
    from wizard.runner.report import report, to_document, write_report

    path = driver.session_path
    assert path is not None
    try:
        written = write_report(path)
    except JournalError:
        return _files_gone(args, driver, run)
    if args.json:
        put_json({**to_document(path), "report": str(written) if written else None, **(more or {})})
    else:
        put("\n" + "\n".join(ending_lines(run)))
        if written:
            say(f"report: {written}   session: {run.session_id}")
        else:
            put(report(path))
    return exit_code(run)


def _files_gone(args: argparse.Namespace, driver: Driver, run: RunState) -> int:
    """Somebody removed the state folder: how it stood last, and the old command."""
    from wizard.runner.command import shell_command

    told = "The session's files were removed, so there is no report, and it cannot be resumed or rolled back."
    if run.outcome is None:
        told += " Its runner brings the change to an end by itself: look which command serves."
    target, offer = driver.state.target, driver.state.offer
    if target is not None and target.launch is not None:
        told += f"\nThe old command:\n  {shell_command(target.launch)}"
    if args.json and offer is not None and offer.plan is not None:
        put_json(_document(replace(driver.state, note=told), offer.plan, "cannot_tell"))
    elif run.outcome is not None:
        put("\n" + "\n".join(ending_lines(run)))
    say(told)
    return exit_code(run)


def exit_code(run: RunState) -> Exit:
    """The one place that maps the end of a transaction to an exit code."""
    if run.outcome is Outcome.KEPT:
        return Exit.OK
    if run.outcome is Outcome.ROLLED_BACK:
        return Exit.ROLLED_BACK
    if run.outcome is Outcome.ROLLBACK_FAILED:
        return Exit.ROLLBACK_FAILED
    return Exit.FOUND


_QUICK = (Stage.SNAPSHOT, Stage.RELEASE, Stage.LAUNCH, Stage.VERDICT, Stage.DECIDE)
"""Stages that are over at once most of the time: their end alone is worth a line."""

SAY_EVERY_S = 10.0


class Progress:
    """Prints each stage when it begins and when it ends, and every 10 s what a long one waits for.

    ``quiet`` (--json): only what a person is waited for.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._shown: dict[str, str] = {}
        self._said_at = 0.0
        self._note = ""

    def show(self, state: SessionState) -> None:
        if state.note and state.note != self._note:
            self._note = state.note
            say(state.note)
        if self.quiet:
            return
        run = state.run
        for stage in run.stages if run is not None else ():
            if stage.status == "pending":
                continue
            now = time.monotonic()
            news = self._shown.get(stage.stage.value) != stage.status
            long = stage.status == "active" and now - self._said_at >= SAY_EVERY_S
            if news and stage.status == "active" and stage.stage in _QUICK:
                self._shown[stage.stage.value] = stage.status
                self._said_at = now
            elif news or long:
                self._shown[stage.stage.value] = stage.status
                self._said_at = now
                say(stage_line(stage))
