"""The journal of one session: an SQLite file in WAL mode, 0600. Intents are on disk before the act.

Who writes what: the runner writes ``records``; faces write ``controls``; ``meta`` is written once at
creation (and small facts later). Readers see a snapshot and never block the writer (WAL).
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wizard.core.plan import Order
from wizard.core.target import Target

SCHEMA_VERSION = 1
PROGRESS_EVERY_S = 0.2
RESERVE_BYTES = 512 * 1024
"""Kept beside the journal and given up when the disk fills: room for the records of a whole rollback."""

Control = Literal["abort", "keep", "rollback"]
CONTROLS: tuple[Control, ...] = ("abort", "keep", "rollback")


class JournalError(Exception):
    """The file is absent, torn, foreign, or cannot be written. One line."""


@dataclass(frozen=True)
class Record:
    """One line of the journal. ``at``: Unix seconds. ``stage`` is "" where none applies."""

    seq: int
    at: float
    kind: str
    stage: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """One open session file. Make it with ``create`` or ``open``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._last_progress: tuple[str, str, float] = ("", "", 0.0)

    @staticmethod
    def create(
        path: Path, session_id: str, target: Target, order: Order, case: Mapping[str, Any] | None = None
    ) -> Journal:
        """A new file; the old launch command and the order are fsynced in it before this returns."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(path, flags, 0o600))  # -wal and -shm inherit this mode from SQLite
            journal = Journal(path, _connect(path))
            db = journal._db
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, json TEXT NOT NULL)")
            db.execute(
                "CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, "
                "kind TEXT NOT NULL, stage TEXT NOT NULL, json TEXT NOT NULL)"
            )
            db.execute(
                "CREATE TABLE controls (seq INTEGER PRIMARY KEY AUTOINCREMENT, "
                "at REAL NOT NULL, kind TEXT NOT NULL)"
            )
            facts = {
                "schema_version": SCHEMA_VERSION,
                "session_id": session_id,
                "created_at": time.time(),
                "host": here(),
                "target": target.to_json(),
                "order": order.to_json(),
                "case": dict(case) if case else {},
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()])
            db.execute("COMMIT")
            _reserve(path)
            _sync_folder(path.parent)
        except FileExistsError as error:
            raise JournalError(f"{path}: this session exists already.") from error
        except (OSError, sqlite3.Error) as error:
            for part in path.parent.glob(f"{path.stem}.*"):
                part.unlink(missing_ok=True)
            raise JournalError(
                f"{path}: the journal cannot be written ({error}). Nothing was touched."
            ) from error
        return journal

    @staticmethod
    def open(path: Path) -> Journal:
        """Raises JournalError when the file is no whole journal of this schema version."""
        if not path.is_file():
            raise JournalError(f"{path}: no such session. See `sgl-wizard sessions list`.")
        journal: Journal | None = None
        try:
            journal = Journal(path, _connect(path))
            sound = journal._db.execute("PRAGMA quick_check(1)").fetchone()  # a few ms: sessions are small
            if sound[0] != "ok":
                raise sqlite3.DatabaseError(str(sound[0]).splitlines()[-1])
            version = journal.meta("schema_version")
        except sqlite3.Error as error:
            if journal is not None:
                journal.close()
            raise JournalError(f"{path}: not a session journal, or damaged ({error}).") from error
        if version != SCHEMA_VERSION:
            journal.close()
            raise JournalError(f"{path}: written by another version (schema {version}, not {SCHEMA_VERSION}).")
        return journal

    def close(self) -> None:
        self._db.close()

    # -- facts written once

    def meta(self, key: str) -> Any:
        try:
            row = self._db.execute("SELECT json FROM meta WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None
        except (sqlite3.Error, ValueError) as error:
            raise JournalError(f"{self.path}: no session journal, or damaged at '{key}' ({error}).") from error

    @property
    def session_id(self) -> str:
        return str(self.meta("session_id"))

    @property
    def target(self) -> Target:
        target: Target = self._decoded("target", Target.from_json)
        return target

    @property
    def order(self) -> Order:
        order: Order = self._decoded("order", Order.from_json)
        return order

    def _decoded(self, key: str, decode: Any) -> Any:
        try:
            return decode(self.meta(key))
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(f"{self.path}: damaged at '{key}' ({error!r}).") from error

    # -- the runner writes

    def append(self, kind: str, stage: str = "", data: Mapping[str, Any] | None = None) -> int:
        """One record, fsynced before this returns; its seq. Raises JournalError (disk full, torn file)."""
        row = (time.time(), kind, stage, json.dumps(dict(data or {})))
        sql = "INSERT INTO records (at, kind, stage, json) VALUES (?, ?, ?, ?)"
        try:
            try:
                return int(self._db.execute(sql, row).lastrowid or 0)
            except sqlite3.OperationalError:
                if not self.give_up_reserve():
                    raise
                return int(self._db.execute(sql, row).lastrowid or 0)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be written ({error}).") from error

    def give_up_reserve(self) -> bool:
        """Free the space kept for a full disk; False when it was given up before. Also done at the end."""
        try:
            self.path.with_suffix(".reserve").unlink()
        except OSError:
            return False
        return True

    def intent(self, stage: str, data: Mapping[str, Any] | None = None) -> int:
        return self.append("intent", stage, data)

    def result(self, stage: str, ok: bool, data: Mapping[str, Any] | None = None) -> int:
        return self.append("result", stage, {"ok": ok, **(data or {})})

    def note(self, text: str, stage: str = "") -> int:
        return self.append("note", stage, {"text": text})

    def progress(self, stage: str, detail: str) -> None:
        """What a stage waits for. Throttled, repeated lines dropped, not fsynced: losing one costs nothing."""
        last_stage, last_detail, last_at = self._last_progress
        now = time.monotonic()
        if (stage, detail) == (last_stage, last_detail):
            return
        if stage == last_stage and now - last_at < PROGRESS_EVERY_S:
            return
        self._last_progress = (stage, detail, now)
        try:
            self._db.execute("PRAGMA synchronous=NORMAL")
            try:
                self.append("progress", stage, {"detail": detail})
            finally:
                self._db.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be written ({error}).") from error

    # -- faces write

    def control(self, kind: Control) -> int:
        """What a person wants from the runner. Raises JournalError."""
        try:
            cursor = self._db.execute("INSERT INTO controls (at, kind) VALUES (?, ?)", (time.time(), kind))
            return int(cursor.lastrowid or 0)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: the request cannot be written ({error}).") from error

    def controls_since(self, seq: int) -> list[tuple[int, str]]:
        try:
            rows = self._db.execute("SELECT seq, kind FROM controls WHERE seq > ? ORDER BY seq", (seq,))
            return [(int(s), str(k)) for s, k in rows]
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be read ({error}).") from error

    # -- everybody reads

    def read_since(self, seq: int = 0) -> list[Record]:
        """Records after ``seq``, in order. A record whose JSON is torn is left out."""
        try:
            rows = self._db.execute(
                "SELECT seq, at, kind, stage, json FROM records WHERE seq > ? ORDER BY seq", (seq,)
            ).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be read ({error}).") from error
        out = []
        for number, at, kind, stage, text in rows:
            try:
                data = json.loads(text)
                out.append(Record(int(number), float(at), str(kind), str(stage), data))
            except (TypeError, ValueError):
                continue
        return out


def here() -> dict[str, str]:
    """Which machine (and pid namespace) a pid in this journal belongs to."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {"hostname": socket.gethostname(), "machine_id": machine, "pid_namespace": namespace}


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")  # in WAL mode: the WAL is fsynced at each commit
    return db


def _reserve(path: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path.with_suffix(".reserve"), flags, 0o600)
    try:
        os.write(descriptor, os.urandom(RESERVE_BYTES))  # random: not compressed away by the file system
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
