"""Exit codes, stdout and stderr: the only module that knows them. stdout is data, stderr is talk."""

from __future__ import annotations

import json
import re
import sys
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Stable: scripts rely on these."""

    OK = 0
    """Healthy, or fixed."""
    FOUND = 1
    """A cause was found and not fixed."""
    USAGE = 2
    """Usage, or a flow file that cannot be used."""
    COULD_NOT_EXAMINE = 3
    ROLLED_BACK = 4
    ROLLBACK_FAILED = 5
    INTERRUPTED = 130
    TERMINATED = 143


class CliError(Exception):
    """Ends the command with one line and an exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """Talk to the person: stderr, cleaned of what a terminal would act on."""
    from wizard.core.redact import clean_lines

    print(clean_lines(text), file=sys.stderr, flush=True)


def put(text: str) -> None:
    """Data: stdout, cleaned too: names and versions in it are what a server said of itself."""
    from wizard.core.redact import clean_lines

    print(clean_lines(text), flush=True)


_documents = 0
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
"""json.dumps escapes what is below a space; a terminal acts on these too (U+009B is a CSI, U+202E turns the
direction of what follows), and half a surrogate cannot be printed at all."""


def put_json(doc: Any) -> None:
    """The one document of a ``--json`` run."""
    global _documents
    _documents += 1
    text = json.dumps(doc, indent=2, ensure_ascii=False, default=str)
    print(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def put_error(message: str, code: int) -> None:
    """The document of a ``--json`` run that ended before it had one of its own."""
    if _documents == 0:
        put_json({"schema_version": 1, "error": message, "exit_code": int(code)})
