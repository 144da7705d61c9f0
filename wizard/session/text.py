"""The same words for every plain face: ``check``, ``fix``, ``demo --headless`` and the prompt mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wizard.core.argv import shell_join
from wizard.core.expr import show
from wizard.core.hardware import MIG_NOTE
from wizard.core.measurement import METRICS, Comparison, Judgement, Verdict
from wizard.core.plan import Consent, Plan, Stakes
from wizard.core.progress import STAGE_TITLES, Outcome, RunState, StageState
from wizard.core.redact import redact_argv
from wizard.core.session import Offer, SessionState
from wizard.core.triage import Hypothesis, named
from wizard.session.layout import columns, row, wrapped
from wizard.session.untold import is_saved, missing_lines, still_starting

MARKS = {"pending": " ", "active": "*", "done": "+", "failed": "x", "skipped": "-"}

MOST_REMEDIES = 6
MOST_REMEDIES_BESIDE = 2
"""So many are said of the first cause, and of each other one; ``--json`` has them all."""

_WORTH_SAYING_S = 0.1
"""A stage that took less is said without its time."""


def finding_lines(state: SessionState, offers: dict[str, tuple[Offer, ...]]) -> list[str]:
    """What ``check`` found, in words."""
    causes = named(state.hypotheses)
    if not causes:
        if state.verdict == "healthy" and _of_command(state):
            version = state.snapshot.get("command.checked_version")
            noted = state.snapshot.get("command.notes_say")
            held = "NOTHING WRONG" if noted is None or not noted.x else "NO ERROR, but something to note,"
            said = f"{held} with this command line for SGLang {version.x if version else '?'}."
            return [said, *launch_lines(state)]
        if state.verdict == "healthy":
            phase = state.snapshot.get("log.phase")
            ended = is_saved(state) and phase is not None and phase.x == "ended"
            held = "it served until it was told to stop" if ended else "it serves"
            return [
                f"HEALTHY: {held}, and no cause of trouble is supported by the readings.",
                *seen_lines(state),
            ]
        starting = still_starting(state)
        if starting:
            return [*wrapped(starting, "STILL STARTING: "), *request_lines(state)]
        return ["CANNOT TELL from what could be seen.", *request_lines(state), *missing_lines(state)]
    lines: list[str] = []
    for index, hypothesis in enumerate(causes):
        if index:
            lines.append("")
        lines.extend(cause_lines(hypothesis, first=index == 0))
        useful = [o for o in offers.get(hypothesis.cause.id, ()) if is_of_use(o)]
        most = MOST_REMEDIES_BESIDE if index else MOST_REMEDIES
        if len(useful) == most + 1:
            most += 1  # a line that says "1 more" takes as much room
        for offer in useful[:most]:
            lines.extend(offer_lines(offer))
        if useful[most:]:
            lines += row("", f"{len(useful) - most} more remedies: --json lists them all")
    return lines


def is_of_use(offer: Offer) -> bool:
    """It applies here as far as can be told, and there is something to do."""
    return not offer.why_not.startswith("does not apply") and bool(offer.plan or offer.intents or offer.actions)


def spelling_lines(state: SessionState, offers: dict[str, tuple[Offer, ...]], version: str) -> list[str]:
    """That nobody told the version, where flags are suggested all the same: they are those of ``version``."""
    if state.snapshot.get("command.checked_version") is not None:
        return []  # said beside the command line
    named_flags = any(o.intents for found in offers.values() for o in found if is_of_use(o))
    told = f"not known: flags are those of the newest here ({version}); --sglang-version V for yours"
    return row("version", told) if named_flags else []


def card_lines(state: SessionState) -> list[str]:
    """What has to be known of the cards before the numbers above are believed."""
    mig = state.snapshot.get("gpu.mig")
    return row("note", MIG_NOTE) if mig is not None and mig.x is True else []


def request_lines(state: SessionState) -> list[str]:
    """What a given request body is cleared of: its form, not what the server makes of it."""
    problems, endpoint = (state.snapshot.get(name) for name in ("request.problems", "request.endpoint"))
    if problems is None or problems.x or endpoint is None:
        return []
    judged = state.snapshot.get("request.judged")
    if judged is not None and judged.x is False:
        return row("request", f"{problems.source}: {endpoint.x} is no endpoint whose fields are known here")
    return row(
        "request", f"{problems.source}: nothing was found in it that {endpoint.x} would refuse by its form"
    )


def _of_command(state: SessionState) -> bool:
    """Nothing but a launch command was given."""
    alone = state.snapshot.get("command.alone")
    return alone is not None and alone.x is True


def launch_lines(state: SessionState, told: int = 0) -> list[str]:
    """What was found in the launch command, and which version it was held against.

    ``told``: so many errors, from the first on, stand above already.
    """
    env = state.snapshot.get
    version, known = env("command.checked_version"), env("command.version_known")
    if version is None:
        return []
    lines: list[str] = []
    for name, label in (("command.errors_say", "error"), ("command.notes_say", "note")):
        said = env(name)
        texts = said.x if said is not None and isinstance(said.x, tuple) else ()
        for text in texts[told if label == "error" else 0 :]:
            lines += row(label, text)
    if known is not None and known.x is False:
        newest = f"not known, so the newest in the catalogue ({version.x}) stands for it: --sglang-version V"
        lines += row("version", newest)
    return lines


_SEEN = (
    ("requests.running", "{} running"),
    ("requests.queued", "{} queued"),
    ("throughput.output", "{} tok/s"),
    ("ttft.p50", "TTFT {} ms"),
    ("itl.p50", "ITL {} ms"),
    ("kv.usage", "KV pool {} full"),
)


def seen_lines(state: SessionState) -> list[str]:
    """The load that a verdict of healthy was said under: healthy and idle is less than healthy and busy."""
    parts = []
    for name, words in _SEEN:
        value = state.snapshot.get(name)
        if value is not None and isinstance(value.x, (int, float)):
            shown = f"{value.x:.0%}" if name == "kv.usage" else show(value.x)
            parts.append(words.format(shown))
    lines = row("seen", ", ".join(parts)) if parts else []
    target, phase = state.target, state.snapshot.get("log.phase")
    if target is not None and target.log_path and is_saved(state) and phase is not None:
        if phase.x == "ended":
            return [
                *lines,
                *row("note", "the log ends with an orderly stop: somebody or something ended the server"),
            ]
        rest = "a killed server leaves no line in its log (dmesg -T | grep -i kill)"
        lines += row("note", f"this is as of the last line; {rest}")
    return lines


def brief(text: str, most: int = 240) -> str:
    """Whole sentences of a long text, as far as ``most`` characters: torch's own out-of-memory text runs on."""
    if len(text) <= most:
        return text
    end = text.rfind(". ", 0, most)
    return text[: end + 1] if end > most // 3 else text[: most - 3] + "..."


def cause_lines(hypothesis: Hypothesis, first: bool = True) -> list[str]:
    head = "CAUSE" if first else "also possible"
    named_so = f"{hypothesis.cause.title}  [{hypothesis.cause.id}, {hypothesis.confidence:.0%}]"
    lines = (
        [f"{head}: {named_so}"]
        if len(head) + 2 + len(named_so) <= columns()
        else wrapped(named_so, f"{head}: ", "  ")
    )
    for label, found in (("for", hypothesis.supporting), ("against", hypothesis.against)):
        for said in dict.fromkeys(brief(evidence.says) for evidence in found):  # two signs may see one word
            lines += row(label, said)
    if first:
        lines += row("why", hypothesis.cause.why)
    return lines


def offer_lines(offer: Offer) -> list[str]:
    changes = ", ".join(
        f"{flag} {'removed' if value is None else value}".rstrip() for flag, value in offer.intents
    )
    lines = row("remedy", offer.remedy.title + (f": {changes}" if changes else ""))
    for action in offer.actions:
        lines += wrapped(action, " " * 11 + "- ")
    return lines


def plan_lines(
    plan: Plan,
    target_version: str | None,
    consent: Consent,
    load: str,
    *,
    live: bool = True,
    stakes: Stakes | None = None,
) -> list[str]:
    """The plan: change, arithmetic, price, what happens if it fails. ``live``: a process runs now."""
    stakes = stakes or Stakes()
    lines = [f"PLAN: {plan.remedy_title}"]
    for change in plan.changes:
        if change.old is not None:
            lines.append(f"  - {change.flag} {change.old}".rstrip())
        new = f"{change.flag} {change.new}".rstrip() if change.new is not None else "(left to SGLang)"
        lines.append(f"  + {new}")
    if not plan.changes:
        lines.append("  (the command stays as it is)")
    lines += row("why", plan.why)
    for change in plan.changes:
        if change.why and change.why not in (plan.remedy_title, plan.why, "you asked for it"):
            lines += row("", f"{change.flag}: {change.why}.")
    if plan.expect:
        lines += row("expect", plan.expect)
    lines += row("price", plan.cost)
    for action in plan.actions:
        lines += row("you", action)
    if plan.by_hand:
        lines += row("", "You stop and start it there, nothing is signalled from here; it waits half an hour.")
    elif live:
        waits = "and nothing is killed: once they have ended, the old command comes back."
        ends = "then they are cut." if consent.escalate else waits
        now = f"One restart, while {stakes.requests()}" if stakes.requests() else "One restart"
        takes = f"{now}; running requests get {consent.drain_limit_s:g} s to end (new ones are still taken)"
        lines += row("", f"{takes}, {ends}")
        if stakes.last_start_s is not None:
            took = f"the last start took {stakes.last_start_s:.0f} s, and"
            lines += row("", f"Then down until ready: {took} {consent.ready_limit_s:.0f} s are the limit.")
        else:
            lines += row("", f"Then down until ready, {consent.ready_limit_s:.0f} s at most.")
    else:
        lines += row("", "One start; it is down now, so nothing is stopped.")
    for note in plan.notes:
        lines += row("note", note)
    lines += row("measure", load)
    back = "the old command is started again by itself" if live else "it is stopped again: down, as it is now"
    back = "you are told what to type to take the change back" if plan.by_hand else back
    lines += row("fails?", back)
    for name, passed, detail in plan.checks:
        lines += row("ok" if passed else "NO", f"{name}: {detail}")
    return lines + command_lines(plan.new_argv)


def command_lines(argv: Sequence[str], width: int = 0) -> list[str]:
    """A command that can be copied, broken at words with the shell's backslash; secrets hidden."""
    width = width or columns()
    lines, line = [], "  command "
    for word in redact_argv(argv):
        quoted = shell_join([word])
        if len(line) + 1 + len(quoted) > width - 2 and line.strip() not in ("", "command"):
            lines.append(line + " \\")
            line = " " * 12
        line += " " + quoted
    return [*lines, line]


def stage_line(stage: StageState) -> str:
    """One stage, wrapped below its detail."""
    elapsed = stage.elapsed_s
    took = f"  {elapsed:.1f} s" if elapsed is not None and elapsed >= _WORTH_SAYING_S else ""
    head = f"  [{MARKS[stage.status]}] {STAGE_TITLES[stage.stage]:<25}"
    glued = took.replace(" ", "\xa0")  # not torn from the word before it
    return "\n".join(wrapped(stage.detail + glued, head + " ")).replace("\xa0", " ").rstrip()


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict's sentence and its table."""
    word = verdict.judgement.value.replace("_", " ").upper()
    lines = wrapped(f"{word}. {verdict.sentence}")
    if verdict.comparisons:
        lines += ["", f"  {'':<26}{'before':>10}  {'after':>10}  {'change':>9}   sure?"]
        lines += [comparison_line(c) for c in verdict.comparisons]
    return lines


def comparison_line(c: Comparison) -> str:
    unit = METRICS.get(c.metric, ("", ""))[0]
    if unit == "requests":
        unit = ""
    before = show(c.before) if c.before is not None else "-"
    after = show(c.after) if c.after is not None else "-"
    change = f"{(c.ratio - 1) * 100:+.0f} %" if c.ratio is not None else ""
    sure = ""
    if c.low is not None and c.high is not None and c.high >= 0.005:
        sure = f"{c.low:.2f}x to {c.high:.2f}x "
    word = {
        Judgement.FIXED: "better",
        Judgement.BETTER: "better",
        Judgement.WORSE: "worse",
        Judgement.NO_DIFFERENCE: "same",
        Judgement.CANNOT_TELL: "not sure",
    }[c.judgement]
    name = f"{c.metric} {unit}".strip()
    return f"  {name:<26}{before:>10}  {after:>10}  {change:>9}   {sure}{word}".rstrip()


_OUTCOMES = {
    Outcome.KEPT: "KEPT",
    Outcome.ROLLED_BACK: "ROLLED BACK",
    Outcome.ROLLBACK_FAILED: "ROLLBACK FAILED",
    Outcome.CALLED_OFF: "CALLED OFF",
}


def ending_lines(run: RunState) -> list[str]:
    """How a transaction ended: verdict with its table, then the outcome, each fact said once."""
    lines: list[str] = []
    said = run.sentence
    if run.verdict is not None:
        lines += verdict_lines(run.verdict)
        said = said.replace(run.verdict.sentence, "").strip()
    if run.outcome is not None and (run.verdict is None or run.outcome is not Outcome.KEPT):
        said = f"{_OUTCOMES[run.outcome]}. {said}"
    if said:
        lines += ["", *wrapped(said)] if lines else wrapped(said)
    if run.help:
        lines += ["", "TYPE THIS:", run.help]
    if run.outcome is None and not run.runner_alive:
        lines.append("UNFINISHED: its runner is gone. `sgl-wizard sessions resume` finishes or rolls back.")
    return lines


def run_lines(run: RunState) -> list[str]:
    """Where a transaction stands, or how it ended."""
    lines = [stage_line(s) for s in run.stages if s.status != "pending"]
    ending = ending_lines(run)
    if ending:
        lines += ["", *ending]
    if run.outcome is not None:
        serves = {"old": "the old command", "new": "the new command", "none": "nothing"}
        lines.append(f"Serving now: {serves.get(run.serving, 'not known')}.")
    elif run.runner_alive:
        lines.append("The runner is at work on it.")
    return lines


def numbered(labels: Iterable[str]) -> list[str]:
    return [f"  {i}. {label}" for i, label in enumerate(labels, 1)]
