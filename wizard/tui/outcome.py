"""A transaction in lines: its stages while it runs, then the verdict with the before/after table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wizard.core.expr import show
from wizard.core.measurement import METRICS, Comparison, Judgement
from wizard.core.progress import STAGE_TITLES, Outcome, RunState, Stage, StageState
from wizard.tui.format import (
    Line,
    bar,
    clean,
    duration,
    line,
    milliseconds,
    one_line,
    pad,
    shorten,
    wrap,
)
from wizard.tui.readings import LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKS = {"done": "✓", "active": "●", "failed": "✗", "skipped": "-", "pending": " "}
WORDS = {"failed": "failed", "skipped": "skipped"}
ONLY_WHEN_USED = (Stage.DECIDE, Stage.ROLLBACK)
HEADS = {
    Outcome.KEPT: ("KEPT", "good"),
    Outcome.ROLLED_BACK: ("ROLLED BACK", "warn"),
    Outcome.ROLLBACK_FAILED: ("ROLLBACK FAILED", "bad"),
    Outcome.CALLED_OFF: ("CALLED OFF", "warn"),
}


def run_is_over(run: RunState) -> bool:
    """There is something to read or to decide, and nothing more to wait for."""
    return run.outcome is not None or run.awaiting_decision


def stage_line(stage: StageState, now: float, width: int) -> list[Line]:
    """``✓ measure before        1,264 tok/s         20.4 s``; failed and skipped in words too."""
    role = {"done": "", "active": "strong", "failed": "bad", "skipped": "dim", "pending": "dim"}[stage.status]
    elapsed = stage.elapsed_s
    if elapsed is None and stage.status == "active" and stage.started_at is not None:
        elapsed = max(0.0, float(int(now - stage.started_at)))
        clock = duration(elapsed) if elapsed >= 10 else f"{int(elapsed)} s"
    else:
        clock = duration(elapsed) if elapsed is not None else ""
    detail = one_line(stage.detail)
    if stage.status in WORDS:
        detail = f"{WORDS[stage.status]}: {detail}" if detail else WORDS[stage.status]
    room = width - 42
    head = f" {MARKS[stage.status]} {pad(STAGE_TITLES[stage.stage], 27)}"
    out: list[Line] = [((head, role), (pad(detail, room), role), (pad(clock, 10, right=True), "dim"))]
    if len(detail) > room and stage.status in ("active", "failed"):
        out[0] = ((head, role), (pad("", room), role), (pad(clock, 10, right=True), "dim"))
        out += wrap(detail, width, indent=5, role=role)[:3]
    return out


def progress_lines(run: RunState, now: float, width: int, *, log_lines: int = 2) -> list[Line]:
    """All stages, the last lines of the server's log, and whether anybody is still working on it."""
    out: list[Line] = []
    for stage in run.stages:
        if stage.stage in ONLY_WHEN_USED and stage.status == "pending":
            continue
        out += stage_line(stage, now, width)
    if run.sentence:
        out += [(), *wrap(run.sentence, width)]
    if not run.runner_alive:
        text = "Nobody works on this change any more: its runner has ended before it was done."
        out += [(), *wrap(text, width, role="bad")]
        out += wrap(f"sgl-wizard sessions resume {run.session_id} finishes it or rolls it back.", width)
    else:
        resume = f"sgl-wizard sessions resume {run.session_id}"
        out += [(), line((f" Safe to close this terminal: {resume}", "dim"))]
    if run.log_tail:
        out.append(())
        out += [
            line((shorten(" " + clean(row).replace("\n", " "), width - 1), "dim"))
            for row in run.log_tail[-log_lines:]
        ]
    return out


def metric_text(metric: str, x: float | None) -> str:
    """``1,264``, ``6.72 s``, ``12 %``; ``-`` when it was not seen."""
    if x is None:
        return "-"
    unit = METRICS.get(metric, ("", ""))[0]
    if unit == "ms":
        return milliseconds(x)
    if unit == "ratio":
        return f"{x * 100:.0f} %"
    return show(float(x))


def change_text(item: Comparison) -> tuple[str, str]:
    """``+227 %`` or ``3.3x``, and the word with its role-free meaning: better, worse, same, unsure."""
    words = {
        Judgement.FIXED: "better",
        Judgement.BETTER: "better",
        Judgement.WORSE: "worse",
        Judgement.NO_DIFFERENCE: "same",
        Judgement.CANNOT_TELL: "cannot tell",
    }
    if item.ratio is None:
        return "", words[item.judgement]
    percent = (item.ratio - 1) * 100
    text = f"{percent:+.0f} %" if abs(percent) < 1000 else f"{item.ratio:,.1f}x"
    return text, words[item.judgement]


def sure_text(item: Comparison) -> str:
    """The interval of the change: as factors when it is large, in percent otherwise."""
    if item.low is None or item.high is None:
        return ""
    if item.low >= 1.5:
        return f"{item.low:.1f}x to {item.high:.1f}x"
    return f"{(item.low - 1) * 100:+.0f} to {(item.high - 1) * 100:+.0f} %"


def table_lines(comparisons: Sequence[Comparison], width: int) -> list[Line]:
    """Before and after, one metric a row."""
    if not comparisons:
        return []
    wide = width >= 100
    titles = pad("before", 12, right=True) + pad("after", 12, right=True)
    head = f" {pad('', 12)}{titles}  {pad('change', 20)}  sure?"
    out: list[Line] = [line((head, "dim"))]
    for item in comparisons:
        name = " ".join(LABELS.get(item.metric, item.metric).split())
        change, word = change_text(item)
        role = {"better": "good", "worse": "bad"}.get(word, "dim")
        grown = word == "better" and item.ratio is not None and item.ratio > 1
        bars = "  " + bar((item.ratio or 0.0) / 4, 8) if wide and grown else ""
        out.append(
            line(
                f" {pad(name, 12)}",
                pad(metric_text(item.metric, item.before), 12, right=True),
                pad(metric_text(item.metric, item.after), 12, right=True),
                (f"  {pad(change, 8)}{pad(word, 12)}", role),
                ("  " + sure_text(item) + bars, "dim"),
            )
        )
    return out


def verdict_lines(run: RunState, width: int) -> list[Line]:
    """The answer first, then the numbers, then what to type when something is left to do."""
    out: list[Line] = []
    if run.outcome is Outcome.ROLLBACK_FAILED:
        out += help_lines(run, width)
    elif run.outcome is not None:
        head, role = HEADS[run.outcome]
        if run.verdict is not None and run.outcome is Outcome.KEPT:
            head = run.verdict.judgement.value.replace("_", " ").upper()
        out += wrap(f"{head}. {run.sentence}", width, role=role)
    elif run.verdict is not None:
        out += wrap(
            f"{run.verdict.judgement.value.replace('_', ' ').upper()}. {run.verdict.sentence}",
            width,
            role="strong",
        )
    if run.outcome is not None and run.verdict is not None and run.verdict.sentence not in run.sentence:
        out += wrap(run.verdict.sentence, width)
    serving = {"old": "It serves under the old command.", "new": "It serves under the new command."}
    if run.outcome is not None and run.serving in serving and run.outcome is not Outcome.ROLLBACK_FAILED:
        where = f"  (pid {run.new_pid}, port {run.new_port})" if run.new_pid and run.serving == "new" else ""
        out += wrap(serving[run.serving] + where, width)
    if run.verdict is not None and run.verdict.comparisons:
        out += [(), *table_lines(run.verdict.comparisons, width)]
        workload = run.before.workload if run.before else (run.after.workload if run.after else None)
        words = f"same workload: {workload.describe()}" if workload else "live traffic, nothing was sent"
        out += wrap(words, width, role="dim")
        errors = {**(run.before.errors if run.before else {}), **(run.after.errors if run.after else {})}
        if errors:
            text = ", ".join(f"{count} x {what}" for what, count in errors.items())
            out += wrap(f"failed requests: {text}", width, role="warn")
    failed = [s for s in run.stages if s.status == "failed"]
    if failed:
        out.append(())
        for stage in failed:
            out += wrap(f"✗ {STAGE_TITLES[stage.stage]}: {stage.detail}", width, role="bad")
        out += [line((shorten(" " + one_line(row), width - 1), "dim")) for row in run.log_tail[-3:]]
    if run.help and run.outcome is not Outcome.ROLLBACK_FAILED:
        out += [(), *verbatim(run.help, width)]
    return out


def help_lines(run: RunState, width: int) -> list[Line]:
    """The worst case: the server may be down. What to type comes right after the sentence."""
    out = wrap(f"ROLLBACK FAILED. {run.sentence}", width, role="bad")
    if run.help:
        out += [(), *wrap("What to type now:", width, role="strong"), *verbatim(run.help, width)]
    return out


def verbatim(text: str, width: int) -> list[Line]:
    """Help text with its own line breaks; long lines are folded, never shortened: they are commands."""
    from rich.cells import chop_cells

    out: list[Line] = []
    for row in clean(text).split("\n"):
        out += [line(f" {piece}") for piece in (chop_cells(row, width - 2) or [""])]
    return out
