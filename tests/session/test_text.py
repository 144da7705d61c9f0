from __future__ import annotations

import pytest

from wizard.core.progress import RunState
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Value
from wizard.core.session import SessionState
from wizard.core.target import Identity, Target
from wizard.session.text import ending_lines, finding_lines
from wizard.session.untold import still_starting


def test_a_change_whose_runner_died_does_not_end_without_a_word() -> None:
    assert any("sgl-wizard sessions resume" in line for line in ending_lines(RunState("1")))
    assert not ending_lines(RunState("1", runner_alive=True))


def starting(phase: str, health: str = "refused", alive: bool = True, **more: float) -> SessionState:
    said = {
        "http.health": health,
        "log.phase": phase,
        **{name.replace("_", ".", 1): x for name, x in more.items()},
    }
    values = {name: Value(x, source="test") for name, x in said.items()}
    target = Target(identity=Identity(1, 1, "b") if alive else None)
    return SessionState(target, snapshot=Snapshot({"log": ProbeResult("log", Outcome.OK, values)}))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (starting("loading"), "loading weights. Its log"),
        (starting("kv_allocation", process_uptime_s=20.4), "allocating the KV cache, 20 s after its process"),
        (starting("capture", log_start_s=95.0), "An earlier start in this log took 95 s."),
        (starting("serving"), ""),
        (starting("ended"), ""),
        (starting("loading", health="serving"), ""),
        (starting("loading", alive=False), ""),
    ],
)
def test_how_far_a_start_is(state: SessionState, says: str) -> None:
    found = still_starting(state)
    assert says in found
    assert bool(says) == bool(found)
    first = finding_lines(state, {})[0]
    assert first.startswith("STILL STARTING: ") == bool(says)
