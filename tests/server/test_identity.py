from __future__ import annotations

import errno
import os
import platform
import signal
import threading
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.server.conftest import Stage, wait_until, who
from wizard.core.target import Identity
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


COUNT_SIGNALS = (
    "import signal, sys, time\n"
    "told = lambda number, _: print('TOLD', number, flush=True)\n"
    "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, told)\n"
    "print('up', flush=True)\n"
    "while True: time.sleep(0.05)\n"
)


def test_no_identity_that_differs_in_any_field_is_ever_signalled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever differs, however little: two processes that write down each signal stay untold."""
    one, other = stage.script(COUNT_SIGNALS, log="one"), stage.script(COUNT_SIGNALS, log="other")
    stage.wait_for("one", "up")
    stage.wait_for("other", "up")
    me, them = who(one.pid), who(other.pid)
    pids = st.sampled_from([me.pid, them.pid]) | st.integers(-(2**31), 2**31 - 1)
    ticks = st.sampled_from([me.start_ticks, them.start_ticks]).flatmap(
        lambda start: st.integers(start - 3, start + 3) | st.integers(0, 2**63)
    )
    boots = st.sampled_from([me.boot_id, me.boot_id.upper(), me.boot_id + "\n", ""]) | st.text(max_size=40)
    kinds = [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP, signal.SIGHUP]
    tried = 0

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(pids, ticks, boots, st.sampled_from(kinds), st.booleans())
    def never(pid: int, start_ticks: int, boot_id: str, number: signal.Signals, pidfd: bool) -> None:
        nonlocal tried
        old = Identity(pid, start_ticks, boot_id)
        assume(old not in (me, them))
        # Never hand a real stranger of this machine to the code under test, not even one it should refuse.
        assume(pid in (me.pid, them.pid) or not proc.exists(pid))
        tried += pid in (me.pid, them.pid)
        with monkeypatch.context() as patch:
            if not pidfd:
                patch.setattr(os, "pidfd_open", _no_pidfd(errno.ENOSYS))
            assert not is_alive(old)
            with pytest.raises((Gone, NotTheTarget)), ProcessHandle(old) as handle:
                handle.send(number)

    never()
    assert tried > 50
    with ProcessHandle(me) as handle:  # the right one is: the others were refused for what they are
        handle.send(signal.SIGHUP)
    stage.wait_for("one", f"TOLD {signal.SIGHUP.value}")
    assert (stage.folder / "one").read_text().count("TOLD") == 1
    assert "TOLD" not in (stage.folder / "other").read_text()
    assert is_alive(me)
    assert is_alive(them)
    assert proc.state(them.pid) != "T"


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_thread_is_no_process(monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    """kill(2) with a thread's number reaches its process: here that would be this very test."""
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd(errno.ENOSYS))
    tids: list[int] = []
    stop = threading.Event()

    def work() -> None:
        tids.append(threading.get_native_id())
        stop.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: tids, "the thread")
        assert proc.process_of(tids[0]) == os.getpid() == proc.process_of(os.getpid())
        with pytest.raises(NotTheTarget), ProcessHandle(who(tids[0])) as handle:
            handle.send(signal.SIGCONT)
    finally:
        stop.set()
        thread.join()


def _no_pidfd(number: int):  # type: ignore[no-untyped-def]
    def refuse(pid: int) -> int:
        raise OSError(number, errno.errorcode[number])

    return refuse
