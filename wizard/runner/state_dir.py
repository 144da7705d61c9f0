"""Where sessions live: one folder, 0700; one journal, one lock and one error log a session, 0600."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

MIN_FREE_BYTES = 16 * 1024 * 1024
"""A journal of a long session stays under 1 MiB; the rest is room for the server's fallback log."""


class StateDirError(Exception):
    """The state folder cannot be used. One line: what, where, what to do."""


def state_dir() -> Path:
    """The folder, created 0700 if absent.

    ``SGL_WIZARD_STATE_DIR``, else ``$XDG_STATE_HOME/sgl-wizard``, else ``~/.local/state/sgl-wizard``.
    Raises StateDirError when it cannot be made or belongs to somebody else.
    """
    path = _chosen()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as error:
        raise StateDirError(_line(path, f"cannot be created: {error.strerror}")) from error
    if not stat.S_ISDIR(info.st_mode):
        raise StateDirError(_line(path, "is not a folder"))
    if info.st_uid != os.geteuid():
        raise StateDirError(_line(path, f"belongs to user id {info.st_uid}, you are {os.geteuid()}"))
    if info.st_mode & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            raise StateDirError(_line(path, f"is open to other users: {error.strerror}")) from error
    return path


def is_there() -> bool:
    """Whether there is a state folder; makes none."""
    return _chosen().is_dir()


def check_writable(path: Path | None = None) -> Path:
    """Prove that a journal can be kept here: free space, then a real write and fsync.

    Raises StateDirError; call it before anything is touched.
    """
    folder = path or state_dir()
    probe = folder / f".write-test-{os.getpid()}"
    try:
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < MIN_FREE_BYTES:
            free_mb = room.f_bavail * room.f_frsize // (1024 * 1024)
            raise StateDirError(_line(folder, f"has only {free_mb} MiB free on its disk"))
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            block = b"\0" * 65536
            if os.write(descriptor, block) != len(block):
                raise StateDirError(_line(folder, "took only a part of a write: is the disk full?"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise StateDirError(_line(folder, f"cannot be written: {error.strerror}")) from error
    return folder


def new_session_id(folder: Path | None = None) -> str:
    """The next free number, "1", "2", ...; claimed by creating its lock file with O_EXCL."""
    where = folder or state_dir()
    try:
        taken = [int(m.group(1)) for f in where.iterdir() if (m := re.match(r"session-(\d+)\.", f.name))]
        number = max(taken, default=0) + 1
        while True:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(where / f"session-{number}.lock", flags, 0o600))
                return str(number)
            except FileExistsError:
                number += 1
    except OSError as error:
        raise StateDirError(_line(where, f"cannot hold a new session: {error.strerror}")) from error


def journal_path(session_id: str, folder: Path | None = None) -> Path:
    return (folder or state_dir()) / f"session-{session_id}.db"


def lock_path(journal: Path) -> Path:
    return journal.with_suffix(".lock")


def error_log_path(journal: Path) -> Path:
    """Where the detached runner's own stderr goes."""
    return journal.with_suffix(".runner.log")


def server_log_path(journal: Path) -> Path:
    """Where a relaunched server writes when the old one wrote to a terminal or a pipe."""
    return journal.with_suffix(".server.log")


def holder_path(journal: Path) -> Path:
    """Where a relaunch through a container's engine writes down its recipe and each act of it."""
    return journal.with_suffix(".holder.jsonl")


def _chosen() -> Path:
    named = os.environ.get("SGL_WIZARD_STATE_DIR")
    if named:
        return Path(named).expanduser().absolute()
    xdg = os.environ.get("XDG_STATE_HOME")
    if xdg and os.path.isabs(xdg):
        return Path(xdg) / "sgl-wizard"
    return Path("~/.local/state/sgl-wizard").expanduser()


def _line(path: Path, what: str) -> str:
    return f"state folder {path} {what}. Nothing was touched. Name another one with SGL_WIZARD_STATE_DIR."
