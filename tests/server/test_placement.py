"""A server started with taskset, numactl, nice ... runs like that again; what may not be is told before."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.server.conftest import Stage
from wizard.core.placement import Placement, cpu_list, io_words, shell_words
from wizard.core.target import Launch
from wizard.runner.command import shell_command
from wizard.server import placement as module
from wizard.server import proc
from wizard.server.discovery import target_from_pid
from wizard.server.launch import Launched, launch
from wizard.server.placement import differences, read, shortfalls

ROOT = str(Path(__file__).parents[2])
CPUS = tuple(sorted(os.sched_getaffinity(0)))
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a rank or enter a control group")

TAKE_ON = """
import ctypes, json, os, resource, sys
how = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0o027)
os.sched_setaffinity(0, how["cpus"])
mask = ctypes.c_ulong(1)
number = ctypes.c_long(how["set_mempolicy"])
assert libc.syscall(number, how["mode"], ctypes.byref(mask), ctypes.c_ulong(65)) == 0
assert libc.syscall(ctypes.c_long(how["ioprio_set"]), 1, 0, how["io"]) == 0
os.nice(how["nice"])
open("/proc/self/oom_score_adj", "w").write(str(how["oom"]))
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 600))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What ``taskset -c 0 numactl --interleave=0 ionice -c3 nice -n 5 choom -n 300`` does, without them."""


def has_numa() -> bool:
    return os.path.exists("/proc/self/numa_maps") and platform.machine() in module._SET_MEMPOLICY


def taken_on(argv: list[str], mode: int = 3) -> list[str]:
    machine = platform.machine()
    how = {
        "cpus": CPUS[:1],
        "set_mempolicy": module._SET_MEMPOLICY[machine],
        "mode": mode,
        "ioprio_set": module._IOPRIO_SET[machine],
        "io": 3 << 13,
        "nice": 5,
        "oom": 300,
    }
    return [sys.executable, "-c", TAKE_ON, json.dumps(how), *argv]


@pytest.fixture
def born() -> Iterator[list[Launched]]:
    made: list[Launched] = []
    yield made
    for one in made:
        one.process.kill()
        one.process.wait()


def facts(pid: int) -> dict[str, object]:
    """Straight from /proc, by another way than the code under test."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    )
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ionice = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return {
        "cpus": status["Cpus_allowed_list"].strip(),
        "umask": status["Umask"].strip(),
        "memory": Path(f"/proc/{pid}/numa_maps").read_text(encoding="utf-8").split()[1],
        "nice": stat[16],
        "ionice": ionice.strip(),
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="utf-8").strip(),
        "limits": Path(f"/proc/{pid}/limits").read_text(encoding="utf-8"),
        "cgroup": Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"),
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "stdout": os.readlink(f"/proc/{pid}/fd/1"),
        "stderr": os.readlink(f"/proc/{pid}/fd/2"),
        "own session": os.getsid(pid) == pid,
        "cmdline": Path(f"/proc/{pid}/cmdline").read_bytes(),
        "environ": Path(f"/proc/{pid}/environ").read_bytes(),
    }


@pytest.mark.skipif(not has_numa(), reason="this kernel tells of no memory policy")
@AS_ROOT
def test_a_simulated_server_runs_again_as_it_did(stage: Stage, born: list[Launched]) -> None:
    port = free_port()
    env = {**os.environ, "PYTHONPATH": ROOT, "SGLANG_SIM_CARD": str(stage.folder / "card.json")}
    words = [sys.executable, "-m", "wizard.simulator", "--model-path", "llama-8b", "--port", str(port)]
    first = stage.run(taken_on(words), env | {"SGLANG_SIM_START_S": "0.2"}, log="server.log")
    stage.wait_for("server.log", "fired up")
    target = target_from_pid(first.pid)
    assert target.launch is not None
    kept = Launch.from_json(json.loads(json.dumps(target.launch.to_json())))  # out of a session's file
    assert kept == target.launch
    before = facts(first.pid)
    assert (before["cpus"], before["memory"], before["nice"]) == (str(CPUS[0]), "interleave:0", "5")
    assert (before["ionice"], before["oom"], before["umask"]) == ("idle", "300", "0027")
    own = read(os.getpid())
    first.kill()
    first.wait()
    done = launch(kept, fallback_log=stage.folder / "fallback")
    born.append(done)
    assert facts(done.identity.pid) == before
    assert done.note == ""
    assert read(os.getpid()) == own, "the wizard's own place stays"


def a_launch(folder: Path, placement: Placement) -> Launch:
    log = str(folder / "log")
    words = (sys.executable, "-c", "import time; time.sleep(60)")
    return Launch(words, str(folder), {}, log, log, os.geteuid(), os.getegid(), placement=placement)


@pytest.mark.skipif(not has_numa(), reason="this kernel tells of no memory policy")
@pytest.mark.parametrize("policy", ["default", "bind:0", "prefer:0", "interleave:0", "local", "bind=static:0"])
def test_every_memory_policy_comes_back(tmp_path: Path, born: list[Launched], policy: str) -> None:
    done = launch(a_launch(tmp_path, Placement(memory=policy)), fallback_log=tmp_path / "f")
    born.append(done)
    assert done.note == ""
    assert Path(f"/proc/{done.identity.pid}/numa_maps").read_text().split()[1] == policy


def test_children_of_the_server_inherit_it(tmp_path: Path, born: list[Launched]) -> None:
    """The scheduler, which holds the memory, is started by the parent."""
    code = "import os, subprocess, sys; print(subprocess.run(['taskset', '-p', str(os.getpid())]).returncode)"
    words = (sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])")
    one = replace(a_launch(tmp_path, Placement(cpus=CPUS[:1])), argv=words, environ={"PATH": os.defpath})
    done = launch(one, fallback_log=tmp_path / "f")
    born.append(done)
    assert done.process.wait(20) == 0
    assert f"affinity mask: {1 << CPUS[0]:x}" in (tmp_path / "log").read_text()


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group of this test and its line in /proc/PID/cgroup."""
    for root, mount, kind, options in module._mounts():
        if root == "/" and (kind == "cgroup2" or "name=systemd" in options):
            made = Path(mount, f"sgl-wizard-test-{os.getpid()}.scope")
            try:
                made.mkdir()
            except OSError:
                continue
            controllers = "" if kind == "cgroup2" else "name=systemd"
            lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            number = next((x.split(":")[0] for x in lines if x.split(":")[1] == controllers), None)
            if number is None:
                made.rmdir()
                continue
            yield made, f"{number}:{controllers}:/{made.name}"
            made.rmdir()
            return
    pytest.skip("no control group can be made here")


@AS_ROOT
def test_it_joins_its_old_control_group_and_is_told_where_that_ends_with_it(
    tmp_path: Path, group: tuple[Path, str]
) -> None:
    folder, line = group
    with subprocess.Popen(["sleep", "60"]) as old, subprocess.Popen(["sleep", "60"]) as neighbour:
        try:
            for one in (old, neighbour):
                (folder / "cgroup.procs").write_text(str(one.pid))
            place = Placement(cgroups=read(old.pid).cgroups)
            assert line in place.cgroups
            it = a_launch(tmp_path, place)
            assert shortfalls(it, old.pid) == (), "its neighbour keeps the scope alive"
            done = launch(it, fallback_log=tmp_path / "f")
            try:
                assert line in Path(f"/proc/{done.identity.pid}/cgroup").read_text().splitlines()
                assert done.note == ""
            finally:
                done.process.kill()
                done.process.wait()
            neighbour.kill()
            neighbour.wait()
            (said,) = shortfalls(it, old.pid)
            assert folder.name in said
        finally:
            old.kill()
            neighbour.kill()


def test_a_control_group_that_is_gone_is_named_and_keeps_no_server_down(
    tmp_path: Path, born: list[Launched]
) -> None:
    ours = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    number, controllers, here = ours[-1].split(":", 2)
    gone = f"{number}:{controllers}:/user.slice/session-99.scope"
    one = a_launch(tmp_path, Placement(cgroups=tuple(sorted([*ours[:-1], gone]))))
    assert shortfalls(one) == (f"control group {here} instead of /user.slice/session-99.scope",)
    done = launch(one, fallback_log=tmp_path / "f")
    born.append(done)
    assert "instead of /user.slice/session-99.scope" in done.note


AS_A_USER = """
import json, os, resource, sys
from wizard.core.target import Launch
from wizard.server.placement import read, shortfalls
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
before = read(os.getpid())
said = shortfalls(Launch.from_json(json.loads(sys.argv[1])))
assert read(os.getpid()) == before, "it only looks"
print(json.dumps(said))
"""


@AS_ROOT
def test_what_a_user_may_not_restore_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    place = Placement(cpus=(*CPUS, 1000), nice=-5, io=1 << 13, oom=-500)
    one = replace(
        a_launch(tmp_path, place), limits={"NOFILE": (500, 9000), "MEMLOCK": (-1, -1), "CORE": (0, 0)}
    )
    code = [sys.executable, "-c", AS_A_USER, json.dumps(one.to_json())]
    env = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(code, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    own_oom = proc_oom()
    assert said == [
        f"processors {cpu_list(CPUS)} instead of {cpu_list([*CPUS, 1000])}",
        "nice 0 instead of -5",
        "I/O priority none instead of realtime 0",
        f"OOM score {own_oom} instead of -500",
        "limit NOFILE 400 instead of 500",
        "limit MEMLOCK 65536 instead of unlimited",
    ]


def proc_oom() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def test_what_a_user_may_have_is_no_shortfall(tmp_path: Path) -> None:
    place = replace(read(os.getpid()), nice=os.getpriority(os.PRIO_PROCESS, 0) + 3, io=3 << 13)
    assert shortfalls(replace(a_launch(tmp_path, place), limits=proc.limits(os.getpid()))) == ()
    assert os.getpriority(os.PRIO_PROCESS, 0) == read(os.getpid()).nice


def test_a_thread_that_a_library_bound_does_not_narrow_the_server(tmp_path: Path) -> None:
    if len(CPUS) < 2:
        pytest.skip("one processor")
    code = (
        "import os, sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); time.sleep(0.1)\n"
        f"os.sched_setaffinity(0, [{CPUS[0]}]); print('up', flush=True); time.sleep(60)\n"
    )
    for env, expected in (({}, CPUS), ({"OMP_PROC_BIND": "true"}, ()), ({"OMP_PROC_BIND": "false"}, CPUS)):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, **env}
        ) as one:
            try:
                assert one.stdout is not None
                one.stdout.readline()
                assert read(one.pid).cpus == expected
            finally:
                one.kill()


def test_an_older_session_file_loads_and_restores_nothing_more(tmp_path: Path, born: list[Launched]) -> None:
    doc = a_launch(tmp_path, Placement()).to_json()
    del doc["placement"]
    old = Launch.from_json(doc)
    assert old.placement == Placement()
    assert shortfalls(old) == ()
    done = launch(old, fallback_log=tmp_path / "f")
    born.append(done)
    assert done.note == ""


def test_words_for_people() -> None:
    assert cpu_list([3, 0, 1, 2, 8]) == "0-3,8"
    assert [io_words(x) for x in (0, 3 << 13, 2 << 13 | 7)] == ["none", "idle", "best-effort 7"]
    assert differences(Placement(cpus=(0, 1), nice=None), Placement(cpus=(0,), nice=3)) == [
        "processors 0 instead of 0-1"
    ]


def test_a_process_that_is_gone_is_unknown() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert read(gone.pid) == Placement()


def test_the_call_numbers_are_this_machines() -> None:
    """A wrong number would call something else: ioprio_get of ourselves must agree with ionice."""
    said = subprocess.run(["ionice", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
    io = read(os.getpid()).io
    assert io is not None
    assert said.startswith(io_words(io).split()[0])
    assert ctypes.sizeof(ctypes.c_ulong) * 8 in (32, 64)


def test_the_words_to_type_start_it_there(tmp_path: Path) -> None:
    here = read(os.getpid())
    assert shell_words(here, here) == []
    assert shell_words(Placement(), here) == []
    wanted = replace(here, cpus=CPUS[:1], memory="interleave:0-1", nice=(here.nice or 0) + 4, io=3 << 13)
    words = shell_words(wanted, here)
    assert words == [
        *("taskset", "-c", str(CPUS[0]), "numactl", "--interleave=0-1", "ionice", "-c3", "nice", "-n", "4")
    ]
    really = [one for one in words if one not in ("numactl", "--interleave=0-1")]  # it may not be installed
    said = subprocess.run(
        [*really, sys.executable, "-c", "import os; print(os.sched_getaffinity(0), os.nice(0))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == f"{set(CPUS[:1])} {wanted.nice}"
    one = a_launch(tmp_path, Placement(nice=wanted.nice))
    assert f"nohup nice -n 4 {sys.executable} -c" in shell_command(one, os.environ)
