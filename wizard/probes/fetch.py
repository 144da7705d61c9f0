"""One bounded HTTP GET to the target and nowhere else.

No proxy of the environment, no redirect followed, at most ``most_bytes`` read, one limit for the whole
answer (a server that drips a byte a second is cut off). Every way to fail is one clear line.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wizard.core.target import Target
from wizard.server.configfile import secret_settings
from wizard.server.network import listens_there

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 8 * 1024 * 1024
CONNECT_S = 2.0

Trouble = Literal[
    "refused", "timeout", "closed", "garbled", "tls", "redirect", "unauthorized", "status", "address"
]


class FetchError(Exception):
    """Why there is no page: ``kind`` for decisions, the message for people. ``status`` where one was sent."""

    def __init__(self, kind: Trouble, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True)
class Page:
    """An answer. ``cut``: the body was longer than what was read, or ended early."""

    path: str
    status: int
    body: bytes
    cut: bool
    content_type: str
    server: str
    elapsed_s: float

    @property
    def is_html(self) -> bool:
        start = self.body[:512].lstrip().lower()
        return "html" in self.content_type or start.startswith((b"<!doctype html", b"<html"))

    def json(self) -> Any:
        """The body as JSON, or None when it is none (or was cut)."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def api_key_of(argv: Sequence[str]) -> str | None:
    """The key that the launch command protects the API with. Never shown anywhere."""
    found = None
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--api-key", "--api_key"):
            found = value if equals else argv[i + 1] if i + 1 < len(argv) else None
    return found or None


def headers_for(target: Target) -> dict[str, str]:
    argv: Sequence[str] = ()
    cwd = ""
    if target.launch is not None:
        argv, cwd = target.launch.argv, target.launch.cwd
    elif target.command_text:
        argv = target.command_text.split()
    key = api_key_of(argv) or secret_settings(argv, cwd).get("--api-key")
    return {"Authorization": f"Bearer {key}"} if key else {}


def client_for(target: Target) -> httpx.AsyncClient:
    """A client that talks to ``target.base_url`` only. Raises FetchError for an address that is none."""
    import httpx

    try:
        return httpx.AsyncClient(
            base_url=target.base_url,
            headers={"Accept-Encoding": "identity", **headers_for(target)},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            trust_env=False,
            follow_redirects=False,
            transport=_transport(target),
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError("address", f"{target.base_url} is no address: {error}") from None


def _transport(target: Target) -> httpx.AsyncBaseTransport | None:
    """What forwards to a container accepts connections before anything in there listens, and then closes them:
    that is told as what it is, a refused connection. None where nothing stands between."""
    import httpx

    if target.inside_port is None or target.identity is None:
        return None
    pid, port = target.identity.pid, target.inside_port

    class Forwarded(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if await asyncio.to_thread(listens_there, pid, port) is None:
                raise httpx.ConnectError("refused: nothing listens behind the forwarded port", request=request)
            return await super().handle_async_request(request)

    return Forwarded()


async def fetch(
    client: httpx.AsyncClient,
    path: str,
    *,
    seconds: float,
    most_bytes: int = MOST_BYTES,
    any_status: bool = False,
) -> Page:
    """GET one path within ``seconds``. Raises FetchError; with ``any_status`` not for 4xx and 5xx."""
    import httpx

    started = time.monotonic()
    where = (
        f"{client.base_url}{path.lstrip('/')}"
        if str(client.base_url).endswith("/")
        else f"{client.base_url}{path}"
    )
    try:
        page = await asyncio.wait_for(_get(client, path, started, most_bytes), seconds)
    except asyncio.TimeoutError:
        raise FetchError("timeout", f"{where} did not answer within {seconds:g} s") from None
    except httpx.ConnectTimeout:
        raise FetchError("timeout", f"{where}: no connection within {CONNECT_S:g} s") from None
    except httpx.ConnectError as error:
        text = str(error)
        if "certificate" in text.lower() or "ssl" in text.lower():
            raise FetchError("tls", f"{where}: TLS failed: {text[:160]}") from None
        refused = "refused" in text.lower() or "all connection attempts failed" in text.lower()
        why = "nothing listens there (connection refused)" if refused else text[:160]
        raise FetchError("refused", f"{where}: {why}") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise FetchError("address", f"{where} is no address: {str(error)[:120]}") from None
    except httpx.RemoteProtocolError as error:
        closed = "disconnected" in str(error).lower() or "closed" in str(error).lower()
        if closed:
            raise FetchError(
                "closed", f"{where}: the connection was closed before the answer was whole"
            ) from None
        raise FetchError("garbled", f"{where}: what answers there does not speak HTTP") from None
    except httpx.HTTPError as error:
        raise FetchError("closed", f"{where}: the connection broke ({type(error).__name__})") from None
    if any_status:
        return page
    if 300 <= page.status < 400:
        raise FetchError("redirect", f"{where} redirects elsewhere; redirects are not followed", page.status)
    if page.status in (401, 403):
        raise FetchError("unauthorized", f"{where} wants an API key (HTTP {page.status})", page.status)
    if page.status != 200:
        raise FetchError("status", f"{where} answered HTTP {page.status}", page.status)
    return page


async def _get(client: httpx.AsyncClient, path: str, started: float, most_bytes: int) -> Page:
    import httpx

    body, cut = bytearray(), False
    async with client.stream("GET", path) as answer:
        try:
            async for part in answer.aiter_raw():
                body += part
                if len(body) > most_bytes:
                    del body[most_bytes:]
                    cut = True
                    break
        except httpx.RemoteProtocolError:
            if not body:
                raise
            cut = True  # half a page is better than none, as long as it is known to be half
        return Page(
            path,
            answer.status_code,
            bytes(body),
            cut,
            answer.headers.get("content-type", ""),
            answer.headers.get("server", ""),
            time.monotonic() - started,
        )
