"""The target's HTTP port: free or taken, by whom, and a free one near it.

SGLang binds its port only after the model is loaded, so a taken port costs minutes before it shows
(recordings/cpu: bind error after 35 to 47 s, then a hang or even "ready to roll"): it is looked up beforehand.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from wizard.core.reading import Outcome, ProbeResult, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, in_thread
from wizard.probes.process import command_of, tree_pids

Kind = Literal["target", "sglang", "other", "unknown"]

SEARCH_SPAN = 200
LAST_PORT = 65535
_SGLANG_WORDS = ("sglang.launch_server", "sglang::", "wizard.simulator", "sglang.srt")


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket; ``pid`` None when the system does not let us see whose it is."""

    host: str
    port: int
    pid: int | None


def find_listeners() -> list[Listener]:
    """Every listening TCP socket of this network namespace."""
    import psutil

    return [
        Listener(str(c.laddr.ip), int(c.laddr.port), c.pid)
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr
    ]


def kind_of(pid: int | None, command: str, tree: Collection[int]) -> Kind:
    """Whose a listener is: the target's own, another SGLang's, somebody else's, or not to be seen."""
    if pid is None:
        return "unknown"
    if pid in tree:
        return "target"
    serves = any(word in command for word in _SGLANG_WORDS) or "sglang serve" in command
    return "sglang" if serves else "other"


def can_bind(host: str, port: int) -> bool:
    """A server could bind there now. Binds for a moment, listens to nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError:
            return False
    return True


def suggest_free(host: str, port: int, listeners: Sequence[Listener]) -> int | None:
    """The nearest free port above, else below (never a privileged one); None when the whole span is taken."""
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name: asking its resolver for every attempt could take minutes
        host = "127.0.0.1"
    taken = {listener.port for listener in listeners}
    above = range(port + 1, min(port + SEARCH_SPAN, LAST_PORT) + 1)
    below = range(min(port, LAST_PORT + 1) - 1, max(port - SEARCH_SPAN, 1024) - 1, -1)
    return next((p for p in (*above, *below) if p not in taken and can_bind(host, p)), None)


def examine(target: Target) -> ProbeResult:
    """Readings of the target's port. Raises NoData when it is not a port of this machine."""
    if target.remote:
        raise NoData("the server runs on another machine: its port's owner cannot be seen from here")
    if target.identity is None and target.launch is None and target.log_path is not None:
        raise NoData("the target is a saved log: this machine's ports would mislead")
    listeners = find_listeners()
    tree = tree_pids(target)
    owners = [listener for listener in listeners if listener.port == target.port]
    # With several owners (SO_REUSEPORT, one per address) a foreign one matters only if none is the target's.
    owners.sort(key=lambda o: (o.pid not in tree, o.pid is None, o.pid or 0))
    values = {
        "port.number": Value(target.port, source="target"),
        "port.state": Value("listening" if owners else "free", source="/proc/net/tcp"),
    }
    reason = None
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
            values["port.owner_is_target"] = Value(kind == "target", source=source)
            if command:
                values["port.owner_command"] = Value(command, source=f"/proc/{owner.pid}/cmdline")
    free = suggest_free(target.host, target.port, listeners)
    if free is not None:
        values["port.suggested_free"] = Value(free, source="bind attempt")
    return ProbeResult("port", Outcome.OK, values, reason)


class PortProbe:
    """Who listens on the target's port."""

    spec = ProbeSpec("port", "Port", timeout_s=2.0, cost="reads /proc/net/tcp, tries a bind")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx.target)


PROBE = PortProbe()
