"""The faults that only a real server can prove, judged as the matrix judges (tests/faults): by /proc and HTTP.

What a simulator cannot stand in for: a parent whose children wipe their command lines, half a minute of loading
before the port is bound, and what SGLang itself does when a part of it dies. All changes end with the old
command, so one server is handed from case to case.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults import watch, world
from tests.faults.ground import HERE, Change, Scene
from tests.faults.judge import Judged, judge
from tests.faults.world import Proc, Wanted

from .conftest import READY_LIMIT_S, command, family
from .home import Home, log_of

pytestmark = pytest.mark.e2e

CAP = ("--max-running-requests", "1")
LOAD = (
    *("--windows", "2", "--window-s", "1", "--warmup-s", "0.5"),
    *("--clients", "4", "--input-tokens", "32", "--output-tokens", "8"),
)
PLAIN = Change("plain", CAP, (), ("--unset", "max_running_requests", "--no-load-test"))
MEASURED = Change("measured", CAP, (), ("--unset", "max_running_requests", *LOAD))


class RealScene(Scene):
    """The ground of one case: the server of the home, decoys beside it, a state folder of its own."""

    def __init__(self, folder: Path, home: Home, change: Change) -> None:
        self.at = home
        super().__init__(folder, change, "exec", random.Random(1), ready_limit_s=READY_LIMIT_S)

    def __post_init__(self) -> None:
        self.state, self.marker = self.folder / "state", "kept"
        self.home, self.port = self.at.cwd, self.at.port

    def _argv(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(command(self.at.sglang_folder, self.port, flags))

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.old_argv, self._argv(self.change.new), str(self.home), self.marker, str(self.log))

    def set_up(self) -> None:
        self.stand_decoys()
        server = self.at.serving(*CAP)
        self.log = log_of(server)
        self.log_start = self.log.stat().st_size

    def servers(self) -> list[Proc]:
        """By their folder, which nobody wipes."""
        return [one for one in world.everybody() if world.link(f"/proc/{one.pid}/cwd") == str(self.home)]

    def logged(self, text: str) -> bool:
        """Whether a server wrote this since the case began."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return text.encode() in file.read()

    def clear(self) -> None:
        """The decoys go, and a runner that is left; the server stays for the next case."""
        for process in self.own:
            if process.poll() is None:
                process.kill()
            process.wait()
        runner = self.runner()
        if runner is not None:
            self.kill(runner)

    def end(self, *ends: str) -> Judged:
        """What a user does until nothing is unfinished; then the judge's word."""
        self.settle()
        judged = judge(self, frozenset(ends))
        said = "\n".join(f"$ {' '.join(r.words)}  [exit {r.code}]\n{r.said}" for r in self.ran)
        assert not judged.broken, f"{judged.end}\n{judged.broken}\n{said}"
        return judged


SetScene = Callable[[Change], RealScene]


@pytest.fixture
def scene(home: Home, tmp_path: Path) -> Iterator[SetScene]:
    made: list[RealScene] = []

    def set_scene(change: Change) -> RealScene:
        made.append(RealScene(tmp_path, home, change))
        made[-1].set_up()
        return made[-1]

    yield set_scene
    for one in made:
        one.clear()


def launched(scene: RealScene, stage: str) -> psutil.Process:
    """The server that the wizard has just started in a stage."""
    line = watch.until(scene.journal, f"launched {stage}", scene.no_more, READY_LIMIT_S)
    return psutil.Process(int(line.data["identity"]["pid"]))


def scheduler(root: psutil.Process) -> psutil.Process | None:
    """The child that holds the model, once it has named itself."""
    found = (p for p in family(root) if p.pid != root.pid and "sglang::scheduler" in " ".join(p.cmdline()))
    try:
        return next(found, None)
    except psutil.Error:
        return None


def launches(scene: Scene) -> list[str]:
    return [line.stage for line in watch.lines(scene.journal) if line.kind == "launched"]


def test_the_port_is_stolen_while_it_loads(scene: SetScene) -> None:
    """A thief answers 200 to everything on the port while SGLang still loads: it is no server of ours. Then the
    first attempt to put back the old one loses its parent while it loads: its children must not stay."""
    ground = scene(PLAIN)
    ground.start_fix()
    launched(ground, "launch")
    log = ground.folder / "squatter.log"
    words = (sys.executable, "-S", str(HERE / "squatter.py"), str(ground.port), "3600")
    thief = ground.spawn(words, log, ground.environ())
    ground.wait(lambda: b"has it" in log.read_bytes(), "the thief")
    ground.struck()
    ground.until("intent rollback")
    assert world.answers(ground.port)
    assert thief.poll() is None, "the thief was ended"
    thief.terminate()
    assert thief.wait() == -signal.SIGTERM, "it got another signal before"
    back = launched(ground, "rollback")
    ground.wait(lambda: len(family(back)) >= 3, "its children", READY_LIMIT_S)
    back.kill()

    ground.end("old")
    assert ground.ran[0].code == 4
    assert launches(ground) == ["launch", "rollback", "rollback"]
    (ready,) = (line for line in watch.lines(ground.journal) if line.name == "result ready")
    assert not ready.data["ok"]
    assert f"port {ground.port} belongs to another process" in ready.data["detail"]


def test_ready_and_then_dead_while_it_is_measured(scene: SetScene) -> None:
    ground = scene(MEASURED)
    ground.start_fix()
    new = launched(ground, "launch")
    watch.until(ground.journal, "intent measure", ground.no_more, READY_LIMIT_S)
    new.kill()
    ground.struck()

    ground.end("old")
    assert ground.ran[0].code == 4
    assert launches(ground) == ["launch", "rollback"]
    assert "FIXED" not in ground.ran[0].said


def test_the_old_server_dies_before_it_is_stopped(scene: SetScene) -> None:
    """By somebody else's hand, during the first measurement; and of what is started next, the scheduler."""
    ground = scene(MEASURED)
    old = ground.at.must_serve()
    ground.start_fix()
    ground.until("intent baseline")
    old.kill()
    ground.struck()
    watch.until(ground.journal, "launching rollback", ground.no_more, READY_LIMIT_S)
    back = launched(ground, "rollback")
    ground.wait(lambda: scheduler(back), "its scheduler", READY_LIMIT_S).kill()

    ground.end("old")
    assert ground.ran[0].code == 4
    assert launches(ground) == ["rollback", "rollback"]
    assert ground.at.must_serve() not in (old, back)
