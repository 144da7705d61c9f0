"""A shell above a server that starts it again in a loop: a watchdog that no list of programs knows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wizard.core.redact import clean
from wizard.server import proc

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "busybox"})
MOST_BYTES = 256 * 1024
"""Of a script that is read; longer ones are programs of their own."""
_LOOP = re.compile(r"\b(?:while|until)\b[^\n]{0,400}?(?:;|\n)\s*do\b(.{0,20000}?)\bdone\b", re.DOTALL)
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")


def loop_above(pid: int) -> str | None:
    """Who starts the server again when it ends ("a loop in run.sh (process 7)"), where a shell above it says so
    in words: ``while ...; do ... the server's program ... done``. None when none does; what cannot be read
    says nothing, and a restart behind our back is still seen when it happens (``rival``)."""
    words, mine = _names(proc.cmdline(pid)), proc.ancestors(os.getpid())
    for above in proc.ancestors(pid):
        argv = (
            () if above in mine else proc.cmdline(above)
        )  # a shell that waits for us starts nothing meanwhile
        if not argv or os.path.basename(argv[0]).lstrip("-") not in SHELLS:
            continue
        where, text = _script(above, argv)
        bodies = _LOOP.findall(_COMMENT.sub("", text))
        if any(word in body for body in bodies for word in words):
            return f"a loop in {where} (process {above})"
    return None


def _names(argv: tuple[str, ...]) -> tuple[str, ...]:
    """What a line that starts this server has in a script, however its words are written there."""
    modules = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "-m"]
    return (*modules, "launch_server", "sglang serve")


def _script(pid: int, argv: tuple[str, ...]) -> tuple[str, str]:
    """What the shell runs, as a place and a text: the words behind ``-c``, or its script file."""
    words = iter(argv[1:])
    for word in words:
        if word.startswith("-") and not word.startswith("--") and "c" in word:
            return "a shell's command", next(words, "")
        if not word.startswith(("-", "+")):
            return clean(os.path.basename(word)), _text(pid, word)
    return "", ""


def _text(pid: int, path: str) -> str:
    place = Path(proc.cwd(pid) or "/") / path
    try:
        if not place.is_file():
            return ""
        with place.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
