"""The faults by name: what is done, at which moments, and how the world may look afterwards."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults import faults_runner as wizard_faults
from tests.faults import faults_screen as screen_faults
from tests.faults import faults_server as server_faults
from tests.faults.ground import BROKEN, HELPS, HURTS, PLAIN, WRAPPERS, Change, Scene, Wrapper

OLD = frozenset({"old"})
NEW = frozenset({"new"})
EITHER = frozenset({"old", "new"})
DOWN_OR_UP = frozenset({"old", "new", "none"})


@dataclass(frozen=True)
class Fault:
    """``play`` starts the change, waits for the run's moment, strikes, and says when it was.

    ``ends``: what may serve at the end; "none" means down, told, with the exact command. ``cure``: takes the
    obstacle away afterwards; then ``sessions rollback`` has to bring the old command back.
    """

    name: str
    says: str
    play: Callable[[Scene], str]
    moments: tuple[Any, ...]
    changes: tuple[Change, ...] = (PLAIN,)
    ends: frozenset[str] = EITHER
    wrappers: tuple[Wrapper, ...] = WRAPPERS
    weight: int = 1
    prepare: Callable[[Scene], None] | None = None
    cure: bool = False
    env: Callable[[Any], Mapping[str, str]] = field(default=lambda _: {})
    slow: bool = False


_SIGNALS = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGSTOP)
_SIDES = ("before", "after")
_STEADY = ("intent stop", "result stop", "launched launch", "intent ready", "result ready")
_LOADED = ("intent baseline", *_STEADY, "intent measure")
_EARLY = ("result snapshot", *_STEADY)
_PHASES = (
    *("server_args=", "Init torch distributed begin", "Load weight begin", "Load weight end"),
    *(
        "KV Cache is allocated",
        "prefill CUDA graph begin",
        "decode CUDA graph begin",
        "Application startup complete",
    ),
    *("Uvicorn running on", "fired up and ready"),
)


def _kills(last: int) -> tuple[tuple[str, int], ...]:
    return tuple(itertools.product(_SIDES, range(1, last + 1)))


FAULTS: tuple[Fault, ...] = (
    Fault(
        "runner_killed",
        "SIGKILL of the runner before and after each journal record of a change that is kept",
        wizard_faults.runner_killed,
        _kills(23),
        weight=3,
    ),
    Fault(
        "runner_killed_measuring",
        "the same with a load test before and after",
        wizard_faults.runner_killed,
        _kills(25)[4:],
        (HELPS,),
    ),
    Fault(
        "runner_killed_rolling_back",
        "the same in a change that fails and is put back",
        wizard_faults.runner_killed,
        tuple((side, k) for side, k in _kills(22) if k > 15),
        (BROKEN,),
        ends=OLD,
        weight=2,
    ),
    Fault(
        "runner_killed_twice",
        "the runner that resumes is killed too",
        wizard_faults.runner_killed_twice,
        tuple(
            (("after", first), (side, second))
            for first, side, second in itertools.product((6, 7, 12, 13, 16, 18), _SIDES, (2, 3, 4, 5, 6))
        ),
    ),
    Fault("runner_terminated", "SIGTERM to the runner", wizard_faults.runner_terminated, _EARLY),
    Fault("runner_frozen", "SIGSTOP and SIGCONT of the runner", wizard_faults.runner_frozen, _EARLY),
    Fault("aborted", "sessions abort", wizard_faults.aborted, _LOADED, (HELPS, HURTS)),
    Fault(
        "face_signalled",
        "SIGKILL, SIGHUP, SIGTERM, SIGSTOP of the face",
        wizard_faults.face_signalled,
        tuple(itertools.product(_SIGNALS, ("runner", *_EARLY))),
        weight=2,
    ),
    Fault(
        "screen_taken_away",
        "the full screen started the change and is killed, hung up, terminated or stopped",
        screen_faults.taken_away,
        tuple(
            itertools.product(
                ("link lost", signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGSTOP),
                ("runner", *_EARLY),
            )
        ),
        ends=NEW,
        weight=2,
    ),
    Fault(
        "old_dies",
        "the old server dies before it is stopped",
        server_faults.server_dies,
        tuple(
            itertools.product(
                ("old",), ("intent snapshot", "intent baseline", "intent stop"), ("parent", "child")
            )
        ),
        (HELPS, HURTS),
        weight=2,
    ),
    Fault(
        "new_dies_starting",
        "the new server dies in a phase of its start",
        server_faults.dies_in_phase,
        _PHASES,
        weight=2,
    ),
    Fault(
        "new_dies_serving",
        "the new server gets ready and dies",
        server_faults.server_dies,
        tuple(itertools.product(("new",), ("result ready", "intent measure"), ("parent", "child"))),
        (HELPS, HURTS),
        ends=OLD,
        weight=2,
    ),
    Fault(
        "never_ready",
        "the new server never gets ready",
        server_faults.never_ready,
        ("whole tree", "child"),
        ends=OLD,
    ),
    Fault("old_hangs", "the old server ignores SIGTERM", server_faults.old_hangs, ("before", "at")),
    Fault(
        "port_stolen",
        "somebody takes the port in the gap, answers 200, and leaves again",
        server_faults.squatter,
        (2, 4, 8),
        ends=DOWN_OR_UP,
        cure=True,
    ),
    Fault(
        "port_lost",
        "somebody takes the port in the gap, answers 200, and stays",
        server_faults.squatter,
        (0,),
        ends=frozenset({"none"}),
        cure=True,
    ),
    Fault(
        "memory_slow",
        "the card keeps the old server's memory for a while",
        server_faults.memory_slow,
        (2, 4, 6),
        env=lambda moment: {"SGLANG_SIM_FAULT": f"release_slowly={moment}"},
    ),
    Fault(
        "memory_held",
        "the card keeps the memory longer than anybody waits",
        server_faults.memory_slow,
        (600,),
        ends=DOWN_OR_UP,
        env=lambda moment: {"SGLANG_SIM_FAULT": f"release_slowly={moment}"},
        slow=True,
    ),
    Fault(
        "memory_taken",
        "another process takes the card's memory in the gap",
        server_faults.memory_taken,
        (0, 3),
        ends=DOWN_OR_UP,
        cure=True,
    ),
    Fault(
        "supervisor",
        "the old server is restarted behind our back",
        server_faults.supervisor_restarts,
        (1, 6),
        (PLAIN, HELPS),
        ends=OLD,
        wrappers=("supervised",),
    ),
    Fault(
        "pid_reused",
        "the dead server's pid goes to a bystander while no runner lives",
        server_faults.pid_reused,
        (("new", 13), ("old", 6), ("new", 16), ("new", 22)),
        weight=2,
    ),
    Fault(
        "rebooted",
        "the machine restarts in the middle",
        server_faults.rebooted,
        (("new", 13), ("old", 6), ("new", 16), ("new", 22)),
    ),
    Fault(
        "rebooted_untouched",
        "the machine restarts before the change has touched anything: nothing is started, the command is told",
        server_faults.rebooted,
        (("old", 4), ("old", 5)),
        ends=frozenset({"none"}),
    ),
    Fault("two_wizards", "two fixes at once", wizard_faults.two_wizards, ("at once", *_EARLY)),
    Fault("two_resumes", "two resumes at once", wizard_faults.two_resumes, (6, 9, 12, 13, 16, 18)),
    Fault(
        "clock_stepped",
        "the wall clock steps",
        wizard_faults.clock_stepped,
        tuple(itertools.product((4, 6, 9, 13, 16, 18), (-86400, 86400, -3, 3))),
        (PLAIN, HELPS),
    ),
    Fault(
        "disk_full",
        "the disk of the state folder fills",
        server_faults.disk_full,
        _EARLY,
        prepare=server_faults.on_small_disk,
        weight=2,
    ),
    Fault(
        "log_disk_full",
        "the disk below the server's own log fills",
        server_faults.log_disk_full,
        ("result snapshot", "result stop", "intent ready"),
        prepare=server_faults.log_on_small_disk,
    ),
    Fault(
        "key_kept",
        "the server has an API key: in nothing printed, and only in files of mode 0600",
        wizard_faults.key_kept,
        ("done", 6, 13, 16),
        (PLAIN, HURTS),
        prepare=wizard_faults.with_key,
    ),
    Fault(
        "state_deleted",
        "the state folder is removed in the middle",
        wizard_faults.state_deleted,
        ("result snapshot", "result stop", "launched launch", "intent ready"),
    ),
    Fault("file_limit", "the runner cannot write any file", server_faults.file_limit, _EARLY),
    Fault(
        "state_unusable",
        "the state folder cannot be used from the start",
        server_faults.state_unusable,
        ("a file", "read-only", "no room"),
        ends=OLD,
    ),
)


def by_name(name: str) -> Fault:
    """Raises KeyError."""
    return next(fault for fault in FAULTS if fault.name == name) if name in NAMES else _unknown(name)


NAMES = tuple(fault.name for fault in FAULTS)


def _unknown(name: str) -> Fault:
    raise KeyError(f"no fault {name}; there are: {', '.join(NAMES)}")
