"""Python imports this in every process that has this folder on its PYTHONPATH; it acts in runners only.

SGL_FAULTS_HOOK is ``kill:before:K`` or ``kill:after:K`` (SIGKILL to the runner itself around its K-th journal
record, exactly: no watcher is fast enough for "before"), or ``clock:K:S`` (time.time steps by S seconds at
record K). Progress records are not counted: how many there are is chance.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any


def _install(plan: str) -> None:
    from wizard.runner.journal import Journal

    kind, *words = plan.split(":")
    write, seen, real_time = Journal.append, [0], time.time

    def append(self: Journal, record: str, stage: str = "", data: Mapping[str, Any] | None = None) -> int:
        if record == "progress":
            return write(self, record, stage, data)
        seen[0] += 1
        if kind == "clock" and seen[0] == int(words[0]):
            time.time = lambda: real_time() + float(words[1])
        if kind == "kill" and words == ["before", str(seen[0])]:
            os.kill(os.getpid(), signal.SIGKILL)
        number = write(self, record, stage, data)
        if kind == "kill" and words == ["after", str(seen[0])]:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    Journal.append = append  # type: ignore[method-assign, assignment]


if os.environ.get("SGL_FAULTS_HOOK") and "wizard.runner" in sys.orig_argv:
    _install(os.environ["SGL_FAULTS_HOOK"])
