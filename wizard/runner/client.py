"""What faces do with transactions: start one, watch it, send it a wish, list and resume sessions."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wizard.core.plan import Order
from wizard.core.progress import Outcome, RunState
from wizard.core.target import Launch, Target
from wizard.runner import latch
from wizard.runner.command import clean_line
from wizard.runner.fold import children, fold
from wizard.runner.journal import CONTROLS, Control, Journal, JournalError
from wizard.runner.locks import holder
from wizard.runner.operations import MARK
from wizard.runner.recovery import How
from wizard.runner.state_dir import check_writable, journal_path, lock_path, new_session_id, state_dir

ANSWER_LIMIT_S = 30.0
"""How long a new runner may take until it holds its locks; it only imports and opens a file."""

TAIL_BYTES = 16384
TAIL_LINES = 12


class StartError(Exception):
    """The runner did not start; the text says why in one line. The server was not touched by it."""


@dataclass(frozen=True)
class SessionSummary:
    """A line of ``sessions list``. ``outcome`` None = unfinished. ``created_at``: Unix seconds."""

    id: str
    path: Path
    created_at: float
    target: str
    cause: str
    outcome: Outcome | None
    serving: str
    sentence: str
    runner_alive: bool
    error: str = ""

    @property
    def is_unfinished(self) -> bool:
        return self.outcome is None and not self.error


def start(target: Target, order: Order, case: Mapping[str, Any] | None = None) -> Path:
    """Write the journal, start the detached runner, return the session's path once it holds its locks.

    Raises StateDirError (nothing was touched) and StartError (refused: read-only, or somebody else changes
    this server).
    """
    _pass_latch("start a change")
    folder = check_writable(state_dir())
    number = new_session_id(folder)
    path = journal_path(number, folder)
    try:
        journal = Journal.create(path, number, target, order, case)
    except JournalError as error:
        raise StartError(str(error)) from error
    try:
        _spawn(path, "start")
    except StartError as error:
        doc = {"outcome": "called_off", "serving": "unknown", "sentence": f"Not started: {error}"}
        journal.append("ended", "", doc)
        journal.give_up_reserve()
        raise
    finally:
        journal.close()
    return path


def resume(path: Path, how: How = "auto") -> None:
    """Start a runner that brings the session to an end (recovery.py says how); watch it with ``watch``.

    Raises StartError when another runner is at work on it, the session is not readable, or read-only is on.
    """
    _pass_latch("bring a session to its end")
    try:
        Journal.open(path).close()
    except JournalError as error:
        raise StartError(str(error)) from error
    _spawn(path, how)


def read(path: Path) -> RunState:
    """The state now. Raises JournalError."""
    journal = Journal.open(path)
    try:
        return _state(journal)
    finally:
        journal.close()


async def watch(path: Path, interval_s: float = 0.25) -> AsyncIterator[RunState]:
    """Each new state, the first at once; ends after the one with an outcome, or when the runner is dead."""
    journal = Journal.open(path)
    try:
        last: RunState | None = None
        while True:
            state = _state(journal)
            if state != last:
                yield state
                last = state
            if not state.runner_alive:
                return
            await asyncio.sleep(interval_s)
    finally:
        journal.close()


def send(path: Path, control: Control) -> None:
    """Ask the runner for "abort", "keep" or "rollback". Raises JournalError; StartError if read-only is on."""
    _pass_latch(f"ask a runner to {control}")
    if control not in CONTROLS:
        raise ValueError(control)
    journal = Journal.open(path)
    try:
        journal.control(control)
    finally:
        journal.close()


def list_sessions() -> list[SessionSummary]:
    """All sessions of the state folder, newest first; a damaged one is listed with its error."""
    found = []
    for path in state_dir().glob("session-*.db"):
        try:
            found.append(_summary(path))
        except JournalError as error:
            at = path.stat().st_mtime
            found.append(
                SessionSummary(session_id(path), path, at, "", "", None, "unknown", "", False, str(error))
            )
    return sorted(found, key=lambda s: int(s.id) if s.id.isdigit() else 0, reverse=True)


def unfinished(port: int | None = None) -> SessionSummary | None:
    """The newest session that did not come to its end, about the server on this port (None: about any)."""
    for summary in list_sessions():
        if summary.is_unfinished and port in (None, read_order(summary.path)[0].port):
            return summary
    return None


def session_id(path: Path) -> str:
    return path.stem.removeprefix("session-")


def find(number: str) -> Path:
    """The journal of session ``number`` ("7"). Raises JournalError when there is none."""
    path = journal_path(number)
    if not number.isdigit() or not path.is_file():
        raise JournalError(f"there is no session {number}. See `sgl-wizard sessions list`.")
    return path


def read_order(path: Path) -> tuple[Target, Order]:
    journal = Journal.open(path)
    try:
        return journal.target, journal.order
    finally:
        journal.close()


def read_case(path: Path) -> dict[str, Any]:
    journal = Journal.open(path)
    try:
        return dict(journal.meta("case") or {})
    finally:
        journal.close()


def runner_alive(path: Path) -> bool:
    return holder(lock_path(path)) is not None


def _pass_latch(what: str) -> None:
    try:
        latch.check(what)
    except latch.ReadOnly as refused:
        raise StartError(str(refused)) from None


def _state(journal: Journal) -> RunState:
    alive = runner_alive(journal.path)  # before the records: a runner that ends in between has written its end
    records = journal.read_since(0)
    state = fold(session_id(journal.path), records)
    born = [c for c in children(records) if c.log_path]
    tail = _tail(born[-1].log_path or "", born[-1].log_offset, journal.target.launch) if born else ()
    return replace(state, runner_alive=alive, log_tail=tail)


def _tail(path: str, offset: int, launch: Launch | None) -> tuple[str, ...]:
    """Last lines that the launched server wrote; safe to show (no control characters, no secrets)."""
    try:
        with open(path, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            start = max(offset if offset <= size else 0, size - TAIL_BYTES)
            log.seek(start)
            text = log.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return tuple(clean_line(line, launch) for line in lines[-TAIL_LINES:])


def _summary(path: Path) -> SessionSummary:
    journal = Journal.open(path)
    try:
        target, state = journal.target, _state(journal)
        created = float(journal.meta("created_at") or 0.0)
        cause = journal.order.plan.cause_title
    finally:
        journal.close()
    name = clean_line(f"{target.name} {target.base_url}").strip()
    return SessionSummary(
        session_id(path),
        path,
        created,
        name,
        cause,
        state.outcome,
        state.serving,
        state.sentence,
        state.runner_alive,
    )


def _spawn(path: Path, how: str) -> None:
    """Start the runner in its own session and hear its first line. Raises StartError."""
    environ = {k: v for k, v in os.environ.items() if k != MARK}
    package_root = str(Path(__file__).resolve().parents[2])
    environ["PYTHONPATH"] = os.pathsep.join(p for p in (package_root, environ.get("PYTHONPATH")) if p)
    process = subprocess.Popen(
        [sys.executable, "-m", "wizard.runner", str(path), how],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environ,
        start_new_session=True,
        close_fds=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        answer = _first_line(process.stdout.fileno())
        if answer == "ok":
            return
        if answer is None:
            process.send_signal(signal.SIGKILL)  # our own child, and it holds no lock and has touched nothing
            process.wait()
            raise StartError(f"the runner did not answer within {ANSWER_LIMIT_S:.0f} s")
        if not answer:
            process.wait()
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            answer = said[-1] if said else f"exit code {process.returncode}"
        raise StartError(answer.removeprefix("refused: "))
    finally:
        process.stdout.close()
        process.stderr.close()
        _reap_later(process)


_children: list[subprocess.Popen[bytes]] = []


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    """Keep ended runners from staying zombies while this face lives."""
    _children[:] = [p for p in (*_children, process) if p.poll() is None]


def _first_line(descriptor: int) -> str | None:
    """Until newline or end of file; None when the limit passed."""
    text, deadline = b"", time.monotonic() + ANSWER_LIMIT_S
    while b"\n" not in text:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(descriptor, 4096)
        if not part:
            break
        text += part
    return text.partition(b"\n")[0].decode(errors="replace").strip()
