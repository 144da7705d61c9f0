"""The whole way on the simulator: found, stopped, released, started as it was, ready, stopped."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.ports import free_port
from tests.server.conftest import Stage, wait_until, who
from wizard.server import proc
from wizard.server.discovery import find_servers, target_from_pid, target_from_url
from wizard.server.identity import is_alive
from wizard.server.launch import launch
from wizard.server.ready import wait_ready
from wizard.server.release import wait_released
from wizard.server.stop import stop_tree

ROOT = str(Path(__file__).parents[2])


def quiet(_: str) -> None:
    pass


async def test_a_simulated_server_is_relaunched_as_it_was(stage: Stage) -> None:
    port = free_port()
    card = str(stage.folder / "card.json")
    env = {**os.environ, "PYTHONPATH": ROOT, "SGLANG_SIM_CARD": card}
    env |= {"SGLANG_SIM_START_S": "0.3", "SGLANG_SIM_SPEED": "20"}
    words = [sys.executable, "-m", "wizard.simulator", "--model-path", "llama-8b", "--port", str(port)]
    pid = stage.run(words, env, log="server.log").pid
    stage.wait_for("server.log", "fired up")

    (found,) = [t for t in find_servers() if t.identity == who(pid)]
    assert (found.port, found.simulated, found.card_path, found.name, found.note) == (
        port,
        True,
        card,
        "llama-8b",
        "",
    )
    assert target_from_url(found.base_url).identity == found.identity
    titles = [proc.cmdline(one.pid) for one in proc.descendants(pid)]
    assert ("sglang::scheduler",) in titles

    assert found.identity is not None
    done = await stop_tree(
        found.identity, drain_limit_s=20, escalate=False, on_progress=quiet, cancelled=lambda: False
    )
    assert (done.ok, done.how) == (True, "drained")
    assert len(done.tree) >= 2
    freed = await wait_released(
        done.tree, found.host, port, card_memory=lambda: {}, limit_s=10, on_progress=quiet
    )
    assert freed.ok

    assert found.launch is not None
    size = (stage.folder / "server.log").stat().st_size
    child = launch(found.launch, fallback_log=stage.folder / "fallback")
    stage.started.append(child.process)
    assert (child.log_path, child.log_offset) == (found.log_path, size)
    ready = await wait_ready(
        child.identity,
        found.host,
        port,
        log_path=child.log_path,
        log_offset=child.log_offset,
        deadline_s=30,
        on_progress=quiet,
        poll=child.poll,
    )
    assert ready.kind == "ready"
    again = target_from_pid(child.identity.pid)
    assert replace(again, identity=None) == replace(found, identity=None)  # argv, environment, folder, log

    tree = [child.identity, *proc.descendants_of(child.identity)]
    ended = await stop_tree(
        child.identity, drain_limit_s=0, escalate=True, on_progress=quiet, cancelled=lambda: False
    )
    assert ended.ok
    assert not any(map(is_alive, tree))
    assert wait_until(lambda: child.poll() is not None, "its exit code")


async def test_a_simulated_server_that_cannot_start_is_told_with_its_exit_code(stage: Stage) -> None:
    port = free_port()
    env = {"PYTHONPATH": ROOT, "SGLANG_SIM_CARD": str(stage.folder / "card.json"), "PATH": os.environ["PATH"]}
    words = [
        sys.executable,
        "-m",
        "wizard.simulator",
        "--model-path",
        "llama-8b",
        "--port",
        str(port),
        "--nonsense",
    ]
    from wizard.core.target import Launch

    child = launch(
        Launch(tuple(words), str(stage.folder), env, uid=os.geteuid(), gid=os.getegid()),
        fallback_log=stage.folder / "fallback",
    )
    stage.started.append(child.process)
    ready = await wait_ready(
        child.identity,
        "127.0.0.1",
        port,
        log_path=child.log_path,
        log_offset=0,
        deadline_s=30,
        on_progress=quiet,
        poll=child.poll,
    )
    assert (ready.ok, ready.kind, ready.exit_code) == (False, "died", 2)
    assert "--nonsense" in (stage.folder / "fallback").read_text()
