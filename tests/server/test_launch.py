from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.conftest import wait_until
from wizard.core.target import Launch
from wizard.server import launch as module
from wizard.server import proc
from wizard.server.identity import is_alive
from wizard.server.launch import Launched, LaunchError, check, launch

SHOW = (
    "import json, os, sys, time\n"
    "print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.getsid(0), os.read(0, 1).decode(),"
    " os.getuid(), os.getgid(), os.getgroups()]), flush=True)\n"
    "print('on stderr', file=sys.stderr, flush=True)\n"
)


@pytest.fixture
def born() -> Iterator[list[Launched]]:
    made: list[Launched] = []
    yield made
    for one in made:
        one.process.kill()
        one.process.wait()


def a_launch(folder: Path, *args: str, code: str = SHOW, **more: object) -> Launch:
    made = Launch(
        argv=(sys.executable, "-c", code, *args),
        cwd=str(folder),
        environ={"ONLY": "this", "LC_ALL": "C.UTF-8"},
        log_path=str(folder / "log"),
        stderr_path=str(folder / "log"),
        uid=os.geteuid(),
        gid=os.getegid(),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def first_line(path: Path) -> list[object]:
    text = wait_until(lambda: path.exists() and "]\n" in path.read_text() and path.read_text(), "the output")
    return list(json.loads(next(line for line in text.splitlines() if line.startswith("["))))


def test_words_environment_folder_and_log_are_as_before(tmp_path: Path, born: list[Launched]) -> None:
    (tmp_path / "log").write_text("old lines\n")
    done = launch(a_launch(tmp_path, "--flag", "", "two words"), fallback_log=tmp_path / "fallback")
    born.append(done)
    argv, environ, cwd, session, stdin, *_ = first_line(tmp_path / "log")
    assert argv == ["--flag", "", "two words"]
    assert cwd == str(tmp_path)
    assert environ == {"ONLY": "this", "LC_ALL": "C.UTF-8"}
    assert session == done.identity.pid
    assert stdin == ""
    assert done.process.wait(10) == 0
    assert done.poll() == 0
    assert not is_alive(done.identity)
    text = (tmp_path / "log").read_text()
    assert text.startswith("old lines\n")
    assert text.rstrip().endswith("on stderr")
    assert (done.log_path, done.log_offset, done.note) == (str(tmp_path / "log"), 10, "")
    assert not (tmp_path / "fallback").exists()


SHOW_LIMITS = (
    "import json, os, resource, time; time.sleep(0.3)\n"
    "files, core = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)\n"
    "print(json.dumps([files, core, os.umask(0)]), flush=True)\n"
)


def test_limits_and_umask_are_as_before(tmp_path: Path, born: list[Launched]) -> None:
    """A server started under other limits than those of the terminal that the wizard runs in."""
    low, hard = 333, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    words = (sys.executable, "-c", SHOW_LIMITS)
    code = (
        "import os, resource, sys; os.umask(0o027)\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({low}, {hard}))\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "print('up', flush=True); sys.stdin.read()\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with first:
        assert first.stdout is not None
        first.stdout.readline()
        limits, umask = proc.limits(first.pid), proc.umask(first.pid)
    assert limits["NOFILE"] == (low, hard)
    assert umask == 0o027
    one = a_launch(tmp_path, argv=words, limits=limits, umask=umask)
    kept = Launch.from_json(json.loads(json.dumps(one.to_json())))  # as it comes out of a session's file
    done = launch(kept, fallback_log=tmp_path / "fallback")
    born.append(done)
    assert first_line(tmp_path / "log") == [[low, hard], [0, 0], 0o027]
    assert done.note == ""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != low  # the wizard's own stay


def test_limits_that_may_not_be_raised_are_named(
    tmp_path: Path, born: list[Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without rights: no hard limit goes up. What was before counts, up to there."""
    real, hard = resource.prlimit, 500

    def as_a_user(pid: int, number: int, wanted: tuple[int, int] | None = None) -> tuple[int, int]:
        if wanted is not None and number == resource.RLIMIT_NOFILE and not 0 <= wanted[1] <= hard:
            raise ValueError("not allowed to raise maximum limit")
        if wanted is not None:
            return real(pid, number, wanted)
        soft, now = real(pid, number)
        return (min(soft, hard), min(now, hard)) if number == resource.RLIMIT_NOFILE else (soft, now)

    monkeypatch.setattr(resource, "prlimit", as_a_user)
    for soft, note in ((400, ""), (9000, "its limits are tighter than before: NOFILE 500 instead of 9000")):
        log = str(tmp_path / str(soft))
        one = a_launch(tmp_path, argv=(sys.executable, "-c", SHOW_LIMITS), limits={"NOFILE": (soft, 9000)})
        done = launch(replace(one, log_path=log, stderr_path=log), fallback_log=tmp_path / "fallback")
        born.append(done)
        assert done.note == note
        assert first_line(Path(log))[0] == [min(soft, hard), hard]


def test_two_files_stay_two_and_the_one_to_follow_is_stderr(tmp_path: Path, born: list[Launched]) -> None:
    (tmp_path / "err").write_text("12345")
    done = launch(a_launch(tmp_path, stderr_path=str(tmp_path / "err")), fallback_log=tmp_path / "fallback")
    born.append(done)
    done.process.wait(10)
    assert (tmp_path / "err").read_text() == "12345on stderr\n"
    assert "on stderr" not in (tmp_path / "log").read_text()
    assert (done.log_path, done.log_offset) == (str(tmp_path / "err"), 5)


def test_without_a_file_before_the_fallback_takes_it(tmp_path: Path, born: list[Launched]) -> None:
    done = launch(a_launch(tmp_path, log_path=None, stderr_path=None), fallback_log=tmp_path / "fallback")
    born.append(done)
    done.process.wait(10)
    assert done.log_path == str(tmp_path / "fallback")
    assert "on stderr" in (tmp_path / "fallback").read_text()
    assert (tmp_path / "fallback").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_exit_codes(tmp_path: Path, born: list[Launched], code: str, status: int) -> None:
    done = launch(a_launch(tmp_path, code="import sys; sys.stdin.read(); " + code), fallback_log=tmp_path / "f")
    born.append(done)
    assert wait_until(lambda: done.poll() is not None, "its end")
    assert done.poll() == status


def test_what_cannot_be_started_is_one_clear_line(tmp_path: Path) -> None:
    good = a_launch(tmp_path)
    for bad, text in (
        (replace(good, cwd=str(tmp_path / "gone")), "working directory"),
        (replace(good, argv=(str(tmp_path / "python"), "-m", "x")), "gone or not executable"),
        (replace(good, argv=("no-such-python", "-m", "x")), "not on its PATH"),
        (replace(good, argv=()), "empty"),
    ):
        for step in (check, launch):
            with pytest.raises(LaunchError, match=text) as error:
                step(bad, fallback_log=tmp_path / "fallback")
            assert "\n" not in str(error.value)
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(LaunchError, match="does not start"):
        launch(replace(good, argv=(str(broken),)), fallback_log=tmp_path / "fallback")
    check(good, fallback_log=tmp_path / "fallback")


def test_program_is_found_as_the_servers_own_environment_finds_it(tmp_path: Path, born: list[Launched]) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my-python").symlink_to(sys.executable)
    for word, environ in (("my-python", {"PATH": f"/nowhere:{tmp_path}/bin"}), ("bin/my-python", {})):
        one = a_launch(
            tmp_path, argv=(word, "-c", "print('ran')"), environ=environ, log_path=str(tmp_path / "o")
        )
        born.append(launch(one, fallback_log=tmp_path / "fallback"))
        assert born[-1].process.wait(10) == 0
    assert (tmp_path / "o").read_text() == "ran\nran\n"


def test_a_log_that_cannot_be_written_does_not_keep_a_server_down(tmp_path: Path, born: list[Launched]) -> None:
    bad = a_launch(
        tmp_path, log_path=str(tmp_path / "gone" / "log"), stderr_path=str(tmp_path / "gone" / "log")
    )
    with pytest.raises(LaunchError, match="cannot be written"):
        check(bad, fallback_log=tmp_path / "fallback")
    done = launch(bad, fallback_log=tmp_path / "fallback")
    born.append(done)
    assert done.process.wait(10) == 0
    assert done.log_path == str(tmp_path / "fallback")
    assert "cannot be written" in done.note
    assert "on stderr" in (tmp_path / "fallback").read_text()
    lost = launch(bad, fallback_log=tmp_path / "gone" / "too")
    born.append(lost)
    assert lost.process.wait(10) == 0
    assert lost.log_path is None
    assert "lost" in lost.note


def test_a_pipe_that_nobody_reads_does_not_hold_the_launch_up(tmp_path: Path, born: list[Launched]) -> None:
    os.mkfifo(tmp_path / "log")

    def too_long(*_: object) -> None:
        raise AssertionError("the launch waits for a reader")  # an OSError would be taken for the pipe's

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        done = launch(a_launch(tmp_path), fallback_log=tmp_path / "fallback")
        born.append(done)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert done.process.wait(10) == 0
    assert done.log_path == str(tmp_path / "fallback")


def test_a_full_disk(tmp_path: Path, born: list[Launched], monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage

    def usage(path: str) -> object:
        return real(path)._replace(free=1000) if str(path).endswith("full") else real(path)

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    (tmp_path / "full").mkdir()
    path = str(tmp_path / "full" / "log")
    one = a_launch(tmp_path, log_path=path, stderr_path=path)
    with pytest.raises(LaunchError, match=r"disk of its log .* is full"):
        check(one, fallback_log=tmp_path / "fallback")
    done = launch(one, fallback_log=tmp_path / "fallback")
    born.append(done)
    assert done.log_path == str(tmp_path / "fallback")
    assert "is full" in done.note


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as another user")
def test_root_starts_it_as_its_user_and_follows_no_link_of_theirs(born: list[Launched]) -> None:
    import tempfile

    nobody = 65534
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        theirs = folder / "theirs"
        theirs.mkdir()
        os.chown(theirs, nobody, nobody)
        secret = folder / "roots"
        secret.write_text("untouched")
        secret.chmod(0o600)
        (theirs / "log").symlink_to(secret)
        path = str(theirs / "log")
        one = a_launch(folder, log_path=path, stderr_path=path, uid=nobody, gid=nobody)
        one = replace(one, argv=("/bin/sh", "-c", "id -u; id -g; id -G"))
        own_groups = os.getgroups()
        os.setgroups([*own_groups, 12345])
        try:
            done = launch(one, fallback_log=folder / "fallback")
        finally:
            os.setgroups(own_groups)
        born.append(done)
        assert done.process.wait(10) == 0
        assert "cannot be written" in done.note
        assert secret.read_text() == "untouched"
        assert (folder / "fallback").read_text().split() == [str(nobody)] * 3  # none of root's groups either
        (theirs / "log").unlink()
        done = launch(one, fallback_log=folder / "fallback")
        born.append(done)
        assert done.process.wait(10) == 0
        assert done.note == ""
        assert (theirs / "log").stat().st_uid == nobody
        assert os.geteuid() == 0
        assert os.getegid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
def test_another_user_is_told_beforehand(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(LaunchError, match="user id 0"):
            check(replace(a_launch(Path("/")), uid=0, argv=("/bin/sh",)), fallback_log="/dev/null")
    finally:
        os.seteuid(0)
