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
    """``owner`` None with state "listening": another user's process, or one in another namespace."""

    state: Literal["free", "listening"]
    owner: Identity | None = None
    owner_argv: tuple[str, ...] = ()


def can_bind(host: str, port: int) -> bool:
    """A bind as uvicorn does it (SO_REUSEADDR). True also where the port needs rights we lack."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as error:
        return error.errno not in (errno.EADDRINUSE,)
    return True


def port_state(host: str, port: int) -> PortState:
    """Who listens on the port, on any address of this host."""
    found = proc.listeners(port)
    if not found:
        return PortState("free") if can_bind(host, port) else PortState("listening")
    pid = next((one.pid for one in found if one.pid is not None), None)
    if pid is None:
        return PortState("listening")
    return PortState("listening", identify(pid), proc.cmdline(pid))


def suggest_free(host: str, near: int) -> int | None:
    """The nearest free port above ``near`` (then below); None when there is none within 200."""
    taken = {one.port for one in proc.listeners()}
    for distance in range(1, SEARCH_SPAN):
        for port in (near + distance, near - distance):
            if 1024 <= port <= 65535 and port not in taken and can_bind(host, port):
                return port
    return None
