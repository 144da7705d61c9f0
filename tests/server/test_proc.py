from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.server.conftest import Stage, wait_until, who
from wizard.core.target import Identity
from wizard.server import proc
from wizard.server.proc import Listener

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def test_empty_words_of_a_command_line_are_kept(stage: Stage) -> None:
    words = (sys.executable, "-c", SLEEP, "", "--chat-template", "", "")
    child = stage.run(words)
    stage.wait_for("log", "up")
    assert proc.cmdline(child.pid) == words


def test_environment_keeps_bytes_that_are_no_text(stage: Stage) -> None:
    child = stage.run([sys.executable, "-c", SLEEP], {b"NAME": b"caf\xe9", b"EMPTY": b"", b"EQ": b"a=b"})
    stage.wait_for("log", "up")
    assert proc.environ(child.pid) == {"NAME": os.fsdecode(b"caf\xe9"), "EMPTY": "", "EQ": "a=b"}
    assert proc.cwd(child.pid) == str(stage.folder)
    assert proc.uids(child.pid) == (os.geteuid(), os.getegid())


def test_a_name_with_parentheses_and_spaces_shifts_nothing(stage: Stage) -> None:
    code = "open('/proc/self/comm', 'w').write('a) Z 1 (b'); " + SLEEP
    child = stage.script(code)
    stage.wait_for("log", "up")
    assert proc.name(child.pid) == "a) Z 1 (b"
    assert proc.parent(child.pid) == os.getpid()
    assert proc.state(child.pid) in ("S", "R")


def test_nothing_is_raised_for_what_is_not_there() -> None:
    pid = 4194304 + 7  # above the kernel's largest pid
    assert (proc.state(pid), proc.parent(pid), proc.start_ticks(pid), proc.cmdline(pid)) == ("", None, None, ())
    assert (proc.environ(pid), proc.cwd(pid), proc.fd_file(pid, 1), proc.uids(pid)) == ({}, None, None, None)
    assert proc.descendants(pid) == []
    assert not proc.exists(pid)
    assert proc.ancestors(pid) == []


def test_a_log_counts_only_while_its_path_is_that_very_file(stage: Stage) -> None:
    child = stage.script(SLEEP)
    stage.wait_for("log", "up")
    path = stage.folder / "log"
    assert proc.fd_file(child.pid, 1) == str(path)
    assert proc.fd_file(child.pid, 0) is None  # /dev/null
    path.rename(stage.folder / "log.1")
    assert proc.fd_file(child.pid, 1) == str(stage.folder / "log.1")
    (stage.folder / "log.1").unlink()
    assert proc.fd_file(child.pid, 1) is None
    (stage.folder / "log.1 (deleted)").write_text("a file that only looks like it")
    assert proc.fd_file(child.pid, 1) is None


def test_descendants_are_found_to_the_last_and_only_for_that_process(stage: Stage) -> None:
    code = "import os, time\nfor _ in range(3):\n if os.fork(): break\nprint('up', flush=True); time.sleep(60)"
    child = stage.script(code)
    wait_until(lambda: (stage.folder / "log").read_text().count("up") == 4, "four processes")
    found = proc.descendants(child.pid)
    assert len(found) == 3
    assert all(who(one.pid) == one for one in found)
    assert [proc.parent(one.pid) for one in found] == [child.pid, found[0].pid, found[1].pid]
    assert proc.ancestors(found[2].pid)[:4] == [found[1].pid, found[0].pid, child.pid, os.getpid()]
    me = who(child.pid)
    assert proc.descendants_of(me) == found
    assert proc.descendants_of(Identity(me.pid, me.start_ticks - 1, me.boot_id)) == []
    assert proc.descendants_of(Identity(me.pid, me.start_ticks, "another boot")) == []


def test_an_older_process_cannot_be_a_child(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reused pid looks like in the middle of a look: a "child" that was there before its parent."""
    child = stage.script(SLEEP)
    stage.wait_for("log", "up")
    real = proc.stat
    assert who(child.pid) in proc.descendants(os.getpid())

    def younger(pid: int) -> proc.Stat | None:
        found = real(pid)
        if pid == os.getpid() and found is not None:
            return proc.Stat(found.state, found.parent, found.start_ticks + 10**9)
        return found

    monkeypatch.setattr(proc, "stat", younger)
    assert proc.descendants(os.getpid()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_listeners_name_address_port_and_owner(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = sock.getsockname()[1]
        assert proc.listeners(port) == []  # bound is not listening
        sock.listen()
        inode = str(os.fstat(sock.fileno()).st_ino)
        assert proc.listeners(port) == [Listener(host, port, os.getpid(), inode)]
        assert proc.listeners(port, among=()) == [Listener(host, port, None, inode)]
        assert Listener(host, port, os.getpid(), inode) in proc.listeners()
    assert proc.listeners(port) == []


LOOP, ALL, OTHER, ALL6, LOOP6 = (
    Listener(host, 1, None, host) for host in ("127.0.0.1", "0.0.0.0", "127.0.0.2", "::", "::1")
)


@pytest.mark.parametrize(
    ("host", "there", "answers"),
    [
        ("127.0.0.1", [LOOP, OTHER], [LOOP]),
        ("127.0.0.1", [ALL, LOOP], [LOOP]),
        ("127.0.0.1", [ALL6, ALL], [ALL]),
        ("127.0.0.1", [ALL6], [ALL6]),
        ("127.0.0.1", [OTHER, LOOP6], []),
        ("127.0.0.2", [LOOP, OTHER], [OTHER]),
        ("0.0.0.0", [LOOP], [LOOP]),
        ("localhost", [LOOP6], [LOOP6]),
        ("localhost", [LOOP6, LOOP], [LOOP]),
        ("::1", [ALL, LOOP6], [LOOP6]),
        ("::", [ALL6], [ALL6]),
    ],
)
def test_who_answers_at_an_address(host: str, there: list[Listener], answers: list[Listener]) -> None:
    assert proc.answering(host, there) == answers


def test_boot_id_is_this_boots() -> None:
    assert proc.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != ""
