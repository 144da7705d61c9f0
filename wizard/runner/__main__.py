"""The detached runner: ``python -m wizard.runner SESSION_DB [start|auto|finish|rollback]``.

Writes one line to stdout ("ok" or why it refuses), then lets go of the terminal and works. SIGHUP and
SIGINT do nothing to it; SIGTERM asks it to abort, that is to put the old command back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from wizard.core.progress import Outcome, RunState
from wizard.runner.journal import Journal, JournalError
from wizard.runner.live import LiveOperations, load_all
from wizard.runner.locks import HostLock, Lock, Refused, target_locks
from wizard.runner.operations import Operations
from wizard.runner.recovery import HOWS, belongs_elsewhere, resume, superseded
from wizard.runner.report import write_report
from wizard.runner.state_dir import StateDirError, check_writable, error_log_path, holder_path, lock_path
from wizard.runner.transaction import Transaction, run

EXIT_REFUSED = 3


def main(argv: list[str]) -> int:
    # Handlers, not SIG_IGN: an ignored signal would be inherited by the servers launched from here.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if len(argv) not in (2, 3) or (len(argv) == 3 and argv[2] not in ("start", *HOWS)):
        _answer("usage: python -m wizard.runner SESSION_DB [start|auto|finish|rollback]")
        return 2
    path, how = Path(argv[1]).absolute(), argv[2] if len(argv) == 3 else "start"
    try:
        load_all()
        check_writable(path.parent)
        journal = Journal.open(path)
        locks = _take_locks(journal, how)
    except (Refused, JournalError, StateDirError, ImportError, OSError) as error:
        _answer(f"refused: {error}")
        return EXIT_REFUSED
    try:
        with contextlib.suppress(OSError):
            os.setsid()
        journal.append(
            "runner", "", {"pid": os.getpid(), "how": how, "boot_s": time.clock_gettime(time.CLOCK_BOOTTIME)}
        )
        _answer("ok")
        _let_go(error_log_path(path))
        state = asyncio.run(_work(journal, how))
        with contextlib.suppress(JournalError):  # the end state stands in the journal all the same
            write_report(path)
    finally:
        for lock in reversed(locks):
            lock.free()
        journal.close()
    return 0 if state.outcome is Outcome.KEPT else 1


def _take_locks(journal: Journal, how: str) -> list[Lock | HostLock]:
    session, target = journal.session_id, journal.target
    elsewhere = belongs_elsewhere(journal)
    if elsewhere:
        raise Refused(elsewhere)
    taken: list[Lock | HostLock] = [Lock.take(lock_path(journal.path), f"session {session}", session)]
    try:
        probe = Transaction(journal, journal.order, target, _operations(journal, begun=how != "start"))
        for path in target_locks(journal.path.parent, target, (target.port, probe.new_port)):
            what = f"The server on port {target.port}"
            taken.append(Lock.take(path, what, session))
            taken.append(HostLock.take(path.name, what))
        blocked = next((superseded(probe, word) for word in HOWS if word == how), "")
        if blocked:
            raise Refused(blocked)
    except BaseException:
        for lock in reversed(taken):
            lock.free()
        raise
    return taken


async def _work(journal: Journal, how: str) -> RunState:
    asked = False

    def on_term() -> None:
        nonlocal asked
        asked = True

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_term)
    order, target, ops = journal.order, journal.target, _operations(journal, begun=how != "start")
    if how == "start":
        return await run(journal, order, target, ops, term=lambda: asked)
    return await resume(journal, order, target, ops, next(h for h in HOWS if h == how), term=lambda: asked)


def _operations(journal: Journal, *, begun: bool) -> Operations:
    target, plan = journal.target, journal.order.plan
    from wizard.runner.held import HeldOperations
    from wizard.server.supervisors.contract import Wish
    from wizard.server.supervisors.holders import supervisor_of

    wish = Wish(plan.new_argv, plan.environ)
    by_hand = plan.by_hand if begun else None
    supervisor = supervisor_of(target, wish, holder_path(journal.path), by_hand)
    if supervisor is not None and supervisor.by_hand != plan.by_hand:
        raise Refused("What holds the server is not as it was when the change was agreed to: look again.")
    if supervisor is not None:
        return HeldOperations(journal.path, target, supervisor)
    return LiveOperations(journal.path)


def _answer(line: str) -> None:
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:
        pass  # whoever started us is gone; the work goes on


def _let_go(log: Path) -> None:
    """stdin and stdout to /dev/null, stderr to the session's own error log."""
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, number in ((null, 0), (null, 1), (errors, 2)):
        os.dup2(source, number)
    os.close(null)
    os.close(errors)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
