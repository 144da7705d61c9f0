"""Starting a server as it was before: same words, folder, environment, log, user, limits and placement."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wizard.core.target import Identity, Launch
from wizard.server import placement, proc
from wizard.server.identity import identify

MIN_FREE_BYTES = 8 * 1024 * 1024


class LaunchError(Exception):
    """It cannot be started; the text says why in one line. Nothing runs."""


@dataclass
class Launched:
    """A started server. ``log_path`` is where SGLang's own lines go, ``log_offset`` the bytes in it before.

    ``note`` says where the output went when that is not where it went before.
    """

    identity: Identity
    log_path: str | None
    log_offset: int
    process: subprocess.Popen[bytes]
    note: str = ""

    def poll(self) -> int | None:
        """Exit code: None while it runs, negative = ended by that signal. Only its parent can know."""
        return self.process.poll()


def check(launch: Launch, *, fallback_log: str | Path) -> None:
    """What can be known beforehand; starts and writes nothing. Raises LaunchError.

    To be asked before a running server is stopped: it is stricter than ``launch``.
    """
    if not launch.argv:
        raise LaunchError("the launch command is empty")
    if not os.path.isdir(launch.cwd):
        raise LaunchError(f"its working directory {launch.cwd} is gone")
    program_of(launch)
    if launch.uid not in (-1, os.geteuid()) and os.geteuid() != 0:
        raise LaunchError(f"it ran as user id {launch.uid}: only that user or root can start it again")
    for path in dict.fromkeys((launch.log_path or str(fallback_log), launch.stderr_path)):
        if path is None:
            continue
        folder = os.path.dirname(os.path.abspath(path))
        exists = os.path.exists(path)
        if not (os.path.isfile(path) and os.access(path, os.W_OK) if exists else os.access(folder, os.W_OK)):
            raise LaunchError(f"its log {path} cannot be written")
        if not _has_space(path):
            raise LaunchError(f"the disk of its log {path} is full")


def launch(launch: Launch, *, fallback_log: str | Path) -> Launched:
    """Start it in a session of its own, output appended to its old files.

    ``fallback_log`` takes the output when the old one went to a terminal or a pipe, and also when the
    old file cannot be written or its disk is full: a server that logs elsewhere is better than none.
    Raises LaunchError.
    """
    if not launch.argv:
        raise LaunchError("the launch command is empty")
    if not os.path.isdir(launch.cwd):
        raise LaunchError(f"its working directory {launch.cwd} is gone")
    program = program_of(launch)
    user, group, groups = as_user(launch)
    outputs = _Outputs(launch, str(fallback_log))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            launch.argv,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=outputs.out,
            stderr=outputs.err,
            cwd=launch.cwd,
            env=dict(launch.environ),
            start_new_session=True,
            close_fds=True,
            user=user,
            group=group,
            extra_groups=groups,
            umask=-1 if launch.umask is None else launch.umask,
        )

    try:
        process = placement.start_at(launch.placement, start)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LaunchError(f"{launch.argv[0]} does not start: {why}") from error
    finally:
        outputs.close()
    placement.settle(process.pid, launch.placement)
    identity = identify(process.pid)
    if identity is None:
        raise LaunchError(f"it ended at once with exit code {process.wait()}")
    notes = [n for n in (outputs.note, _set_limits(process.pid, launch), _placed(process.pid, launch)) if n]
    return Launched(identity, outputs.log_path, outputs.offset, process, "; ".join(notes))


def _set_limits(pid: int, launch: Launch) -> str:
    """The limits it had, as far as we may; which ones are tighter now, or "".

    Right after the start, while the interpreter still loads: SGLang raises its own limit of open files later.
    """
    for name, (soft, hard) in launch.limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            _set_limit(pid, number, soft, hard)
    now = proc.limits(pid)
    tighter = [
        f"{name} {now[name][0]} instead of {'unlimited' if soft == resource.RLIM_INFINITY else soft}"
        for name, (soft, _) in launch.limits.items()
        if name in now and _less(now[name][0], soft)
    ]
    return f"its limits are tighter than before: {', '.join(tighter)}" if tighter else ""


def _placed(pid: int, launch: Launch) -> str:
    """What of its placement is not as before, or ""."""
    found = placement.differences(launch.placement, placement.read(pid))
    return f"not as before: {', '.join(found)}" if found else ""


def _set_limit(pid: int, number: int, soft: int, hard: int) -> None:
    try:
        resource.prlimit(pid, number, (soft, hard))
        return
    except (OSError, ValueError):
        pass  # only root may raise a hard limit: what is below ours will do
    try:
        most = resource.prlimit(pid, number)[1]
        resource.prlimit(pid, number, (most if _less(most, soft) else soft, most))
    except (OSError, ValueError):
        return  # a server under other limits is better than none


def _less(one: int, other: int) -> bool:
    return one != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or one < other)


class _Outputs:
    """Open files for stdout and stderr: the old ones, else the fallback, else nowhere."""

    def __init__(self, launch: Launch, fallback: str) -> None:
        self.note = ""
        out_path, err_path = launch.log_path or fallback, launch.stderr_path or launch.log_path or fallback
        self.out, out_path = self._open(out_path, fallback, launch)
        self.err = self.out
        if err_path == (launch.log_path or fallback):
            err_path = out_path
        else:
            self.err, err_path = self._open(err_path, fallback, launch)
        self.log_path = None if err_path == os.devnull else err_path
        self.offset = os.fstat(self.err).st_size

    def _open(self, path: str, fallback: str, launch: Launch) -> tuple[int, str]:
        if path != fallback:
            try:
                if not _has_space(path):
                    raise LaunchError(f"the disk of its log {path} is full")
                with _acting_as(launch):
                    return _append(path), path
            except LaunchError as error:
                self.note = f"{error}: its output goes to {fallback}"
        try:
            if not _has_space(fallback):
                raise LaunchError(f"the disk of {fallback} is full")
            return _append(fallback), fallback  # ours, in the session's folder: opened as ourselves
        except LaunchError as error:
            self.note = f"{error}: its output is lost"
            return os.open(os.devnull, os.O_WRONLY), os.devnull

    def close(self) -> None:
        for number in {self.out, self.err}:
            os.close(number)


def program_of(launch: Launch) -> str:
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


def _append(path: str) -> int:
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchError(f"its log {path} cannot be written ({error.strerror})") from error
    os.set_blocking(number, True)  # O_NONBLOCK only kept a fifo of that name from holding us up
    return number


def _has_space(path: str) -> bool:
    """True also where it cannot be told: the open that follows will say why."""
    try:
        return shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free >= MIN_FREE_BYTES
    except OSError:
        return True


@contextmanager
def _acting_as(launch: Launch) -> Iterator[None]:
    """Root opens a user's log with that user's rights, so that no link of theirs leads root astray."""
    user, group, _ = as_user(launch)
    if user is None or group is None:
        yield
        return
    own_group = os.getegid()
    try:
        os.setegid(group)
        os.seteuid(user)
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_group)


def as_user(launch: Launch) -> tuple[int | None, int | None, list[int] | None]:
    """Root starts it as the user it had; anybody else can only start it as themselves."""
    if os.geteuid() != 0 or launch.uid < 0 or (launch.uid, launch.gid) == (os.geteuid(), os.getegid()):
        return None, None, None
    import pwd

    try:
        groups = os.getgrouplist(pwd.getpwuid(launch.uid).pw_name, launch.gid)
    except KeyError:
        groups = [launch.gid]
    return launch.uid, launch.gid, groups
