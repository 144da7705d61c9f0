"""Finding the holder of a process, and the module that acts through it."""

from __future__ import annotations

import re
from pathlib import Path

from wizard.core.held import Held
from wizard.core.target import Target
from wizard.server import proc
from wizard.server.supervisors import assisted, containers, systemd
from wizard.server.supervisors.contract import Supervisor

_PROGRAMS = frozenset({"supervisord", "s6-supervise", "runsv", "circusd", "monit", "runit", "god", "pm2"})
"""Short names of programs that start a child again when it ends; the wizard would race with them."""
_NO_UNIT = re.compile(
    r"^(sshd?(@.*)?|crond?|atd|(.*-)?getty@.*|user@.*|docker|containerd|systemd-logind)\.service$"
)
"""Units that people's shells and jobs live in: nothing there starts a server again."""


def holder_of(pid: int) -> Held | None:
    """Who holds a process of this host; None for a bare one. Only looks and asks."""
    for above in proc.ancestors(pid):
        name = proc.name(above)
        if name in _PROGRAMS or name.startswith("PM2 "):
            return Held("other", f"{name} (process {above})", "by itself", "change it there")
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
        mine = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return None if groups == mine else holder_in(groups, mine, pid)


def holder_in(groups: str, mine: str, pid: int) -> Held | None:
    """The holder that two /proc/PID/cgroup texts tell, the server's and the wizard's own."""
    held = containers.held_by(groups, mine)
    if held is not None:
        return held
    unit = unit_of(groups)
    if unit is not None and unit != unit_of(mine):
        return systemd.held_by(pid, unit, user="/user@" in groups)
    return None


def unit_of(cgroup: str) -> str | None:
    """The systemd service that a /proc/PID/cgroup text names; None for login sessions and plain jobs."""
    for line in cgroup.splitlines():
        for part in reversed(line.split(":", 2)[-1].split("/")):
            if part.endswith(".service"):
                if not _NO_UNIT.match(part):
                    return part
                break  # below user@.service stands the user's own unit, if there is one
    return None


def supervisor_of(target: Target) -> Supervisor | None:
    """The module that stops and starts through the target's holder, or waits for a person who does; None for a
    bare process, and where neither is possible."""
    held = target.held
    if held is None or target.launch is None:
        return None
    if held.is_managed:
        return systemd.Systemd(held)
    return assisted.Assisted(held, target.launch, target) if held.is_assisted else None
