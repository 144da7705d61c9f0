"""A bystander: writes down every signal that comes, and does nothing else.

``python tests/faults/decoy.py FILE sglang.launch_server --port N``: only FILE is read, the other words are
there to be mistaken for a server's. A line "standing" says that it listens for signals from then on.
"""

from __future__ import annotations

import os
import signal
import sys
import time

NOT_CAUGHT = (signal.SIGKILL, signal.SIGSTOP)


def stand(path: str) -> None:
    def heard(number: int, _frame: object) -> None:
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{signal.Signals(number).name} to {os.getpid()}\n")

    for number in signal.valid_signals():
        if number not in NOT_CAUGHT and number < signal.SIGRTMIN:
            signal.signal(number, heard)
    with open(f"{path}.standing", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    stand(sys.argv[1])
