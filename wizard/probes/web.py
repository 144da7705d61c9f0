"""One bounded GET to the target, for the probes that talk HTTP. Follows nothing, sends nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from wizard.core.target import Target

PAGE_BYTES = 8 * 1024 * 1024
"""More than any real page: /metrics of 0.5.23 has about 100 kB."""


class WebError(Exception):
    """No answer; the text is one line. ``kind``: refused, timed_out, broken."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Page:
    status: int
    server: str
    content_type: str
    body: bytes
    cut: bool = False

    @property
    def is_html(self) -> bool:
        start = self.body[:200].lstrip().lower()
        return "text/html" in self.content_type or start.startswith((b"<!doctype", b"<html"))

    def document(self) -> dict[str, Any]:
        """The JSON object of the body. Raises WebError when it is none."""
        try:
            doc = json.loads(self.body)
        except ValueError:
            raise WebError("the answer is not JSON", "broken") from None
        if not isinstance(doc, dict):
            raise WebError("the answer is not a JSON object", "broken")
        return doc


def api_key(target: Target) -> str | None:
    """The key of the target's own command line."""
    argv = target.launch.argv if target.launch is not None else ()
    for index, word in enumerate(argv):
        if word == "--api-key" and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith("--api-key="):
            return word.partition("=")[2]
    return None


async def get(target: Target, path: str, timeout_s: float) -> Page:
    """GET a path of the target. The time-out covers the whole answer, drip by drip. Raises WebError."""
    try:
        return await asyncio.wait_for(_get(target, path, timeout_s), timeout_s)
    except asyncio.TimeoutError:
        raise WebError(f"{path} did not answer within {timeout_s:g} s", "timed_out") from None


async def _get(target: Target, path: str, timeout_s: float) -> Page:
    import httpx

    key = api_key(target)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            httpx.AsyncClient(timeout=timeout_s, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", f"{target.base_url}{path}", headers=headers) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > PAGE_BYTES:
                    break
            kind = answer.headers.get("content-type", "")
            server = answer.headers.get("server", "")
            return Page(answer.status_code, server, kind, bytes(body[:PAGE_BYTES]), len(body) > PAGE_BYTES)
    except httpx.ConnectError as error:
        raise WebError(f"{target.base_url} refuses connections ({error})", "refused") from None
    except httpx.TimeoutException:
        raise WebError(f"{path} did not answer within {timeout_s:g} s", "timed_out") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebError(f"{path}: {type(error).__name__}: {error}", "broken") from None
