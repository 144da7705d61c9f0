"""What a unit's server wrote since its start, where systemd's journal keeps it and no file does.

Asked of ``journalctl`` by words, never longer than ASK_LIMIT_S and never for more than MOST_BYTES.
"""

from __future__ import annotations

import os
import time

from wizard.core.target import Identity
from wizard.server.supervisors import clients

ASK_LIMIT_S = 5.0
MOST_LINES = 4000
MOST_BYTES = 4 * 1024 * 1024
LAG_S = 0.3
"""A line reaches the journal a moment after it was written: the last of a dead server may be under way."""


def lines_since(unit: str, identity: Identity) -> list[bytes]:
    """The lines of the unit and of systemd about it since that process was started; empty without a journal.

    All processes of the unit, as it is mostly a child that says why it failed.
    """
    time.sleep(LAG_S)
    answer = clients.ask(words(unit, started_at(identity)), limit_s=ASK_LIMIT_S, most=MOST_BYTES)
    whole = answer.ok or answer.error == "too much"
    return answer.out.encode("utf-8", "replace").splitlines()[:MOST_LINES] if whole else []


def words(unit: str, since_s: float) -> list[str]:
    """``--all``: or a line with an escape sequence in it is shown as "[blob data]". ``+``: or."""
    return [
        *("journalctl", "--no-pager", "--quiet", "--all", "--output=cat"),
        *(f"--since=@{since_s:.2f}", f"--lines={MOST_LINES}"),
        *(f"_SYSTEMD_UNIT={unit}", "+", f"_SYSTEMD_USER_UNIT={unit}", "+", "_PID=1", f"UNIT={unit}"),
    ]


def started_at(identity: Identity) -> float:
    """Seconds since the epoch at which a process was started, also of one that has ended in this boot."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + identity.start_ticks / os.sysconf("SC_CLK_TCK")
