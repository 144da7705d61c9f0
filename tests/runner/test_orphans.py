"""A launched server's root is killed while it loads: its children are known as its own, and nobody else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from wizard.core.target import Identity
from wizard.runner.operations import MARK
from wizard.runner.orphans import end, orphans_of
from wizard.server.identity import identify

SLEEP = "import time; time.sleep(60)"
PARENT = f"""
import os, subprocess, sys
wiped = {{k: v for k, v in os.environ.items() if k != {MARK!r}}}
for title, env in (("plain", None), ("sglang::detokenizer", wiped), ("another program", wiped)):
    words = [title, "-c", {SLEEP!r}]
    child = subprocess.Popen(words, executable=sys.executable, env=env, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
import time; time.sleep(60)
"""


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], list[Identity]]]:
    """A session of its own: the root, a child with the mark, one that wiped it, and a stranger without both."""
    root = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, MARK: "session-1:me"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert root.stdout is not None
    pids = [int(root.stdout.readline()) for _ in range(3)]
    found = [identify(pid) for pid in pids]
    yield root, [one for one in found if one is not None]
    root.kill()
    root.communicate()
    end([one for one in found if one is not None])


def ended(one: Identity) -> bool:
    deadline = time.monotonic() + 10
    while identify(one.pid) == one and time.monotonic() < deadline:
        time.sleep(0.02)
    return identify(one.pid) != one


def test_only_what_a_dead_root_left_is_ended(tree: tuple[subprocess.Popen[str], list[Identity]]) -> None:
    process, (marked, wiped, stranger) = tree
    root = identify(process.pid)
    assert root is not None
    assert orphans_of(root, "session-1:me") == [], "the root lives: nothing is left over"
    process.kill()
    process.wait()

    assert set(orphans_of(root, "session-1:me")) == {marked, wiped}
    assert set(orphans_of(root, "session-2:other")) == {wiped}
    earlier = Identity(root.pid, root.start_ticks, "00000000-0000-0000-0000-000000000000")
    assert orphans_of(earlier, "session-1:me") == [], "of an earlier boot: these are others"

    assert set(end(orphans_of(root, "session-1:me"))) == {marked, wiped}
    assert ended(marked)
    assert ended(wiped)
    assert identify(stranger.pid) == stranger
    assert orphans_of(root, "session-1:me") == []
