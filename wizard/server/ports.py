"""Is a port free, whose is it, and which one near it is free."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Literal

from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.identity import identify

SEARCH_SPAN = 200


@dataclass(frozen=True)
class PortState:
    """``owner`` None with state "listening": another user's process, or one in another namespace.

    ``owner_argv`` may hold secrets: redact before showing. ``inode`` is the socket's.
    """

    state: Literal["free", "listening"]
    owner: Identity | None = None
    owner_argv: tuple[str, ...] = ()
    inode: str = ""


def is_port(port: int) -> bool:
    """SGLang accepts --port 99999 and then is never reachable (recordings/cpu: port_out_of_range)."""
    return 0 < port < 65536


def can_bind(host: str, port: int) -> bool:
    """A bind as uvicorn does it (SO_REUSEADDR). True also where the port needs rights we lack.

    False for a number that is no port.
    """
    if not is_port(port):
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def port_state(host: str, port: int) -> PortState:
    """Who holds the port; who answers at ``host`` is named first.

    A listener on another address alone holds it where ``host`` cannot be bound beside it, as of the wildcard.
    A number that is no port is nobody's: "free".
    """
    if not is_port(port):
        return PortState("free")
    found = proc.listeners(port)
    if not found:
        if can_bind(host, port):
            return PortState("free")
        found = proc.holders(port)  # e.g. a client whose outgoing connection was given this port
    nearest = proc.answering(host, found)
    if found and not nearest and can_bind(host, port):
        return PortState("free")
    ranked = [*nearest, *(one for one in found if one not in nearest)]
    seen = next((one for one in ranked if one.pid is not None), None)
    if seen is None or seen.pid is None:
        return PortState("listening", inode=ranked[0].inode if ranked else "")
    return PortState("listening", identify(seen.pid), proc.cmdline(seen.pid), seen.inode)


def suggest_free(host: str, near: int) -> int | None:
    """The nearest free port to ``near``, above before below; None when there is none within 200."""
    near = near if is_port(near) else 30000
    taken = {one.port for one in proc.listeners()}
    for distance in range(1, SEARCH_SPAN):
        for port in (near + distance, near - distance):
            if 1024 <= port <= 65535 and port not in taken and can_bind(host, port):
                return port
    return None
