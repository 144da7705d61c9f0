"""A session told to people (markdown) and to programs (the ``fix --json`` document). Secrets are left out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wizard.core.measurement import METRICS, Comparison, Judgement, Measurement
from wizard.core.plan import Order
from wizard.core.progress import STAGE_TITLES, Outcome, RunState
from wizard.core.redact import HIDDEN, clean_lines, is_secret_flag, redact_argv, redact_environ
from wizard.core.target import Target
from wizard.runner.client import read, read_case, read_order, session_id
from wizard.runner.command import clean_line, shell_command

SCHEMA_VERSION = 1


def verdict_word(state: RunState) -> str:
    """The one word of ``fix --json``: what stands at the end, not what was measured in between."""
    if state.outcome is Outcome.ROLLBACK_FAILED:
        return "rollback_failed"
    if state.outcome is Outcome.ROLLED_BACK:
        return "rolled_back"
    if state.outcome is Outcome.KEPT and state.verdict is not None:
        return state.verdict.judgement.value
    return Judgement.CANNOT_TELL.value


def to_document(path: Path) -> dict[str, Any]:
    """The ``fix --json`` document of a session. Raises JournalError.

    Beside the fixed keys: ``outcome``, ``serving``, ``sentence``, ``help``, ``comparison``, ``measured``
    (the word of the comparison also when it was rolled back) and ``stages`` with their seconds.
    """
    state, (target, order), case = read(path), read_order(path), read_case(path)
    plan = order.plan
    return {
        "schema_version": SCHEMA_VERSION,
        "session": session_id(path),
        "target": _target_document(target),
        "cause": _cause_document(order, case),
        "plan": {
            "old": redact_argv(plan.old_argv),
            "new": redact_argv(plan.new_argv),
            "changes": [
                {**c.to_json(), **({"old": HIDDEN, "new": HIDDEN} if is_secret_flag(c.flag) else {})}
                for c in plan.changes
            ],
        },
        "before": _measured(state.before),
        "after": _measured(state.after),
        "verdict": verdict_word(state),
        "report": str(report_path(path)) if report_path(path).exists() else None,
        "outcome": state.outcome.value if state.outcome else None,
        "serving": state.serving,
        "measured": state.verdict.judgement.value if state.verdict else None,
        "comparison": [c.to_json() for c in state.verdict.comparisons] if state.verdict else [],
        "sentence": state.sentence,
        "help": state.help,
        "pid": state.new_pid if state.serving == "new" else None,
        "stages": [
            {"stage": s.stage.value, "status": s.status, "seconds": s.elapsed_s, "detail": s.detail}
            for s in state.stages
        ],
    }


def report(path: Path) -> str:
    """The session as markdown: what was wrong, what was changed, what came of it. Raises JournalError.

    Safe to show with ``cat``: names, versions and details in it were written by others.
    """
    state, (target, order), case = read(path), read_order(path), read_case(path)
    plan = order.plan
    out = [f"# Session {session_id(path)}: {plan.cause_title}", ""]
    out += [f"**{_headline(state)}** {state.sentence}", ""]
    out += [f"Server: {_name(target)}", ""]
    out += _what_was_wrong(order, case)
    out += _what_was_changed(order)
    out += _numbers(state, order)
    out += _stages(state)
    out += _what_serves(state, target, order)
    return clean_lines("\n".join(out).rstrip()) + "\n"


def report_path(path: Path) -> Path:
    return path.with_suffix(".md")


def write_report(path: Path) -> Path | None:
    """The page as a file beside the journal, 0600; None when it cannot be written. Raises JournalError.

    It can be made again from the journal at any time.
    """
    text, to = report(path), report_path(path)
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return None
    return to


def _headline(state: RunState) -> str:
    if state.outcome is None:
        return "Not finished." + ("" if state.runner_alive else " Its runner died: resume it.")
    words = {
        Outcome.KEPT: "Kept.",
        Outcome.ROLLED_BACK: "Rolled back.",
        Outcome.ROLLBACK_FAILED: "ROLLBACK FAILED.",
        Outcome.CALLED_OFF: "Called off.",
    }
    return words[state.outcome]


def _name(target: Target) -> str:
    parts = [target.name, target.base_url, f"SGLang {target.version}" if target.version else ""]
    simulated = "(a simulation)" if target.simulated else ""
    return clean_line(" ".join(p for p in (*parts, simulated) if p))


def _what_was_wrong(order: Order, case: Mapping[str, Any]) -> list[str]:
    out = ["## What was wrong", "", f"{order.plan.cause_title} (`{order.plan.cause_id}`)."]
    cause = case.get("cause")
    if isinstance(cause, Mapping):
        for item in cause.get("evidence") or ():
            if isinstance(item, Mapping):
                source = f" ({item['source']})" if item.get("source") else ""
                out.append(f"- `{item.get('reading', '')}` = {clean_line(str(item.get('value', '')))}{source}")
    steps = [p for p in case.get("path") or () if isinstance(p, Mapping)]
    if steps:
        out += ["", "Path: " + " → ".join(f"{p.get('node', '')}: {p.get('answer', '')}" for p in steps)]
    return [*out, ""]


def _what_was_changed(order: Order) -> list[str]:
    plan = order.plan
    out = ["## What was changed", "", plan.remedy_title + (f". {plan.why}" if plan.why else "")]
    out += ["", "| flag | before | after | why |", "|---|---|---|---|"]
    for change in plan.changes:
        secret = is_secret_flag(change.flag)
        old, new = (HIDDEN, HIDDEN) if secret else (_flag_words(change.old), _flag_words(change.new))
        out.append(f"| `{change.flag}` | {old} | {new} | {change.why} |")
    shown = redact_environ({k: v for k, v in plan.environ.items() if v is not None})
    for name in plan.environ:
        out.append(f"| `{name}` (environment) | | {shown.get(name, 'removed')} | |")
    return [*out, ""]


def _flag_words(value: str | None) -> str:
    return "not given" if value is None else "given" if value == "" else f"`{value}`"


def _numbers(state: RunState, order: Order) -> list[str]:
    if state.before is None and state.verdict is None:
        return []
    out = ["## What it did", ""]
    if state.verdict is not None:
        out += [state.verdict.sentence, ""]
    if state.verdict is not None and state.verdict.comparisons:
        out += ["| metric | before | after | ratio | |", "|---|---:|---:|---:|---|"]
        out += [_row(c) for c in state.verdict.comparisons]
        out.append("")
    elif state.before is not None:
        out += ["Before: " + _totals(state.before), ""]
    if order.workload is not None and order.consent.load_test:
        out += [f"Workload, the same before and after: {order.workload.describe()}.", ""]
    return out


def _row(c: Comparison) -> str:
    unit = METRICS.get(c.metric, ("", ""))[0]

    def number(x: float | None) -> str:
        return "–" if x is None else f"{x:,.4g} {unit}" if abs(x) < 1000 else f"{x:,.0f} {unit}"

    ratio = "–" if c.ratio is None else f"{c.ratio:.2f}"
    if c.low is not None and c.high is not None:
        ratio += f" ({c.low:.2f} … {c.high:.2f})"
    word = c.judgement.value.replace("_", " ")
    return f"| {c.metric} | {number(c.before)} | {number(c.after)} | {ratio} | {word} |"


def _totals(measurement: Measurement) -> str:
    parts = [f"{n} {v:.4g} {METRICS[n][0]}" for n, v in measurement.totals.items() if n in METRICS]
    return ", ".join(parts) or "no numbers"


def _stages(state: RunState) -> list[str]:
    out = ["## Stages", "", "| stage | | began | took | |", "|---|---|---|---:|---|"]
    for s in state.stages:
        if s.status == "pending":
            continue
        began = datetime.fromtimestamp(s.started_at, timezone.utc).strftime("%H:%M:%S") if s.started_at else ""
        took = f"{s.elapsed_s:.1f} s" if s.elapsed_s is not None else ""
        detail = s.detail.replace("|", "\\|")
        out.append(f"| {STAGE_TITLES[s.stage]} | {s.status} | {began} | {took} | {detail} |")
    return [*out, "", "Times are UTC.", ""]


def _what_serves(state: RunState, target: Target, order: Order) -> list[str]:
    plan = order.plan
    out = ["## What serves now", ""]
    if state.serving in ("old", "new"):
        argv = plan.new_argv if state.serving == "new" else plan.old_argv
        out += [f"The {state.serving} command:", "", "```sh", shlex.join(redact_argv(argv)), "```", ""]
    elif state.serving == "none":
        out += ["No server of this session runs.", ""]
    else:
        out += ["Not known.", ""]
    if state.help:
        out += ["```sh", state.help, "```", ""]
    if state.outcome is Outcome.KEPT and target.launch is not None:
        environ = {k: v for k, v in target.launch.environ.items() if k not in plan.environ}
        added = {k: v for k, v in plan.environ.items() if v is not None}
        new = replace(target.launch, argv=plan.new_argv, environ={**environ, **added})
        out += [
            "It was started by hand of the wizard. Put it where the deployment keeps its command, or the next",
            "restart brings the old one back:",
            "",
            "```sh",
            shell_command(new, {**environ}),
            "```",
            "",
        ]
    return out


def _target_document(target: Target) -> dict[str, Any]:
    return {
        "url": target.base_url,
        "pid": target.identity.pid if target.identity else None,
        "name": target.name,
        "version": target.version,
        "simulated": target.simulated,
        "log": target.log_path,
    }


def _cause_document(order: Order, case: Mapping[str, Any]) -> dict[str, Any]:
    found = case.get("cause")
    rest = dict(found) if isinstance(found, Mapping) else {}
    return {**rest, "id": order.plan.cause_id, "title": order.plan.cause_title}


def _measured(measurement: Measurement | None) -> dict[str, Any]:
    if measurement is None:
        return {}
    doc = measurement.to_json()
    return {**doc["totals"], "windows": doc["windows"], "workload": doc["workload"], "errors": doc["errors"]}
