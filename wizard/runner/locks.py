"""One runner a session, one session a server: flock on files of the state folder, and a name on the host.

The kernel drops both when their holder dies, however it dies; children do not inherit them (close-on-exec).
The file's text names the holder, for those who are refused and for those who only look. Another user's
wizard, or one with another state folder, sees no such file: for it the name on the host stands.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import socket
import struct
from pathlib import Path

from wizard.core.target import Identity, Target
from wizard.server.identity import identify, is_alive


class Refused(Exception):
    """Somebody else holds it; the text names the holder."""


class Lock:
    """Held from ``take`` until ``free`` or the end of this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @staticmethod
    def take(path: Path, what: str, session: str) -> Lock:
        """Raises Refused with one line; never waits."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Refused(f"{what} {_holder_words(path)}") from error
        me = identify(os.getpid())
        doc = {"session": session, "identity": me.to_json() if me else None}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(doc).encode(), 0)
        return Lock(path, descriptor)

    def free(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class HostLock:
    """A name in the kernel's abstract socket namespace: one holder a network namespace, as a port has.

    Whoever shares the server's ports shares these names. Nothing is ever accepted on the socket: it listens
    so that the kernel tells a second comer who holds it (SO_PEERCRED, unix(7)).
    """

    def __init__(self, name: str, held: socket.socket) -> None:
        self.name = name
        self._held = held

    @staticmethod
    def take(name: str, what: str) -> HostLock:
        """Raises Refused with one line that names the holder's process and user; never waits."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(_address(name))
            held.listen(1)
        except OSError as error:
            held.close()
            if error.errno == errno.EADDRINUSE:
                raise Refused(f"{what} is held by {_peer_words(name)}.") from error
            raise
        return HostLock(name, held)

    def free(self) -> None:
        self._held.close()


def _address(name: str) -> bytes:
    return b"\0sgl-wizard/" + name.encode()


def _peer_words(name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_address(name))
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return "another sgl-wizard"
    pid, uid, _ = struct.unpack("3i", raw)
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return f"another sgl-wizard (process {pid}, user {user})"


def holder(path: Path) -> Identity | None:
    """The living process that holds the lock, without touching it; None when nobody does."""
    try:
        doc = json.loads(path.read_text(encoding="utf-8") or "{}")
        identity = Identity.from_json(doc["identity"]) if doc.get("identity") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return identity if identity is not None and is_alive(identity) else None


def target_locks(folder: Path, target: Target, ports: tuple[int, ...]) -> list[Path]:
    """What two transactions must not share: the process, and each port that it serves or will serve on."""
    names = [f"target-port-{port}.lock" for port in sorted(set(ports))]
    if target.identity is not None:
        i = target.identity
        names.append(f"target-{i.boot_id[:8]}-{i.pid}-{i.start_ticks}.lock")
    return [folder / name for name in names]


def _holder_words(path: Path) -> str:
    try:
        doc = json.loads(path.read_text(encoding="utf-8") or "{}")
        return f"is held by session {doc['session']} (process {doc['identity']['pid']})."
    except (OSError, ValueError, KeyError, TypeError):
        return "is held by another sgl-wizard."
