"""A server command line as data: where the SGLang part starts and which flags it gives.

Reads words the way SGLang's argparse does (abbreviations on, last use wins, ``nargs`` greedy), driven
by the catalogue of the version that will run it. Nothing is normalised: every word keeps its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from wizard.core.flags import Catalogue, FlagSpec, ResolutionKind, intent_spellings
from wizard.core.shelltext import Word, scan

EntryKind = Literal["module", "serve", "script", "router", "flags", "none"]

ProblemKind = Literal[
    "unknown",
    "ambiguous",
    "deprecated",
    "bad_choice",
    "bad_type",
    "missing_value",
    "unexpected_value",
    "out_of_range",
    "missing_required",
    "stray",
]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a use of a flag. ``fatal``: SGLang would not start (False: it only warns)."""

    kind: ProblemKind
    flag: str
    message: str
    suggestion: str | None = None
    fatal: bool = True


@dataclass(frozen=True)
class FlagUse:
    """One use of a flag: ``args[start:end]``.

    ``flag`` is its canonical name, or the text typed when the catalogue does not know it.
    ``joined``: written ``--flag=value``. ``kind`` "positional": the MODEL of ``sglang serve MODEL``.
    """

    flag: str
    spelling: str
    values: tuple[str, ...]
    start: int
    end: int
    joined: bool = False
    spec: FlagSpec | None = None
    kind: ResolutionKind | Literal["positional"] = "exact"

    @property
    def position(self) -> int:
        return self.start

    @property
    def text(self) -> str:
        """Its values as words; "" for a bare switch."""
        return " ".join(self.values)

    @property
    def negated(self) -> bool:
        return bool(
            self.spec is not None
            and self.spec.action == "BooleanOptionalAction"
            and self.spelling.startswith("--no-")
        )


class ShellPart(NamedTuple):
    """The ``-c`` text that holds the server command: ``argv[argv_at]``, and where its words stand."""

    argv_at: int
    text: str
    prefix_end: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CommandLine:
    """``prefix`` is everything up to SGLang's own arguments ``args``.

    ``program`` is the part of it that starts the server (``python -m sglang.launch_server`` or
    ``/venv/bin/sglang serve``), ``module`` its name. ``strays`` are words no flag takes.
    ``editable`` False comes with ``why``.
    """

    argv: tuple[str, ...]
    prefix: tuple[str, ...]
    args: tuple[str, ...]
    flags: tuple[FlagUse, ...]
    catalogue: Catalogue
    kind: EntryKind = "none"
    module: str = ""
    program: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    strays: tuple[int, ...] = ()
    editable: bool = True
    why: str = ""
    shell: ShellPart | None = None

    def uses(self, name: str) -> tuple[FlagUse, ...]:
        """Every use of a setting, in order. ``name``: an intent, a destination, or a flag."""
        ways = self.catalogue.ways(name)
        foreign = {s.flag for s in intent_spellings(name) if s.value is None}
        foreign.add(name if name.startswith("-") else "--" + name.replace("_", "-"))
        found = []
        for use in self.flags:
            if use.spec is None:
                if use.spelling in foreign:
                    found.append(use)
            elif any(w.flag == use.flag and (w.value is None or (w.value,) == use.values) for w in ways):
                found.append(use)
        return tuple(found)

    def use(self, name: str) -> FlagUse | None:
        """The use that counts: the last one."""
        uses = self.uses(name)
        return uses[-1] if uses else None

    def has(self, name: str) -> bool:
        """Whether the line says anything for a setting."""
        return bool(self.uses(name))

    def value(self, name: str) -> str | None:
        """What the command line says for a setting: its words, "" for a bare switch, None when absent."""
        use = self.use(name)
        return None if use is None else use.text

    @property
    def config_path(self) -> str | None:
        """The file of ``--config``: flags in it count too, unless the command line repeats them."""
        return self.value("--config")


_MODULES = ("sglang.launch_server", "wizard.simulator", "sglang_router.launch_server", "sglang.cli.main")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "ksh"})
_PYTHON = re.compile(r"^(python|pypy)[\d.]*$")
_NEGATIVE_NUMBER = re.compile(r"^-\d+$|^-\d*\.\d+$")

SERVE_ONLY = FlagSpec(options=("--model-type",), dest="model_type")
"""``sglang serve`` takes this one out before argparse sees the rest (sglang/cli/serve.py, 0.5.20)."""


class Entry(NamedTuple):
    """Where in a list of words the server command stands: ``words[program_at:args_at]`` starts it."""

    program_at: int
    args_at: int
    kind: EntryKind
    module: str


def basename(word: str) -> str:
    return word.rsplit("/", 1)[-1]


def find_entry(words: Sequence[str]) -> Entry | None:
    """The first place where words start an SGLang server, or None."""
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        module, args_at = "", i + 2
        if re.match(r"^-[A-Za-z]*m$", word) and following in _MODULES:
            module = following
        elif word.startswith("-m") and word[2:] in _MODULES:
            module, args_at = word[2:], i + 1
        if module:
            kind: EntryKind = "router" if module.startswith("sglang_router") else "module"
            if module == "sglang.cli.main":
                if args_at >= len(words) or words[args_at] != "serve":
                    continue
                kind, args_at = "serve", args_at + 1
            return Entry(_python_before(words, i), args_at, kind, module)
        if basename(word) == "sglang" and following == "serve":
            at = i - 1 if i and _PYTHON.match(basename(words[i - 1])) else i
            return Entry(at, i + 2, "serve", "sglang serve")
        if word.endswith("sglang/launch_server.py") or basename(word) in ("launch_server", "launch_server.py"):
            return Entry(_python_before(words, i), i + 1, "script", word)
    return None


def _python_before(words: Sequence[str], at: int) -> int:
    """The interpreter in front of ``-m`` (its options may stand between); ``at`` when there is none."""
    for i in range(at - 1, -1, -1):
        if _PYTHON.match(basename(words[i])):
            return i
        if not words[i].startswith("-") and not (i and words[i - 1] in ("-X", "-W")):
            break
    return at


def parse(argv: Sequence[str], catalogue: Catalogue) -> CommandLine:
    """Read a command line. Never raises: what it cannot use is said in ``problems`` and ``why``."""
    words = tuple(argv)
    entry = find_entry(words)
    if entry is not None:
        return _command(words, words, entry, catalogue)
    shell = _find_shell(words)
    if shell is not None:
        return _parse_shell(words, shell, catalogue)
    start = next((i for i, w in enumerate(words) if w.startswith("--")), len(words))
    kind: EntryKind = "flags" if start < len(words) else "none"
    why = "no SGLang server command in it (python -m sglang.launch_server, or sglang serve)"
    return _command(words, words, Entry(start, start, kind, ""), catalogue, why=why)


def _command(
    argv: tuple[str, ...],
    words: tuple[str, ...],
    entry: Entry,
    catalogue: Catalogue,
    shell: ShellPart | None = None,
    why: str = "",
) -> CommandLine:
    args = words[entry.args_at :]
    flags, problems, strays = _read_flags(args, catalogue, entry.kind == "serve")
    if entry.kind == "router":
        why = why or "it starts the router, which starts the servers itself"
    return CommandLine(
        argv=argv,
        prefix=words[: entry.args_at],
        args=args,
        flags=tuple(flags),
        catalogue=catalogue,
        kind=entry.kind,
        module=entry.module,
        program=words[entry.program_at : entry.args_at],
        problems=tuple(problems),
        strays=tuple(strays),
        editable=not why,
        why=why,
        shell=shell,
    )


def _find_shell(words: Sequence[str]) -> int | None:
    """The place of the text that a shell is told to run with ``-c``."""
    for i, word in enumerate(words):
        if basename(word) not in _SHELLS:
            continue
        at = i + 1
        while at < len(words) and words[at][:1] in "-+" and len(words[at]) > 1:
            option = words[at]
            if not option.startswith("--") and "c" in option[1:]:
                return at + 1 if at + 1 < len(words) else None
            at += 2 if option in ("-o", "+o", "-O", "--rcfile", "--init-file") else 1
    return None


def segments(words: Sequence[Word]) -> list[list[Word]]:
    """The simple commands of a text: words between operators."""
    found: list[list[Word]] = [[]]
    for word in words:
        if word.kind == "operator":
            found.append([])
        else:
            found[-1].append(word)
    return [s for s in found if s]


def _parse_shell(argv: tuple[str, ...], index: int, catalogue: Catalogue) -> CommandLine:
    text = argv[index]
    commands = [[w for w in s if w.kind == "word"] for s in segments(scan(text))]
    hits = [(c, e) for c in commands if (e := find_entry([w.value for w in c])) is not None]
    if not hits:
        why = "the shell text does not start an SGLang server in plain words"
        return _command(argv, argv, Entry(len(argv), len(argv), "none", ""), catalogue, why=why)
    command, entry = hits[0]
    values = tuple(w.value for w in command)
    spans = tuple((w.start, w.end) for w in command[entry.args_at :])
    part = ShellPart(index, text, command[entry.args_at - 1].end, spans)
    why = ""
    if len(hits) > 1:
        why = "the shell text starts more than one SGLang server"
    elif "<<" in text:
        why = "the shell text holds a here-document"
    parsed = _command(argv, values, entry, catalogue, part, why)
    plain = [w.plain for w in command[entry.args_at :]]
    loose = [i for use in parsed.flags if use.kind != "positional" for i in (use.start,)]
    loose += [*parsed.strays, *(i for u in parsed.flags if u.spec is None for i in range(u.start, u.end))]
    hidden = next((i for i in loose if not plain[i]), None)
    if hidden is None or why:
        return parsed
    why = f"the shell fills in {parsed.args[hidden]!r} only when it runs: it may hold flags"
    return _command(argv, values, entry, catalogue, part, why)


def _is_option(word: str, catalogue: Catalogue) -> bool:
    """Argparse's own test (Lib/argparse.py, _parse_optional)."""
    if not word.startswith("-") or word == "-":
        return False
    if word in catalogue.by_option:
        return True
    name = word.split("=", 1)[0]
    if name.startswith("--") and any(o.startswith(name) for o in catalogue.by_option):
        return True
    return not _NEGATIVE_NUMBER.match(word) and " " not in word


def _read_flags(
    args: Sequence[str], catalogue: Catalogue, serve: bool
) -> tuple[list[FlagUse], list[Problem], list[int]]:
    uses: list[FlagUse] = []
    problems: list[Problem] = []
    strays: list[int] = []
    at = 0
    if serve and args and not args[0].startswith("-"):
        spec = catalogue.by_option.get("--model-path")
        uses.append(FlagUse("--model-path", "", (args[0],), 0, 1, spec=spec, kind="positional"))
        at = 1
    while at < len(args):
        word = args[at]
        if word == "--":
            strays += range(at + 1, len(args))
            break
        if not _is_option(word, catalogue):
            strays.append(at)
            at += 1
            continue
        use, problem = _read_use(args, at, catalogue, serve)
        uses.append(use)
        if problem is not None:
            problems.append(problem)
        at = use.end
    for index in strays:
        problems.append(Problem("stray", "", f"no flag takes {args[index]!r}"))
    return uses, problems, strays


def _read_use(
    args: Sequence[str], at: int, catalogue: Catalogue, serve: bool
) -> tuple[FlagUse, Problem | None]:
    word = args[at]
    name, equals, given = word, "", ""
    if word not in catalogue.by_option:
        name, equals, given = word.partition("=")
    follow = at + 1
    while follow < len(args) and args[follow] != "--" and not _is_option(args[follow], catalogue):
        follow += 1
    spec: FlagSpec | None
    kind: ResolutionKind
    if serve and name == "--model-type":
        spec, kind, problem = SERVE_ONLY, "exact", None
    else:
        found = catalogue.resolve(name)
        spec, kind, problem = found.spec, found.kind, None
        if found.kind == "ambiguous":
            several = ", ".join(found.candidates)
            text = f"{name} is short for more than one flag of {catalogue.version}: {several}"
            problem = Problem("ambiguous", name, text, found.suggestion)
        elif found.kind == "unknown":
            problem = Problem("unknown", name, _unknown_text(name, catalogue), found.suggestion)
    if spec is None:
        end = at + 1 if equals else follow
        values = (given,) if equals else tuple(args[at + 1 : end])
        return FlagUse(name, name, values, at, end, bool(equals), None, kind), problem
    arity = spec.arity
    if equals:
        if arity == "none":
            problem = Problem("unexpected_value", spec.flag, f"{name} is a switch and takes no value")
        return FlagUse(spec.flag, name, (given,), at, at + 1, True, spec, kind), problem
    take = {"none": 0, "one": 1, "optional": 1}.get(arity, follow - at - 1)
    end = min(at + 1 + take, follow)
    values = tuple(args[at + 1 : end])
    if arity in ("one", "some") and not values:
        problem = Problem("missing_value", spec.flag, f"{name} needs a value")
    return FlagUse(spec.flag, name, values, at, end, False, spec, kind), problem


def _unknown_text(name: str, catalogue: Catalogue) -> str:
    span = catalogue.spans.get(name)
    if span is None:
        return f"{name} is no flag of SGLang {catalogue.version}, nor of any catalogued version"
    return f"{name} is no flag of SGLang {catalogue.version}; it was one from {span.first} to {span.last}"
