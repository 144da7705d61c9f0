"""The installer of the test server, without a network: what it refuses, and that half a build never counts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from . import install


def write_stamp(folder: Path, fingerprint: str) -> None:
    (folder / install.STAMP).write_text(json.dumps({"fingerprint": fingerprint}))


def test_only_this_very_recipe_counts_as_installed(tmp_path: Path) -> None:
    assert not install.is_installed(tmp_path)
    write_stamp(tmp_path, "another")
    assert not install.is_installed(tmp_path)
    (tmp_path / install.STAMP).write_text("{half")
    assert not install.is_installed(tmp_path)
    write_stamp(tmp_path, install.fingerprint())
    assert install.is_installed(tmp_path)
    assert install.install(tmp_path) is False


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "mine").write_text("precious")
    done = subprocess.run(
        [sys.executable, install.HERE / "install.py", "--dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "other things" in done.stderr
    assert (tmp_path / "venv" / "mine").read_text() == "precious"


def test_a_failed_step_is_one_line_and_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "server"
    say = "print('fine'); print('ERROR: no such thing'); print('more'); raise SystemExit(3)"
    real = install.run_logged

    def fail(argv: object, log: Path, what: str) -> None:
        real([sys.executable, "-c", say], log, what)

    monkeypatch.setattr(install, "run_logged", fail)
    with pytest.raises(install.InstallError) as caught:
        install.install(folder)
    text = str(caught.value)
    assert "exit code 3: ERROR: no such thing" in text
    assert "\n" not in text
    assert not install.is_installed(folder)


def test_two_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "server"
    builds: list[Path] = []
    entered, release = threading.Event(), threading.Event()

    def build(where: Path) -> None:
        builds.append(where)
        entered.set()
        assert release.wait(20)
        write_stamp(where, install.fingerprint())

    monkeypatch.setattr(install, "build", build)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(install.install(folder))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    release.set()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [False, True]
    assert builds == [folder]


def test_requirements_are_all_pinned() -> None:
    lines = (install.HERE / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in packages)
    assert "torch==2.13.0" in packages
    assert not any(line.startswith("sglang") for line in packages)
