"""A small HTTP/1.1 server on asyncio's protocols: keep-alive, chunked answers, cheap enough for thousands of
events/s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from wizard.simulator import log

BODY_LIMIT = 64 << 20


class HttpRequest:
    """One request, whole."""

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.path, _, self.query = target.partition("?")


class Connection(asyncio.Protocol):
    """One client. Answers either with `respond` or with `start_stream`, `send_event`..., `end_stream`."""

    def __init__(
        self, handle: Callable[[Connection, HttpRequest], None], on_leave: Callable[[Connection], None]
    ) -> None:
        self._handle, self._on_leave = handle, on_leave
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._buffer = bytearray()
        self._busy = False
        self._closing = False
        self.peer = "-"
        self.request: HttpRequest | None = None
        self.on_done: Callable[[int], None] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.open = transport, True
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "-"

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._on_leave(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > 1 << 16:
                self.transport.close()
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            return
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        size = int(length) if length.isdigit() else 0
        if size > BODY_LIMIT:
            self.transport.close()
            return
        if headers.get("transfer-encoding", "").lower() == "chunked":
            taken = _dechunk(self._buffer, end + 4)
            if taken is None:
                return
            body, consumed = taken
        else:
            if len(self._buffer) < end + 4 + size:
                if headers.get("expect", "").lower() == "100-continue":
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, consumed = bytes(self._buffer[end + 4 : end + 4 + size]), end + 4 + size
        del self._buffer[:consumed]
        self._busy = True
        self._closing = headers.get("connection", "").lower() == "close" or words[2] == "HTTP/1.0"
        self.request = HttpRequest(words[0], words[1], headers, body)
        self._handle(self, self.request)

    def respond(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """A whole answer."""
        if self.open:
            self.transport.write(self._head(status, content_type, f"content-length: {len(body)}\r\n") + body)
        self._log(status)
        self._finish(status)

    def respond_json(self, status: int, document: Any) -> None:
        """A JSON answer, compact as FastAPI writes it."""
        self.respond(status, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())

    def start_stream(self) -> None:
        """Begin a stream of server-sent events; the access line is written now, as uvicorn does."""
        if self.open:
            self.transport.write(
                self._head(200, "text/event-stream; charset=utf-8", "transfer-encoding: chunked\r\n")
            )
        self._log(200)

    def send_event(self, payload: bytes) -> None:
        """One chunk, as it stands."""
        if self.open:
            self.transport.write(b"%x\r\n%b\r\n" % (len(payload), payload))

    def end_stream(self) -> None:
        """The last chunk."""
        if self.open:
            self.transport.write(b"0\r\n\r\n")
        self._finish(200)

    @property
    def behind(self) -> bool:
        """The client has not taken what was sent before."""
        return self.open and self.transport.get_write_buffer_size() > 0

    def _head(self, status: int, content_type: str, framing: str) -> bytes:
        close = "connection: close\r\n" if self._closing else ""
        return (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ndate: {formatdate(usegmt=True)}\r\nserver: "
            f"uvicorn\r\n"
            f"{framing}content-type: {content_type}\r\n{close}\r\n"
        ).encode("latin-1")

    def _log(self, status: int) -> None:
        request = self.request
        if request is not None:
            target = request.path + (f"?{request.query}" if request.query else "")
            log.access(self.peer, request.method, target, status, HTTPStatus(status).phrase)

    def _finish(self, status: int) -> None:
        done, self.on_done = self.on_done, None
        if done:
            done(status)
        self._busy = False
        if self._closing and self.open:
            self.transport.close()
        elif self.open and self._buffer:
            self._next()


def _dechunk(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    """The body of a chunked request and where it ends, or None when it is not all there."""
    body = bytearray()
    while True:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        try:
            size = int(bytes(buffer[at:line_end]).split(b";")[0], 16)
        except ValueError:
            return bytes(body), len(buffer)
        if len(buffer) < line_end + 4 + size:
            return None
        body += buffer[line_end + 2 : line_end + 2 + size]
        at = line_end + 4 + size
        if size == 0:
            return bytes(body), at
