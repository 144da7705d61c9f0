"""One runner a session, one session a server: flock on files of the state folder.

The kernel drops a flock when its holder dies, however it dies; children do not inherit it (close-on-exec).
The file's text names the holder, for those who are refused and for those who only look.
"""

from __future__ import annotations

import fcntl
import json
import os
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
