"""Command lines for people: quoted so that a shell takes them back, secrets out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from wizard.core.plan import FlagChange, Plan
from wizard.tui.format import Line, clean, field, line, one_line, wrap


def shown_argv(argv: Sequence[str]) -> list[str]:
    """The words without secrets."""
    from wizard.core.redact import redact_argv

    return [clean(word) for word in redact_argv(tuple(argv))]


def shown_environ(environ: Mapping[str, str | None]) -> list[str]:
    """``NAME=value`` or ``unset NAME``; values that may be secrets are not shown."""
    from wizard.core.redact import redact_environ

    safe = redact_environ({k: v for k, v in environ.items() if v is not None})
    out = [f"{k}={shlex.quote(clean(v))}" for k, v in safe.items()]
    return out + [f"unset {k}" for k, v in environ.items() if v is None]


def command_text(argv: Sequence[str]) -> str:
    """One flag a line, joined by backslashes, ready to paste."""
    words = [shlex.quote(word) for word in shown_argv(argv)]
    rows: list[str] = []
    current: list[str] = []
    for word in words:
        if word.startswith("--") and current:
            rows.append(" ".join(current))
            current = []
        current.append(word)
    rows.append(" ".join(current))
    return " \\\n".join(f"  {'' if i == 0 else '  '}{row}" for i, row in enumerate(rows))


def both_commands(plan: Plan) -> str:
    """The old and the new command in full, and the environment that changes."""
    parts = ["# Now", command_text(plan.old_argv), "", "# After", command_text(plan.new_argv)]
    if plan.environ:
        parts += ["", "# Environment", *(f"  {row}" for row in shown_environ(plan.environ))]
    parts += ["", "Same environment, working directory and log as now. Secrets are not shown."]
    return "\n".join(parts)


def change_words(change: FlagChange) -> tuple[str, str]:
    """``- --flag 8`` and ``+ (left to SGLang)``, without their signs."""

    def words(value: str | None, absent: str) -> str:
        if value is None:
            return absent
        return " ".join(shown_argv((change.flag, value) if value else (change.flag,)))

    return words(change.old, "(not given)"), words(change.new, "(left to SGLang)")


def change_lines(plan: Plan, width: int) -> list[Line]:
    """The diff, two rows a flag; the version it was checked for stands at the right."""
    out: list[Line] = [line((" Change", "dim"))]
    flags = next((detail for name, ok, detail in plan.checks if name == "flags" and ok), "")
    for change in plan.changes:
        old, new = change_words(change)
        valid = f"   {one_line(flags)} ✓" if flags else ""
        out.append(line(("   - ", "bad"), old))
        out.append(line(("   + ", "good"), new, (valid, "dim")))
    for name, value in plan.environ.items():
        out.append(line(("   + ", "good"), shown_environ({name: value})[0], ("   (environment)", "dim")))
    if not plan.changes and not plan.environ:
        out += wrap("(no flag changes: the same command is started again)", width, indent=3)
    return out


def check_line(plan: Plan, width: int) -> list[Line]:
    """``Pre-flight  flags ✓  port ✓``, and the detail of each that failed."""
    if not plan.checks:
        return []
    words = ", ".join(f"{one_line(name)} {'✓' if ok else '✗'}" for name, ok, _ in plan.checks)
    out = field("Pre-flight", words, width, column=11)
    for name, ok, detail in plan.checks:
        if not ok:
            out += wrap(f"✗ {name}: {detail}", width, indent=3, role="bad")
    return out
