from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wizard.core.reading import Outcome
from wizard.core.target import Identity, Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import process
from wizard.probes.base import NoData, ProbeContext, run_probe
from wizard.server import proc
from wizard.server.identity import identify as identity_of

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def wait_until(look: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < deadline, "the state did not come"
        time.sleep(0.02)


def identify(pid: int) -> Identity:
    found = identity_of(pid)
    assert found is not None
    return found


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A parent with one child; both end when the parent's stdin closes."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    yield parent, child
    if parent.poll() is None:
        parent.communicate("", timeout=10)


def test_a_living_tree(family: tuple[subprocess.Popen[str], int]) -> None:
    parent, child = family
    target = Target(identity=identify(parent.pid))
    assert process.tree_pids(target) == {parent.pid, child}

    result = process.examine(target)

    assert result.outcome is Outcome.OK
    x = {name: value.x for name, value in result.values.items()}
    assert set(x) <= set(VOCABULARY)
    assert x["process.alive"] is True
    assert x["process.pid"] == parent.pid
    assert x["process.children"] == 1
    assert x["process.stopped_children"] == 0
    assert x["process.state"] == "sleeping"
    assert 0 <= x["process.uptime_s"] < 600
    assert 0.005 < x["process.rss_gb"] < 1
    assert 0 <= x["process.cpu_percent"] < 100 * (os.cpu_count() or 1)
    assert x["process.user"]


def test_a_stopped_child_is_counted(family: tuple[subprocess.Popen[str], int]) -> None:
    parent, child = family
    target = Target(identity=identify(parent.pid))
    os.kill(child, signal.SIGSTOP)
    try:
        wait_until(lambda: proc.state(child) == "T")
        assert process.examine(target).values["process.stopped_children"].x == 1
    finally:
        os.kill(child, signal.SIGCONT)


def test_cpu_of_a_busy_process_is_seen() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert process.examine(Target(identity=identify(busy.pid))).values["process.cpu_percent"].x > 5
    finally:
        busy.kill()
        busy.wait()


def test_a_zombie_is_not_alive() -> None:
    short = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    identity = identify(short.pid)
    assert short.stdin is not None
    short.stdin.close()
    wait_until(lambda: proc.state(short.pid) == "Z")
    result = process.examine(Target(identity=identity))
    assert result.values["process.alive"].x is False
    assert result.values["process.state"].x == "zombie"
    short.wait()
    gone = process.examine(Target(identity=identity))
    assert gone.values["process.alive"].x is False
    assert gone.reason is not None
    assert "gone" in gone.reason


def test_a_reused_pid_is_another_process() -> None:
    own = identify(os.getpid())
    reused = Target(identity=Identity(own.pid, own.start_ticks - 1, own.boot_id))
    result = process.examine(reused)
    assert result.values["process.alive"].x is False
    assert "another process" in (result.reason or "")
    assert process.tree_pids(reused) == set()
    before_reboot = Target(identity=Identity(own.pid, own.start_ticks, "0" * 36))
    assert process.tree_pids(before_reboot) == set()


def test_targets_without_a_process() -> None:
    down = process.examine(Target(launch=Launch(("python", "-m", "sglang.launch_server"), "/")))
    assert down.values["process.alive"].x is False
    for target in (Target(log_path="server.log"), Target(remote=True)):
        with pytest.raises(NoData):
            process.examine(target)


def test_stat_of_a_name_with_parentheses_and_spaces(tmp_path: Path) -> None:
    tool = tmp_path / "a ) (b"
    tool.symlink_to("/bin/sleep")
    running = subprocess.Popen([str(tool), "30"])
    try:
        wait_until(lambda: ") (b" in Path(f"/proc/{running.pid}/stat").read_text())
        assert process.is_running(running.pid, identify(running.pid).start_ticks)
    finally:
        running.kill()
        running.wait()
    assert not process.is_running(running.pid, 0)


async def test_through_the_engine() -> None:
    result = await run_probe("process", ProbeContext(Target(identity=identify(os.getpid()))))
    assert (result.outcome, result.probe) == (Outcome.OK, "process")
    gone = await run_probe("process", ProbeContext(Target(remote=True)))
    assert gone.outcome is Outcome.NO_DATA
    assert gone.reason


ROLES = """
import subprocess, sys, time
burn = "while True: pass"
rest = "import time; time.sleep(60)"
children = [
    subprocess.Popen(["sglang::scheduler", "-c", rest], executable=sys.executable),
    subprocess.Popen(["sglang::detokenizer", "-c", burn], executable=sys.executable),
]
print(*[c.pid for c in children], flush=True)
sys.stdin.read()
for child in children:
    child.kill()
    child.wait()
"""


def test_each_role_of_the_tree_has_its_own_share_of_a_core() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ROLES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        scheduler, _ = map(int, parent.stdout.readline().split())
        wait_until(lambda: "scheduler" in process.command_of(scheduler) and proc.state(scheduler) == "S")

        def shares() -> dict[str, Any]:
            found = process.examine(Target(identity=identify(parent.pid))).values
            return {name: value.x for name, value in found.items()}

        # a machine that is busy with other things may not let it run in one window
        wait_until(lambda: shares()["process.detokenizer_percent"] > 20)
        x = max((shares() for _ in range(3)), key=lambda one: one["process.detokenizer_percent"])
        parent.communicate("", timeout=10)
    assert x["process.detokenizer_percent"] > x["process.scheduler_percent"]
    assert x["process.detokenizer_percent"] > 5
    assert 0 <= x["process.tokenizer_percent"] < x["process.detokenizer_percent"]
