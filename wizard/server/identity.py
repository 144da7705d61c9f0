"""Who a process is, and signals that can reach nobody else.

A pid alone is a name that is given again. An Identity adds the start time and the boot; a pidfd
holds the very process, so between the check and the signal nothing can take its place.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from wizard.core.target import Identity
from wizard.server import proc

_THREAD = (errno.EINVAL, errno.ENOENT)  # pidfd_open of a thread: before and since Linux 6.9
_NO_PIDFD = (errno.ENOSYS, errno.EPERM)
"""No pidfd here: a kernel before 5.3, or a container whose seccomp profile forbids the call."""


class NotTheTarget(Exception):
    """The pid belongs to another process now. Nothing was signalled."""


class Gone(Exception):
    """The process has ended."""


def identify(pid: int) -> Identity | None:
    """The identity of a running process; None when there is none (a zombie has ended)."""
    found = proc.stat(pid)
    if found is None or found.ended:
        return None
    return Identity(pid, found.start_ticks, proc.boot_id())


def is_alive(identity: Identity) -> bool:
    """This very process still runs."""
    return identify(identity.pid) == identity


class ProcessHandle:
    """A held process: ``send`` and ``wait`` reach this one or nobody.

    Raises Gone when it has ended, NotTheTarget when the pid is somebody else's by now, OSError when no
    handle can be had (no free descriptor). Where there is no pidfd (kernel before 5.3, seccomp) the
    identity is checked right before each signal. The race that remains: the process would have to end,
    be reaped and its pid given again within those microseconds, which takes a full turn of the pid space.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._fd: int | None = None

    def __enter__(self) -> ProcessHandle:
        try:
            self._fd = os.pidfd_open(self.identity.pid)
        except ProcessLookupError:
            raise Gone(f"process {self.identity.pid} has ended") from None
        except AttributeError:
            self._fd = None
        except OSError as error:
            if error.errno in _THREAD:
                raise NotTheTarget(f"{self.identity.pid} is a thread, not a process") from None
            if error.errno not in _NO_PIDFD:
                raise
            self._fd = None
        try:
            # Only after the open: what the descriptor holds and what /proc shows are now the same process.
            self._verify()
        except (Gone, NotTheTarget):
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _verify(self) -> None:
        now = identify(self.identity.pid)
        if now is None:
            raise Gone(f"process {self.identity.pid} has ended")
        if now != self.identity:
            raise NotTheTarget(f"pid {self.identity.pid} belongs to another process now")
        if self._fd is None and proc.process_of(self.identity.pid) != self.identity.pid:
            # kill(2) with a thread's number would reach its whole process; pidfd_open refuses it above.
            raise NotTheTarget(f"{self.identity.pid} is a thread, not a process")

    def send(self, number: signal.Signals) -> None:
        """Signal it. Raises Gone, NotTheTarget, PermissionError."""
        self._verify()
        try:
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.identity.pid, number)
        except ProcessLookupError:
            raise Gone(f"process {self.identity.pid} has ended") from None

    def wait(self, timeout_s: float) -> bool:
        """True once it has ended."""
        if self._fd is not None:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            return bool(poller.poll(max(0.0, timeout_s) * 1000)) or not is_alive(self.identity)
        deadline = time.monotonic() + timeout_s
        while is_alive(self.identity):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True
