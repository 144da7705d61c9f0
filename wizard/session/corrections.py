"""Remedies for a command line that its SGLang does not take: the same line, as this version takes it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from wizard.core.argv import CommandLine, parse, set_flag, unset_flag
from wizard.core.commandrules import RuleBook
from wizard.core.expr import parse_template
from wizard.core.findings import OWN_VALUE, Checked, Edit, Finding, examine, name_in
from wizard.core.flags import Catalogue
from wizard.core.flow import Cause, FlowBook, Remedy
from wizard.core.plan import Plan, VerifyGoal
from wizard.core.reading import Snapshot
from wizard.core.redact import HIDDEN
from wizard.core.session import Offer
from wizard.core.target import Target
from wizard.session.planner import plan_for

CAUSE = "bad_cli_args"
_NEEDED = re.compile(
    r"\b(?:unless|requir\w{1,3}|needs?|must|without|ha(?:ve|s) to|only (?:works? )?(?:with|when|if))"
    r"\W{1,3}(?:(?!-)\w+\W{1,3}){0,4}?(?:--)?([a-z]{2,20}(?:-[a-z0-9]{1,20}){1,6})\b",
    re.I,
)
SAME_VALUE = "the same value"
"""Stands in ``set`` where a log names a flag without the value that it was given."""


def examined(target: Target, snapshot: Snapshot, catalogue: Catalogue, book: FlowBook) -> Checked | None:
    """What is to be said of the target's command, the settings of its ``--config`` file among them."""
    from wizard.probes import launchline

    return launchline.check(target, book.command_rules, catalogue.asked or None, snapshot.get)


def corrections(
    cause: Cause, target: Target, snapshot: Snapshot, catalogue: Catalogue, book: FlowBook
) -> tuple[Offer, ...]:
    """One offer that corrects everything which would end the start; () when nothing can be respelled.

    Where only the log names the flag, the offer says its right spelling, and nothing can be applied.
    """
    from wizard.probes import launchline

    checked = examined(target, snapshot, catalogue, book)
    errors = checked.errors if checked is not None else ()
    if not errors:
        errors = _from_words(target, snapshot, catalogue, book)
    if not errors:
        return ()
    edits = tuple(dict.fromkeys(e for f in errors for e in f.edits))
    command = launchline.typed_command(target, catalogue.asked or None)
    known = [e for e in edits if e.value is not None]
    # a flag that this version does not know is taken out by a person or by the plan: it is no setting of it
    intents = tuple((e.flag, e.value) for e in known)
    takes_out = [e.flag for e in edits if e.value is None]
    renamed = f", and write {', '.join(e.words() for e in known)}" if known else ""
    actions = [f"Take {flag} out of the command{renamed}." for flag in dict.fromkeys(takes_out)]
    actions += [f"{f.flag}: {f.why}" for f in errors if not f.edits]
    names = ", ".join(dict.fromkeys(f.flag for f in errors if f.flag)) or "the command"
    title = f"Write {names} as SGLang {catalogue.version} takes it"
    if not known:
        title = f"Take out {', '.join(dict.fromkeys(takes_out))}" if takes_out else f"Correct {names}"
    remedy = Remedy(
        id="write_flags_right",
        title=title,
        changes=(),
        when=None,
        why=parse_template(""),
        cost=parse_template(""),
        expect=None,
        goal=VerifyGoal("ready"),
        rollback="The old command is started again.",
    )
    why = " ".join(dict.fromkeys(f"{f.why.rstrip('.')}." for f in errors))
    cost = "None: it does not start as it is."
    plan: Plan | None = None
    why_not = "this is for a person to do"
    if target.launch is None or command is None:
        why_not = "the launch command of this server is not known (give --pid or --command)"
    elif target.note:
        why_not = target.note
    elif not command.editable:
        why_not = f"its command line cannot be edited safely: {command.why}"
    elif any(e.value == HIDDEN for e in edits):
        why_not = "a secret stands in what is to be written: correct it yourself"
    elif any(e.value in (SAME_VALUE, OWN_VALUE) for e in edits):
        why_not = "a person has to choose the value"
    elif edits:
        try:
            new = _edited(command, errors)
        except ValueError as error:
            why_not = str(error)
        else:
            why_not = ""
            plan = plan_for(
                remedy, cause, snapshot.get, target, new.argv, catalogue, reason=title, why=why, cost=cost
            )
    return (Offer(remedy, plan, why_not, intents, why, cost, tuple(actions)),)


def _edited(command: CommandLine, errors: Sequence[Finding]) -> CommandLine:
    """The command with every finding's edits: what goes out goes first. Raises ValueError."""
    edits = tuple(dict.fromkeys(e for f in errors for e in f.edits))
    for edit in edits:
        if edit.value is None:
            command = unset_flag(command, edit.flag)
    for edit in edits:
        if edit.value is not None:
            words = edit.value.split() if edit.value else None
            command = set_flag(command, edit.flag, words[0] if words and len(words) == 1 else words)
    return command


def _from_words(
    target: Target, snapshot: Snapshot, catalogue: Catalogue, book: FlowBook
) -> tuple[Finding, ...]:
    """The flag that argparse names in the log, else those of the symptom, looked up in the catalogue."""
    error = snapshot.get("log.error")
    text = str(error.x) if error is not None else ""
    name = name_in(text)
    if name is not None:
        return _looked_up(_given(text, name), catalogue, book)
    flags = tuple(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w-]{2,60}", target.symptom[:4000])))[:8]
    found = tuple(f for flag in flags for f in _looked_up([flag], catalogue, book))
    return found or _asked_for(target.symptom[:4000], catalogue)


def _asked_for(text: str, catalogue: Catalogue) -> tuple[Finding, ...]:
    """Flags of this version that a person says have to be there ("crashes unless --x is given")."""
    found = []
    for match in _NEEDED.finditer(text):
        spec = catalogue.by_option.get(f"--{match[1]}")
        if spec is not None and spec.deprecated is None:
            edit = Edit(spec.flag, "" if spec.is_switch else OWN_VALUE)
            why = f"{spec.flag} is said to be needed here: give it yourself"
            found.append(Finding("missing", spec.flag, why, (edit,), True, catalogue.version))
    return tuple(dict.fromkeys(found))


def _given(text: str, name: str) -> list[str]:
    """The words that argparse did not take: ``--foo 3``, or the flag alone."""
    at = text.find("unrecognized argument")
    if at < 0:
        return [name]
    try:
        words = shlex.split(text[at:].partition(": ")[2])[:20]
    except ValueError:
        return [name]
    return words if words and words[0].startswith("--") else [name]


def _looked_up(words: list[str], catalogue: Catalogue, book: FlowBook) -> tuple[Finding, ...]:
    found = []
    for one in examine(parse(words, catalogue), book.command_rules or RuleBook()).errors:
        if one.kind not in ("unknown", "ambiguous", "deprecated"):
            continue
        edits = one.edits if one.gives else (*_same_value(one.flag, catalogue, book), *one.edits)
        if edits:
            found.append(replace(one, edits=edits))
    return tuple(found)


def _same_value(flag: str, catalogue: Catalogue, book: FlowBook) -> tuple[Edit, ...]:
    """The right name for a flag whose value the log does not tell."""
    foreign = book.command_rules.foreign.get(flag) if book.command_rules else None
    name = foreign.means if foreign is not None else flag
    spec = catalogue.flag_for(name) if name else None
    if spec is None and foreign is None:
        suggestion = catalogue.resolve(flag).suggestion
        spec = catalogue.by_option.get(suggestion.split()[0]) if suggestion else None
    if spec is None:
        return ()
    value = SAME_VALUE if foreign is None or foreign.keeps_value else OWN_VALUE
    return (Edit(spec.flag, "" if spec.is_switch else value),)
