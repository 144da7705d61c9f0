"""Where and at what rank a process runs: what a child inherits of whoever starts it. Data only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """As /proc and the kernel tell it; an empty tuple, "" and None: not known, so not restored.

    ``cpus``: sched_setaffinity(2). ``memory``: the NUMA policy as numa_maps(5) writes it ("bind:0-1",
    "interleave=static:0,2", "default"). ``nice``: -20 to 19. ``io``: ioprio_set(2), class * 8192 + level; 0 for
    none. ``oom``: oom_score_adj, -1000 to 1000. ``cgroups``: lines of /proc/PID/cgroup ("0::/user.slice").
    """

    cpus: tuple[int, ...] = ()
    memory: str = ""
    nice: int | None = None
    io: int | None = None
    oom: int | None = None
    cgroups: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "cpus": list(self.cpus), "cgroups": list(self.cgroups)}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Placement:
        return Placement(
            cpus=tuple(int(one) for one in doc.get("cpus", ())),
            memory=str(doc.get("memory", "")),
            nice=doc.get("nice"),
            io=doc.get("io"),
            oom=doc.get("oom"),
            cgroups=tuple(str(one) for one in doc.get("cgroups", ())),
        )


def cpu_list(cpus: Iterable[int]) -> str:
    """As ``taskset -c`` reads them: ``0-3,8``."""
    spans: list[list[int]] = []
    for one in sorted(set(cpus)):
        if spans and one == spans[-1][1] + 1:
            spans[-1][1] = one
        else:
            spans.append([one, one])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def shell_words(wanted: Placement, here: Placement) -> list[str]:
    """What to type before a command so that a shell at ``here`` starts it as wanted; nothing where unknown.

    taskset(1), numactl(8), ionice(1), nice(1). A control group and an OOM score have no such words.
    """
    words: list[str] = []
    if wanted.cpus and wanted.cpus != here.cpus:
        words += ["taskset", "-c", cpu_list(wanted.cpus)]
    mode, _, nodes = wanted.memory.partition(":")
    option = {"bind": "--membind", "interleave": "--interleave", "prefer": "--preferred"}.get(mode)
    if option is not None and nodes and wanted.memory != here.memory:
        words += ["numactl", f"{option}={nodes}"]
    if wanted.io is not None and wanted.io >> 13 and wanted.io != here.io:
        words += ["ionice", f"-c{wanted.io >> 13}", *([f"-n{wanted.io & 7}"] if wanted.io >> 13 < 3 else [])]
    if wanted.nice is not None and here.nice is not None and wanted.nice != here.nice:
        words += ["nice", "-n", str(wanted.nice - here.nice)]
    return words


_IO_CLASSES = ("none", "realtime", "best-effort", "idle")


def io_words(io: int) -> str:
    """``best-effort 7``, as ionice(1) prints it."""
    kind, level = io >> 13, io & 7
    name = _IO_CLASSES[kind] if kind < len(_IO_CLASSES) else f"class {kind}"
    return name if kind in (0, 3) else f"{name} {level}"
