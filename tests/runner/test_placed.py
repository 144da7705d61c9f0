"""The real runner on a server started with taskset, numactl, nice: changed or put back it runs where it ran."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runner.test_detached import Bench, end_of, port_owner, wait
from tests.server.test_placement import CPUS, facts, has_numa, taken_on
from wizard.core.plan import Consent, Order, Plan, VerifyGoal
from wizard.core.progress import Outcome
from wizard.core.target import Target
from wizard.runner.journal import Journal
from wizard.server import placement, proc
from wizard.server.identity import identify

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not has_numa(), reason="needs root, and a kernel that tells of memory policies"
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    made = Bench(tmp_path)
    yield made
    made.close()


def up(bench: Bench) -> Target:
    """As ``Bench.up``, yet placed, and with its launch read from the process."""
    argv, known = bench.argv("--max-running-requests", "1"), bench.launch()
    with bench.log.open("ab") as log:
        bench.popen = subprocess.Popen(
            taken_on(list(argv)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=known.cwd,
            env=dict(known.environ),
            start_new_session=True,
        )
    wait(lambda: port_owner(bench.port) is not None)
    pid = bench.popen.pid
    launch = replace(
        bench.launch("--max-running-requests", "1"),
        limits=proc.limits(pid),
        umask=proc.umask(pid),
        placement=placement.read(pid),
    )
    return Target(port=bench.port, identity=identify(pid), launch=launch, log_path=str(bench.log))


def place(pid: int) -> dict[str, object]:
    """All but the words, and the mark that a session adds to the environment."""
    return {name: value for name, value in facts(pid).items() if name not in ("cmdline", "environ")}


@pytest.mark.parametrize(("new", "outcome"), [("", Outcome.KEPT), ("--crash", Outcome.ROLLED_BACK)])
async def test_changed_and_put_back_it_runs_where_it_ran(bench: Bench, new: str, outcome: Outcome) -> None:
    target = up(bench)
    assert target.identity is not None
    assert target.launch is not None
    before = place(target.identity.pid)
    assert (before["cpus"], before["memory"], before["nice"]) == (str(CPUS[0]), "interleave:0", "5")
    plan = Plan("c", "c", "r", "r", target.launch.argv, bench.argv(*new.split()), (), VerifyGoal("ready"))
    path = bench.start(target, Order(plan, Consent(drain_limit_s=5.0, ready_limit_s=15.0)))
    state = await end_of(path)
    assert state.outcome is outcome, state.sentence
    owner = port_owner(bench.port)
    assert owner is not None
    assert owner.identity is not None
    assert owner.identity != target.identity
    assert place(owner.identity.pid) == before
    journal = Journal.open(path)
    notes = [r.data["text"] for r in journal.read_since(0) if r.kind == "note"]
    journal.close()
    assert notes == []
