from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from wizard.core.target import Launch
from wizard.runner.operations import MARK
from wizard.runner.processes import rival

WORDS = (sys.executable, "-c", "import time; time.sleep(60)", "sglang.launch_server", "--port", "4000")


@contextmanager
def running(cwd: Path, **env: str) -> Iterator[int]:
    plain = {k: v for k, v in os.environ.items() if k != MARK}
    child = subprocess.Popen(WORDS, cwd=cwd, env={**plain, **env})
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
