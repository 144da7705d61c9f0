"""Starting a server as it was started before: same words, folder, environment, log and user."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from wizard.core.target import Identity, Launch
from wizard.server.identity import identify

MIN_FREE_BYTES = 8 * 1024 * 1024


class LaunchError(Exception):
    """It cannot be started; the text says why in one line. Nothing runs."""


@dataclass
class Launched:
    """A started server. ``log_offset``: bytes in the log before it. ``poll`` gives its exit code."""

    identity: Identity
    log_path: str | None
    log_offset: int
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """None while it runs; negative = ended by that signal. Only its parent can know."""
        return self.process.poll()


def launch(launch: Launch, *, fallback_log: str | Path) -> Launched:
    """Start it in a session of its own, output appended to its old files.

    ``fallback_log`` takes the output when the old one went to a terminal or a pipe. Raises LaunchError.
    """
    if not launch.argv:
        raise LaunchError("the launch command is empty")
    if not os.path.isdir(launch.cwd):
        raise LaunchError(f"its working directory {launch.cwd} is gone")
    program = _program(launch)
    out_path = launch.log_path or str(fallback_log)
    err_path = launch.stderr_path or out_path
    _require_space(out_path)
    out = _open(out_path)
    err = out if err_path == out_path else _open(err_path)
    offset = os.fstat(out).st_size
    user, group, groups = _as_user(launch)
    try:
        process = subprocess.Popen(
            launch.argv,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=launch.cwd,
            env=dict(launch.environ),
            start_new_session=True,
            close_fds=True,
            user=user,
            group=group,
            extra_groups=groups,
        )
    except OSError as error:
        raise LaunchError(f"{launch.argv[0]} does not start: {error.strerror}") from error
    finally:
        os.close(out)
        if err != out:
            os.close(err)
    identity = identify(process.pid)
    if identity is None:
        code = process.wait()
        raise LaunchError(f"it ended at once with exit code {code}")
    return Launched(identity, out_path, offset, process)


def _program(launch: Launch) -> str:
    """The executable, found as the server's own shell would have found it."""
    word = launch.argv[0]
    if "/" in word:
        found = os.path.join(launch.cwd, word)
        if not os.access(found, os.X_OK):
            raise LaunchError(f"its program {word} is gone or not executable")
        return found
    path = shutil.which(word, path=launch.environ.get("PATH", os.defpath))
    if path is None:
        raise LaunchError(f"its program {word} is not on its PATH")
    return path


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise LaunchError(f"its log {path} cannot be written: {error.strerror}") from error


def _require_space(path: str) -> None:
    try:
        free = shutil.disk_usage(os.path.dirname(path) or "/").free
    except OSError as error:
        raise LaunchError(f"its log folder cannot be used: {error.strerror}") from error
    if free < MIN_FREE_BYTES:
        raise LaunchError(f"the disk of its log {path} is full")


def _as_user(launch: Launch) -> tuple[int | None, int | None, list[int] | None]:
    """Root starts it as the user it had; anybody else can only start it as themselves."""
    if os.geteuid() != 0 or (launch.uid, launch.gid) == (os.geteuid(), os.getegid()):
        return None, None, None
    import pwd

    try:
        groups = os.getgrouplist(pwd.getpwuid(launch.uid).pw_name, launch.gid)
    except KeyError:
        groups = [launch.gid]
    return launch.uid, launch.gid, groups
