"""Server-sent events of ``/generate`` and ``/v1/completions``, read by their bytes.

An event of ``/generate`` holds the whole text and all token ids so far, a few kilobytes each at some thousand
events a second. Only two things in it matter, so they are looked for from the right, and JSON is parsed
in the last event alone. A quote inside of a text is escaped, so a text cannot fake a key.
"""

from __future__ import annotations

import json
import re

MOST_EVENT_BYTES = 16 * 1024 * 1024

_TOKENS = b'"completion_tokens":'
_REASON = b'"finish_reason":'
_DIGITS = re.compile(rb"\s*(\d+)")
_EMPTY_TEXT = re.compile(rb'"text":\s*""')


class Stream:
    """Feed it the bytes of an answer; it knows the tokens so far, whether it ended well, and what went wrong.

    ``error``: a full queue, an over-long prompt and a shutdown come inside of a stream with status 200, as
    ``finish_reason: {"type": "abort", ...}`` or as ``{"error": {"message": ...}}``.
    """

    __slots__ = ("_rest", "error", "finished", "tokens")

    def __init__(self) -> None:
        self._rest = b""
        self.tokens = 0
        self.finished = False
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n")
        self._rest = data[end + 1 :]
        if len(self._rest) > MOST_EVENT_BYTES:
            self._rest, self.error = b"", "an event larger than 16 MiB"
        for line in data[: end + 1].splitlines():
            if line.startswith(b"data:"):
                self._event(line)

    def _event(self, line: bytes) -> None:
        at = line.rfind(_TOKENS)
        number = _DIGITS.match(line, at + len(_TOKENS)) if at >= 0 else None
        reason = line.rfind(_REASON)
        if number is not None:
            self.tokens = max(self.tokens, int(number.group(1)))
        elif reason >= 0:
            # /v1/completions tells the count at the end only; until then an event with a text is one token.
            self.tokens += _EMPTY_TEXT.search(line) is None
        if reason >= 0:
            if not line[reason + len(_REASON) :].lstrip().startswith(b"null"):
                self._ended(line)
        elif number is None and line[5:].strip() != b"[DONE]":
            self._ended(line)

    def _ended(self, line: bytes) -> None:
        """The last event, or one that is no token: look at it as a whole."""
        try:
            document = json.loads(line[5:])
        except ValueError:
            self.error = self.error or "an event that is no JSON"
            return
        if not isinstance(document, dict):
            return
        if "error" in document:
            inner = document["error"]
            self.error = _said(inner.get("message") if isinstance(inner, dict) else inner)
            return
        reason = _reason(document)
        kind = reason.get("type") if isinstance(reason, dict) else reason
        if kind == "abort":
            details = reason if isinstance(reason, dict) else {}
            status = details.get("status_code")
            self.error = _said(f"{status or ''} {details.get('message') or 'aborted'}")
        elif kind is not None:
            self.finished = True


def _reason(document: dict[str, object]) -> object:
    meta = document.get("meta_info")
    if isinstance(meta, dict):
        return meta.get("finish_reason")
    choices = document.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("finish_reason")
    return None


def _said(text: object) -> str:
    return " ".join(str(text or "aborted").split())[:140]
