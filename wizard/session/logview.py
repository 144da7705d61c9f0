"""The end of a server's log for people: bounded, cleaned of escape sequences, redacted."""

from __future__ import annotations

import os

from wizard.core.redact import clean, redact_text

TAIL_BYTES = 256 * 1024
LINE_LIMIT = 2000


def log_tail(path: str | None, lines: int) -> tuple[str, ...]:
    """The last lines of a file; one line that says why when there is none."""
    if not path:
        return ("The log of this server is not a file (its output went to a terminal or a pipe).",)
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError as error:
        return (f"{path}: {error.strerror}",)
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    rows = text.split("\n")
    if size > TAIL_BYTES:
        rows = rows[1:]
    if rows and not rows[-1]:
        rows.pop()
    return tuple(clean(redact_text(row[:LINE_LIMIT])) for row in rows[-lines:])
