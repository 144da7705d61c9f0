"""Two wizards never act on one server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runner.fakes import a_target
from wizard.runner.locks import HostLock, Lock, Refused, holder, target_locks

HOLD = """
import sys, pathlib
from wizard.runner.locks import Lock
lock = Lock.take(pathlib.Path(sys.argv[1]), "x", "7")
print("held", flush=True)
sys.stdin.read()
"""


def test_refused_with_the_holder_named_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    found = holder(path)
    assert found is not None
    assert found.pid == other.pid
    with pytest.raises(Refused, match=rf"session 7 \(process {other.pid}\)"):
        Lock.take(path, "The server", "8")
    other.kill()
    other.communicate()
    assert holder(path) is None
    lock = Lock.take(path, "The server", "8")
    lock.free()
    assert holder(path) is None


HOLD_NAME = """
import sys
from wizard.runner.locks import HostLock
lock = HostLock.take(sys.argv[1], "x")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_wizard_with_another_state_folder_is_refused_too() -> None:
    """The files of two state folders know nothing of each other; the name on the host does."""
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_NAME, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    for _ in range(8):  # the queue of those who ask is never emptied: the answer stays the same
        with pytest.raises(Refused, match=r"^The server is held by another sgl-wizard"):
            HostLock.take(name, "The server")
    other.kill()
    other.communicate()
    HostLock.take(name, "The server").free()
    first = HostLock.take(name, "The server")
    with pytest.raises(Refused, match=rf"process {os.getpid()}, user "):
        HostLock.take(name, "The server")
    first.free()


def test_a_server_is_locked_by_its_process_and_its_ports(tmp_path: Path) -> None:
    up, down = (
        target_locks(tmp_path, a_target(), (4000, 4001)),
        target_locks(tmp_path, a_target(up=False), (4000,)),
    )
    assert len(up) == 3
    assert set(down) < set(up), "a command for the same port meets the same lock"
