from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.server.conftest import Stage, who
from wizard.server import ready
from wizard.server.ready import ReadyResult, status_of, wait_ready


async def waited(pid: int, port: int, log: Path | None, limit_s: float = 15.0, **more: Any) -> ReadyResult:
    options: dict[str, Any] = {"log_offset": 0, "on_progress": lambda _: None, **more}
    return await wait_ready(who(pid), "127.0.0.1", port, log_path=log, deadline_s=limit_s, **options)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


LINES = [
    "[2026-11-22 07:53:34] server_args=ServerArgs(model_path='x')",
    "[2026-11-22 07:53:34] Init torch distributed begin.",
    "[2026-11-22 07:53:35] Load weight begin. avail mem=139.09 GB",
    "Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:01<00:01,  4.00it/s]",
]


async def test_ready_is_own_process_own_port_and_health(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, up=False, start_s=0.7, children=1, lines=LINES)
    said: list[str] = []
    done = await waited(pid, port, stage.folder / "server.log", on_progress=said.append)
    assert done.ok
    assert done.kind == "ready"
    assert done.exit_code is None
    assert any(text.startswith("loading weights 45 %, ") for text in said)
    assert done.phase_times["loading weights"] > 0.2
    assert done.phase_times["total"] >= 0.6


async def test_death_is_seen_at_once_with_its_exit_code(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, up=False, exit=2, lines=LINES[:3])
    process = stage.started[-1]
    begun = time.monotonic()
    done = await waited(pid, port, stage.folder / "server.log", 60, poll=process.poll)
    assert (done.ok, done.kind, done.exit_code) == (False, "died", 2)
    assert time.monotonic() - begun < 10
    assert "loading weights" in done.detail


async def test_death_while_health_hangs(stage: Stage) -> None:
    """A health check takes up to 25 s; an end in the meantime is not waited for."""
    code = (
        "import socket, sys, threading, time\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "c, _ = s.accept(); time.sleep(0.3)\n"
    )
    port = free_port()
    process = stage.script(code, str(port))
    begun = time.monotonic()
    done = await waited(process.pid, port, None, 60)
    assert done.kind == "died"
    assert time.monotonic() - begun < 10


async def test_a_bind_error_is_the_end_although_the_process_hangs(stage: Stage) -> None:
    """recordings/cpu: port_in_use_by_silent_listener hung for more than 450 s."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        pid = stage.server(port, up=False)
        stage.wait_for("server.log", "Errno 98")
        done = await waited(pid, port, stage.folder / "server.log", 60)
        assert done.kind == "log_fatal"
        assert f"('127.0.0.1', {port})" in done.detail
        assert who(pid)


async def test_old_lines_of_the_log_and_other_addresses_in_use_are_not_fatal(stage: Stage) -> None:
    port = free_port()
    log = stage.folder / "server.log"
    log.write_text("ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): in use\n")
    offset = log.stat().st_size
    pid = stage.server(port, up=False, lines=["zmq: Address already in use, trying the next port"])
    assert (await waited(pid, port, log, log_offset=offset)).ok


@pytest.mark.parametrize(
    ("text", "fatal"),
    [
        ("[Errno 98] error while attempting to bind on address ('127.0.0.1', 31000): in use", True),
        ("[Errno 98] error while attempting to bind on address ('::1', 31000, 0, 0): in use", True),
        ("[Errno 99] error while attempting to bind on address ('10.0.0.9', 31000): cannot assign", True),
        ("[Errno 13] error while attempting to bind on address ('0.0.0.0', 31000): permission denied", True),
        ("[Errno 98] error while attempting to bind on address: address already in use", True),
        ("[Errno 98] error while attempting to bind on address ('0.0.0.0', 8998): in use", False),
        ("[Errno 98] error while attempting to bind on address ('0.0.0.0', 310001): in use", False),
        ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:31000')", False),
    ],
)
def test_only_the_failing_bind_of_its_own_port_is_the_end(text: str, fatal: bool) -> None:
    """Another listener of the server (disaggregation's, say) may fail while the server goes on."""
    follower = ready._LogFollower(None, 0, 31000)
    follower._line(f"[2026-11-22 08:04:56] ERROR:    {text}")
    assert bool(follower.fatal) is fatal


async def test_fired_up_is_not_ready(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, unbound=True)
    done = await waited(pid, port, stage.folder / "server.log", 0.6)
    assert done.kind == "timed_out"
    assert "nothing answered" in done.detail


async def test_another_server_on_the_port_never_counts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """recordings/h200 f_second_same_port: the first server answers the second one's warm-up."""
    monkeypatch.setattr(ready, "FOREIGN_S", 0.5)
    port = free_port()
    first = stage.server(port, log="first.log")
    second = stage.server(port, log="second.log", unbound=True)
    done = await waited(second, port, stage.folder / "second.log", 60)
    assert not done.ok
    assert done.kind == "wrong_owner"
    assert (await waited(first, port, stage.folder / "first.log")).ok


async def test_a_listener_on_another_address_is_no_stranger(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "FOREIGN_S", 0.0)
    port = free_port()
    with socket.create_server(("127.0.0.2", port)):
        pid = stage.server(port, up=False, start_s=0.5)
        assert (await waited(pid, port, stage.folder / "server.log")).ok


async def test_our_tree_on_the_wildcard_does_not_own_what_a_stranger_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "FOREIGN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        code = (
            "import socket, sys, time; s = socket.socket(socket.AF_INET6)\n"
            "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); s.bind(('::', int(sys.argv[1])))\n"
            "s.listen(); print('up', flush=True); time.sleep(60)\n"
        )
        process = stage.script(code, str(port))
        stage.wait_for("log", "up")
        assert (await waited(process.pid, port, None)).kind == "wrong_owner"


async def test_one_who_shares_the_port_with_us_may_be_the_one_who_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO_REUSEPORT: the kernel gives each connection to either of the two."""
    monkeypatch.setattr(ready, "FOREIGN_S", 0.3)
    code = (
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1])), reuse_port=True)\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as stranger:
        port = stranger.getsockname()[1]
        process = stage.script(code, str(port))
        stage.wait_for("log", "up")
        assert (await waited(process.pid, port, None)).kind == "wrong_owner"


@pytest.mark.parametrize(("then", "kind"), [(False, "wrong_owner"), (None, "timed_out")])
async def test_a_port_that_changes_hands_during_the_health_check(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, then: bool | None, kind: str
) -> None:
    monkeypatch.setattr(ready, "FOREIGN_S", 0.3)
    looks = iter([True])
    monkeypatch.setattr(ready, "_owns", lambda *_: next(looks, then))

    async def healthy(*_: object) -> int:
        await asyncio.sleep(0.1)
        return 200

    monkeypatch.setattr(ready, "_health", healthy)
    process = stage.script("import time; time.sleep(60)")
    done = await waited(process.pid, free_port(), None, 1.0)
    assert (done.ok, done.kind) == (False, kind)


async def test_unhealthy_is_not_ready(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port, status=503)
    done = await waited(pid, port, stage.folder / "server.log", 0.8)
    assert done.kind == "timed_out"
    assert "503" in done.detail


async def test_progress_in_the_log_moves_the_deadline_but_not_for_ever(stage: Stage) -> None:
    log = stage.folder / "growing.log"
    process = stage.script("import time; time.sleep(60)")

    async def grow() -> None:
        while True:
            await asyncio.to_thread(append, log, b"still loading\n")
            await asyncio.sleep(0.05)

    task = asyncio.ensure_future(grow())
    try:
        done = await waited(process.pid, free_port(), log, 1.0)
    finally:
        task.cancel()
    assert done.kind == "timed_out"
    assert 2.0 <= done.phase_times["total"] < 15


async def test_our_own_health_checks_in_the_log_do_not_move_the_deadline(stage: Stage) -> None:
    """Every GET /health that is answered 503 is a line of the access log (recordings/cpu)."""
    log = stage.folder / "access.log"
    process = stage.script("import time; time.sleep(60)")
    line = b'[2026-11-22 08:22:11] INFO:     127.0.0.1:53444 - "GET /health HTTP/1.1" 503 Service Unavailable\n'

    async def grow() -> None:
        while True:
            await asyncio.to_thread(append, log, line)
            await asyncio.sleep(0.05)

    task = asyncio.ensure_future(grow())
    try:
        done = await waited(process.pid, free_port(), log, 4.0)
    finally:
        task.cancel()
    assert done.kind == "timed_out"
    assert 4.0 <= done.phase_times["total"] < 4.0 * ready.MOST_STRETCH - 2


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ('INFO:     127.0.0.1:53444 - "GET /health HTTP/1.1" 503 Service Unavailable', False),
        ('INFO:     10.0.0.7:1 - "GET /get_model_info HTTP/1.1" 200 OK', False),
        ('INFO:     10.0.0.7:1 - "POST /v1/chat/completions HTTP/1.1" 503 Service Unavailable', False),
        ("Health check request received during shutdown. Returning 503.", False),
        ("Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:01<00:01,  4.00it/s]", True),
        ("Capture cuda graph begin. This can take up to several minutes. avail mem=9.00 GB", True),
    ],
)
def test_which_lines_tell_that_the_start_goes_on(line: str, goes_on: bool) -> None:
    follower = ready._LogFollower(None, 0)
    follower._line(f"[2026-11-22 08:22:11] {line}")
    assert bool(follower.steps) is goes_on


async def test_called_off(stage: Stage) -> None:
    process = stage.script("import time; time.sleep(60)")
    assert (await waited(process.pid, free_port(), None, cancelled=lambda: True)).kind == "cancelled"


async def test_a_number_that_is_no_port_is_never_ready(stage: Stage) -> None:
    """recordings/cpu port_out_of_range: SGLang itself says that it runs on 99999."""
    process = stage.script("import time; time.sleep(60)")
    assert (await waited(process.pid, 99999, None, 0.3)).kind == "timed_out"


def test_a_log_that_is_cut_and_one_that_pours(stage: Stage) -> None:
    log = stage.folder / "log.txt"
    follower = ready._LogFollower(str(log), 500)
    assert not follower.read()
    log.write_bytes(b"[x] Load weight begin. avail mem=1 GB\n")  # shorter than the offset: it was cut
    assert follower.read()
    assert follower.phase == "loading weights"
    with open(log, "ab") as file:
        file.write(b"\xff\x00 binary\r 10%|#\r 20%|##\n" * 60000)
        file.write(b"[Errno 98] error while attempting to bind on address ('127.0.0.1', 1): in use\n")
    while follower.read():
        pass
    assert "Errno 98" in follower.fatal
    assert follower.offset == os.path.getsize(log)


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        (
            "Load weight end. elapsed=0.25 s, type=LlamaForCausalLM, avail mem=124.07 GB, mem usage=15.02 GB.",
            "allocating the KV cache",
        ),
        ("Capture target prefill CUDA graph begin. backend=breakable, num_tokens=[4, 8]", "capturing graphs"),
        (
            "Capture cuda graph begin. This can take up to several minutes. avail mem=9.00 GB",
            "capturing graphs",
        ),
        ("INFO:     Uvicorn running on http://127.0.0.1:30000 (Press CTRL+C to quit)", "warming up"),
    ],
)
def test_phases_of_recorded_lines(line: str, phase: str) -> None:
    follower = ready._LogFollower(None, 0)
    follower._line(line)
    assert phase in follower.phase


async def test_a_body_without_end_is_not_read() -> None:
    """A stranger's /health may stream for ever: the status is enough."""
    import httpx

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        status = await asyncio.wait_for(status_of(client, f"http://127.0.0.1:{port}/health"), 4)
    server.close()
    assert status == 200
