"""Faults set from outside, in the environment variable SGLANG_SIM_FAULT, and the two clocks of a start.

SGLANG_SIM_FAULT is a JSON object or a comma list: `crash_at=capture`, `crash_at=serving:20` (seconds after
ready), `hang_at=load`, `never_ready`, `release_slowly=30` (GPU memory stays taken that long after death),
`slow_host=2` (every step takes that many times longer). Places: load, kv, capture, ready, serving[:seconds].
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

PLACES = ("load", "kv", "capture", "ready", "serving")


@dataclass(frozen=True)
class Faults:
    """What goes wrong in this process tree; nothing by default."""

    crash_at: str = ""
    crash_after_s: float = 0.0
    hang_at: str = ""
    hang_after_s: float = 0.0
    never_ready: bool = False
    release_slowly_s: float = 0.0
    slow_host: float = 1.0


def faults_from_env() -> Faults:
    """Read SGLANG_SIM_FAULT; raises ValueError that names a word it does not know."""
    text = os.environ.get("SGLANG_SIM_FAULT", "").strip()
    if not text:
        return Faults()
    if text.startswith("{"):
        items = [(str(key), str(value)) for key, value in json.loads(text).items()]
    else:
        items = []
        for word in text.split(","):
            key, _, value = word.strip().partition("=")
            items.append((key, value))
    crash = hang = ("", 0.0)
    never, release, slow = False, 0.0, 1.0
    for key, value in items:
        if key == "crash_at":
            crash = _place(value)
        elif key == "hang_at":
            hang = _place(value)
        elif key == "never_ready":
            never = value.lower() not in ("0", "false")
        elif key == "release_slowly":
            release = float(value)
        elif key == "slow_host":
            slow = float(value or 2)
        else:
            raise ValueError(f"SGLANG_SIM_FAULT: unknown fault {key!r}")
    return Faults(crash[0], crash[1], hang[0], hang[1], never, release, slow)


def _place(value: str) -> tuple[str, float]:
    name, _, seconds = value.partition(":")
    if name not in PLACES:
        raise ValueError(f"SGLANG_SIM_FAULT: unknown place {name!r}, known: {', '.join(PLACES)}")
    return name, float(seconds or 0)


class StartClock:
    """Spends the start-up time: shares of SGLANG_SIM_START_S seconds (default 21), divided by
    SGLANG_SIM_SPEED."""

    def __init__(self) -> None:
        self.speed = max(float(os.environ.get("SGLANG_SIM_SPEED", "1")), 1e-3)
        self.total_s = float(os.environ.get("SGLANG_SIM_START_S", "21")) / self.speed

    def spend(self, share: float) -> float:
        """Sleep a share of the whole start; returns the seconds it stands for at speed 1."""
        time.sleep(self.total_s * share)
        return self.total_s * share * self.speed
