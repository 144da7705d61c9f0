"""The real runner on a unit of a (stand-in) systemd with Restart=always: through systemd, never against it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runner.test_detached import end_of, wait
from tests.server.supervisors.test_journald import put_on_path
from tests.server.supervisors.world import UNIT, World, world_in
from wizard.core.plan import Consent, Order, Plan, VerifyGoal
from wizard.core.progress import Outcome
from wizard.core.target import Launch, Target
from wizard.runner import client
from wizard.runner.journal import Journal
from wizard.runner.locks import holder
from wizard.runner.state_dir import lock_path
from wizard.server import proc
from wizard.server.identity import is_alive
from wizard.server.supervisors import systemd


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    with world_in(tmp_path, monkeypatch) as made:
        yield made


def target_of(world: World) -> Target:
    launch = Launch(
        tuple(proc.cmdline(world.main)),
        str(world.folder),
        proc.environ(world.main),
        str(world.log),
        str(world.log),
    )
    return Target(
        port=world.port, identity=world.identity, launch=launch, log_path=str(world.log), held=world.held
    )


def change(target: Target, *more: str) -> Path:
    assert target.launch is not None
    old = target.launch.argv
    plan = Plan("long_queue", "Requests wait", "r", "Lift the cap", old, (*old, *more), (), VerifyGoal("ready"))
    return client.start(target, Order(plan, Consent(drain_limit_s=5.0, ready_limit_s=15.0)), {"cause": None})


def below_keepers(world: World) -> int:
    """Server processes of this test's port."""
    words = ("standin.py", str(world.port))
    return sum(all(any(w in a for a in proc.cmdline(pid)) for w in words) for pid in proc.pids())


async def test_a_change_is_kept_as_a_drop_in(world: World) -> None:
    world.set_up()
    state = await end_of(change(target_of(world), "--max-running-requests", "7"))
    assert (state.outcome, state.serving) == (Outcome.KEPT, "new"), state.sentence
    assert world.asked()[-2:] == ["--max-running-requests", "7"]
    assert state.new_pid == world.main, "systemd holds it"
    assert world.files == ["etc/sglang.service.d", f"etc/sglang.service.d/{systemd.NAME}"]
    os.kill(world.main, signal.SIGKILL)
    wait(lambda: world.main not in (0, state.new_pid))
    world.wait_for_port()
    assert world.asked()[-2:] == ["--max-running-requests", "7"], "and starts it again as it was changed"


async def test_a_server_that_dies_is_explained_by_the_journal(world: World) -> None:
    """Its output goes to no file."""
    put_on_path(world.folder / "bin")
    world.set_up()
    before = world.asked()
    target = target_of(world)
    assert target.launch is not None
    target = replace(target, log_path=None, launch=replace(target.launch, log_path=None, stderr_path=None))
    state = await end_of(change(target, "--crash"))
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert "Its log says: ValueError: this stand-in crashes as asked" in state.sentence
    assert world.asked() == before


async def test_a_kept_change_can_be_rolled_back_later(world: World) -> None:
    world.set_up()
    before = world.asked()
    path = change(target_of(world), "--max-running-requests", "7")
    assert (await end_of(path)).outcome is Outcome.KEPT
    client.resume(path, "rollback")
    state = await end_of(path)
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert world.asked() == before
    assert world.files == []


async def test_a_command_that_crashes_again_and_again_is_put_back(world: World) -> None:
    world.set_up()
    before = world.asked()
    state = await end_of(change(target_of(world), "--crash"))
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert world.asked() == before
    assert world.files == []
    assert below_keepers(world) == 1


@pytest.mark.parametrize("how", ["auto", "rollback"])
@pytest.mark.parametrize(
    "at", ["intent stop", "result stop", "launching launch", "launched launch", "intent ready"]
)
async def test_the_runner_is_killed_and_resumed(world: World, at: str, how: client.How) -> None:
    world.set_up("--drain-s", "0.3")
    before = world.asked()
    path = change(target_of(world), "--start-s", "0.6")
    face = Journal.open(path)
    wait(lambda: any(f"{r.kind} {r.stage}" == at for r in face.read_since(0)))
    face.close()
    runner = holder(lock_path(path))
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    wait(lambda: not is_alive(runner))
    client.resume(path, how)
    state = await end_of(path)
    assert state.outcome in (Outcome.KEPT, Outcome.ROLLED_BACK, Outcome.CALLED_OFF), (
        state.sentence,
        state.help,
    )
    serves_old = world.asked() == before
    assert state.serving == ("old" if serves_old else "new"), state.sentence
    assert how == "auto" or serves_old
    assert world.files == ([] if serves_old else [f"etc/{UNIT}.d", f"etc/{UNIT}.d/{systemd.NAME}"])
    assert below_keepers(world) == 1


async def test_a_second_change_is_put_back_to_the_first_that_was_kept(world: World) -> None:
    """Not to the unit's own command: the old command of the second session is what the first one kept."""
    world.set_up()
    folder = world.folder / "etc" / "sglang.service.d"
    assert (await end_of(lifted(target_of(world), {"SGLANG_X": "1"}))).outcome is Outcome.KEPT
    kept, text = world.asked(), (folder / systemd.NAME).read_text(encoding="utf-8")
    assert kept[-2:] == ["--max-running-requests", "7"]

    state = await end_of(change(target_of(world), "--crash"))
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert world.asked() == kept
    assert (folder / systemd.NAME).read_text(encoding="utf-8") == text

    path = change(target_of(world), "--max-running-requests", "9")
    assert (await end_of(path)).outcome is Outcome.KEPT
    assert proc.environ(world.main)["SGLANG_X"] == "1", "the first change is part of the second"
    client.resume(path, "rollback")
    assert (await end_of(path)).outcome is Outcome.ROLLED_BACK
    assert world.asked() == kept
    assert world.files == ["etc/sglang.service.d", f"etc/sglang.service.d/{systemd.NAME}"]


def lifted(target: Target, more: dict[str, str]) -> Path:
    """A session that lifts the cap to 7 and sets variables."""
    assert target.launch is not None
    old = target.launch.argv
    new = (*old, "--max-running-requests", "7")
    plan = Plan("long_queue", "Requests wait", "r", "Lift", old, new, (), VerifyGoal("ready"))
    plan = replace(plan, environ=more)
    return client.start(target, Order(plan, Consent(drain_limit_s=5.0, ready_limit_s=15.0)), {"cause": None})
