"""Command lines as people paste and read them: a text to words, and words to a text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wizard.core.commandline import basename, find_entry, segments
from wizard.core.launchtext import from_python, from_yaml
from wizard.core.redact import redact_argv
from wizard.core.shelltext import Word, scan, unclosed_quote

_ASSIGNMENT = r"(?s)^([A-Za-z_]\w*)=(.*)$"
_PROMPT = r"(?m)^[ \t]*(?:\([^()\n]*\)[ \t]*)?(?:[\w.-]+@[\w.-]+[^$#\n]{0,60})?[$#%][ \t]+(?=\S)"
_CONTAINERS = frozenset(
    {"docker", "podman", "nerdctl", "kubectl", "singularity", "apptainer", "srun", "ssh", "sudo", "enroot"}
)
_KEYWORDS = frozenset({"exec", "command", "time", "then", "do", "else", "{", "!"})
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "ksh"})


@dataclass(frozen=True)
class Pasted:
    """What a pasted text runs: ``argv`` from the interpreter on, with the variables set around it.

    ``argv`` is empty when no server command or flag is in the text. ``wrapper`` is the container or
    remote tool that was cut off (``docker``), or "".
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    wrapper: str = ""


def shell_join(argv: Sequence[str], *, show_secrets: bool = False) -> str:
    """One line that a shell reads back as these words; secrets hidden unless asked for."""
    return shlex.join(argv if show_secrets else redact_argv(argv))


def split_environ(argv: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables set in front of a command (``A=1 cmd``, ``env -u X A=1 cmd``) and the command itself."""
    environ: dict[str, str] = {}
    at = 0
    seen_env = False
    while at < len(argv):
        match = re.match(_ASSIGNMENT, argv[at])
        if match:
            environ[match.group(1)] = match.group(2)
        elif basename(argv[at]) == "env" and not seen_env:
            seen_env = True
        elif seen_env and argv[at].startswith("-"):
            if argv[at] in ("-u", "--unset", "-C", "--chdir"):
                at += 1
        else:
            break
        at += 1
    return environ, tuple(argv[at:])


def split(text: str) -> Pasted:
    """The server command in a pasted text.

    Copes with prompts, line continuations, assignments and exports in front, pipes and redirections
    behind, container wrappers, ``bash -c "..."``, comments and cut-off text, with ``command:`` of a
    compose or Kubernetes file, and with ``sgl.Engine(...)`` in Python. A text of flags only gives these
    flags. Expansions stay as written.
    """
    text = text.replace("\r\n", "\n")
    for inner in from_yaml(text):
        found = _split(inner, depth=0)
        if found.argv:
            return found
    found = _split(re.sub(_PROMPT, "", text), depth=0)
    if find_entry(found.argv) is None:
        keywords = from_python(text)
        if keywords:
            return Pasted(tuple(keywords))
    return found


def torn_quote(text: str) -> str | None:
    """What is to be said of a quote in the server command that nothing closes; None when all are closed.

    Prose behind the command (with an apostrophe in it) is another line, and no part of it.
    """
    text = text.replace("\r\n", "\n")
    if any(from_yaml(text)):
        return None
    shell = re.sub(_PROMPT, "", text)
    at = unclosed_quote(shell)
    if at is None:
        return None
    words = [w for w in segments(scan(shell))[-1] if w.kind == "word"]
    values = [w.value for w in words]
    if find_entry(values) is None and not (values and values[0].startswith("--")):
        inner = _shell_text(words)
        if inner is None or find_entry([w.value for w in scan(inner)]) is None:
            return None
    place = len(text) - (len(shell) - at)
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    before = [w.value for w in words if w.end <= at and w.value.startswith("--")]
    behind = f" (behind {before[-1].partition('=')[0]})" if before else ""
    where = f"line {line}, character {column}" if "\n" in text.strip() else f"character {column}"
    return f"the quote {shell[at]} at {where}{behind} is never closed: close it, or put a backslash in front"


def _split(text: str, depth: int) -> Pasted:
    exported: dict[str, str] = {}
    commands = [[w for w in s if w.kind == "word"] for s in segments(scan(text))]
    for command in commands:
        values = [w.value for w in command]
        if values[:1] == ["export"]:
            exported.update(m.groups() for v in values[1:] if (m := re.match(_ASSIGNMENT, v)))  # type: ignore[misc]
            continue
        if values and all(re.match(_ASSIGNMENT, v) for v in values):
            exported.update(split_environ(values)[0])
            continue
        if find_entry(values) is not None:
            return _cut(values, exported)
        inner = _shell_text(command)
        if inner is not None and depth < 3:
            found = _split(inner, depth + 1)
            if find_entry(found.argv) is not None:
                around = _cut([*values[: values.index(inner)]], exported)
                environ = {**around.environ, **found.environ}
                return Pasted(found.argv, environ, around.wrapper or found.wrapper)
    for command in commands:  # no server in it: a list of flags is better than nothing
        values = [w.value for w in command]
        if values and basename(values[0]) in _CONTAINERS:
            continue
        flags = next((i for i, v in enumerate(values) if v.startswith("--")), None)
        if flags == 0:
            return Pasted(tuple(values), exported)
    return Pasted((), exported)


def _shell_text(command: Sequence[Word]) -> str | None:
    for i, word in enumerate(command[:-2]):
        option = command[i + 1].value
        if basename(word.value) in _SHELLS and re.match(r"^-[a-z]*c$", option):
            return command[i + 2].value
    return None


def _cut(values: Sequence[str], exported: Mapping[str, str]) -> Pasted:
    """The command from its interpreter on, without a container tool around it."""
    while values and values[0] in _KEYWORDS:
        values = values[1:]
    environ, rest = split_environ(values)
    environ = {**exported, **environ}
    entry = find_entry(rest)
    head = rest if entry is None else rest[: entry.program_at]
    wrapper = next((basename(w) for w in head[:3] if basename(w) in _CONTAINERS), "")
    if wrapper:
        for i, word in enumerate(head):
            value = ""
            if word in ("-e", "--env") and i + 1 < len(head):
                value = head[i + 1]
            elif word.startswith("--env="):
                value = word[len("--env=") :]
            match = re.match(_ASSIGNMENT, value)
            if match:
                environ[match.group(1)] = match.group(2)
        inner, _ = split_environ(_after_env(head))
        environ.update(inner)
        rest = rest[entry.program_at :] if entry is not None else rest
    return Pasted(tuple(rest), environ, wrapper)


def _after_env(head: Sequence[str]) -> Sequence[str]:
    names = [basename(w) for w in head]
    return head[names.index("env") :] if "env" in names else ()
