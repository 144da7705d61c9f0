"""Running the holders' own command-line tools: by words, with a time limit and a bound on what is read."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ASK_LIMIT_S = 5.0
MOST_BYTES = 16 * 1024 * 1024
"""``kubectl get pods -o json`` of a whole node is a few MB."""
_QUIET = {"LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "DOCKER_CLI_HINTS": "false"}


@dataclass(frozen=True)
class Answer:
    """``code`` None: it could not be run, or was ended at its limit; ``error`` says which."""

    code: int | None
    out: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def said(self) -> str:
        """One line of why it failed: the last that it wrote."""
        lines = [line.strip() for line in (self.error or self.out).splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit code {self.code}"


def has(client: str) -> bool:
    """Whether this tool is on PATH."""
    return shutil.which(client) is not None


def ask(
    argv: Sequence[str],
    *,
    limit_s: float = ASK_LIMIT_S,
    most: int = MOST_BYTES,
    environ: Mapping[str, str] | None = None,
) -> Answer:
    """Run a tool and read what it says. Never raises; nothing of it outlives the limit.

    What it writes past ``most`` bytes is an error: half a document is no answer.
    """
    program = shutil.which(argv[0])
    if program is None:
        return Answer(None, error=f"{argv[0]} is not installed here (it is not on PATH)")
    env = {**(os.environ if environ is None else environ), **_QUIET}
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
    except (OSError, ValueError) as error:
        return Answer(None, error=f"{argv[0]}: {error}")
    with process:
        out, err, why = _read(process, time.monotonic() + limit_s, most)
        if not why:
            return Answer(process.wait(), out, err)
        process.kill()
        return Answer(None, out, why if why == "too much" else f"{argv[0]} did not answer within {limit_s:g} s")


def _read(process: subprocess.Popen[bytes], deadline: float, most: int) -> tuple[str, str, str]:
    """Both streams until they close; and why not, when they did not."""
    kept: dict[int, bytearray] = {}
    why = ""
    with selectors.DefaultSelector() as waiting:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            kept[stream.fileno()] = bytearray()
            waiting.register(stream, selectors.EVENT_READ)
        while waiting.get_map() and not why:
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                why = "time"
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                if not piece:
                    waiting.unregister(key.fileobj)
                kept[key.fd] += piece
                if len(kept[key.fd]) > most:
                    why = "too much"
    out, err = (bytes(one).decode("utf-8", errors="replace") for one in kept.values())
    if not why:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            why = "time"
    return out, err, why


def ask_json(argv: Sequence[str], *, limit_s: float = ASK_LIMIT_S) -> tuple[Any, str]:
    """The document that a tool prints, and "" ; or None and why there is none."""
    answer = ask(argv, limit_s=limit_s)
    if not answer.ok:
        return None, answer.said
    try:
        return json.loads(answer.out), ""
    except (ValueError, RecursionError):
        return None, f"{argv[0]} did not answer with JSON"


def value_at(doc: Any, place: str) -> Any:
    """The value at a dotted place (``HostConfig.ShmSize``, ``items.0.name``), None where there is none.

    Of a list of documents the first is meant, as ``inspect`` answers. ``\\.`` is a dot in a key.
    """
    if isinstance(doc, list) and not place.split(".", 1)[0].isdigit():
        doc = doc[0] if doc else None
    for key in place.replace("\\.", "\0").split("."):
        key = key.replace("\0", ".")
        if isinstance(doc, Mapping):
            doc = doc.get(key)
        elif isinstance(doc, list) and key.isdigit() and int(key) < len(doc):
            doc = doc[int(key)]
        else:
            return None
    return doc
