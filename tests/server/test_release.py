from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from tests.ports import free_port
from tests.server.conftest import Stage, who
from wizard.core.target import Identity
from wizard.server import proc, release
from wizard.server.release import ReleaseResult, wait_released

GIB = 1 << 30
NOBODY = 4194304 + 7  # above the kernel's largest pid


async def waited(
    old: list[Identity], port: int, memory: dict[int, int] | None = None, limit_s: float = 0.3
) -> ReleaseResult:
    look = (lambda: memory) if memory is not None else None
    return await wait_released(
        old, "127.0.0.1", port, card_memory=look, limit_s=limit_s, on_progress=lambda _: None
    )


def dead(stage: Stage) -> Identity:
    child = stage.script("import time; time.sleep(60)")
    me = who(child.pid)
    child.kill()
    child.wait()
    return me


async def test_free_at_once(stage: Stage) -> None:
    done = await waited([dead(stage)], free_port(), {})
    assert done.ok
    assert done.holders == ()


async def test_the_holder_of_the_port_is_named_and_left_alone(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port)
    done = await waited([dead(stage)], port)
    assert not done.ok
    assert done.holders == (f"port {port} is held by process {pid}",)
    assert who(pid)


async def test_a_stranger_on_the_port_is_not_waited_for_to_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "STRANGER_S", 0.5)
    port = free_port()
    mine, began = who(stage.server(port)), time.monotonic()
    assert not (await waited([dead(stage)], port, limit_s=30)).ok
    assert 0.5 <= time.monotonic() - began < 10
    began = time.monotonic()
    assert not (await waited([mine], port, limit_s=2)).ok, "one of the old tree is given its whole time"
    assert time.monotonic() - began >= 2


async def test_waits_until_the_port_is_given_back(stage: Stage) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    asyncio.get_running_loop().call_later(0.5, server.close)
    assert (await waited([], port, limit_s=15)).ok


async def test_an_orphan_is_named(stage: Stage) -> None:
    child = stage.script("import time; time.sleep(60)")
    done = await waited([dead(stage), who(child.pid)], free_port(), {child.pid: 3 * GIB})
    assert not done.ok
    assert done.holders == (
        f"process {child.pid} of the old server still runs",
        f"process {child.pid} still runs and holds 3.0 GiB of the card",
    )


async def test_neighbours_on_the_card_do_not_matter(stage: Stage) -> None:
    assert (await waited([dead(stage)], free_port(), {os.getpid(): 60 * GIB, os.getppid(): GIB})).ok


async def test_memory_that_the_driver_still_frees(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "in_first_pid_namespace", lambda: True)
    old = dead(stage)
    for pid in (old.pid, NOBODY):  # the scheduler's pid need not be known
        done = await waited([old], free_port(), {pid: 120 * GIB})
        assert not done.ok
        assert done.detail == f"process {pid} has ended and holds 120.0 GiB of the card"
    assert "memory of the card" in (await waited([old], free_port(), {old.pid: 0})).detail


async def test_in_a_container_unknown_pids_are_the_hosts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "in_first_pid_namespace", lambda: False)
    old = dead(stage)
    assert (await waited([old], free_port(), {NOBODY: 60 * GIB})).ok
    assert not (await waited([old], free_port(), {old.pid: 60 * GIB})).ok


async def test_a_reused_pid_is_somebody_elses_memory(stage: Stage) -> None:
    child = stage.script("import time; time.sleep(60)")
    me = who(child.pid)
    old = Identity(me.pid, me.start_ticks - 9, me.boot_id)
    assert (await waited([old], free_port(), {me.pid: GIB})).ok
    assert release._holders((old,), "127.0.0.1", 99999, None) == ((), None)
