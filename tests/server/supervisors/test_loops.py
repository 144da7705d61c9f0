"""A shell above a server that starts it again in a loop, on real shells and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wizard.core.held import Held
from wizard.server import proc
from wizard.server.supervisors import holders
from wizard.server.supervisors.loops import loop_above

RUN = f"{sys.executable} -m launch_server --port 1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "launch_server.py").write_text("import time\ntime.sleep(60)\n")
    return tmp_path


@pytest.fixture
def shells() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        os.killpg(one.pid, signal.SIGKILL)
        one.wait(10)


def server_below(shell: int) -> int:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for one in proc.descendants(shell):
            if "launch_server" in proc.cmdline(one.pid):
                return one.pid
        time.sleep(0.05)
    raise AssertionError("the shell started no server")


SCRIPTS = [
    (f"while true; do\n  {RUN}\n  sleep 1\ndone\n", True),
    (f"until false\ndo {RUN}; done\n", True),
    (f"while :; do if true; then {RUN}; fi; done\n", True),
    (f"{RUN}\nwhile true; do sleep 1; done\n", False),
    (f"# while true; do launch_server; done\n{RUN}\necho ended\n", False),
    (f"{RUN} &\nuntil false; do sleep 1; done\n", False),
]


@pytest.mark.parametrize(("text", "loops"), SCRIPTS, ids=range(len(SCRIPTS)))
@pytest.mark.parametrize("way", ["file", "words"])
def test_a_loop_is_told_by_its_words(
    text: str, loops: bool, way: str, folder: Path, shells: list[subprocess.Popen[bytes]]
) -> None:
    (folder / "run.sh").write_text(text)
    argv = ["bash", "run.sh"] if way == "file" else ["bash", "-c", text]
    shells.append(subprocess.Popen(argv, cwd=folder, start_new_session=True))
    found = loop_above(server_below(shells[0].pid))
    where = "run.sh" if way == "file" else "a shell's command"
    assert found == (f"a loop in {where} (process {shells[0].pid})" if loops else None)


def test_a_loop_holds_the_server(folder: Path, shells: list[subprocess.Popen[bytes]]) -> None:
    shells.append(subprocess.Popen(["bash", "-c", SCRIPTS[0][0]], cwd=folder, start_new_session=True))
    held = holders.holder_of(server_below(shells[0].pid))
    assert held is not None
    assert held.kind == "other"
    assert held.says() == f"a loop in a shell's command (process {shells[0].pid}) starts it again when it ends"
    assert not held.is_managed


def test_a_loop_that_runs_the_wizard_too_is_none(folder: Path) -> None:
    look = (
        "import subprocess, sys, time; from wizard.server.supervisors.loops import loop_above; "
        "print('FOUND', loop_above(int(sys.argv[1])))"
    )
    text = f'while true; do {RUN} & sleep 1; {sys.executable} -c "{look}" $!; kill $!; exit; done'
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(Path(__file__).parents[3])))},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"FOUND None" in done.stdout, done.stderr


def test_a_job_ends_with_its_server() -> None:
    held = Held("other", "slurmstepd (process 7)", "", "start the job again")
    assert held.says() == "slurmstepd (process 7) started it, and its job ends with it"
