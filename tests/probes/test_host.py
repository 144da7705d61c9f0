from __future__ import annotations

import os
from pathlib import Path

import pytest

from wizard.core.reading import Outcome
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import host
from wizard.probes.base import NoData, ProbeContext, run_probe
from wizard.probes.host import Cgroup, find_cgroup, read_cpu_quota, read_memory_cgroup

GIB = 1 << 30
DOWN = Target(launch=Launch(("python", "-m", "sglang.launch_server"), "/"))


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_this_machine() -> None:
    result = host.examine(DOWN)
    assert result.outcome is Outcome.OK
    x = {name: value.x for name, value in result.values.items()}
    assert set(x) <= set(VOCABULARY)
    assert 0 < x["host.memory_available_gb"] <= x["host.memory_total_gb"]
    assert 0 < x["host.cpu_count"] <= len(os.sched_getaffinity(0))
    assert 0 <= x["host.cpu_percent"] <= 100
    assert x["host.load_1m"] >= 0


def test_no_shared_memory_is_said_and_the_rest_comes(tmp_path: Path) -> None:
    result = host.examine(DOWN, shm=str(tmp_path / "none"))
    assert result.outcome is Outcome.OK
    assert "host.shm_total_gb" not in result.values
    assert "no " in (result.reason or "")
    assert "host.memory_total_gb" in result.values


@pytest.mark.parametrize("target", [Target(log_path="server.log"), Target(remote=True)])
def test_another_machine_is_not_measured_here(target: Target) -> None:
    with pytest.raises(NoData, match="mislead"):
        host.examine(target)


def test_version_2_limit_of_an_ancestor_binds(tmp_path: Path) -> None:
    top = write(tmp_path / "cg")
    write(
        top / "pod",
        memory__max=f"{8 * GIB}\n",
        memory__current=f"{6 * GIB}\n",
        memory__events="oom 4\noom_kill 3\n",
    )
    leaf = write(
        top / "pod" / "box", memory__max="max\n", memory__current=f"{2 * GIB}\n", memory__events="oom_kill 0\n"
    )
    x = {k: v.x for k, v in read_memory_cgroup(Cgroup(2, leaf, top)).items()}
    assert x == {"host.cgroup_limit_gb": 8.0, "host.cgroup_used_gb": 6.0, "host.oom_kills": 3}


def test_version_2_without_a_limit_has_none(tmp_path: Path) -> None:
    leaf = write(
        tmp_path / "cg" / "box",
        memory__max="max\n",
        memory__current=f"{2 * GIB}\n",
        memory__stat=f"anon 5\ninactive_file {GIB}\n",
    )
    values = read_memory_cgroup(Cgroup(2, leaf, tmp_path / "cg"))
    x = {k: v.x for k, v in values.items()}
    assert x == {"host.cgroup_used_gb": 2.0, "host.cgroup_reclaimable_gb": 1.0}


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path: Path) -> None:
    leaf = write(
        tmp_path / "memory",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__usage_in_bytes=f"{3 * GIB}\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    x = {k: v.x for k, v in read_memory_cgroup(Cgroup(1, leaf, leaf)).items()}
    assert x == {"host.cgroup_used_gb": 3.0, "host.oom_kills": 2}
    write(leaf, memory__limit_in_bytes=f"{4 * GIB}\n")
    assert read_memory_cgroup(Cgroup(1, leaf, leaf))["host.cgroup_limit_gb"].x == 4.0


@pytest.mark.parametrize(
    ("version", "files", "cores"),
    [
        (2, {"cpu__max": "150000 100000\n"}, 1.5),
        (2, {"cpu__max": "max 100000\n"}, None),
        (1, {"cpu__cfs_quota_us": "200000\n", "cpu__cfs_period_us": "100000\n"}, 2.0),
        (1, {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, None),
        (2, {}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, version: int, files: dict[str, str], cores: float | None) -> None:
    leaf = write(tmp_path / "cg", **files)
    assert read_cpu_quota(Cgroup(version, leaf, leaf)) == cores


@pytest.mark.parametrize(
    ("membership", "mount", "expected"),
    [
        ("0::/a/b\n", "30 1 0:26 / {top} rw - cgroup2 cgroup2 rw", "a/b"),
        # A container: the mount's root is the process's own path on the host.
        ("0::/docker/abc\n", "30 1 0:26 /docker/abc {top} ro - cgroup2 cgroup2 rw", ""),
        # A path of the host that is not to be seen below this mount.
        ("0::/elsewhere\n", "30 1 0:26 / {top} ro - cgroup2 cgroup2 rw", ""),
        # Outside our cgroup namespace.
        ("0::/../../x\n", "30 1 0:26 / {top} ro - cgroup2 cgroup2 rw", ""),
        ("4:memory:/a\n0::/\n", "35 31 0:32 / {top} rw,relatime - cgroup cgroup rw,memory", "a"),
    ],
)
def test_finding_the_folder(tmp_path: Path, membership: str, mount: str, expected: str) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    proc = tmp_path / "proc"
    write(proc / "77", cgroup=membership)
    write(proc / "self", mountinfo="20 1 0:1 / /proc rw - proc proc rw\n" + mount.format(top=top) + "\n")
    group = find_cgroup(77, "memory", proc)
    assert group is not None
    assert group.folder == (top / expected if expected else top)


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert find_cgroup(77, "memory", tmp_path) is None


async def test_through_the_engine() -> None:
    result = await run_probe("host", ProbeContext(DOWN))
    assert (result.outcome, result.probe) == (Outcome.OK, "host")
    gone = await run_probe("host", ProbeContext(Target(remote=True)))
    assert gone.outcome is Outcome.NO_DATA
    assert gone.reason
