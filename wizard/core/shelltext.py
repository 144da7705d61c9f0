"""Words of a piece of shell text with their places, so that one word can be changed and no other.

Covers what launch commands are written with: quotes, escapes, continuations, comments, operators and
redirections. Expansions (``$X``, back-ticks) are not performed: such a word is marked not plain.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["word", "operator", "redirection"]

_OPERATORS = ("&&", "||", ";;", "|&", ";", "&", "|", "(", ")", "\n")
_REDIRECTION = re.compile(r"(\d*)(&>>|&>|>>|>&|>\||<<<|<<-?|<&|<>|>|<)")
_BLANK = " \t\r"


class Word(NamedTuple):
    """``text[start:end]`` is the word as written, ``value`` what the shell would pass on.

    ``plain`` False: it holds an expansion or an unclosed quote, so ``value`` is only its text.
    """

    value: str
    start: int
    end: int
    kind: Kind = "word"
    plain: bool = True


def scan(text: str) -> list[Word]:
    """Every word, operator and redirection (its target included) in order. Never raises."""
    words: list[Word] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char in _BLANK:
            at += 1
            continue
        continued = re.compile(r"\\[ \t\r]*\n").match(text, at)
        if continued:
            at = continued.end()
            continue
        if char == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        redirection = _REDIRECTION.match(text, at)
        if redirection:
            target_at = redirection.end()
            while target_at < len(text) and text[target_at] in _BLANK:
                target_at += 1
            target = _read_word(text, target_at)
            words.append(Word(redirection.group(2) + target.value, at, target.end, "redirection", target.plain))
            at = target.end
            continue
        operator = next((o for o in _OPERATORS if text.startswith(o, at)), None)
        if operator:
            words.append(Word(operator, at, at + len(operator), "operator"))
            at += len(operator)
            continue
        word = _read_word(text, at)
        words.append(word)
        at = max(word.end, at + 1)
    return words


def unclosed_quote(text: str) -> int | None:
    """Where a quote opens that nothing closes, so that all behind it is one word; None when there is none."""
    words = scan(text)
    if not words or words[-1].plain or words[-1].kind == "operator":
        return None
    at, end = words[-1].start, len(text)
    while at < end:
        char = text[at]
        if char == "'":
            closes = text.find("'", at + 1)
        elif char == '"':
            closes = _double_quotes_end(text, at)
        elif char in "$`":
            at = _expansion_end(text, at)
            continue
        else:
            at += 2 if char == "\\" else 1
            continue
        if closes < 0:
            return at
        at = closes + 1
    return None


def _double_quotes_end(text: str, at: int) -> int:
    """The quote that closes the one at ``at``; -1 when there is none."""
    at += 1
    while at < len(text):
        if text[at] == '"':
            return at
        if text[at] in "$`":
            at = _expansion_end(text, at)
        else:
            at += 2 if text[at] == "\\" else 1
    return -1


def _read_word(text: str, at: int) -> Word:
    start, plain = at, True
    value: list[str] = []
    while at < len(text):
        char = text[at]
        if char in _BLANK or char in "\n;&|()<>":
            break
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                value.append(text[at + 1 :])
                return Word("".join(value), start, len(text), plain=False)
            value.append(text[at + 1 : end])
            at = end + 1
        elif char == '"':
            inner, at, simple = _read_double_quotes(text, at + 1)
            value.append(inner)
            plain = plain and simple
        elif char == "\\":
            if re.compile(r"\\[ \t\r]*\n").match(text, at):
                break
            value.append(text[at + 1 : at + 2])
            plain = plain and at + 1 < len(text)
            at += 2
        elif char in "$`":
            end = _expansion_end(text, at)
            value.append(text[at:end])
            plain, at = False, end
        else:
            value.append(char)
            at += 1
    return Word("".join(value), start, min(at, len(text)), plain=plain)


def _read_double_quotes(text: str, at: int) -> tuple[str, int, bool]:
    value: list[str] = []
    plain = True
    while at < len(text):
        char = text[at]
        if char == '"':
            return "".join(value), at + 1, plain
        if char == "\\" and text[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
            if text[at + 1] != "\n":
                value.append(text[at + 1])
            at += 2
        elif char in "$`":
            end = _expansion_end(text, at)
            value.append(text[at:end])
            plain, at = False, end
        else:
            value.append(char)
            at += 1
    return "".join(value), at, False


_CLOSERS = {"(": ")", "{": "}"}


def _expansion_end(text: str, at: int) -> int:
    """Behind ``$NAME``, ``${...}``, ``$(...)`` or a pair of back-ticks that starts at ``at``."""
    if text[at] == "`":
        end = text.find("`", at + 1)
        return len(text) if end < 0 else end + 1
    opener = text[at + 1 : at + 2]
    if opener in _CLOSERS and opener:
        depth = 0
        for index in range(at + 1, len(text)):
            if text[index] == opener:
                depth += 1
            elif text[index] == _CLOSERS[opener]:
                depth -= 1
                if depth == 0:
                    return index + 1
        return len(text)
    name = re.compile(r"\$(?:[A-Za-z_]\w*|[0-9@*#?$!-])?").match(text, at)
    return name.end() if name else at + 1
