"""A server that another program holds: nothing is signalled, a person makes the change, the wizard judges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.runner.test_detached import STANDIN, ask, end_of, port_owner, wait
from wizard.core.held import Held
from wizard.core.plan import Consent, Order, Plan, VerifyGoal
from wizard.core.progress import Outcome, Stage
from wizard.core.target import Launch, Target
from wizard.runner import client
from wizard.runner.journal import Journal
from wizard.server import proc
from wizard.server.identity import identify
from wizard.server.supervisors.assisted import Assisted
from wizard.server.supervisors.contract import Wish

KEEPER = """
import json, subprocess, sys, time
while True:
    subprocess.Popen(json.load(open(sys.argv[1]))).wait()
    time.sleep(0.2)
"""
"""Starts the command in a file again whenever it ended, as supervisord does."""


class Supervised:
    """The keeper, its file with the command, and a person who edits it."""

    def __init__(self, folder: Path) -> None:
        self.file, self.port, self.signals = folder / "command.json", free_port(), folder / "signals"
        self.argv = (sys.executable, STANDIN, "--port", str(self.port), "--signals", str(self.signals))
        self.write(*self.argv)
        self.keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(self.file)], start_new_session=True)
        wait(lambda: port_owner(self.port) is not None)

    def write(self, *argv: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(argv), encoding="utf-8")
        os.replace(fresh, self.file)

    @property
    def pid(self) -> int:
        owner = port_owner(self.port)
        return owner.identity.pid if owner is not None and owner.identity is not None else 0

    def person_restarts_with(self, *argv: str) -> None:
        self.write(*argv)
        os.kill(self.pid, signal.SIGKILL)

    def target(self) -> Target:
        launch = Launch(self.argv, "/", proc.environ(self.pid), None, None)
        held = Held("other", "supervisord (process 1)", "by itself", "change it there", is_assisted=True)
        return Target(port=self.port, identity=identify(self.pid), launch=launch, held=held)

    def change(self) -> Path:
        new = (*self.argv, "--max-running-requests", "7")
        plan = Plan("c", "c", "r", "r", self.argv, new, (), VerifyGoal("ready"), by_hand=True)
        return client.start(self.target(), Order(plan, Consent(ready_limit_s=15.0)), {"cause": None})

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.wait()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    made = Supervised(tmp_path)
    yield made
    assert not made.signals.exists(), "the wizard signalled what it may not"
    made.close()


def waits_for_a_person(path: Path) -> bool:
    stage = next(s for s in client.read(path).stages if s.stage is Stage.STOP)
    return "waiting for you" in stage.detail


async def test_the_change_that_a_person_made_is_verified(held: Supervised) -> None:
    path = held.change()
    wait(lambda: waits_for_a_person(path))
    held.person_restarts_with(*held.argv, "--max-running-requests", "7")
    state = await end_of(path)
    assert (state.outcome, state.serving) == (Outcome.KEPT, "new"), state.sentence
    assert ask(held.port)["argv"][-1] == "7"


async def test_a_restart_with_the_old_command_is_no_change(held: Supervised) -> None:
    path = held.change()
    wait(lambda: waits_for_a_person(path))
    held.person_restarts_with(*held.argv)
    state = await end_of(path)
    assert (state.outcome, state.serving) == (Outcome.ROLLED_BACK, "old"), state.sentence
    assert "came back with its old command" in state.sentence


async def test_called_off_while_it_waits(held: Supervised) -> None:
    path, pid = held.change(), held.pid
    wait(lambda: waits_for_a_person(path))
    client.send(path, "abort")
    state = await end_of(path)
    assert state.outcome is Outcome.CALLED_OFF, state.sentence
    assert held.pid == pid


def test_what_is_typed_holds_no_secret(held: Supervised) -> None:
    target = held.target()
    assert target.launch is not None
    assert target.held is not None
    assisted = Assisted(target.held, target.launch, target)
    wish = Wish((*held.argv, "--api-key", "s3cret"), {"HF_TOKEN": "hf_aaaaaaaaaaaaaaaaaaaa", "X": None})
    text = "\n".join(assisted.steps(target.launch, wish).apply)
    assert "s3cret" not in text
    assert "hf_aaa" not in text
    assert "supervisord" in text
    assert "-u X" in text


def test_a_journal_keeps_who_holds_it(held: Supervised) -> None:
    path = held.change()
    journal = Journal.open(path)
    kept, order = journal.target.held, journal.order
    journal.close()
    assert kept == held.target().held
    assert order.plan.by_hand
    client.send(path, "abort")
    wait(lambda: not client.runner_alive(path))
