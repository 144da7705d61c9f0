"""Would the command of a running server start that server again?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wizard.core.target import Identity, Launch
from wizard.server import proc
from wizard.server.again import obstacle
from wizard.server.identity import identify

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Launch, Identity]]:
    """A process with a file of settings in its words, started after that was written."""
    (tmp_path / "c.yaml").write_text("port: 30000\n", encoding="utf-8")
    os.utime(tmp_path / "c.yaml", (time.time() - 60,) * 2)
    folder = tmp_path / "cwd"
    folder.mkdir()
    words = [sys.executable, "-c", SLEEP, "--config", str(tmp_path / "c.yaml")]
    process = subprocess.Popen(words, cwd=folder)
    identity = identify(process.pid)
    assert identity is not None
    try:
        yield Launch(tuple(words), str(folder), dict(os.environ), uid=os.geteuid()), identity
    finally:
        process.kill()
        process.wait()


def ask(launch: Launch, identity: Identity | None, folder: Path) -> str:
    return obstacle(launch, identity, str(folder / "server.log"))


def test_nothing_stands_in_the_way(running: tuple[Launch, Identity], tmp_path: Path) -> None:
    assert ask(*running, tmp_path) == ""


def test_the_folder_went(running: tuple[Launch, Identity], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cwd")
    assert "working directory" in ask(*running, tmp_path)


@pytest.mark.parametrize(
    ("text", "age_s", "why"),
    [
        (None, 0, "no such file"),
        ("a: [", 60, "is no YAML"),
        ("port: 30001\n", -5, "was changed after the server had started"),
        ("port: 30001\n", 60, ""),
    ],
)
def test_its_file_of_settings(
    running: tuple[Launch, Identity], tmp_path: Path, text: str | None, age_s: float, why: str
) -> None:
    path = tmp_path / "c.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
        os.utime(path, (time.time() - age_s,) * 2)
    found = ask(*running, tmp_path)
    assert why in found
    assert bool(found) is bool(why)
    assert ask(running[0], None, tmp_path) == "", "of a server that is down nobody knows what it had read"


def test_a_bare_name_that_leads_elsewhere_by_now(running: tuple[Launch, Identity], tmp_path: Path) -> None:
    launch, identity = running
    other = tmp_path / "bin"
    other.mkdir()
    shutil.copy("/bin/true", other / "python")
    bare = replace(launch, argv=("python", *launch.argv[1:]))
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "python").symlink_to(os.path.realpath(f"/proc/{identity.pid}/exe"))
    assert ask(replace(bare, environ={"PATH": str(tmp_path / "same")}), identity, tmp_path) == ""
    found = ask(replace(bare, environ={"PATH": str(other)}), identity, tmp_path)
    assert f"its program python is {other / 'python'} on its PATH by now" in found
    assert proc.exists(identity.pid)
