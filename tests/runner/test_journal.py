"""The session file: on disk, private, readable by anybody of ours at any time, and never trusted blindly."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.fakes import a_journal, a_measurement, a_target, an_order
from wizard.core.progress import Outcome, Stage
from wizard.runner.fold import children, fold
from wizard.runner.journal import Journal, JournalError, Record
from wizard.runner.state_dir import StateDirError, check_writable, new_session_id, state_dir


def test_order_and_secrets_survive_in_a_private_file(tmp_path: Path) -> None:
    target, order = a_target(), an_order()
    journal = a_journal(tmp_path, target, order)
    journal.intent("stop", {"x": 1})
    files = [f for f in tmp_path.iterdir() if f.is_file()]
    assert {f.suffix for f in files} >= {".db", ".db-wal", ".reserve"}
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files), "also -wal, -shm, -reserve"
    again = Journal.open(journal.path)
    assert again.target == target
    assert again.order == order
    assert again.meta("case") == {"why": "a test"}
    journal.close()
    again.close()


def test_readers_and_wishes_do_not_block_the_writer(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, a_target(), an_order())
    reader = sqlite3.connect(journal.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM records").fetchall()
    for number in range(5):
        journal.append("note", "", {"text": str(number)})
    face = Journal.open(journal.path)
    face.control("abort")
    assert [k for _, k in journal.controls_since(0)] == ["abort"]
    assert len(face.read_since(0)) == 5
    assert [r.data["text"] for r in face.read_since(3)] == ["3", "4"]
    for each in (reader, face, journal):
        each.close()


def test_progress_is_throttled(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, a_target(), an_order())
    for number in range(200):
        journal.progress("ready", f"layer {number}")
    assert len(journal.read_since(0)) < 50
    journal.progress("measure", "another stage is told at once")
    assert journal.read_since(0)[-1].stage == "measure"
    journal.close()


def test_a_second_session_cannot_overwrite_the_first(tmp_path: Path) -> None:
    a_journal(tmp_path, a_target(), an_order()).close()
    with pytest.raises(JournalError, match="exists already"):
        a_journal(tmp_path, a_target(), an_order())


@pytest.mark.parametrize("content", [b"", b"<html>", b"SQLite format 3\0" + b"\xff" * 4000, None])
def test_foreign_or_torn_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "session-1.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError) as caught:
        Journal.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_cut_journal_is_told(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, a_target(), an_order())
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    whole = journal.path.read_bytes()
    for share in (0.1, 0.5, 0.7):
        journal.path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(JournalError, match="damaged"):
            Journal.open(journal.path)


def test_torn_record_is_left_out(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, a_target(), an_order())
    journal.intent("stop")
    journal._db.execute("INSERT INTO records (at, kind, stage, json) VALUES (1, 'note', '', '{\"text')")
    assert [r.kind for r in journal.read_since(0)] == ["intent"]
    journal.close()


_keys = ["ok", "detail", "measurement", "verdict", "outcome", "serving", "identity", "mark", "role", "port"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_keys), inner, max_size=4),
    max_leaves=6,
)
_kinds = [
    "intent",
    "result",
    "progress",
    "launching",
    "launched",
    "serving",
    "awaiting",
    "decided",
    "ended",
    "?",
]
_records = st.lists(
    st.builds(
        Record,
        st.integers(0, 99),
        st.floats(0, 1e9),
        st.sampled_from(_kinds),
        st.sampled_from([*(s.value for s in Stage), "", "nowhere"]),
        _json,  # type: ignore[arg-type]
    ),
    max_size=12,
)


@given(_records)
def test_fold_never_raises(records: list[Record]) -> None:
    state = fold("1", records)
    assert len(state.stages) == len(Stage)
    assert sum(s.status == "active" for s in state.stages) <= 1
    children(records)


def test_fold_tells_the_story() -> None:
    steps = [
        ("intent", "stop", {"detail": "asking"}),
        ("progress", "stop", {"detail": "2 requests run"}),
        ("result", "stop", {"ok": True, "detail": "drained"}),
        ("result", "baseline", {"ok": True, "measurement": a_measurement(5.0).to_json()}),
        ("intent", "launch", {}),
        ("ended", "", {"outcome": "rolled_back", "serving": "old", "sentence": "so"}),
    ]
    records = [Record(n, 100.0 + n, k, s, d) for n, (k, s, d) in enumerate(steps, 1)]
    middle = fold("1", records[:2])
    assert middle.active is not None
    assert (middle.active.stage, middle.active.detail) == (Stage.STOP, "2 requests run")
    state = fold("1", records)
    assert state.stage(Stage.STOP).elapsed_s == 2.0
    assert state.before == a_measurement(5.0)
    assert state.stage(Stage.LAUNCH).status == "failed", "began and never ended"
    assert (state.outcome, state.serving, state.sentence) == (Outcome.ROLLED_BACK, "old", "so")


def test_state_folder_is_private_and_numbers_go_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "a" / "b"))
    folder = check_writable(state_dir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [new_session_id() for _ in range(3)] == ["1", "2", "3"]
    (folder / "session-1.lock").unlink()
    assert new_session_id() == "4", "a number is not given twice while later ones exist"
    folder.chmod(0o755)
    assert stat.S_IMODE(state_dir().stat().st_mode) == 0o700


def test_state_folder_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "file" / "b"))
    with pytest.raises(StateDirError, match="Nothing was touched") as caught:
        state_dir()
    assert "\n" not in str(caught.value)


def test_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs(tmp_path)
    fields = list(room)
    fields[4] = 1  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    with pytest.raises(StateDirError, match="MiB free"):
        check_writable(tmp_path)


def test_reserve_lets_a_full_disk_take_a_few_more_records(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, a_target(), an_order())
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages + 1}")

    def fill() -> None:
        for _ in range(100):
            journal.append("note", "", {"text": "x" * 500})

    with pytest.raises(JournalError, match="full"):
        fill()
    assert not journal.path.with_suffix(".reserve").exists(), "given up at the first sign"
    journal.close()
