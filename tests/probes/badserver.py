"""A tiny HTTP server whose answers are as bad as a test wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from wizard.core.target import Target

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes, kind: str = "text/plain", extra: str = "") -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        writer.write(head.encode() + body)

    return say


def raw(data: bytes) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return say


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip(writer: asyncio.StreamWriter) -> None:
    """One byte at a time, never done."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(600):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless(writer: asyncio.StreamWriter) -> None:
    """Far more than anyone should read."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nsglang:num_running_reqs 1\n")
    line = b"# " + b"x" * 65_533 + b"\n"
    for _ in range(1_000):
        writer.write(line)
        await writer.drain()


@dataclass
class Server:
    """``paths`` -> what is said there; the rest is 404. ``seen``: the requests with their headers."""

    port: int
    paths: dict[str, Say]
    seen: list[str] = field(default_factory=list)

    @property
    def target(self) -> Target:
        return Target(port=self.port, remote=True)


@asynccontextmanager
async def serving(paths: dict[str, Say]) -> AsyncIterator[Server]:
    it = Server(0, paths)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            it.seen.append(request)
            path = request.split(" ", 2)[1]
            await it.paths.get(path, answer(404, b'{"detail":"Not Found"}', "application/json"))(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    it.port = int(server.sockets[0].getsockname()[1])
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
