"""The same words for every plain face: ``check``, ``fix``, ``demo --headless`` and the prompt mode."""

from __future__ import annotations

from collections.abc import Iterable

from wizard.core.argv import shell_join
from wizard.core.expr import show
from wizard.core.measurement import METRICS, Comparison, Judgement, Verdict
from wizard.core.plan import Consent, Plan
from wizard.core.progress import STAGE_TITLES, RunState, StageState
from wizard.core.redact import redact_argv
from wizard.core.session import Offer, SessionState
from wizard.core.triage import Hypothesis, named

MARKS = {"pending": " ", "active": "*", "done": "+", "failed": "x", "skipped": "-"}


def finding_lines(state: SessionState, offers: dict[str, tuple[Offer, ...]]) -> list[str]:
    """What ``check`` found, in words."""
    causes = named(state.hypotheses)
    if not causes:
        if state.verdict == "healthy":
            return ["HEALTHY: it serves, and no cause of trouble is supported by the readings."]
        return ["CANNOT TELL from what could be seen.", *missing_lines(state)]
    lines: list[str] = []
    for index, hypothesis in enumerate(causes):
        lines.extend(cause_lines(hypothesis, first=index == 0))
        for offer in offers.get(hypothesis.cause.id, ()):
            if not offer.why_not.startswith("does not apply") and (
                offer.plan or offer.intents or offer.actions
            ):
                lines.extend(offer_lines(offer))
        lines.append("")
    return lines


def missing_lines(state: SessionState) -> list[str]:
    """The probes that had nothing, each with why and how to enable it."""
    lines = []
    for result in state.snapshot.results.values():
        if result.outcome.value != "ok" and result.reason:
            remedy = f" ({result.remedy})" if result.remedy else ""
            lines.append(f"  {result.probe}: {result.outcome.value}: {result.reason}{remedy}")
    return lines


def cause_lines(hypothesis: Hypothesis, first: bool = True) -> list[str]:
    head = "CAUSE" if first else "also possible"
    lines = [f"{head}: {hypothesis.cause.title}  [{hypothesis.cause.id}, {hypothesis.confidence:.0%}]"]
    lines += [f"  for      {e.says}" for e in hypothesis.supporting]
    lines += [f"  against  {e.says}" for e in hypothesis.against]
    if first:
        lines.append(f"  why      {hypothesis.cause.why}")
    return lines


def offer_lines(offer: Offer) -> list[str]:
    changes = ", ".join(f"{flag} {'removed' if value is None else value}" for flag, value in offer.intents)
    lines = [f"  remedy   {offer.remedy.title}" + (f": {changes}" if changes else "")]
    lines += [f"           - {action}" for action in offer.actions]
    return lines


def plan_lines(plan: Plan, target_version: str | None, consent: Consent, load: str) -> list[str]:
    """The plan: change, arithmetic, price, what happens if it fails."""
    lines = [f"PLAN: {plan.remedy_title}"]
    for change in plan.changes:
        if change.old is not None:
            lines.append(f"  - {change.flag} {change.old}".rstrip())
        if change.new is not None:
            lines.append(f"  + {change.flag} {change.new}".rstrip())
        else:
            lines.append("  + (left to SGLang)")
    if not plan.changes:
        lines.append("  (the command stays as it is)")
    lines.append(f"  why      {plan.why}")
    if plan.expect:
        lines.append(f"  expect   {plan.expect}")
    lines.append(f"  price    {plan.cost}")
    lines.append(
        f"           one restart; running requests get {consent.drain_limit_s:g} s to end, "
        + ("then they are cut." if consent.escalate else "and if they do not, nothing is changed.")
    )
    lines.append(f"  measure  {load}")
    lines.append("  fails?   the old command is started again by itself")
    for name, passed, detail in plan.checks:
        lines.append(f"  {'ok ' if passed else 'NO '}      {name}: {detail}")
    lines.append(f"  command  {shell_join(redact_argv(plan.new_argv))}")
    return lines


def stage_line(stage: StageState) -> str:
    elapsed = f"{stage.elapsed_s:.1f} s" if stage.elapsed_s is not None else ""
    return f"  [{MARKS[stage.status]}] {STAGE_TITLES[stage.stage]:<26} {stage.detail}  {elapsed}".rstrip()


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict's sentence and its table."""
    word = verdict.judgement.value.replace("_", " ").upper()
    lines = [f"{word}. {verdict.sentence}", ""]
    if verdict.comparisons:
        lines.append(f"  {'':<22}{'before':>10}  {'after':>10}  {'change':>9}   sure?")
        lines += [comparison_line(c) for c in verdict.comparisons]
    return lines


def comparison_line(c: Comparison) -> str:
    unit = METRICS.get(c.metric, ("", ""))[0]
    before = show(c.before) if c.before is not None else "-"
    after = show(c.after) if c.after is not None else "-"
    change = f"{(c.ratio - 1) * 100:+.0f} %" if c.ratio is not None else ""
    sure = f"{c.low:.2f}x to {c.high:.2f}x" if c.low is not None and c.high is not None else ""
    word = {
        Judgement.FIXED: "better",
        Judgement.BETTER: "better",
        Judgement.WORSE: "worse",
        Judgement.NO_DIFFERENCE: "same",
        Judgement.CANNOT_TELL: "not sure",
    }[c.judgement]
    return f"  {c.metric + ' ' + unit:<22}{before:>10}  {after:>10}  {change:>9}   {sure} {word}".rstrip()


def run_lines(run: RunState) -> list[str]:
    """Where a transaction stands, or how it ended."""
    lines = [stage_line(s) for s in run.stages if s.status != "pending"]
    if run.verdict is not None:
        lines += ["", *verdict_lines(run.verdict)]
    if run.sentence:
        lines += ["", run.sentence]
    if run.outcome is not None:
        lines.append(f"outcome: {run.outcome.value}; serving now: {run.serving} command")
    elif not run.runner_alive:
        lines.append("The runner is gone before it ended. sgl-wizard sessions resume finishes or rolls back.")
    if run.help:
        lines += ["", "TYPE THIS:", run.help]
    return lines


def numbered(labels: Iterable[str]) -> list[str]:
    return [f"  {i}. {label}" for i, label in enumerate(labels, 1)]
