"""How the wizard ends: by a signal, by a defect, or by the person; and with which exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wizard.core.session import SessionState

FUSE_S = 2.0
"""A stalled link blocks Textual's loop (its writer queue fills): after this the process ends anyway."""


def catch_signals(leave: Callable[..., Any], at_hang_up: Callable[[], None] | None) -> None:
    """SIGTERM restores the terminal (exit 143); SIGHUP means that it is gone: leave at once (129).

    Plain ``signal.signal``: handlers added to the loop are not run while a stalled link blocks it.
    The detached runner of a change is another process and goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()

    def terminate(*_: object) -> None:
        fuse = threading.Timer(FUSE_S, os._exit, (143,))
        fuse.daemon = True
        fuse.start()
        loop.call_soon_threadsafe(leave, 143, 143)

    def hang_up(*_: object) -> None:
        if at_hang_up is not None:
            at_hang_up()
        os._exit(129)  # nothing may be written to the terminal any more: it would block or spin

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, hang_up)


def failure_line(error: BaseException | None) -> str:
    """What failed and where, without any value: those may be secrets."""
    where = ""
    frame = error.__traceback__ if error is not None else None
    while frame is not None:
        folder, name = os.path.split(frame.tb_frame.f_code.co_filename)
        if "wizard" in folder or not where:
            where = f"{name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return f"the screen failed ({type(error).__name__} at {where}); --plain works without it"


def exit_code(state: SessionState | None) -> int:
    """0 healthy, fixed or nothing examined; 1 a cause not fixed; 4 rolled back; 5 rollback failed."""
    if state is None or (state.target is None and state.run is None):
        return 0
    if state.run is not None:
        outcome = state.run.outcome.value if state.run.outcome else ""
        return {"kept": 0, "rolled_back": 4, "rollback_failed": 5}.get(outcome, 1)
    return 1 if state.verdict == "problem" else 0
