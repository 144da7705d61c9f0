"""One HTTP/1.1 connection that hands the pieces of a streamed answer over as they arrive.

The load client shares its cores with the server it measures, and a server may stream 6,000 tokens a second,
each as a chunk of its own. A general client spends 100 us and more on a chunk; this one calls a function from
``data_received`` and nothing else. It speaks exactly what is needed: POST and GET, chunked, sized and
until-close bodies, keep-alive. No proxies, no cookies, no compression, and a redirect is an answer like any
other: it is never followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONNECT_S = 5.0
HEAD_BYTES = 64 * 1024
KEPT_BYTES = 64 * 1024
"""Of a body that is not streamed to a sink this much is kept unless the caller asks for more."""


class MeasureError(Exception):
    """Nothing could be measured. The message is one line: what, where, what to do."""


class WireError(Exception):
    """An exchange broke. The message says how in a few words; ``fresh``: before any byte of an answer came."""

    def __init__(self, message: str, *, fresh: bool = False) -> None:
        super().__init__(message)
        self.fresh = fresh


class ConnectError(WireError):
    """Nobody accepts connections at the address."""


@dataclass(frozen=True)
class Address:
    """Where a server listens. ``prefix`` is the path that precedes every request's path."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @staticmethod
    def parse(url: str) -> Address:
        """Raises MeasureError for anything but ``http(s)://host[:port][/prefix]``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise MeasureError(f"{url!r} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MeasureError(f"{url!r} is no address of a server: write http://HOST:PORT")
        tls = parts.scheme == "https"
        return Address(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """``body`` is empty when it went to a sink. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Sink = Callable[[bytes], None]


class Connection(asyncio.Protocol):
    """One exchange at a time. Closed by ``close``; ``reusable`` says whether another exchange may follow."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self.address = address
        self.reusable = False
        self.exchanges = 0
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._reset(None, 0, 0)

    @staticmethod
    async def open(address: Address, headers: Mapping[str, str]) -> Connection:
        """Raises ConnectError, also when nothing answered within CONNECT_S."""
        for name, value in headers.items():
            if "\r" in value or "\n" in value:
                raise MeasureError(f"the {name} header holds a line break")
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(
            lambda: Connection(address, headers), address.host, address.port, ssl=True if address.tls else None
        )
        try:
            _, connection = await asyncio.wait_for(opening, CONNECT_S)
        except asyncio.TimeoutError:
            raise ConnectError(f"no connection within {CONNECT_S:g} s") from None
        except OSError as error:
            raise ConnectError((error.strerror or str(error) or "cannot connect").lower()) from error
        return connection

    async def exchange(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        sink: Sink | None = None,
        limit: int,
        keep: int = KEPT_BYTES,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send a request and wait for the end of its answer.

        A 200 answer of type ``text/event-stream`` goes to ``sink`` piece by piece. Of other answers the first
        ``keep`` bytes are kept. Raises WireError when the answer is cut, malformed, longer than ``limit``, or
        has not ended after ``timeout_s``. A cancelled exchange closes the connection, which tells the server to
        give up on the request.

        The time limit is a timer of its own: ``asyncio.wait_for`` of Python before 3.12 loses a cancellation
        that meets an answer, and the client would ask on for ever.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise WireError("connection closed", fresh=True)
        self._reset(sink, limit, keep)
        self.exchanges += 1
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        timer = None
        if timeout_s is not None:
            timer = loop.call_later(timeout_s, self._fail, WireError(f"no end within {timeout_s:g} s"))
        content = (
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
        )
        start = f"{method} {self.address.prefix}{path} HTTP/1.1\r\nHost: {self.address}\r\n"
        head = f"{start}{self._fixed}{content}\r\n"
        transport.write(head.encode("latin-1", "replace") + body)
        try:
            return await self._answered
        except BaseException:
            self.close()
            raise
        finally:
            self._answered = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """At once, without waiting for anything."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            self.close()  # nobody asked
            return
        self._seen += len(data)
        try:
            if self._seen > self._limit:
                raise WireError(f"answer longer than {self._limit:,} bytes")
            if self._headers is None:
                rest = self._head(data)
                if rest is None:
                    return
                data = rest
            self._body(data)
        except WireError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._answered is None or self._answered.done():
            return
        if self._until_close and exc is None:
            self._finish()
        else:
            self._fail(WireError("connection cut" if self._seen else "connection closed", fresh=not self._seen))

    # -- parsing

    def _reset(self, sink: Sink | None, limit: int, keep: int) -> None:
        self._sink, self._limit, self._keep = sink, limit, keep
        self._seen = self._status = self._left = 0
        self._headers: dict[str, str] | None = None
        self._rest = b""
        self._chunked = self._until_close = self._streamed = False
        self._wants_crlf = self._in_trailer = False
        self._kept = bytearray()

    def _head(self, data: bytes) -> bytes | None:
        """What follows the head, or None while it is not whole. Interim (1xx) answers are passed over."""
        data = self._rest + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > HEAD_BYTES:
                    raise WireError("not an HTTP answer")
                self._rest = data
                if not b"HTTP/".startswith(data[:5]):
                    raise WireError("not an HTTP answer")
                return None
            lines = data[:end].decode("latin-1").split("\r\n")
            words = lines[0].split(None, 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                raise WireError("not an HTTP answer")
            self._status = int(words[1])
            data = data[end + 4 :]
            if self._status >= 200:
                break
        self._rest = b""
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._headers = headers
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "")
        if self._status in (204, 304):
            self._left = 0
        elif not self._chunked and length.isdigit():
            self._left = int(length)
        elif not self._chunked:
            self._until_close = True
        kind = headers.get("content-type", "").lower()
        self._streamed = self._sink is not None and self._status == 200 and kind.startswith("text/event-stream")
        closing = "close" in headers.get("connection", "").lower() or words[0] == "HTTP/1.0"
        self.reusable = not closing and not self._until_close
        return data

    def _body(self, data: bytes) -> None:
        if self._chunked:
            self._chunks(data)
        elif self._until_close:
            self._take(data)
        else:
            self._take(data[: self._left])
            self._left -= min(len(data), self._left)
            if not self._left:
                self._finish()

    def _chunks(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                took = min(self._left, size - at)
                self._take(data[at : at + took])
                at += took
                self._left -= took
                self._wants_crlf = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > 4096:
                    raise WireError("malformed chunk")
                break
            line, at = data[at:end], end + 2
            if self._wants_crlf:
                if line:
                    raise WireError("malformed chunk")
                self._wants_crlf = False
            elif self._in_trailer:
                if not line:
                    self._finish()
                    return
            else:
                digits = line.split(b";", 1)[0].strip()
                if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
                    raise WireError("malformed chunk")
                self._left = int(digits, 16)
                self._in_trailer = not self._left
        self._rest = data[at:]

    def _take(self, data: bytes) -> None:
        if self._streamed and self._sink is not None:
            if data:
                self._sink(data)
        elif len(self._kept) < self._keep:
            self._kept += data[: self._keep - len(self._kept)]

    def _finish(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(Answer(self._status, self._headers or {}, bytes(self._kept)))

    def _fail(self, error: WireError) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self.close()


def base_headers(api_key: str | None) -> dict[str, str]:
    """The headers of every request; the key travels only to the address that was asked for."""
    headers = {"User-Agent": "sgl-wizard", "Accept": "*/*"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


async def fetch(
    address: Address, path: str, api_key: str | None = None, *, limit: int, timeout_s: float
) -> Answer:
    """GET on a connection of its own. Raises WireError, also when ``timeout_s`` is over."""

    async def get() -> Answer:
        connection = await Connection.open(address, {**base_headers(api_key), "Connection": "close"})
        try:
            return await connection.exchange("GET", path, limit=limit, keep=limit)
        finally:
            connection.close()

    try:
        return await asyncio.wait_for(get(), timeout_s)
    except asyncio.TimeoutError:
        raise WireError(f"no answer within {timeout_s:g} s") from None
