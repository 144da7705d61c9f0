"""Whether the command of a running server would start that server again: asked right before it is stopped."""

from __future__ import annotations

import os
import time

from wizard.core.target import Identity, Launch
from wizard.server import proc
from wizard.server.configfile import ConfigError, named_in, read
from wizard.server.launch import LaunchError, check, program_of
from wizard.server.privileges import ambient

CLOCK_SLACK_S = 2.0
"""Between a file's time and a process's: ticks are hundredths, and a clock is set now and then."""


def obstacle(launch: Launch, identity: Identity | None, fallback_log: str) -> str:
    """Why the command of ``identity`` (None: it does not run) would not come back as it was; "" when it would.

    Looks only: its folder, program, log and disk; capabilities that only its starter can give; a program that
    PATH leads elsewhere by now; a ``--config`` file that is gone, or was changed after the process had read it.
    """
    try:
        check(launch, fallback_log=fallback_log)
    except LaunchError as error:
        return str(error)
    if identity is None:
        return ""
    if ambient(identity.pid):
        return "it holds ambient capabilities (setpriv, AmbientCapabilities=) that a start from here lacks"
    return _other_program(launch, identity.pid) or _other_settings(launch, identity.pid)


def _other_program(launch: Launch, pid: int) -> str:
    """Only a bare name is looked up again. A replaced file (an upgrade) is not another program."""
    word = launch.argv[0]
    if "/" in word:
        return ""
    found, runs = program_of(launch), f"/proc/{pid}/exe"
    try:
        shown = os.readlink(runs)
        if shown.endswith(" (deleted)") or os.path.samefile(found, runs):
            return ""
    except OSError:
        return ""  # not to be seen by this user
    return f"its program {word} is {found} on its PATH by now, and what runs is {shown}"


def _other_settings(launch: Launch, pid: int) -> str:
    path = named_in(launch.argv)
    if path is None:
        return ""
    try:
        read(path, launch.cwd)
        changed = os.stat(os.path.join(launch.cwd, path)).st_mtime
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"--config {path}: {error.strerror}"
    up = proc.uptime_s(pid)
    if up is not None and changed > time.time() - up + CLOCK_SLACK_S:
        return (
            f"--config {path} was changed after the server had started, so what it runs with could not be put"
            " back: restart it by hand with the file as it is, or put the file back as it was"
        )
    return ""
