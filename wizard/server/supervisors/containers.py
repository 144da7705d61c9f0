"""Containers and pods, as a /proc/PID/cgroup text names them: recognised, explained, changed by a person."""

from __future__ import annotations

import re

from wizard.core.held import Held, HolderKind

_SIGNS: tuple[tuple[str, HolderKind, re.Pattern[str]], ...] = (
    ("kubepods", "kubernetes", re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f_-]{27})")),
    ("libpod", "podman", re.compile(r"libpod-([0-9a-f]{12})")),
    ("docker", "docker", re.compile(r"docker[-/]([0-9a-f]{12})")),
    ("containerd", "docker", re.compile(r"/([0-9a-f]{12})[0-9a-f]{52}\b")),
)
"""A word of the path, the kind, and where the id stands in it: cgroup v1 and v2, both cgroup drivers."""


def held_by(groups: str, mine: str) -> Held | None:
    """The container that the server runs in, and the wizard does not; None for none."""
    for word, kind, pattern in _SIGNS:
        if word in groups and word not in mine:
            found = pattern.search(groups)
            name = found[1].replace("_", "-") if found else "?"
            return Held(kind, name, "", "relaunch it with that tool")
    return None
