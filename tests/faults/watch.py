"""The journal of a run, read from outside while the runner writes it: to find the moment for a fault."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_S = 0.004


@dataclass(frozen=True)
class Line:
    seq: int
    at: float
    kind: str
    stage: str
    data: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.stage}".strip()


class NotReached(Exception):
    """The moment did not come: the change ended before it."""


def lines(path: Path) -> list[Line]:
    """All records; none while the file is being made, or when it is torn."""
    if not path.exists():
        return []
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)
        try:
            rows = db.execute("SELECT seq, at, kind, stage, json FROM records ORDER BY seq").fetchall()
        finally:
            db.close()
    except sqlite3.Error:
        return []
    return [Line(seq, at, kind, stage, json.loads(text)) for seq, at, kind, stage, text in rows]


def told(path: Path) -> list[Line]:
    """The records that are no mere progress."""
    return [line for line in lines(path) if line.kind != "progress"]


def until(path: Path, name: str, over: Callable[[], bool], limit_s: float = 60.0) -> Line:
    """The first record of this name ("intent stop"), as soon as it is there. Raises NotReached.

    ``over``: whether no more records will come.
    """
    deadline = time.monotonic() + limit_s
    while True:
        ended = over()
        found = lines(path)
        for line in found:
            if line.name == name:
                return line
        if ended or any(line.kind == "ended" for line in found) or time.monotonic() > deadline:
            raise NotReached(name)
        time.sleep(POLL_S)
