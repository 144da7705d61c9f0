"""A small HTTP server on a real socket that streams like SGLang, or misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class StandIn:
    """``mode`` picks the answer to a request; it may be changed while the server runs."""

    mode: str = "ok"
    token_s: float = 0.004
    first_token_s: float = 0.01
    tokens_per_event: int = 1
    api_key: str | None = None
    paths: tuple[str, ...] = ("/generate",)
    metrics: str | None = None
    bodies: list[dict[str, object]] = field(default_factory=list)
    seen_paths: list[str] = field(default_factory=list)
    open_streams: int = 0
    cut_by_client: int = 0
    queue_limit: int = 10_000
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def until(self, condition: Callable[[StandIn], bool], seconds: float = 10.0) -> None:
        """Wait until something holds of this server; fails the test when it does not come."""
        for _ in range(int(seconds / 0.01)):
            if condition(self):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the stand-in server never got there")

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        _method, path, _ = head.split(None, 2)
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen_paths.append(path)
        if path == "/metrics":
            return await self._plain(writer, 200 if self.metrics else 404, self.metrics or "", "text/plain")
        if self.api_key and headers.get("authorization") != f"bearer {self.api_key}".lower():
            return await self._plain(writer, 401, '{"error":"Unauthorized"}')
        if path == "/v1/models":
            return await self._plain(writer, 200, '{"data":[{"id":"tiny"}]}')
        if path not in self.paths:
            return await self._plain(writer, 404, '{"detail":"Not Found"}')
        document = json.loads(body)
        self.bodies.append(document)
        answer = getattr(self, f"_mode_{self.mode}", None)
        if answer is not None:
            return bool(await answer(writer))
        if self.open_streams >= self.queue_limit:
            abort = {"type": "abort", "status_code": 503, "message": "The request queue is full."}
            await self._stream_head(writer)
            event = {"text": "", "meta_info": {"finish_reason": abort, "completion_tokens": 0}}
            return await self._stream_end(writer, [event])
        return await self._stream(path, document, writer)

    async def _stream(self, path: str, document: dict[str, object], writer: asyncio.StreamWriter) -> bool:
        sampling = document.get("sampling_params", {})
        assert isinstance(sampling, dict)
        wanted = int(sampling.get("max_new_tokens") or document.get("max_tokens") or 1)  # type: ignore[call-overload]
        self.open_streams += 1
        try:
            await self._stream_head(writer)
            await asyncio.sleep(self.first_token_s)
            done = 0
            while done < wanted:
                done = min(wanted, done + self.tokens_per_event)
                last = done == wanted
                text = 'x "completion_tokens": 9 \n\ndata: '
                if path == "/generate":
                    reason = {"type": "length", "length": done} if last else None
                    meta = {"id": "a", "finish_reason": reason, "prompt_tokens": 3, "completion_tokens": done}
                    event: dict[str, object] = {
                        "text": text * done,
                        "output_ids": [7] * done,
                        "meta_info": meta,
                    }
                else:
                    choice = {"index": 0, "text": text, "finish_reason": "length" if last else None}
                    event = {"choices": [choice], "usage": None}
                if self.mode == "cut" and done * 2 >= wanted:
                    writer.transport.abort()
                    return False
                if self.mode == "unfinished" and last:
                    return await self._stream_end(writer, [])
                await self._event(writer, event)
                if writer.transport.is_closing():
                    self.cut_by_client += 1
                    return False
                if not last:
                    await asyncio.sleep(self.token_s * self.tokens_per_event)
            usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": wanted}}
            return await self._stream_end(writer, [] if path == "/generate" else [usage])
        except ConnectionError:
            self.cut_by_client += 1
            raise
        finally:
            self.open_streams -= 1

    async def _stream_head(self, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
        await writer.drain()

    async def _event(self, writer: asyncio.StreamWriter, event: dict[str, object]) -> None:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()

    async def _stream_end(self, writer: asyncio.StreamWriter, events: list[dict[str, object]]) -> bool:
        for event in events:
            await self._event(writer, event)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        return True

    async def _plain(
        self, writer: asyncio.StreamWriter, status: int, body: str, kind: str = "application/json"
    ) -> bool:
        data = body.encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n"
        writer.write(
            head.encode() + f"location: http://127.0.0.1:{self.port}/elsewhere\r\n\r\n".encode() + data
        )
        await writer.drain()
        return True

    async def _mode_html(self, writer: asyncio.StreamWriter) -> bool:
        return await self._plain(writer, 200, "<html>hello</html>", "text/html")

    async def _mode_redirect(self, writer: asyncio.StreamWriter) -> bool:
        return await self._plain(writer, 307, "")

    async def _mode_refuse(self, writer: asyncio.StreamWriter) -> bool:
        return await self._plain(writer, 400, '{"error":{"message":"The input is\\nlonger than the context."}}')

    async def _mode_fail(self, writer: asyncio.StreamWriter) -> bool:
        return await self._plain(writer, 500, '{"object":"error","message":"boom secret-key","code":500}')

    async def _mode_error_event(self, writer: asyncio.StreamWriter) -> bool:
        await self._stream_head(writer)
        return await self._stream_end(writer, [{"error": {"message": "The input (9 tokens) is longer"}}])

    async def _mode_garbage(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n" * 4)
        await writer.drain()
        return False

    async def _mode_silent(self, writer: asyncio.StreamWriter) -> bool:
        await self._stream_head(writer)
        await asyncio.sleep(3600)
        return False

    async def _mode_endless(self, writer: asyncio.StreamWriter) -> bool:
        await self._stream_head(writer)
        while not writer.transport.is_closing():
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
        return False


@asynccontextmanager
async def standing_in(server: StandIn) -> AsyncIterator[StandIn]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()
