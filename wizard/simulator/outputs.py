"""What the simulated model says, and the events it is said in.

Every request gets the same words, so that the growing text of a stream (0.5.20 sends it whole in each event
unless --incremental-streaming-output) is a slice of one prepared byte string.
"""

from __future__ import annotations

from typing import Any

_WORDS = [
    "the",
    "server",
    "waits",
    "for",
    "a",
    "token",
    "and",
    "the",
    "queue",
    "moves",
    "one",
    "step",
    "at",
    "a",
    "time",
    "while",
    "memory",
    "fills",
    "with",
    "keys",
    "and",
    "values",
    "that",
    "no",
    "one",
    "reads",
    "twice",
]


class Speech:
    """Prepared output: text and token ids up to any length."""

    def __init__(self) -> None:
        self._text, self._ids = bytearray(), bytearray()
        self._text_end, self._ids_end = [0], [0]

    def _grow(self, count: int) -> None:
        while len(self._text_end) <= count:
            index = len(self._text_end) - 1
            self._text += b" " + _WORDS[(index * 7) % len(_WORDS)].encode()
            self._ids += b",%d" % (1000 + (index * 7919) % 90000) if index else b"%d" % 1000
            self._text_end.append(len(self._text))
            self._ids_end.append(len(self._ids))

    def text(self, first: int, last: int) -> bytes:
        """Tokens `first` to `last` (not with it) as JSON-safe text."""
        if last >= len(self._text_end):
            self._grow(last)
        return bytes(self._text[self._text_end[first] : self._text_end[last]])

    def ids(self, first: int, last: int) -> bytes:
        """The same tokens' ids, as the inside of a JSON list."""
        if last >= len(self._ids_end):
            self._grow(last)
        return bytes(self._ids[self._ids_end[first] : self._ids_end[last]]).lstrip(b",")


SPEECH = Speech()


def rough_tokens(text: str) -> list[int]:
    """A stand-in tokenizer: one token for every four characters; equal text gives equal tokens."""
    return [hash(text[at : at + 4]) for at in range(0, len(text), 4)] or [0]


def chat_tokens(messages: list[Any]) -> list[int]:
    """Tokens of a conversation with a template of a few tokens a message. Raises ValueError on a bad
    message."""
    tokens = [128000]
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in (
            "system",
            "user",
            "assistant",
            "tool",
            "developer",
        ):
            raise ValueError("each message needs a role: system, user, assistant or tool")
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        tokens += [hash(message["role"]), 128006, 128007, 271]
        tokens += rough_tokens(str(content))
    return [*tokens, 128006, 78191, 128007, 271]
