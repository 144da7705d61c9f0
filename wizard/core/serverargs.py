"""The settings that a server prints at its start: ``server_args=...`` as data.

Two shapes: ``server_args=ServerArgs(tp_size=1, ...)`` (0.4.0 to 0.5.17 and later) and
``server_args={'tp_size': 1, ...}`` (0.5.20). Both print the API key: what comes from here holds secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wizard.core.syntax import read_literal

MARK = "server_args="
_PAIR = re.compile(r"\s*(?:'(\w{1,80})'\s*:|(\w{1,80})\s*=)\s*")
_FIRST = re.compile(r"server_args=\s{0,8}(?:ServerArgs\w{0,20}\(|[({])" + _PAIR.pattern)
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


def has_settings(text: str) -> bool:
    """Whether a log line holds settings, by their first: cheaper than to read them all."""
    return _FIRST.match(text, max(0, text.find(MARK))) is not None


def parse_server_args(text: str) -> dict[str, Any]:
    """The settings in a log line; empty when there are none. Values that are no literals stay text."""
    at = text.find(MARK)
    if at < 0:
        return {}
    body = text[at + len(MARK) :].strip()
    opening = body.find("(") if body.startswith("ServerArgs") else 0
    if opening < 0 or body[opening : opening + 1] not in ("(", "{"):
        return {}
    found: dict[str, Any] = {}
    for part in _parts(body[opening + 1 :]):
        match = _PAIR.match(part)
        if match is not None:
            found[match[1] or match[2]] = _value(part[match.end() :].strip())
    return found


def _parts(body: str) -> Iterator[str]:
    """The pieces between top-level commas, up to the closing bracket. A cut line loses its last piece."""
    depth, start, quote, i = 0, 0, "", 0
    while i < len(body):
        char = body[i]
        if quote:
            if char == "\\":
                i += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{<":
            depth += 1
        elif char in ")]}>":
            if depth == 0:
                yield body[start:i]
                return
            depth -= 1
        elif char == "," and depth == 0:
            yield body[start:i]
            start = i + 1
        i += 1


def _value(text: str) -> Any:
    try:
        return read_literal(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def decode_graph_backend(settings: dict[str, Any]) -> str | None:
    """What runs decode graphs (0.5.14+: ``cuda_graph_config.decode.backend``); None when it is not said."""
    config = settings.get("cuda_graph_config")
    if isinstance(config, dict):
        decode = config.get("decode")
        backend = decode.get("backend") if isinstance(decode, dict) else None
        return str(backend) if backend else None
    if isinstance(config, str):
        match = re.search(r"decode=\w{1,40}\(backend='(\w{1,40})'", config)
        return match[1] if match else None
    return None


def decode_graph_disabled(settings: dict[str, Any]) -> bool | None:
    """Decode CUDA graphs are off; None when the settings do not say."""
    backend = decode_graph_backend(settings)
    if backend is not None:
        return backend == "disabled"
    said = [settings[k] for k in ("disable_cuda_graph", "disable_decode_cuda_graph") if k in settings]
    return any(v is True for v in said) if said else None
