from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runner import standin
from wizard.core.target import Identity, Launch, Target
from wizard.runner import processes
from wizard.runner.live import LiveOperations
from wizard.runner.operations import MARK
from wizard.runner.processes import find_marked, rival
from wizard.server.identity import identify

STANDIN = str(Path(standin.__file__))
WORDS = (sys.executable, "-c", "import time; time.sleep(60)", "sglang.launch_server", "--port", "4000")


@contextmanager
def running(cwd: Path, words: tuple[str, ...] = WORDS, **env: str) -> Iterator[int]:
    plain = {k: v for k, v in os.environ.items() if k != MARK}
    child = subprocess.Popen(words, cwd=cwd, env={**plain, **env})
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(WORDS, str(tmp_path), uid=os.geteuid())


def test_who_started_the_same_command_since_then(launch: Launch, tmp_path: Path) -> None:
    began = now() - 0.02
    assert rival(launch, began) is None
    with running(tmp_path) as pid:
        found = rival(launch, began)
        assert found is not None
        assert found.identity is not None
        assert found.identity.pid == pid
        assert f"below {os.getpid()}" in found.detail
        assert rival(launch, now() + 1) is None, "it was there before"
        assert rival(replace(launch, cwd="/"), began) is None, "another folder"
        assert rival(replace(launch, uid=launch.uid + 1), began) is None, "another user"
        assert rival(launch.with_argv((*WORDS, "--x")), began) is None, "other words"


def test_what_a_session_launched_is_no_rival(launch: Launch, tmp_path: Path) -> None:
    began = now() - 0.02
    with running(tmp_path, **{MARK: "session-1:abc"}):
        assert rival(launch, began) is None


def test_a_marked_process_is_found_and_a_stranger_with_its_pid_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pid is given again between the look at the environment and the look at who it is."""
    with running(tmp_path, **{MARK: "session-1:abc"}) as pid:
        found = find_marked("session-1:abc")
        assert found is not None
        assert found == identify(pid)
        assert find_marked("session-1:ab") is None
        looks: list[int] = []

        def given_again(one: int) -> Identity | None:
            known = identify(one)
            if one != pid or known is None:
                return known
            looks.append(one)
            return replace(known, start_ticks=known.start_ticks + len(looks) - 1)

        monkeypatch.setattr(processes, "identify", given_again)
        monkeypatch.setattr(processes, "is_alive", lambda one: given_again(one.pid) == one)
        assert find_marked("session-1:abc") is None
        assert len(looks) == 2, "asked before and after"


async def test_only_the_servers_own_answer_is_its_health(tmp_path: Path) -> None:
    """A stranger on the old port answers 200; the server itself lives and answers nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    ops, target = LiveOperations(tmp_path / "session-1.db"), Target(port=port)
    words = (sys.executable, STANDIN, "--port", str(port))
    with running(tmp_path, words) as stranger, running(tmp_path) as pid:
        end = time.monotonic() + 20
        while not await ops.healthy(target, port, None):
            assert time.monotonic() < end
        theirs, ours = identify(stranger), identify(pid)
        assert theirs is not None
        assert ours is not None
        assert await ops.healthy(target, port, theirs)
        assert not await ops.healthy(target, port, ours)
        assert not await ops.healthy(target, port, replace(theirs, start_ticks=theirs.start_ticks + 1))
    assert not await ops.healthy(target, port, theirs)
