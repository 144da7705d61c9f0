"""The journal of a unit, through a stand-in ``journalctl`` on PATH."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.server.conftest import Stage, who
from wizard.core.target import Identity
from wizard.server.supervisors import journald

CLIENT = Path(__file__).with_name("journalctl.py")
UNIT = "sglang.service"


def put_on_path(folder: Path) -> None:
    client = folder / "journalctl"
    client.write_text(f"#!{sys.executable}\n" + CLIENT.read_text(encoding="utf-8"), encoding="utf-8")
    client.chmod(0o755)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    put_on_path(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN_WORLD", str(tmp_path))
    return tmp_path


ANYBODY = Identity(1, 1, "boot")


def test_the_units_lines_since_the_process_was_started(world: Path, stage: Stage) -> None:
    (world / f"{UNIT}.log").write_bytes(b"loading\nValueError: no \xff such model\n")
    (world / "other.service.log").write_bytes(b"somebody else's\n")
    began = time.time()
    process = stage.script("import time; time.sleep(60)")
    lines = journald.lines_since(UNIT, who(process.pid))
    assert [line.decode() for line in lines] == [
        "loading",
        "ValueError: no \N{REPLACEMENT CHARACTER} such model",
    ]
    (call,) = (json.loads(line) for line in (world / "journal_calls").read_text().splitlines())
    since = float(next(word for word in call if word.startswith("--since=@")).partition("@")[2])
    assert began - 0.05 <= since <= time.time()
    assert call[-6:] == [
        *(f"_SYSTEMD_UNIT={UNIT}", "+", f"_SYSTEMD_USER_UNIT={UNIT}", "+"),
        *("_PID=1", f"UNIT={UNIT}"),
    ]


@pytest.mark.parametrize("mood", ["slow", "endless"])
def test_a_journal_is_bounded_in_time_and_bytes(
    world: Path, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    monkeypatch.setattr(journald, "ASK_LIMIT_S", 1.0 if mood == "slow" else 20.0)
    monkeypatch.setattr(journald, "MOST_BYTES", 100_000)
    (world / "journal_mood").write_text(mood)
    began = time.monotonic()
    lines = journald.lines_since(UNIT, ANYBODY)
    assert time.monotonic() - began < 15
    assert (len(lines) > 100) is (mood == "endless")
    assert len(lines) <= journald.MOST_LINES
    assert sum(map(len, lines)) < 1_000_000


def test_without_a_journal_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert journald.lines_since(UNIT, ANYBODY) == []
