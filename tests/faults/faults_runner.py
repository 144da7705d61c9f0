"""Faults of the wizard itself: its runner, its face, its clock, its folder, and two of it at once."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable

from tests.faults import watch, world
from tests.faults.ground import STATE_REMOVED, Scene
from tests.faults.watch import NotReached


def runner_killed(scene: Scene) -> str:
    """``moment``: ("before" | "after", K). Exact, by the hook inside the runner."""
    side, number = scene.moment
    face = scene.start_fix(hook=f"kill:{side}:{number}")
    scene.wait(lambda: face.poll() is not None, "the face to see it", 90)
    told = watch.told(scene.journal)
    if any(line.kind == "ended" and line.data.get("outcome") != "called_off" for line in told[: number - 1]):
        raise NotReached(f"record {number}")
    if scene.runner() is not None:
        raise NotReached(f"record {number}")
    scene.fault_at = time.monotonic() - max(0.0, time.time() - told[-1].at)
    return f"{side} record {number}, last is '{told[-1].name}'"


def runner_killed_twice(scene: Scene) -> str:
    """``moment``: K of the first, K of the second; a third runner has to end it."""
    first, second = scene.moment
    scene.hooks.append(f"kill:{second[0]}:{second[1]}")
    scene.moment = first
    return f"{runner_killed(scene)}; then {second[0]} record {second[1]} of the next runner"


def runner_terminated(scene: Scene) -> str:
    """SIGTERM asks the runner to abort."""
    return _at(scene, lambda: scene.kill(scene.runner(), signal.SIGTERM))


def runner_frozen(scene: Scene) -> str:
    """SIGSTOP for some seconds, in which the user tries to take over; then SIGCONT."""
    scene.start_fix()
    scene.until(scene.moment)
    runner = scene.runner()
    scene.kill(runner, signal.SIGSTOP)
    scene.struck()
    try:
        refused = scene.user("sessions", "rollback", "1", "--yes", "--read-only")
        if refused.code == 0:
            raise AssertionError("--read-only rolled back")
        time.sleep(scene.rng.uniform(0.5, 3.0))
    finally:
        scene.kill(runner, signal.SIGCONT)
    return f"at '{scene.moment}'"


def aborted(scene: Scene) -> str:
    """The user changes their mind: ``sessions abort``."""
    scene.start_fix()
    scene.until(scene.moment)
    time.sleep(scene.rng.uniform(0, 0.3))
    scene.struck()
    if scene.user("sessions", "abort", "1", "--yes").code == 2:
        raise NotReached(scene.moment)
    return f"at '{scene.moment}'"


def face_signalled(scene: Scene) -> str:
    """``moment``: (signal, record). A stopped face is continued once the change is over."""
    number, record = scene.moment
    face = scene.start_fix()
    scene.until(record)
    time.sleep(scene.rng.uniform(0, 0.2))
    born = world.look(face.pid)
    scene.kill(born, number)
    scene.struck()
    if number == signal.SIGTERM and not _ended(scene):
        said = scene.end_of(face)
        if said.code != 143 or "sgl-wizard sessions abort 1" not in said.said:
            scene.silent = f"fix left on SIGTERM with exit {said.code} and did not say that the change goes on"
        scene.face = None
    if number == signal.SIGSTOP:
        scene.wait(lambda: _ended(scene) or scene.runner() is None, "the change to end", 90)
        scene.kill(born, signal.SIGCONT)
    return f"{number.name} at '{record}'"


def _ended(scene: Scene) -> bool:
    return any(line.kind == "ended" for line in watch.lines(scene.journal))


def two_wizards(scene: Scene) -> str:
    """A second ``fix`` on the same target; one of them has to be told who is at work."""
    first = scene.start_fix()
    if scene.moment != "at once":
        scene.until(scene.moment)
    scene.struck()
    second = scene.start_fix(name="fix-2")
    codes = (scene.end_of(first, "fix").code, scene.end_of(second, "fix-2").code)
    scene.face = None
    refused = next((ran for ran in scene.ran if ran.code != 0), None)
    overlaps = scene.moment != "result ready"  # the first one ends right after that
    if overlaps and (refused is None or not re.search(r"\bsession [12] ", " ".join(refused.said.split()))):
        scene.silent = "the second wizard was not told which session is at work"
    scene.ran.sort(key=lambda ran: ran.code != 1)  # the one that did the work has the last word
    return f"{scene.moment}, exit codes {codes[0]} and {codes[1]}"


def two_resumes(scene: Scene) -> str:
    """The runner dies, and two users resume at the same moment."""
    scene.moment = ("after", scene.moment)
    words = runner_killed(scene)
    import subprocess
    import sys

    both = [
        subprocess.Popen(
            [sys.executable, "-m", "wizard", "sessions", "resume", "1"],
            cwd=scene.folder,
            env=scene.wizard_env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    scene.own += both
    scene.wait(lambda: all(p.poll() is not None for p in both), "both to end", 90)
    return f"{words}, resumed twice at once"


def clock_stepped(scene: Scene) -> str:
    """``moment``: (K, seconds): the runner's wall clock steps at its K-th record."""
    number, step = scene.moment
    scene.start_fix(hook=f"clock:{number}:{step}")
    scene.wait(lambda: scene.no_more() or len(watch.told(scene.journal)) >= number, "the step")
    scene.struck()
    return f"{step:+d} s at record {number}"


def _at(scene: Scene, act: Callable[[], None]) -> str:
    scene.start_fix()
    scene.until(scene.moment)
    time.sleep(scene.rng.uniform(0, 0.3))
    act()
    scene.struck()
    return f"at '{scene.moment}'"


def with_key(scene: Scene) -> None:
    """Set-up: the target is started with an API key."""
    scene.secret = f"sk-{scene.rng.getrandbits(96):024x}"


def key_kept(scene: Scene) -> str:
    """``moment``: "done", or K: the runner dies after its K-th record. The judge looks for the key."""
    if scene.moment == "done":
        scene.struck()
        scene.end_of(scene.start_fix())
        scene.face, words = None, "undisturbed"
    else:
        scene.moment = ("after", scene.moment)
        words = runner_killed(scene)
    scene.user("check", "--url", f"http://127.0.0.1:{scene.port}")
    scene.user("sessions", "show", "1")
    scene.user("sessions", "report", "1")
    return words


def state_deleted(scene: Scene) -> str:
    """Somebody removes the state folder in the middle."""
    scene.start_fix()
    scene.until(scene.moment)
    shutil.rmtree(scene.state)
    scene.notes.append(STATE_REMOVED)
    scene.struck()
    scene.wait(lambda: scene.no_more() and scene.runner() is None, "the end", 120)
    return f"at '{scene.moment}'"
