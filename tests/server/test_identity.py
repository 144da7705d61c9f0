from __future__ import annotations

import errno
import os
import platform
import signal
import threading
from dataclasses import replace

import pytest

from tests.server.conftest import Stage, wait_until, who
from wizard.server import proc
from wizard.server.identity import Gone, NotTheTarget, ProcessHandle, identify, is_alive

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def test_a_running_process_is_itself_and_an_ended_one_is_nobody(stage: Stage) -> None:
    child = stage.script(SLEEP)
    me = who(child.pid)
    assert is_alive(me)
    child.kill()
    wait_until(lambda: proc.state(child.pid) == "Z", "a zombie")
    assert not is_alive(me)
    assert identify(child.pid) is None
    with pytest.raises(Gone), ProcessHandle(me):
        pass
    child.wait()
    assert not is_alive(me)
    with pytest.raises(Gone), ProcessHandle(me):
        pass


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the exit system call")
def test_a_zombie_whose_threads_go_on_is_alive(stage: Stage) -> None:
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)  # exit: of this one thread\n"
    )
    child = stage.script(code)
    wait_until(lambda: proc.state(child.pid) == "Z", "the main thread's end")
    me = who(child.pid)
    assert is_alive(me)
    assert child.poll() is None
    with ProcessHandle(me) as handle:
        assert not handle.wait(0.1)
        handle.send(signal.SIGKILL)
        assert handle.wait(10)
    assert child.wait() == -signal.SIGKILL
    assert not is_alive(me)


@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("wrong", ["start_ticks", "boot_id"])
def test_a_reused_pid_is_never_signalled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, wrong: str, pidfd: bool
) -> None:
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd(errno.ENOSYS))
    child = stage.script(SLEEP)
    stage.wait_for("log", "up")
    me = who(child.pid)
    old = (
        replace(me, start_ticks=me.start_ticks - 1) if wrong == "start_ticks" else replace(me, boot_id="other")
    )
    assert not is_alive(old)
    with pytest.raises(NotTheTarget), ProcessHandle(old) as handle:
        handle.send(signal.SIGKILL)
    assert child.poll() is None
    assert is_alive(me)


@pytest.mark.parametrize("pidfd", [True, False])
def test_pid_reused_between_opening_and_sending(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, pidfd: bool
) -> None:
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd(errno.EPERM))
    child = stage.script(SLEEP)
    stage.wait_for("log", "up")
    me = who(child.pid)
    with ProcessHandle(me) as handle:
        monkeypatch.setattr(proc, "stat", lambda _: proc.Stat("S", 1, me.start_ticks + 5))
        with pytest.raises(NotTheTarget):
            handle.send(signal.SIGKILL)
    monkeypatch.undo()
    assert child.poll() is None


@pytest.mark.parametrize("pidfd", [True, False])
def test_send_and_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd(errno.ENOSYS))
    child = stage.script(SLEEP)
    stage.wait_for("log", "up")
    with ProcessHandle(who(child.pid)) as handle:
        assert not handle.wait(0.05)
        handle.send(signal.SIGTERM)
        assert handle.wait(10)
        with pytest.raises(Gone):
            handle.send(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM


def test_without_a_free_descriptor_nothing_is_guessed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    child = stage.script(SLEEP)
    monkeypatch.setattr(os, "pidfd_open", _no_pidfd(errno.EMFILE))
    with pytest.raises(OSError, match="EMFILE"), ProcessHandle(who(child.pid)) as handle:
        handle.send(signal.SIGKILL)
    assert child.poll() is None


def test_a_thread_is_no_process() -> None:
    tids: list[int] = []
    stop = threading.Event()

    def work() -> None:
        tids.append(threading.get_native_id())
        stop.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: tids, "the thread")
        with pytest.raises(NotTheTarget), ProcessHandle(who(tids[0])):
            pass
    finally:
        stop.set()
        thread.join()


def _no_pidfd(number: int):  # type: ignore[no-untyped-def]
    def refuse(pid: int) -> int:
        raise OSError(number, errno.errorcode[number])

    return refuse
