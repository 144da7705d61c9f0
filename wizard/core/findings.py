"""What is to be said of a launch command before it is started: problems as data, with what to write instead.

``wizard.core.flagcheck`` asks whether this version's argparse takes the words; the rules of
``flows/command_rules.yaml`` know what argparse does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from wizard.core import graphconfig
from wizard.core.commandline import CommandLine, FlagUse, Problem
from wizard.core.commandrules import CommandRule, FindingKind, ForeignName, RuleBook, environment
from wizard.core.expr import Env
from wizard.core.flagcheck import problems_of
from wizard.core.flags import Catalogue, Span, snake, version_key
from wizard.core.redact import HIDDEN, is_secret_flag
from wizard.core.versions import within

_KINDS: dict[str, FindingKind] = {
    "unknown": "unknown",
    "stray": "unknown",
    "ambiguous": "ambiguous",
    "deprecated": "deprecated",
    "bad_choice": "bad_value",
    "bad_type": "bad_value",
    "out_of_range": "bad_value",
    "unexpected_value": "bad_value",
    "missing_value": "missing",
    "missing_required": "missing",
}
_ABRIDGED = re.compile(r"^(?:[.…]{1,3}|\.{3}.*|\[.*|<.*|\{.*|#.*|etc\.?|\.\.\.\S*)$")
"""Words by which people shorten what they quote: "... ", "[other flags]"."""

ALL = "all catalogued versions"
OWN_VALUE = "a value of your own"
"""Stands for a value that only a person can choose."""


@dataclass(frozen=True)
class Edit:
    """One setting to write: ``value`` None takes it out, "" is a bare switch."""

    flag: str
    value: str | None

    def words(self) -> str:
        if self.value is None:
            return f"without {self.flag}"
        return f"{self.flag} {self.value}".strip()


@dataclass(frozen=True)
class Finding:
    """One thing about a command line.

    ``flag`` as it is typed. ``ends_start``: the server would not come up. ``edits`` is what to write
    instead, spelled for the version (empty when only a person can tell). ``versions``: where that holds.
    """

    kind: FindingKind
    flag: str
    why: str
    edits: tuple[Edit, ...] = ()
    ends_start: bool = False
    versions: str = ""
    rule: str = ""

    @property
    def instead(self) -> str | None:
        return ", ".join(e.words() for e in self.edits if e.value is not None or len(self.edits) == 1) or None

    def says(self) -> str:
        return f"{self.why.rstrip('.')}: write {self.instead}" if self.gives else self.why

    @property
    def gives(self) -> bool:
        return any(e.value is not None for e in self.edits)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "flag": self.flag,
            "why": self.why,
            "instead": self.instead,
            "ends_start": self.ends_start,
            "versions": self.versions,
            "rule": self.rule,
        }


SERVE_SINCE = "0.5.6"
SERVE_LATER = (
    f"`sglang serve` came with SGLang {SERVE_SINCE}; this version is started by "
    "`python -m sglang.launch_server --model-path MODEL`"
)
"""Source: the console scripts of the wheels of 0.4.0-0.5.23 (endpoints_process.md)."""


@dataclass(frozen=True)
class Checked:
    """What a command line was held against, and what was found: errors first."""

    version: str
    findings: tuple[Finding, ...] = field(default=())

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.ends_start)

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.ends_start)


def examine(
    command: CommandLine,
    book: RuleBook,
    others: Env = lambda _: None,
    *,
    version_known: bool = True,
    newer: Catalogue | None = None,
) -> Checked:
    """Everything to be said of a command line for its catalogue's version.

    ``version_known`` False: the catalogue is only the newest one, so that a flag which an older version
    takes accuses nobody. ``newer``: where the version itself is not catalogued, the next one that is; what
    it takes accuses nobody either. A router's line is not judged: its flags are another program's.
    """
    catalogue = command.catalogue
    if command.kind in ("router", "none"):
        return Checked(catalogue.version)
    abridged = any(_ABRIDGED.match(command.args[i]) for i in command.strays)
    complete = not abridged and command.config_path is None and command.kind != "flags"
    found: list[Finding] = []
    for problem in problems_of(command):
        one = _from_problem(problem, command, book, version_known, complete)
        if one is not None and one.ends_start and not catalogue.exact and not _holds_in(newer, one, problem):
            why = f"{one.why} (SGLang {catalogue.asked} itself is not in the catalogue)"
            one = replace(one, ends_start=False, why=why)
        if one is not None:
            found.append(one)
    if command.kind == "serve" and version_known and _older(catalogue, SERVE_SINCE):
        found.append(Finding("unknown", "sglang serve", SERVE_LATER, (), True, f">={SERVE_SINCE}"))
    found += _repeated(command)
    found += _of_graph_config(command)
    env = environment(command, others, complete=not abridged and command.config_path is None)
    blamed = {f.flag for f in found if f.ends_start}
    moot = {f.flag for f in found if f.rule == "graph_config_wins"}
    for rule in book.rules:
        # the newest version's rules say nothing of a version that is not known
        if rule.versions and not (
            version_known and within(catalogue.asked or catalogue.version, rule.versions)
        ):
            continue
        if rule.when.evaluate(env).truth is True:
            one = _from_rule(rule, command, env)
            if one.kind == "harmful" and one.flag in moot:
                continue  # it does nothing, so it does no harm
            same = [f for f in found if f.flag == one.flag and f.kind == one.kind and not f.rule]
            if same and one.edits:  # the same error: a rule knows better what to write than a likeness of names
                found[found.index(same[0])] = replace(same[0], why=one.why, edits=one.edits, rule="")
            elif one.flag not in blamed:
                found.append(one)
    fatal = {(f.kind, f.flag) for f in found if f.ends_start}
    found = [f for f in found if f.ends_start or (f.kind, f.flag) not in fatal]
    found.sort(key=lambda f: not f.ends_start)
    return Checked(catalogue.version, tuple(dict.fromkeys(found)))


def _holds_in(newer: Catalogue | None, one: Finding, problem: Problem) -> bool:
    """Whether the next catalogued version has the same problem, so that the one between has it too."""
    if newer is None:
        return False
    found = newer.resolve(one.flag)
    if one.kind in ("unknown", "ambiguous") and problem.kind != "stray":
        return not found.accepted
    return problem.kind in ("missing_value", "missing_required", "bad_type", "out_of_range")


def _from_problem(
    problem: Problem, command: CommandLine, book: RuleBook, version_known: bool, complete: bool
) -> Finding | None:
    catalogue = command.catalogue
    kind, flag, why, ends = _KINDS[problem.kind], problem.flag, problem.message, problem.fatal
    if problem.kind == "stray":
        word = problem.message.rpartition("takes ")[2].strip("'\"")
        if _ABRIDGED.match(word) or not complete:
            return None
        ends = not ("$" in word or "`" in word)
    if problem.kind == "missing_required" and not complete:
        return None
    if problem.kind == "missing_value" and command.kind == "flags":
        return None  # flags quoted by name, not a line to run
    use = next((u for u in command.flags if flag in (u.flag, u.spelling)), None)
    versions = catalogue.version
    edits: tuple[Edit, ...] = ()
    if kind in ("unknown", "ambiguous") and use is not None:
        foreign = book.foreign.get(flag)
        span = catalogue.spans.get(flag)
        versions = f"{span.first} to {span.last} take it" if span else "no catalogued version takes it"
        if foreign is not None and span is None:
            why = f"{flag} is no flag of SGLang in any version: {foreign.why}"
            edits = _foreign_edits(foreign, use, catalogue)
        else:
            edits = _suggested(problem.suggestion, use, catalogue)
            if foreign is not None and span is not None and _left(span, catalogue):
                why = f"{why}: {foreign.why}"
                edits = edits or _foreign_edits(foreign, use, catalogue)
            elif span is not None and not edits:
                why = f"{why}: {_without_it(flag, span, catalogue)}"
        if not version_known and (span is not None or kind == "ambiguous"):
            ends = False
            why += " (the version is not known: this holds for the newest one)"
    elif kind == "deprecated" and use is not None:
        edits = _suggested(_filled(problem.suggestion, command), use, catalogue)
        why = f"{flag} is deprecated in {catalogue.version}: {_softly(why)}"
        if not version_known:
            return None
    elif kind == "bad_value" and use is not None and use.spec is not None:
        if problem.kind == "unexpected_value":
            edits = (Edit(use.flag, ""),)
        elif problem.suggestion and not is_secret_flag(flag):
            edits = (Edit(use.flag, problem.suggestion),)
        if problem.kind == "bad_choice" and not version_known:
            ends = False
    return Finding(kind, use.spelling or flag if use is not None else flag, why, edits, ends, versions)


def _older(catalogue: Catalogue, version: str) -> bool:
    return version_key(catalogue.asked or catalogue.version) < version_key(version)


def _left(span: Span, catalogue: Catalogue) -> bool:
    """The flag existed, and no longer does in this version."""
    return version_key(span.last) < version_key(catalogue.version)


def _without_it(flag: str, span: Span, catalogue: Catalogue) -> str:
    """What to do about a flag that only other versions have, and that has no other name here."""
    if _left(span, catalogue):
        return "leave it out"
    return f"leave it out, or install SGLang {span.first} or newer"


def _softly(message: str) -> str:
    inner = re.search(r"\(([^()]*)\)$", message)
    return inner[1] if inner else message


def _suggested(suggestion: str | None, use: FlagUse, catalogue: Catalogue) -> tuple[Edit, ...]:
    """A suggestion such as ``--a disabled --b disabled`` as edits; the value goes along where one is taken."""
    if not suggestion or not suggestion.startswith("--"):
        return ()
    edits: list[Edit] = []
    words = re.split(r"[ =]+", suggestion)
    for index, word in enumerate(words):
        spec = catalogue.by_option.get(word)
        if spec is None:
            continue
        following = words[index + 1] if index + 1 < len(words) else ""
        if spec.is_switch:
            edits.append(Edit(spec.flag, ""))
        elif following and not following.startswith(("-", "<")):
            if spec.choices is None or following in spec.choices:
                edits.append(Edit(spec.flag, following))
        elif is_secret_flag(spec.flag):
            edits.append(Edit(spec.flag, HIDDEN))
        elif use.values:
            edits.append(Edit(spec.flag, use.text))
        elif spec.arity in ("optional", "any"):
            edits.append(Edit(spec.flag, ""))
    if any(e.flag == use.flag for e in edits):
        return tuple(edits)
    return (*edits, Edit(use.spelling or use.flag, None)) if edits else ()


def _filled(suggestion: str | None, command: CommandLine) -> str | None:
    """``--new <other>``: the new flag takes the value that the line gives for another one."""

    def value(match: re.Match[str]) -> str:
        other = command.use(snake(match[1]))
        given = other is not None and len(other.values) == 1 and re.fullmatch(r"\w+", other.text)
        return other.text if other is not None and given else match[0]

    return re.sub(r"<([a-z][\w-]*)>", value, suggestion) if suggestion else suggestion


def _foreign_edits(foreign: ForeignName, use: FlagUse, catalogue: Catalogue) -> tuple[Edit, ...]:
    out = Edit(use.spelling, None)
    if not foreign.means:
        return (out,)
    edits = []
    for spelling in catalogue.spell(foreign.means):
        spec = catalogue.by_option[spelling.flag]
        if spelling.value is not None or spec.is_switch:
            edits.append(Edit(spelling.flag, spelling.value or ""))
        elif use.values and foreign.keeps_value:
            edits.append(Edit(spelling.flag, use.text))
        elif not foreign.keeps_value:
            edits.append(Edit(spelling.flag, OWN_VALUE))
    return (*edits, out)


def _repeated(command: CommandLine) -> Iterable[Finding]:
    """One setting said twice with different values: the last one counts, and few people mean that."""
    said: dict[str, FlagUse] = {}
    for use in command.flags:
        if use.spec is None or (use.kind == "positional" and use.spec is None):
            continue
        before = said.get(use.spec.dest)
        said[use.spec.dest] = use
        if before is None or use.spec.action == "append":
            continue
        if (before.values, before.negated) != (use.values, use.negated) and before.spec is not None:
            if before.spec.is_switch != use.spec.is_switch:
                continue  # a deprecated switch and its successor: the rules speak of these
            old, new = (HIDDEN, HIDDEN) if is_secret_flag(use.flag) else (before.text, use.text)
            name = before.spelling or "the model"
            why = f"{name} {old} and {use.spelling} {new} set the same thing: the last one counts".replace(
                "  ", " "
            )
            edits = () if is_secret_flag(use.flag) else (Edit(use.flag, use.text),)
            yield Finding("contradictory", use.spelling or use.flag, why, edits, False, ALL)


def _of_graph_config(command: CommandLine) -> Iterable[Finding]:
    for one in graphconfig.conflicts(command):
        edits = (Edit(one.flag, None),) if one.out else ()
        kind: FindingKind = "harmful" if one.harmful else "contradictory"
        yield Finding(kind, one.flag, one.why, edits, False, ">=0.5.14", one.rule)


def _from_rule(rule: CommandRule, command: CommandLine, env: Env) -> Finding:
    catalogue = command.catalogue
    use = command.use(rule.flag)
    way = catalogue.spell(rule.flag)
    flag = use.spelling if use is not None and use.spelling else way[0].flag if way else f"--{rule.flag}"
    edits: list[Edit] = []
    for name, template in rule.instead.items():
        value = re.sub(r"(?<=\d),(?=\d{3})", "", template.render(env))  # shown as 32,768, written 32768
        if value == "unset":
            there = command.use(name)
            if there is not None and there.spelling:
                edits.append(Edit(there.spelling, None))
            continue
        if "?" in value:  # a number that it needs is missing
            continue
        for spelling in catalogue.spell(name):
            edits.append(Edit(spelling.flag, spelling.value if spelling.value is not None else value))
    return Finding(
        rule.kind, flag, rule.why.render(env), tuple(edits), rule.ends_start, rule.versions or ALL, rule.id
    )


def name_in(text: str) -> str | None:
    """The flag that argparse names in a line such as ``error: unrecognized arguments: --foo 3``."""
    match = re.search(
        r"(?:unrecognized arguments?:|ambiguous option:|argument|unexpected keyword argument '?)"
        r"\s*(-{0,2}[\w-]+)",
        text,
    )
    if match is None:
        return None
    name = match[1]
    return name if name.startswith("-") else f"--{snake(name).replace('_', '-')}"
