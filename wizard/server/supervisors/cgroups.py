"""Which container a process lives in, as its /proc/PID/cgroup text names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

Engine = Literal["docker", "podman", "kubernetes", "containerd"]

_CONTAINER = re.compile(r"(?:(?<=/)|(?<=-))[0-9a-f]{64}(?=\.scope|/|$)")
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
_ENGINES: tuple[tuple[str, Engine], ...] = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
)
"""Words of a cgroup path, the innermost manager first: a pod's containers may be docker's."""


class Container(NamedTuple):
    """The innermost container of a cgroup path."""

    engine: Engine
    id: str
    pod_uid: str = ""


def read(pid: int | str) -> str:
    """The text for a process ("self": our own); "" for what is gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def container_of(cgroup: str) -> Container | None:
    """The container that a text names (cgroup v1 and v2, both cgroup drivers)."""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        ids = _CONTAINER.findall(path)
        if not ids:
            continue
        before = path[: path.rindex(ids[-1])]
        engine: Engine = next((name for word, name in _ENGINES if word in before), "containerd")
        pods = _POD.findall(before)
        return Container(engine, ids[-1], pods[-1].replace("_", "-") if pods else "")
    return None
