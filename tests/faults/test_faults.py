"""A few runs of the matrix whose moment is fixed, and proof that its judge can say no."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import world
from tests.faults.command import Run, draw, draws, main, play
from tests.faults.ground import PLAIN, Ran, Scene, Wrapper
from tests.faults.judge import judge
from tests.faults.table import FAULTS, OLD, by_name

RUNS: list[tuple[str, Any, Wrapper, str]] = [
    ("runner_killed", ("before", 14), "group", "new"),  # a child is born and nobody could write down its pid
    ("new_dies_starting", "Load weight end", "shell", "old"),
    ("memory_taken", 0, "exec", "old"),  # nothing can start: told with the command, and back by `rollback`
    ("state_unusable", "a file", "exec", "old"),
]


@pytest.mark.parametrize(("name", "moment", "wrapper", "serves"), RUNS, ids=[row[0] for row in RUNS])
def test_a_relaunch_that_is_broken_hurts_nobody(name: str, moment: Any, wrapper: Wrapper, serves: str) -> None:
    nth = 1 if serves == "new" else 0  # what the run's user wants is drawn from it: 1 resumes, 0 rolls back
    result = play(Run(1, by_name(name), nth, moment, PLAIN, wrapper))
    assert not result.missed
    assert not result.broken, f"{result.line}\n{result.said}"
    assert result.end.rpartition("; then ")[2].startswith(f"{serves}, "), result.end


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, PLAIN, "exec", random.Random(1))
    try:
        made.set_up()
        yield made
    finally:
        made.clear()


def test_the_judge_says_no(scene: Scene) -> None:
    """Untouched all is well; then the server dies, a decoy is signalled, and a false word is given."""
    assert not judge(scene, OLD).broken
    scene.kill(scene.server("old"))
    hit, gone = scene.decoys[:2]
    os.kill(hit.process.pid, signal.SIGTERM)
    gone.process.kill()
    scene.wait(lambda: hit.harm() and gone.harm(), "the decoys' word")
    scene.wait(lambda: not world.listening(scene.port), "the port to be free")
    scene.ran.append(Ran(("fix",), 0, "FIXED.", ""))
    found = {f"{b.kind}: {b.what}" for b in judge(scene, OLD).broken}
    assert found == {
        "wrong verdicts: none on the port, expected old",
        "wrong verdicts: exit 0 while none serves",
        "server left down without a message: none; said no session, exit 0",
        "old command lost: the session does not hold it",
        "old command lost: nothing serves, and no output holds the exact command",
        "foreign processes signalled: decoy with the port got SIGTERM to " + str(hit.process.pid),
        "foreign processes signalled: decoy that looks like a server was killed",
    }


def test_a_second_server_is_a_stray(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.judge.STRAY_LIMIT_S", 0.5)
    root = scene.server("old")
    assert root is not None
    words = tuple(w if w != str(scene.port) else "1" for w in scene.old_argv)
    env = {**world.environ(root.pid), "SGLANG_SIM_CARD": str(scene.folder / "another card.json")}
    scene.spawn(("setsid", "-f", *words), scene.folder / "stray.log", env)
    scene.wait(
        lambda: len({p.pid for p in world.marked(scene.marker)} - world.below(root.pid)) > 0, "the stray"
    )
    assert "stray servers left" in {b.kind for b in judge(scene, OLD).broken}


def test_runs_are_drawn_from_the_seed_alone() -> None:
    first = [run for run, _ in zip(draws(7, ()), range(80), strict=False)]
    assert [r.id for r in first] == [r.id for r in itertools.islice(draws(7, ()), 80)]
    assert {r.fault.name for r in first} == {f.name for f in FAULTS if not f.slow}
    for run in first:
        assert draw(7, run.fault, run.nth) == run
    alone = list(itertools.islice(draws(7, ("face_signalled",)), 28))
    assert {r.moment for r in alone} == set(by_name("face_signalled").moments), "no moment twice before all"


def test_the_faults_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [f.name for f in FAULTS]
