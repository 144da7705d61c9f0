"""How the wizard ends: by a signal, by a defect, or by the person; and with which exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual.app import App

    from wizard.core.session import SessionState

FUSE_S = 2.0
"""A stalled link blocks Textual's loop (its writer queue fills): after this the process ends anyway."""


HANG_UP_S = 0.3
"""A terminal that is there after all is given back within this, or not at all."""

GIVE_BACK = (
    b"\x1b[?2004l\x1b[?7h\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1004l"  # paste, wrap, mouse, focus
    b"\x1b[<u\x1b[?1049l\x1b[?25h"  # keyboard, alternate screen, cursor
)


def catch_signals(app: App[Any], leave: Callable[..., Any], at_hang_up: Callable[[], None] | None) -> None:
    """SIGTERM restores the terminal (exit 143); SIGHUP means that it is gone: leave at once (129).

    SIGHUP sent by hand leaves it there: then its modes are put back. SIGCONT starts the screen anew: after a
    SIGSTOP Textual would read the keys twice from then on, and never end.

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
        give_back(app._driver)
        os._exit(129)  # nothing more may be written to a terminal that is gone: it would block or spin

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, hang_up)
    signal.signal(signal.SIGCONT, lambda *_: loop.call_soon_threadsafe(start_anew, app))


def start_anew(app: App[Any]) -> None:
    """After SIGCONT: own the terminal again, whether Ctrl-Z gave it away (Textual did) or a SIGSTOP did not."""
    driver = app._driver
    if driver is None or not app.is_running:
        return
    if not getattr(driver, "_must_signal_resume", False):
        driver.suspend_application_mode()  # ends the reader of keys, or there would be two
    driver.resume_application_mode()
    app.refresh(layout=True)


def give_back(driver: Any) -> None:
    """The modes of a terminal that still takes writing, as they were; one gone or full is left alone."""
    import select
    import termios

    fuse = threading.Timer(HANG_UP_S, os._exit, (129,))
    fuse.daemon = True
    fuse.start()
    try:
        number = driver.fileno
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        if [event for _, event in poll.poll(0)] != [select.POLLOUT]:
            return
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # in the background it would stop us
        if driver.attrs_before is not None:
            termios.tcsetattr(number, termios.TCSANOW, driver.attrs_before)
        os.write(number, GIVE_BACK)
    except (OSError, AttributeError, termios.error):
        return


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
