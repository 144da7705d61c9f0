"""What a process may do beyond its user id, and what of it a start from here would not give it."""

from __future__ import annotations

import os
from pathlib import Path

_SIGHUP = 1


def _status(pid: int | str) -> dict[str, str]:
    """/proc/PID/status by name; empty when it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def ambient(pid: int) -> bool:
    """Whether it was given capabilities that a start from here would lack: it may need them to start at all."""
    theirs, ours = _status(pid).get("CapAmb", "0"), _status("self").get("CapAmb", "0")
    return int(theirs, 16) & ~int(ours, 16) != 0


def differences(pid: int, groups: list[int] | None) -> list[str]:
    """What a server started from here would have instead, in words. ``groups``: the supplementary ones that it
    would get; None for this process's own."""
    theirs, ours = _status(pid), _status("self")
    if not theirs or not ours:
        return []
    found = []
    if theirs.get("NoNewPrivs") == "1" and ours.get("NoNewPrivs") != "1":
        found.append("no no_new_privs")
    if int(ours.get("CapBnd", "0"), 16) & ~int(theirs.get("CapBnd", "0"), 16):
        found.append("a wider bounding set of capabilities")
    had = {int(word) for word in theirs.get("Groups", "").split()}
    lost = sorted(had - set(os.getgroups() if groups is None else groups))
    if lost:
        found.append(f"not in group {', '.join(map(str, lost))}")
    if _ignores(theirs, _SIGHUP) and not _ignores(ours, _SIGHUP):
        found.append("SIGHUP not ignored (a `kill -HUP` would end it)")
    return found


def _ignores(status: dict[str, str], number: int) -> bool:
    return bool(int(status.get("SigIgn", "0"), 16) >> (number - 1) & 1)
