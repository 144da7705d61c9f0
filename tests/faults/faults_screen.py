"""Faults of the full screen: a person starts the change there, and the screen is taken away in the middle."""

from __future__ import annotations

import signal
import time

from tests.faults import watch, world
from tests.faults.ground import Ran, Scene
from tests.faults.terminal import Terminal

LEAVE_S = 3.0
"""A bound for a starved machine; tests/tui and the issue's own bench ask for 0.5 s."""
RIGHT, TAB, ENTER = "\x1b[C", "\t", "\r"
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(scene: Scene) -> Terminal:
    """Open the screen on the target, go to the checklist for throughput, and agree to lift the cap."""
    words = ("--url", f"http://127.0.0.1:{scene.port}")
    terminal = Terminal(words, scene.folder, scene.wizard_env())
    scene.terminals.append(terminal)
    terminal.wait("no cause seen yet")
    terminal.wait("queue 0")
    terminal.type("t")
    terminal.wait("[memory]")
    terminal.type(RIGHT)
    terminal.wait("harmful here")
    terminal.type(ENTER)
    terminal.wait("[>Measure, apply, verify<]")
    terminal.type(TAB)
    terminal.wait("[>Apply without load test<]")
    terminal.type(ENTER)
    terminal.wait("y yes")
    terminal.type("y")
    return terminal


def taken_away(scene: Scene) -> str:
    """``moment``: (signal or "link lost", record). The change goes on without the screen."""
    what, record = scene.moment
    terminal = start(scene)
    watch.until(scene.journal, record, lambda: False)
    time.sleep(scene.rng.uniform(0, 0.2))
    face = world.look(terminal.process.pid)
    began = time.monotonic()
    if what == "link lost":
        terminal.hang_up()
    else:
        scene.kill(face, what)
    scene.struck()
    if what == signal.SIGSTOP:
        scene.wait(lambda: over(scene), "the change to end", 120)
        scene.kill(face, signal.SIGCONT)
        terminal.wait("[ Put the old one back ]")
        terminal.type("q")
        _left(scene, terminal, 0, time.monotonic())
    elif what != signal.SIGKILL:
        _left(scene, terminal, CODES.get(what, 129), began)
    else:
        terminal.process.wait()
    scene.wait(lambda: over(scene), "the change to end", 120)
    scene.ran.append(Ran(("screen",), terminal.process.returncode, terminal.text, ""))
    return f"{getattr(what, 'name', what)} at '{record}'"


def over(scene: Scene) -> bool:
    """Whether the change has an end, or nobody is left to bring it there."""
    return any(line.kind == "ended" for line in watch.lines(scene.journal)) or scene.runner() is None


def _left(scene: Scene, terminal: Terminal, code: int, began: float) -> None:
    scene.wait(lambda: terminal.process.poll() is not None, "the screen to leave", 30)
    took = time.monotonic() - began
    if terminal.process.returncode != code:
        scene.notes.append(f"screen: it left with exit {terminal.process.returncode}, not {code}")
    if took > LEAVE_S:
        scene.notes.append(f"screen: it took {took:.1f} s to leave")
    if terminal.master >= 0:
        scene.notes += [f"screen: it did not give back {what}" for what in terminal.not_given_back()]
