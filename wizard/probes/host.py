"""The machine below the server: memory, /dev/shm, the limits of the cgroup, cores and load.

In a container the limits that count are those of the target's own cgroup, so they are looked up through
``/proc/PID/cgroup`` of the target (ours when it is not running) and, in version 2, in all its ancestors:
the tightest one binds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wizard.core.reading import Outcome, ProbeResult, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, in_thread
from wizard.probes.process import GIB
from wizard.server.identity import is_alive

CPU_SAMPLE_S = 0.2

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest multiple of the page size in 63 bits."""


@dataclass(frozen=True)
class Cgroup:
    """Where a process's cgroup is mounted: ``folder`` and its ancestors up to ``top``."""

    version: int
    folder: Path
    top: Path

    def up(self) -> Iterator[Path]:
        """The folder, then each ancestor up to the top of the mount."""
        folder = self.folder
        yield folder
        while folder != self.top and self.top in folder.parents:
            folder = folder.parent
            yield folder


def find_cgroup(pid: int, controller: str, proc: Path = Path("/proc")) -> Cgroup | None:
    """The cgroup of a process that holds a controller ("memory", "cpu"): version 1 where it is mounted, else 2.

    A container usually sees its own cgroup as the root of the mount while ``/proc/PID/cgroup`` names a path of
    the host; where the path does not exist below the mount, the mount's top is the answer.
    """
    try:
        memberships = (proc / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (proc / "self" / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    paths: dict[int, str] = {}
    for line in memberships:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    for version in (1, 2):
        if version not in paths:
            continue
        for line in mounts:
            left, _, right = line.partition(" - ")
            fields, filesystem = left.split(), right.split()
            if version == 1:
                fits = filesystem[0] == "cgroup" and controller in filesystem[-1].split(",")
            else:
                fits = filesystem[0] == "cgroup2"
            if not fits:
                continue
            # mountinfo writes a space in a path as \040.
            root, top = (re.sub(r"\\040", " ", word) for word in fields[3:5])
            path = paths[version]
            below = path
            if root != "/" and PurePosixPath(path).is_relative_to(root):
                below = "/" + str(PurePosixPath(path).relative_to(root))
            folder = Path(top) / below.lstrip("/")
            if ".." in folder.parts or not folder.is_dir():
                folder = Path(top)
            return Cgroup(version, folder, Path(top))
    return None


def _read_number(path: Path) -> int | None:
    """The number in a one-line file; None for "max", for none, and for an absent or closed file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_field(path: Path, name: str) -> int | None:
    """The number behind a name in a file of "name number" lines."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def read_memory_cgroup(group: Cgroup) -> dict[str, Value]:
    """Limit, use and OOM kills of a memory cgroup; the limit is absent when there is none."""
    one = group.version == 1
    limit_file, used_file, oom_file = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        if one
        else ("memory.max", "memory.current", "memory.events")
    )
    values: dict[str, Value] = {}
    limits = [
        (n, f) for f in group.up() if (n := _read_number(f / limit_file)) is not None and n < _UNLIMITED_BYTES
    ]
    binding = group.folder
    if limits:
        limit, binding = min(limits, key=lambda pair: pair[0])
        values["host.cgroup_limit_gb"] = Value(round(limit / GIB, 3), source=str(binding / limit_file))
    # Use is compared with the limit, so both come from the folder whose limit binds.
    used = _read_number(binding / used_file)
    if used is not None:
        values["host.cgroup_used_gb"] = Value(round(used / GIB, 3), source=str(binding / used_file))
    stat = binding / "memory.stat"
    cache = _read_field(stat, "total_inactive_file" if one else "inactive_file")
    if cache is not None:
        values["host.cgroup_reclaimable_gb"] = Value(round(cache / GIB, 3), source=str(stat))
    kills = _read_field(binding / oom_file, "oom_kill")
    if kills is not None:
        values["host.oom_kills"] = Value(kills, source=str(binding / oom_file))
    return values


def read_cpu_quota(group: Cgroup) -> float | None:
    """Cores that the CPU cgroup grants (quota / period), the tightest of its ancestors; None when unlimited."""
    quotas = []
    for folder in group.up():
        if group.version == 1:
            quota, period = (
                _read_number(folder / "cpu.cfs_quota_us"),
                _read_number(folder / "cpu.cfs_period_us"),
            )
        else:
            try:
                words = (folder / "cpu.max").read_text(encoding="ascii").split()
            except OSError:
                continue
            if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()):
                continue
            quota, period = int(words[0]), int(words[1])
        if quota and period:
            quotas.append(quota / period)
    return min(quotas) if quotas else None


def usable_cores(pid: int) -> float:
    """Cores that a process may use: its affinity mask, cut by the quota of its cgroup."""
    try:
        cores = float(len(os.sched_getaffinity(pid)))
    except OSError:
        cores = float(os.cpu_count() or 1)
    group = find_cgroup(pid, "cpu")
    quota = read_cpu_quota(group) if group is not None else None
    return cores if quota is None else min(cores, quota)


def examine(target: Target, shm: str = "/dev/shm") -> ProbeResult:
    """Readings of this machine. Raises NoData when the target runs elsewhere."""
    import psutil

    if target.is_elsewhere:
        raise NoData("the server runs on another machine: this host's readings would mislead")
    if target.identity is None and target.launch is None and target.log_path is not None:
        raise NoData("the target is a saved log: this host's readings would mislead")
    missing: list[str] = []
    values: dict[str, Value] = {}
    memory = psutil.virtual_memory()
    values["host.memory_total_gb"] = Value(round(memory.total / GIB, 3), source="/proc/meminfo")
    values["host.memory_available_gb"] = Value(round(memory.available / GIB, 3), source="/proc/meminfo")

    pid = target.identity.pid if target.identity is not None and is_alive(target.identity) else os.getpid()
    # A server in a container has a /dev/shm of its own (docker: 64 MiB by default), seen through its root.
    seen_from = shm if pid == os.getpid() else f"/proc/{pid}/root{shm}"
    for path in dict.fromkeys((seen_from, shm)):
        try:
            disk = os.statvfs(path)
        except OSError:
            continue
        values["host.shm_total_gb"] = Value(round(disk.f_blocks * disk.f_frsize / GIB, 3), source=path)
        values["host.shm_free_gb"] = Value(round(disk.f_bavail * disk.f_frsize / GIB, 3), source=path)
        break
    else:
        missing.append(f"no {shm}")

    group = find_cgroup(pid, "memory")
    found = read_memory_cgroup(group) if group is not None else {}
    if not found:
        missing.append("no memory cgroup to read")
    values.update(found)
    values["host.cpu_count"] = Value(round(usable_cores(pid), 2), source="affinity and cgroup quota")
    values["host.cpu_percent"] = Value(psutil.cpu_percent(interval=CPU_SAMPLE_S), source="/proc/stat")
    values["host.load_1m"] = Value(round(os.getloadavg()[0], 2), source="/proc/loadavg")
    return ProbeResult("host", Outcome.OK, values, "; ".join(missing) or None)


class HostProbe:
    """Memory, shared memory, cgroup limits and CPU of the machine under the server."""

    spec = ProbeSpec("host", "Host", timeout_s=2.0, cost="reads /proc and the cgroup, 0.2 s CPU sample")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx.target)


PROBE = HostProbe()
