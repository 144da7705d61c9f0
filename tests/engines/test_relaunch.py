"""The real runner on a server in a container of a real engine: kept, rolled back, killed at any record."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.engines.conftest import Box
from tests.runner.test_detached import end_of, wait
from wizard.core.argv import parse, set_flag
from wizard.core.plan import Consent, Order, Plan, VerifyGoal
from wizard.core.progress import Outcome, RunState
from wizard.core.target import Target
from wizard.probes import port as port_probe
from wizard.runner import client
from wizard.runner.journal import Journal
from wizard.runner.locks import holder
from wizard.runner.state_dir import holder_path, lock_path
from wizard.server.catalogue import for_version
from wizard.server.identity import is_alive

pytestmark = pytest.mark.parametrize("engine", ["docker", "podman"])
ASIDE = "-sgl-wizard-old"


def change(target: Target, flag: str = "--max-running-requests", value: str = "7", **consent: object) -> Path:
    assert target.launch is not None
    old = target.launch.argv
    new = set_flag(parse(old, for_version(target.version)), flag, (value,)).argv
    plan = Plan("long_queue", "Requests wait", "r", "Lift the cap", old, new, (), VerifyGoal("ready"))
    said = Consent(drain_limit_s=10.0, ready_limit_s=40.0, **consent)  # type: ignore[arg-type]
    return client.start(target, Order(plan, said), {"cause": None})


async def done(path: Path) -> RunState:
    return await end_of(path, limit_s=150.0)


def test_a_server_behind_a_published_port_is_itself(box: Box) -> None:
    box.start()
    target = box.target()
    assert target.identity is not None
    assert (target.host, target.port, target.inside_port) == ("127.0.0.1", box.port, 30000)
    assert target.held is not None
    assert (target.held.kind, target.held.name, target.held.is_managed) == (box.engine, box.name, True)
    assert target.note == ""
    values = port_probe.examine(target).values
    assert values["port.owner_is_target"].x is True
    assert values["port.owner_pid"].x == target.identity.pid


async def test_a_change_is_kept_and_can_be_rolled_back_later(box: Box) -> None:
    box.start("--max-running-requests", "8")
    before, old_id = box.settled(), box.doc()["Id"]
    path = change(box.target())
    state = await done(path)
    assert (state.outcome, state.serving) == (Outcome.KEPT, "new"), state.sentence
    assert box.words[-2:] == ["--max-running-requests", "7"]
    assert any(f"{box.engine} rm {box.name}{ASIDE}" in stage.detail for stage in state.stages), state.stages
    assert box.all() == {"": True, ASIDE: False}
    now = box.settled()
    now["config"]["Cmd"][-1] = "8"
    for part, was in before.items():
        assert {k: (now[part][k], x) for k, x in was.items() if now[part].get(k) != x} == {}, part
    assert holder_path(path).stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob("*.env")), "the file with its variables is gone"

    client.resume(path, "rollback")
    state = await done(path)
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert (box.settled(), box.doc()["Id"], box.all()) == (before, old_id, {"": True})
    assert box.health() == 200


async def test_the_next_change_needs_no_cleaning_up(box: Box) -> None:
    box.start("--max-running-requests", "8")
    first = box.doc()["Id"]
    for value in ("7", "6"):
        state = await done(change(box.target(), value=value))
        assert state.outcome is Outcome.KEPT, state.sentence
    assert box.words[-1] == "6"
    assert box.all() == {"": True, ASIDE: False}
    assert box.doc(box.name + ASIDE)["Config"]["Cmd"][-1] == "7"
    assert first not in str(box.doc(box.name + ASIDE)["Id"])


async def test_a_server_that_does_not_start_is_put_back(box: Box) -> None:
    box.start("--mem-fraction-static", "0.9")
    before, old_id = box.settled(), box.doc()["Id"]
    state = await done(change(box.target(), "--mem-fraction-static", "0.02"))
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert (box.settled(), box.doc()["Id"], box.all()) == (before, old_id, {"": True})
    assert box.health() == 200


async def test_without_consent_to_kill_it_is_asked_only(box: Box) -> None:
    box.start("--max-running-requests", "8")
    state = await done(change(box.target(), escalate=False))
    assert (state.outcome, state.serving) == (Outcome.KEPT, "new"), state.sentence


@pytest.mark.parametrize("how", ["auto", "rollback"])
@pytest.mark.parametrize(
    "at", ["intent stop", "create", "stop", "take the name", "start", "launched launch", "result ready"]
)
async def test_the_runner_is_killed_and_resumed(box: Box, at: str, how: client.How) -> None:
    box.start("--max-running-requests", "8")
    before = box.settled()
    path = change(box.target())
    face = Journal.open(path)
    acts = holder_path(path)

    def reached() -> bool:
        if " " in at and at != "take the name":
            return any(f"{r.kind} {r.stage}" == at for r in face.read_since(0))
        return acts.exists() and f'"doing", "name": "{at}"' in acts.read_text()

    wait(reached, limit_s=60.0)
    face.close()
    runner = holder(lock_path(path))
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    wait(lambda: not is_alive(runner))
    client.resume(path, how)
    state = await done(path)
    assert state.outcome in (Outcome.KEPT, Outcome.ROLLED_BACK, Outcome.CALLED_OFF), (
        state.sentence,
        state.help,
    )
    now = box.settled()
    serves_old = now == before
    assert serves_old or now["config"]["Cmd"][-1] == "7"
    assert state.serving == ("old" if serves_old else "new"), state.sentence
    assert how == "auto" or serves_old
    assert box.all() == ({"": True} if serves_old else {"": True, ASIDE: False})
    assert box.health() == 200


@pytest.mark.parametrize("network", ["bridge", "host"])
@pytest.mark.parametrize("act", ["remove the new", "start the old"])
async def test_the_runner_is_killed_on_the_way_back(box: Box, act: str, network: str) -> None:
    box.start("--max-running-requests", "8", network=network)
    before = box.settled()
    path = change(box.target())
    assert (await done(path)).outcome is Outcome.KEPT
    client.resume(path, "rollback")
    wait(lambda: f'"doing", "name": "{act}"' in holder_path(path).read_text(), limit_s=60.0)
    runner = holder(lock_path(path))
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    wait(lambda: not is_alive(runner))
    await asyncio.sleep(1.5 if act == "start the old" else 0.0)  # it starts, and does not answer yet
    client.resume(path, "auto")
    state = await done(path)
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), (state.sentence, state.help)
    assert (box.settled(), box.all()) == (before, {"": True})
    assert box.health() == 200
