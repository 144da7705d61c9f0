"""How far a relaunch has got: what the journal of the detached runner says, folded into one value.

Everything that shows progress (TUI, ``sessions show``, ``--plain``) is a function of ``RunState``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from wizard.core.measurement import Measurement, Verdict


class Stage(str, Enum):
    """The stages of a transaction, in order."""

    SNAPSHOT = "snapshot"
    BASELINE = "baseline"
    STOP = "stop"
    RELEASE = "release"
    LAUNCH = "launch"
    READY = "ready"
    MEASURE = "measure"
    VERDICT = "verdict"
    DECIDE = "decide"
    ROLLBACK = "rollback"


STAGE_TITLES: dict[Stage, str] = {
    Stage.SNAPSHOT: "save the old command",
    Stage.BASELINE: "measure before",
    Stage.STOP: "ask it to stop",
    Stage.RELEASE: "port and GPU memory free",
    Stage.LAUNCH: "start",
    Stage.READY: "ready",
    Stage.MEASURE: "measure after",
    Stage.VERDICT: "compare",
    Stage.DECIDE: "keep or put back",
    Stage.ROLLBACK: "put the old command back",
}

Status = Literal["pending", "active", "done", "failed", "skipped"]


@dataclass(frozen=True)
class StageState:
    """``detail``: one line, what came of it or what it waits for. Times are Unix seconds."""

    stage: Stage
    status: Status = "pending"
    detail: str = ""
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def elapsed_s(self) -> float | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)


class Outcome(str, Enum):
    """How a transaction ended. ``serving`` of RunState says under which command."""

    KEPT = "kept"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    CALLED_OFF = "called_off"
    """Nothing was changed: refused or aborted before the old server was touched."""


@dataclass(frozen=True)
class RunState:
    """A transaction as its journal tells it. ``outcome`` None = not ended (or the runner died)."""

    session_id: str
    stages: tuple[StageState, ...] = tuple(StageState(s) for s in Stage)
    log_tail: tuple[str, ...] = ()
    before: Measurement | None = None
    after: Measurement | None = None
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    serving: Literal["old", "new", "none", "unknown"] = "unknown"
    awaiting_decision: bool = False
    sentence: str = ""
    """What happened, in words, once it ended."""
    help: str = ""
    """What to type when the wizard could not put things right by itself."""
    runner_alive: bool = False
    new_pid: int | None = None
    new_port: int | None = None

    def stage(self, stage: Stage) -> StageState:
        return next(s for s in self.stages if s.stage is stage)

    def with_stage(self, state: StageState) -> RunState:
        return replace(self, stages=tuple(state if s.stage is state.stage else s for s in self.stages))

    @property
    def active(self) -> StageState | None:
        return next((s for s in self.stages if s.status == "active"), None)
