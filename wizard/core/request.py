"""A request body read before it is sent: what SGLang will refuse, and what it will do silently.

A log often says no more than ``"POST /v1/chat/completions HTTP/1.1" 400 Bad Request``; the body says why.
Shapes are those of recorded requests against 0.5.10 to 0.5.23.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MOST_BYTES = 4_000_000
"""Longest body looked at."""

LETTERS_A_TOKEN = 4.0
"""English text; other scripts take more tokens. Only an estimate."""

ROLES = ("system", "user", "assistant", "tool", "developer", "function")
_HOME = {
    "prompt": "/v1/completions",
    "text": "/generate",
    "input_ids": "/generate",
    "sampling_params": "/generate",
    "input": "/v1/embeddings or /v1/responses",
}
"""Where a body goes that has this field and no messages."""

STRUCTURED = ("json_schema", "json_object", "structural_tag")
SAMPLING_NAMES = frozenset(
    (
        *("max_new_tokens", "min_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p"),
        *("top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "n", "beam_width"),
        *("json_schema", "regex", "ebnf", "structural_tag", "ignore_eos", "skip_special_tokens", "dtype"),
        *("spaces_between_special_tokens", "no_stop_trim", "stream_interval", "logit_bias", "sampling_seed"),
        "custom_params",
    )
)
"""sampling_params.py of 0.5.20, and ``dtype`` of versions before 0.4; older versions take fewer."""

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/generate")


@dataclass(frozen=True)
class RequestFacts:
    """``problems`` are (id, words) pairs; sizes are in tokens, None when the body does not say."""

    endpoint: str
    problems: tuple[tuple[str, str], ...] = ()
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    tools: bool = False
    schema: bool = False
    stream: bool = False
    largest_id: int | None = None
    judged: bool = True
    """False where the endpoint's fields are not known here."""


def examine(text: str, endpoint: str = "") -> RequestFacts:
    """Everything that the body itself tells. Never raises.

    ``endpoint``: the path or address that it was sent to; by default the one that its fields belong to.
    """
    endpoint = endpoint.partition("?")[0]
    endpoint = endpoint.partition("://")[2].partition("/")[2] if "://" in endpoint else endpoint
    endpoint = f"/{endpoint.strip('/')}" if endpoint else ""
    if len(text) > MOST_BYTES:
        return RequestFacts(endpoint, (("too_large", f"{len(text)} bytes; at most {MOST_BYTES} are read"),))
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RequestFacts(endpoint, (("malformed_json", f"it is not JSON: {_not_json(text, error)}"),))
    if not isinstance(body, dict):
        return RequestFacts(endpoint, (("not_an_object", f"it is a JSON {type(body).__name__}, no object"),))
    endpoint = endpoint or _endpoint_of(body)
    problems = [*_shape(body, endpoint), *_sampling(_settings(body, endpoint), endpoint)]
    ids = body.get("input_ids")
    tokens = [x for x in ids if isinstance(x, int)] if isinstance(ids, list) else []
    settings = _settings(body, endpoint)
    names = ("max_completion_tokens", "max_tokens", "max_new_tokens")
    limit = next((settings[name] for name in names if settings.get(name)), None)
    response = body.get("response_format")
    return RequestFacts(
        endpoint,
        tuple(problems),
        len(tokens) if tokens else _estimate(body),
        limit if isinstance(limit, int) and not isinstance(limit, bool) else None,
        bool(body.get("tools")),
        (isinstance(response, dict) and response.get("type") in STRUCTURED)
        or any(settings.get(k) for k in ("json_schema", "regex", "ebnf")),
        body.get("stream") is True,
        max(tokens, default=None),
        endpoint in ENDPOINTS,
    )


def _not_json(text: str, error: ValueError | RecursionError) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, json.JSONDecodeError):
        python = " (a Python dict? JSON has double quotes)" if text.lstrip()[:2] in ("{'", "['") else ""
        return f"{error.msg}, line {error.lineno}, column {error.colno}{python}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number in it is too long"


def _endpoint_of(body: Mapping[str, Any]) -> str:
    if "messages" in body:
        return "/v1/chat/completions"
    if "prompt" in body:
        return "/v1/completions"
    if "input" in body:
        return "/v1/embeddings"
    return "/generate" if {"text", "input_ids", "sampling_params"} & body.keys() else "/v1/chat/completions"


def _settings(body: Mapping[str, Any], endpoint: str) -> Mapping[str, Any]:
    """Where the sampling settings stand: in the body, or below ``sampling_params`` for /generate."""
    if endpoint != "/generate":
        return body
    inner = body.get("sampling_params")
    return inner if isinstance(inner, dict) else {}


def _shape(body: Mapping[str, Any], endpoint: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if endpoint == "/v1/chat/completions":
        messages = body.get("messages")
        elsewhere = next((key for key in _HOME if key in body), None)
        if messages is None and elsewhere:
            found.append(("wrong_endpoint", f'"{elsewhere}" belongs to {_HOME[elsewhere]}'))
        elif messages is None:
            found.append(("no_messages", 'it has no "messages", which the chat endpoint needs'))
        elif not isinstance(messages, list) or not messages:
            found.append(("empty_messages", '"messages" has to be a list with at least one message'))
        else:
            found += _messages(messages)
    elif endpoint == "/v1/completions":
        if "messages" in body:
            found.append(("wrong_endpoint", '"messages" belongs to /v1/chat/completions'))
        elif "prompt" not in body:
            found.append(("no_prompt", 'it has no "prompt"'))
    elif endpoint == "/generate":
        if not {"text", "input_ids", "input_embeds"} & body.keys():
            found.append(("no_text", 'it has neither "text" nor "input_ids"'))
        inner = body.get("sampling_params")
        strange = sorted(str(k) for k in inner if k not in SAMPLING_NAMES) if isinstance(inner, dict) else []
        if strange:
            names = ", ".join(_short(k) for k in strange[:5])
            found.append(("strange_sampling", f"{names}: no name in sampling_params (an error 500)"))
        loose = sorted({"temperature", "top_p", "top_k", "max_new_tokens", "max_tokens", "stop"} & body.keys())
        if loose:
            found.append(("loose_sampling", f'{", ".join(loose)} belong into "sampling_params" here: ignored'))
    return found


def _messages(messages: list[Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for number, message in enumerate(messages[:1000], 1):
        if not isinstance(message, dict):
            found.append(("bad_message", f"message {number} is no object"))
            continue
        role, content = message.get("role"), message.get("content")
        known = isinstance(role, str) and (role in ROLES or (role.lower() in ROLES and role.lower() != "user"))
        if not known:
            found.append(
                ("bad_role", f"message {number} has role {_short(role)}; there are {', '.join(ROLES)}")
            )
        if content is None and role != "assistant":
            found.append(("no_content", f"message {number} ({_short(role)}) has no content"))
        elif not isinstance(content, (str, list, type(None))):
            found.append(("bad_content", f"the content of message {number} is neither text nor a list"))
    return found[:20]


@dataclass(frozen=True)
class _Range:
    """Where a sampling setting may lie; ``open_low``: the lower end itself is refused."""

    name: str
    low: float
    high: float | None = None
    open_low: bool = False

    def takes(self, x: float) -> bool:
        if (isinstance(x, float) and not math.isfinite(x)) or x < self.low or (self.open_low and x == self.low):
            return False
        return self.high is None or x <= self.high

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        return low if self.high is None else f"{low} and at most {self.high:g}"


_RANGES = (
    _Range("temperature", 0.0),
    _Range("top_p", 0.0, 1.0, open_low=True),
    _Range("min_p", 0.0, 1.0),
    _Range("frequency_penalty", -2.0, 2.0),
    _Range("presence_penalty", -2.0, 2.0),
    _Range("repetition_penalty", 0.0, 2.0, open_low=True),
    _Range("max_tokens", 0.0),
    _Range("max_completion_tokens", 0.0),
    _Range("max_new_tokens", 0.0),
    _Range("min_tokens", 0.0),
    _Range("min_new_tokens", 0.0),
)
"""sampling_params.py of 0.5.20, ``verify``."""

_COMPLETIONS = tuple(replace(r, open_low=True) if r.name == "max_tokens" else r for r in _RANGES)
"""openai/protocol.py of 0.5.20: /v1/completions refuses max_tokens 0 as well."""


def _sampling(settings: Mapping[str, Any], endpoint: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in _COMPLETIONS if endpoint == "/v1/completions" else _RANGES:
        x = settings.get(item.name)
        if x is None:
            continue
        if isinstance(x, (str, bool)) and endpoint.startswith("/v1/"):
            try:
                x = float(x)  # these endpoints take "0.7" and true for numbers (pydantic's lax mode)
            except ValueError:
                pass
        if isinstance(x, bool) or not isinstance(x, (int, float)):
            found.append(("bad_sampling", f"{item.name} is {_short(x)}, no number"))
        elif not item.takes(x):
            found.append(("bad_sampling", f"{item.name} is {_short(x)}; it has to be {item}"))
    top_k = settings.get("top_k")
    if isinstance(top_k, int) and (top_k == 0 or top_k < -1):
        found.append(("bad_sampling", f"top_k is {_short(top_k)}; it is -1 (all) or at least 1"))
    grammars = [
        name for name in ("json_schema", "regex", "ebnf", "structural_tag") if settings.get(name) is not None
    ]
    if len(grammars) > 1:
        found.append(("bad_sampling", f"{' and '.join(grammars)} exclude each other: give one"))
    return found


def _short(x: object) -> str:
    """A value of a body in few letters."""
    text = repr(x)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _estimate(body: Mapping[str, Any]) -> int | None:
    """Tokens of the prompt, by its letters; None when there is no text."""
    texts: list[str] = []
    for key in ("text", "prompt"):
        if isinstance(body.get(key), str):
            texts.append(body[key])
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts += [str(p.get("text", "")) for p in content if isinstance(p, dict)]
    letters = sum(len(t) for t in texts)
    return int(letters / LETTERS_A_TOKEN) if letters else None
