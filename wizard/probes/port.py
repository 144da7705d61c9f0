"""The target's HTTP port: free or taken, by whom, and a free one near it.

SGLang binds its port only after the model is loaded, so a taken port costs minutes before it shows
(recordings/cpu: bind error after 35 to 47 s, then a hang or even "ready to roll"): it is looked up beforehand.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from wizard.core.reading import Outcome, ProbeResult, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, in_thread
from wizard.probes.process import command_of, tree_pids
from wizard.server import ports, proc

Kind = Literal["target", "sglang", "other", "unknown"]

SHOWN = 240
"""Characters of the owner's command: it stands in sentences, and /proc has the whole of it."""

_SGLANG_WORDS = ("sglang.launch_server", "sglang::", "wizard.simulator", "sglang.srt")


def kind_of(pid: int | None, command: str, tree: Collection[int]) -> Kind:
    """Whose a listener is: the target's own, another SGLang's, somebody else's, or not to be seen."""
    if pid is None:
        return "unknown"
    if pid in tree:
        return "target"
    serves = any(word in command for word in _SGLANG_WORDS) or "sglang serve" in command
    return "sglang" if serves else "other"


def examine(target: Target) -> ProbeResult:
    """Readings of the target's port. Raises NoData when it is not a port of this machine."""
    if target.is_elsewhere:
        raise NoData("the server runs on another machine: its port's owner cannot be seen from here")
    if target.identity is None and target.launch is None and target.log_path is not None:
        raise NoData("the target is a saved log: this machine's ports would mislead")
    if not 0 < target.port < 65536:
        raise NoData(f"{target.port} is not a port: 1 to 65535 are", "give --port another value")
    tree = tree_pids(target)
    if target.inside_port is not None and target.identity is not None:
        return _inside(target, target.identity.pid, target.inside_port, tree)
    owners = proc.listeners(target.port)
    # With several owners (SO_REUSEPORT, one per address) a foreign one matters only if none is the target's.
    owners.sort(key=lambda o: (o.pid not in tree, o.pid is None, o.pid or 0))
    values = {"port.number": Value(target.port, source="target")}
    reason = None
    if owners:
        values["port.state"] = Value("listening", source="/proc/net/tcp")
    elif ports.can_bind(target.host, target.port):
        values["port.state"] = Value("free", source="bind attempt")
    else:
        values["port.state"] = Value("listening", source="bind attempt")
        values["port.owner_kind"] = Value("unknown", source="bind attempt")
        reason = f"{target.port} cannot be bound, and who holds it is not to be seen from here"
    if owners:
        owner = owners[0]
        source = f"/proc/net/tcp, {owner.host}:{owner.port}"
        command = command_of(owner.pid) if owner.pid is not None else ""
        kind = kind_of(owner.pid, command, tree)
        values["port.owner_kind"] = Value(kind, source=source)
        if owner.pid is None:
            reason = f"no permission to see who listens on {target.port}: run as that user or as root"
        else:
            values["port.owner_pid"] = Value(owner.pid, source=source)
            if not target.remote:  # known by its address alone: whoever listens there may well be it
                values["port.owner_is_target"] = Value(kind == "target", source=source)
            if command:
                shown = command if len(command) <= SHOWN else command[: SHOWN - 1] + "…"
                values["port.owner_command"] = Value(shown, source=f"/proc/{owner.pid}/cmdline")
    free = ports.suggest_free(target.host, target.port)
    if free is not None:
        values["port.suggested_free"] = Value(free, source="bind attempt")
    return ProbeResult("port", Outcome.OK, values, reason)


def _inside(target: Target, pid: int, port: int, tree: Collection[int]) -> ProbeResult:
    """The port in the server's own network: what answers out here only forwards to it."""
    values = {"port.number": Value(target.port, source="target")}
    owners = proc.listeners(port, tree, network_of=pid)
    if owners:
        mine = any(one.pid is not None for one in owners)
        source = f"/proc/{pid}/net/tcp, {owners[0].host}:{port}"
        values["port.state"] = Value("listening", source=source)
        values["port.owner_kind"] = Value("target" if mine else "unknown", source=source)
        values["port.owner_is_target"] = Value(mine, source=source)
        if mine:
            values["port.owner_pid"] = Value(next(o.pid for o in owners if o.pid is not None), source=source)
    else:
        values["port.state"] = Value("free", source=f"/proc/{pid}/net/tcp")
    said = f"{target.host}:{target.port} leads to port {port} of its own network (a container)"
    return ProbeResult("port", Outcome.OK, values, said)


class PortProbe:
    """Who listens on the target's port."""

    spec = ProbeSpec("port", "Port", timeout_s=2.0, cost="reads /proc/net/tcp, tries a bind")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx.target)


PROBE = PortProbe()
