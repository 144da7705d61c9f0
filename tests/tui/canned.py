"""``python -m tests.tui.canned``: the wizard in a real terminal on canned states (for the wire tests).

With ``--live`` the engine repeats an equal state five times a second, as a quiet server does.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from wizard.tui import environment

environment.prepare()

from tests.tui import samples  # noqa: E402
from tests.tui.stage import FakeEngine  # noqa: E402
from wizard.tui.app import run  # noqa: E402


class Canned(FakeEngine):
    def start(self) -> None:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.repeat, daemon=True)
        self.thread.start()

    def repeat(self) -> None:
        while not self.ended.wait(0.2):
            self.on_state(samples.classify())
            if "--live" not in sys.argv:
                return

    def stop(self) -> None:
        self.ended.set()


def factory(on_state: Any, on_targets: Any) -> Canned:
    return Canned(on_state, on_targets, samples.classify())


if __name__ == "__main__":
    sys.exit(run(factory))
