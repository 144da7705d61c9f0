"""Privileges of a process beside its user: really given with setpriv, really read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from wizard.core.target import Launch
from wizard.runner.command import shell_command
from wizard.server import proc
from wizard.server.again import obstacle
from wizard.server.identity import identify
from wizard.server.privileges import ambient, differences

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)
SLEEP = ("/bin/sleep", "60")


@contextmanager
def running(*words: str) -> Iterator[int]:
    process = subprocess.Popen([*words, *SLEEP])
    try:
        end = time.monotonic() + 10
        while proc.cmdline(process.pid) != SLEEP:
            assert time.monotonic() < end, "it did not get to its own command"
            time.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), []),
        (("setpriv", "--no-new-privs"), ["no no_new_privs"]),
        (("setpriv", "--groups", "12345"), ["not in group 12345"]),
        (("nohup",), ["SIGHUP not ignored (a `kill -HUP` would end it)"]),
    ],
)
def test_what_a_start_from_here_would_not_give(words: Sequence[str], says: list[str]) -> None:
    with running(*words) as pid:
        assert differences(pid, None) == says
        assert not ambient(pid)


def test_a_narrower_bounding_set() -> None:
    try:
        with running("setpriv", "--bounding-set=-sys_admin") as pid:
            assert differences(pid, None) == ["a wider bounding set of capabilities"]
    except AssertionError:
        if subprocess.run(["setpriv", "--bounding-set=-sys_admin", "true"]).returncode:
            pytest.skip("the bounding set may not be changed here")
        raise


def test_ambient_capabilities_are_not_stopped() -> None:
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    caps = ("--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service")
    if subprocess.run([*words, *caps, "true"], capture_output=True).returncode:
        pytest.skip("ambient capabilities may not be given here")
    with running(*words, *caps) as pid:
        launch = Launch(SLEEP, "/", {}, uid=65534, gid=65534)
        assert "ambient capabilities" in obstacle(launch, identify(pid), "/dev/null.log")
    with running(*words) as pid:
        assert not ambient(pid)


def test_root_is_told_to_type_it_as_the_servers_user() -> None:
    line = shell_command(Launch((sys.executable, "-c", ""), "/", {}, uid=65534, gid=65534), {})
    assert "nohup setpriv --reuid=65534 --regid=65534 --" in line
    assert "setpriv" not in shell_command(Launch((sys.executable, "-c", ""), "/", {}), {})
