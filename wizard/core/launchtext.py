"""Launch commands that are written as something else: a compose or Kubernetes file, or Python code.

Both become words that ``commandtext`` reads on. Only the little of YAML that such files use is read:
``entrypoint``, ``command`` and ``args`` as text, as a folded block, or as a list.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

from wizard.core.syntax import parse_expression

MOST_CHARS = 64_000
MOST_CALL_CHARS = 8_000

_KEY = re.compile(r"^(\s*)(?:- +)?(entrypoint|command|args)\s*:(?:\s+(.*))?$")
_ITEM = re.compile(r"^(\s*)-\s+(.*)$")
_BLOCK = re.compile(r"^[|>][-+0-9]{0,2}\s*(?:#.*)?$")
_FLOW_WORD = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^']|'')*)'|([^\s,\[\]][^,\[\]]*)")
_CALL = re.compile(
    r"\b(?:sgl|sglang|engine|server_args)\.(?:Engine|Runtime|ServerArgs)\s*\(|\b(?:Engine|Runtime)\s*\((?=\s*model_path)"
)
_ORDER = ("entrypoint", "command", "args")


def from_yaml(text: str) -> Iterator[str]:
    """The shell text of each container in a YAML text, in order; nothing when there is no such key."""
    lines = text[:MOST_CHARS].splitlines()
    group: dict[str, str] = {}
    at = 0
    while at < len(lines):
        match = _KEY.match(lines[at])
        if match is None:
            at += 1
            continue
        key = match[2]
        value, at = _value(lines, at + 1, len(match[1]), (match[3] or "").strip())
        if key in group:
            yield _joined(group)
            group = {}
        group[key] = value
    if group:
        yield _joined(group)


def _joined(group: dict[str, str]) -> str:
    return " ".join(group[key] for key in _ORDER if group.get(key))


def _value(lines: list[str], at: int, indent: int, first: str) -> tuple[str, int]:
    """A value as shell text, and the line behind it."""
    if first.startswith("["):
        while "]" not in first and at < len(lines):
            first += " " + lines[at].strip()
            at += 1
        words = [
            _unquoted(m) for m in _FLOW_WORD.finditer(first.partition("[")[2].rpartition("]")[0] or first[1:])
        ]
        return shlex.join(words), at
    if not first or first.startswith("#"):
        items: list[str] = []
        while at < len(lines):
            match = _ITEM.match(lines[at])
            if match is None or len(match[1]) < indent:
                if lines[at].strip() and not lines[at].lstrip().startswith("#"):
                    break
                at += 1
                continue
            item = match[2].strip()
            at += 1
            if _BLOCK.match(item):
                block, at = _block(lines, at, len(match[1]))
                items.append("\n".join(block))
            else:
                items.append(_scalar(item))
        return shlex.join(items), at
    if _BLOCK.match(first):
        block, at = _block(lines, at, indent)
        return " ".join(line.removesuffix("\\") for line in block), at
    parts = [first]
    while at < len(lines) and lines[at].strip() and _indent(lines[at]) > indent:
        parts.append(lines[at].strip())
        at += 1
    return _scalar(" ".join(part.removesuffix("\\") for part in parts)), at


def _block(lines: list[str], at: int, indent: int) -> tuple[list[str], int]:
    block: list[str] = []
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        block.append(lines[at].strip())
        at += 1
    return block, at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _scalar(text: str) -> str:
    """A plain or quoted scalar, its comment cut off."""
    match = re.match(r"\"((?:[^\"\\]|\\.)*)\"\s*(?:#.*)?$|'((?:[^']|'')*)'\s*(?:#.*)?$", text)
    if match is None:
        return re.sub(r"\s+#.*$", "", text)
    return _unquoted(match)


def _unquoted(match: re.Match[str]) -> str:
    if match[1] is not None:
        return re.sub(r"\\(.)", r"\1", match[1])
    if match[2] is not None:
        return match[2].replace("''", "'")
    return (match[3] if match.re is _FLOW_WORD else match[0]).strip()


def from_python(text: str) -> list[str]:
    """The keywords of ``sgl.Engine(...)`` or ``Runtime(...)`` as flags; [] when there is no such call.

    A value that is no literal becomes ``$name``: it is given, and not known.
    """
    found = _CALL.search(text[:MOST_CHARS])
    if found is None:
        return []
    body = _balanced(text, found.end() - 1)
    try:
        call = parse_expression("f" + body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if not isinstance(call, ast.Call):
        return []
    words: list[str] = []
    for keyword in call.keywords:
        if keyword.arg is None:
            continue
        flag = "--" + keyword.arg.replace("_", "-")
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            words += [flag, "$" + re.sub(r"\W+", "_", ast.unparse(keyword.value))[:40]]
            continue
        if value is None or value is False:
            continue
        if value is True:
            words.append(flag)
        elif isinstance(value, (list, tuple)):
            words += [flag, *(str(v) for v in value)]
        else:
            words.append(f"{flag}={value}" if str(value).startswith("-") else flag)
            words += [] if str(value).startswith("-") else [str(value)]
    return words


def _balanced(text: str, at: int) -> str:
    """From the bracket at ``at`` to the one that closes it; the rest of the text when none does."""
    depth, quote, index = 0, "", at
    end = min(len(text), at + MOST_CALL_CHARS)
    while index < end:
        char = text[index]
        if quote:
            if char == "\\":
                index += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return text[at : index + 1]
        index += 1
    return text[at:end]
