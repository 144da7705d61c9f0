"""Which of its two APIs a server is asked on, and what it says when it refuses."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass

from wizard.measure.wire import (
    Address,
    Answer,
    ConnectError,
    Connection,
    MeasureError,
    WireError,
    base_headers,
    fetch,
)
from wizard.measure.workload import RequestSpec

PROBE_S = 10.0
"""A first request that is silent for so long was taken and waits in the queue."""

_PATHS = ("/generate", "/v1/completions")


@dataclass(frozen=True)
class Api:
    """A path and how to ask on it. ``ignore_eos`` makes lengths exact; temperature 0 makes them cheap."""

    path: str
    model: str = "default"

    def body(self, spec: RequestSpec) -> bytes:
        document: dict[str, object]
        if self.path == "/generate":
            sampling = {"max_new_tokens": spec.output_tokens, "ignore_eos": True, "temperature": 0}
            document = {"input_ids": spec.input_ids, "sampling_params": sampling, "stream": True}
        else:
            document = {
                "model": self.model,
                "prompt": spec.input_ids,
                "max_tokens": spec.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        return json.dumps(document, separators=(",", ":")).encode()


async def choose(address: Address, api_key: str | None) -> Api:
    """One small request to learn which API there is. Raises MeasureError when none will do.

    A full queue (503) or a failing server (5xx) is no reason to refuse: that is what is to be measured.
    """
    for path in _PATHS:
        try:
            api = Api(path) if path == "/generate" else Api(path, await _first_model(address, api_key))
            answer = await _knock(address, api, api_key)
        except ConnectError as error:
            raise MeasureError(f"no server at {address}: {error}") from error
        except WireError as error:
            raise MeasureError(f"{address} did not answer {path}: {error}") from error
        if answer is None or answer.status in (200, 429) or answer.status >= 500:
            return api
        if answer.status in (401, 403):
            why = "it wants another API key" if api_key else "it wants an API key"
            raise MeasureError(f"{address} refuses requests ({answer.status}): {why}")
        if answer.status not in (404, 405):
            raise MeasureError(f"{address}{path}: {what_it_said(answer)}")
    raise MeasureError(f"{address} has neither /generate nor /v1/completions: it is no SGLang server")


async def _knock(address: Address, api: Api, api_key: str | None) -> Answer | None:
    """None when the server began to stream, or keeps us waiting: both mean that it took the request."""
    connection = await Connection.open(address, base_headers(api_key))
    began = asyncio.Event()
    body = api.body(RequestSpec(0, list(range(10, 14)), 1))
    asking = asyncio.ensure_future(
        connection.exchange("POST", api.path, body, sink=lambda _: began.set(), limit=1 << 20)
    )
    waiting = asyncio.ensure_future(began.wait())
    try:
        await asyncio.wait({asking, waiting}, timeout=PROBE_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            await asyncio.wait({asking}, timeout=1.0)
        if not asking.done():
            return None
        answer = asking.result()
    finally:
        for task in (asking, waiting):
            task.cancel()
        await asyncio.gather(asking, waiting, return_exceptions=True)
        connection.close()
    kind = answer.headers.get("content-type", "").lower().split(";")[0]
    if answer.status == 200 and kind != "text/event-stream":
        raise MeasureError(
            f"{address}{api.path} answered {kind or 'nothing'} instead of a stream: it is no SGLang server"
        )
    return answer


async def _first_model(address: Address, api_key: str | None) -> str:
    """SGLang takes any name; other servers of this API want one that they serve."""
    answer = await fetch(address, "/v1/models", api_key, limit=1 << 20, timeout_s=PROBE_S)
    try:
        return str(json.loads(answer.body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        return "default"


def what_it_said(answer: Answer) -> str:
    """``HTTP 503: The request queue is full.``: one line of at most 160 characters, of both shapes of error."""
    text = ""
    with suppress(ValueError):
        document = json.loads(answer.body)
        if isinstance(document, dict):
            inner = document.get("error", document)
            text = str(inner.get("message", "") if isinstance(inner, dict) else inner)
    if 300 <= answer.status < 400:
        text = "a redirect, not followed"
    text = " ".join(text.split())
    return f"HTTP {answer.status}: {text}"[:160] if text else f"HTTP {answer.status}"
