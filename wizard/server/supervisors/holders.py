"""Finding the holder of a process, and the module that acts through it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from wizard.core.held import Held, HolderKind
from wizard.core.target import Launch, Target
from wizard.server import proc
from wizard.server.supervisors import assisted, cgroups, recreated, systemd, units
from wizard.server.supervisors.contract import Supervisor, Wish
from wizard.server.supervisors.loops import loop_above
from wizard.server.supervisors.recipe import CannotRecreate, Change, Found

_PROGRAMS = frozenset(
    {
        *("supervisord", "s6-supervise", "runsv", "circusd", "monit", "runit", "god", "pm2"),
        *("supervise", "perpd", "immortal", "nodemon", "watchexec", "entr"),
    }
)
"""Short names of programs that start a child again when it ends; the wizard would race with them."""
_JOBS = frozenset({"slurmstepd", "raylet"})
"""Of programs that give up what they hold (a job's cards) when the process they started ends."""
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
        if name in _JOBS:
            return Held("other", f"{name} (process {above})", "", "start the job again with the new command")
    loop = loop_above(pid)
    if loop is not None:
        return Held("other", loop, "by itself", "change it there")
    groups, mine = cgroups.read(pid), cgroups.read("self")
    return None if not groups or groups == mine else holder_in(groups, mine, pid)


def holder_in(groups: str, mine: str, pid: int) -> Held | None:
    """The holder that two /proc/PID/cgroup texts tell, the server's and the wizard's own."""
    found = cgroups.container_of(groups)
    if found is not None and found != cgroups.container_of(mine):
        return _container(found, pid)
    unit = unit_of(groups)
    if unit is not None and unit != unit_of(mine):
        return units.held_by(pid, unit, user="/user@" in groups)
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


_KINDS: dict[str, HolderKind] = {"docker": "docker", "podman": "podman", "kubernetes": "kubernetes"}


def _container(found: cgroups.Container, pid: int) -> Held:
    kind = _KINDS.get(found.engine, "docker")
    if found.engine == "containerd":
        return Held(kind, found.id[:12], "", "its tool is not known here")
    details = {"engine": found.engine, "id": found.id}
    if found.engine == "kubernetes":
        details |= {"pod": found.pod_uid, "hostname": proc.environ(pid).get("HOSTNAME", "")}
    said = recreated.find(details)
    return Held(
        said.kind, said.name, said.restarts, _obstacle(said, pid), details={**details, **_reached(said)}
    )


def _obstacle(found: Found, pid: int) -> str:
    """Why no change at all can be made there; "" when one that changes flags could."""
    words = proc.cmdline(pid)
    try:
        recreated.recipe_of(found, Change(Launch(words, "/"), words, folder="/nonexistent"))
    except CannotRecreate as error:
        return str(error)
    return ""


def _reached(found: Found) -> dict[str, str]:
    """Where a container's ports are published on this host ("8000/tcp": "127.0.0.1 30000"), and its log."""
    doc = found.facts.get("doc") or {}
    ports = (doc.get("NetworkSettings") or {}).get("Ports") or {}
    first = {inside: (to or [{}])[0] for inside, to in ports.items()}
    where = {
        i: f"{x.get('HostIp') or '0.0.0.0'} {x['HostPort']}" for i, x in first.items() if x.get("HostPort")
    }
    log = doc.get("LogPath") or ((doc.get("HostConfig") or {}).get("LogConfig") or {}).get("Path") or ""
    return {**where, **({"log": log} if log else {})}


def supervisor_of(
    target: Target, wish: Wish | None = None, path: Path | None = None, by_hand: bool | None = None
) -> Supervisor | None:
    """The module that stops and starts through the target's holder, or waits for a person who does; None for a
    bare process, and where neither is possible.

    ``wish``: the change that is meant: one that the holder's tool cannot make is left to a person. ``path``:
    where a container's recipe is written down; one that was begun there is gone on with. ``by_hand``: of a
    change that was begun, whether a person makes it; a unit's files may have been edited since.
    """
    held = target.held
    if held is None or target.launch is None:
        return None
    if held.kind == "systemd" and held.is_managed:
        why_not = "it was left to a person" if by_hand else ""
        if by_hand is None:
            why_not = units.overrules(held, set((wish.environ if wish else None) or ()))
        if not why_not:
            return systemd.Systemd(held, target.launch)
        held = replace(held, why_not=why_not, is_assisted=True)
    if held.is_managed:
        made = recreated.Recreated(held, target, wish or Wish(), path)
        try:
            made.recipe  # noqa: B018
        except CannotRecreate as error:
            held = replace(held, why_not=str(error), is_assisted=True)
        else:
            return made
    return assisted.Assisted(held, target.launch, target) if held.is_assisted else None
