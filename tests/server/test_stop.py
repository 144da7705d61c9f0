from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.server.conftest import MODULE, Stage, pretend_environ, wait_until, who
from wizard.core.target import Identity
from wizard.server import proc, stop
from wizard.server.identity import is_alive
from wizard.server.stop import StopResult, stop_tree


async def stopped(
    identity: Identity, limit_s: float = 10.0, escalate: bool = True, **more: object
) -> StopResult:
    options: dict[str, object] = {"on_progress": lambda _: None, "cancelled": lambda: False, **more}
    return await stop_tree(identity, drain_limit_s=limit_s, escalate=escalate, **options)  # type: ignore[arg-type]


def tree_of(pid: int) -> list[Identity]:
    return [who(pid), *proc.descendants(pid)]


async def test_a_drain_that_ends_by_itself(stage: Stage) -> None:
    pid = stage.server(free_port(), children=2, drain_s=0.6)
    tree, said = tree_of(pid), []
    done = await stopped(tree[0], on_progress=said.append, remaining=lambda: 3)
    assert done.ok
    assert done.how == "drained"
    assert 0.5 <= done.drained_s < 8
    assert not done.survivors
    assert len(tree) == 5
    assert set(done.tree) == set(tree)
    assert not any(map(is_alive, tree))
    assert stage.started[0].wait() == 0  # its own exit code: it was not killed
    assert any("3 requests still run" in text for text in said)


async def test_what_does_not_end_is_killed_to_the_last_child(stage: Stage) -> None:
    pid = stage.server(free_port(), children=2, deaf=True, orphans=True)
    bystander = stage.server(free_port(), log="other.log", children=1)
    tree, others = tree_of(pid), tree_of(bystander)
    done = await stopped(tree[0], limit_s=0.3)
    assert done.ok
    assert done.how == "escalated"
    assert not any(map(is_alive, tree))
    assert len(tree) == 5
    assert all(map(is_alive, others))
    assert len(others) == 3
    assert stage.started[0].wait() == -signal.SIGKILL


async def test_without_consent_nothing_is_killed(stage: Stage) -> None:
    pid = stage.server(free_port(), children=1, drain_s=1.5)
    tree = tree_of(pid)
    done = await stopped(tree[0], limit_s=0.2, escalate=False)
    assert not done.ok
    assert done.how == "draining"
    assert "will end by itself" in done.detail
    assert done.survivors == (tree[0],)
    assert all(map(is_alive, tree))
    assert stage.started[0].wait(15) == 0  # as promised


async def test_a_stopped_process_is_said_to_be_stopped(stage: Stage) -> None:
    pid = stage.server(free_port())
    me = who(pid)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: proc.state(pid) == "T", "SIGSTOP")
    done = await stopped(me, limit_s=0.2, escalate=False)
    assert done.how == "draining"
    assert "SIGSTOP" in done.detail
    assert (await stopped(me, limit_s=0.2)).how == "escalated"
    assert not is_alive(me)


async def test_called_off_while_it_drains(stage: Stage) -> None:
    pid = stage.server(free_port(), children=1, drain_s=60)
    done = await stopped(who(pid), cancelled=lambda: True)
    assert not done.ok
    assert done.how == "cancelled"
    assert is_alive(who(pid))


async def test_gone_already(stage: Stage) -> None:
    child = stage.script("import time; time.sleep(60)")
    me = who(child.pid)
    child.kill()
    for reaped in (False, True):
        if reaped:
            child.wait()
        else:
            wait_until(lambda: proc.state(child.pid) == "Z", "a zombie")
        done = await stopped(me)
        assert done.ok
        assert done.how == "already_gone"


async def test_a_reused_pid_and_its_children_are_left_alone(stage: Stage) -> None:
    pid = stage.server(free_port(), children=2)
    tree = tree_of(pid)
    for old in (replace(tree[0], start_ticks=tree[0].start_ticks - 1), replace(tree[0], boot_id="before")):
        done = await stopped(old, limit_s=0.1)
        assert done.ok
        assert done.how == "already_gone"
    assert all(map(is_alive, tree))
    assert stage.started[0].poll() is None


async def test_pid_given_to_a_stranger_while_it_drains(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the parent's pid is somebody else's: neither they nor their children may be killed."""
    pid = stage.server(free_port(), deaf=True)
    stranger = stage.server(free_port(), log="other.log", children=2)
    me, theirs = who(pid), tree_of(stranger)
    real = proc.descendants

    async def limit(*_: object) -> str:
        # From now on what is below our pid is what is below the stranger's, and the pid has another start time.
        monkeypatch.setattr(proc, "descendants", lambda p: real(stranger) if p == pid else real(p))
        monkeypatch.setattr(proc, "start_ticks", lambda p: me.start_ticks + 7)
        return "limit"

    monkeypatch.setattr(stop, "_drain", limit)
    await stopped(me, limit_s=0.1)
    assert len(theirs) == 5
    assert all(map(is_alive, theirs))


async def test_children_left_behind_go_too_where_that_was_agreed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "LINGER_S", 0.4)
    for escalate in (False, True):
        pid = stage.server(free_port(), log=f"{escalate}.log", children=1, orphans=True)
        tree = tree_of(pid)
        done = await stopped(tree[0], escalate=escalate)
        assert done.ok is escalate
        assert done.how == "drained"
        assert not is_alive(tree[0])
        if escalate:
            assert "2 leftover processes killed" in done.detail
            assert not any(map(is_alive, tree))
        else:
            assert set(done.survivors) == set(tree[1:])
            assert str(tree[1].pid) in done.detail


async def test_sigterm_goes_to_the_parent_alone(stage: Stage) -> None:
    """A child that got one would write a line."""
    code = (
        "import os, signal, sys, time\n"
        "def told(*_):\n"
        "  print('TERM', 'parent' if os.getpid() == top else 'child', flush=True)\n"
        "  os.getpid() == top and sys.exit(0)\n"
        "top = os.getpid(); signal.signal(signal.SIGTERM, told)\n"
        "child = os.fork()\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.2); (os.getpid() != top and os.getppid() != top) and sys.exit(0)\n"
    )
    child = stage.script(code)
    wait_until(lambda: (stage.folder / "log").read_text().count("up") == 2, "both")
    done = await stopped(who(child.pid), escalate=False)
    assert done.ok
    assert done.how == "drained"
    assert len(done.tree) == 2
    assert [line for line in (stage.folder / "log").read_text().splitlines() if "TERM" in line] == [
        "TERM parent"
    ]


def test_what_the_wizard_runs_below_is_not_signalled(stage: Stage) -> None:
    code = (
        "import asyncio, os\n"
        "from wizard.server.identity import identify\n"
        "from wizard.server.stop import stop_tree\n"
        "done = asyncio.run(stop_tree(identify(os.getppid()), drain_limit_s=0.1, escalate=True,\n"
        "                             on_progress=print, cancelled=lambda: False))\n"
        "print('HOW', done.how, done.ok, flush=True)\n"
    )
    (stage.folder / "below.py").write_text(code)
    above = "import subprocess, sys; subprocess.run([sys.executable, 'below.py']); print('I live', flush=True)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = stage.script(above, env=env)
    assert process.wait(20) == 0
    said = (stage.folder / "log").read_text()
    assert "HOW not_signalled False" in said
    assert "I live" in said


def test_the_wizard_and_those_above_it_are_never_killed(stage: Stage) -> None:
    """Whatever tree it may be told of. In a process of its own: a mistake here would end the tests."""
    code = (
        "import os\n"
        "from wizard.server.identity import identify\n"
        "from wizard.server.stop import _kill\n"
        "_kill([identify(os.getppid()), identify(os.getpid())])\n"
        "print('spared', flush=True)\n"
    )
    (stage.folder / "below.py").write_text(code)
    above = "import subprocess, sys; subprocess.run([sys.executable, 'below.py']); print('I live', flush=True)"
    process = stage.script(above, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert process.wait(20) == 0
    assert (stage.folder / "log").read_text().split("\n")[:2] == ["spared", "I live"]


def test_what_a_child_started_after_its_parent_ended_goes_too(stage: Stage) -> None:
    top = stage.server(free_port(), children=1, orphans=True)
    parent, child, grandchild = tree_of(top)
    stage.started[0].kill()
    stage.started[0].wait()
    known: dict[Identity, None] = {parent: None, child: None}
    stop._kill_tree(parent, known)
    wait_until(lambda: not is_alive(child) and not is_alive(grandchild), "both gone")
    assert grandchild in known


async def test_many_at_once_do_not_block_each_other(stage: Stage) -> None:
    servers = [stage.server(free_port(), log=f"{n}.log", drain_s=0.5, children=1) for n in range(3)]
    results = await asyncio.gather(*(stopped(who(pid)) for pid in servers))
    assert [r.how for r in results] == ["drained"] * 3


async def test_a_server_still_loading_is_stopped(stage: Stage) -> None:
    argv = [*MODULE, "--port", str(free_port())]
    pid = stage.run(argv, pretend_environ(start_s=60, children=1), log="server.log").pid
    stage.wait_for("server.log", "out: started")
    done = await stopped(who(pid))
    assert done.ok
    assert done.how == "drained"
