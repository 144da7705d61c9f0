"""What a journal says, as one value. Pure: no file, no clock; odd records are skipped, never raised on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from wizard.core.measurement import Measurement, Verdict
from wizard.core.progress import Outcome, RunState, Stage, StageState
from wizard.core.target import Identity
from wizard.runner.journal import Record


@dataclass(frozen=True)
class Child:
    """A server that this session launched, or was about to (``identity`` None: the runner died in between).

    ``mark`` stands in the child's environment, so that even an unrecorded child can be found.
    """

    role: str
    mark: str
    identity: Identity | None = None
    log_path: str | None = None
    log_offset: int = 0


def fold(session_id: str, records: Iterable[Record]) -> RunState:
    """The state after ``records``. Never raises."""
    state = RunState(session_id)
    for record in records:
        try:
            state = _step(state, record)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return state


def children(records: Iterable[Record]) -> list[Child]:
    """Every launch that was begun, oldest first."""
    found: dict[str, Child] = {}
    for record in records:
        data = record.data
        try:
            if record.kind == "launching":
                found[data["mark"]] = Child(
                    str(data["role"]),
                    str(data["mark"]),
                    None,
                    data.get("log_path"),
                    int(data.get("log_offset") or 0),
                )
            elif record.kind == "launched" and data["mark"] in found:
                found[data["mark"]] = replace(
                    found[data["mark"]],
                    identity=Identity.from_json(data["identity"]),
                    log_path=data.get("log_path"),
                    log_offset=int(data.get("log_offset") or 0),
                )
        except (KeyError, TypeError, ValueError):
            continue
    return list(found.values())


def intended(records: Iterable[Record], stage: Stage) -> bool:
    return any(r.kind == "intent" and r.stage == stage.value for r in records)


def _step(state: RunState, record: Record) -> RunState:
    data: Mapping[str, Any] = record.data if isinstance(record.data, Mapping) else {}
    stage = next((s for s in Stage if s.value == record.stage), None)
    match record.kind:
        case "intent" if stage:
            old = state.stage(stage)
            started = old.started_at if old.started_at is not None else record.at
            state = _close_others(state, stage, record.at)
            state = state.with_stage(StageState(stage, "active", str(data.get("detail", "")), started))
        case "progress" if stage:
            old = state.stage(stage)
            if old.status == "active":
                state = state.with_stage(replace(old, detail=str(data["detail"])))
        case "result" if stage:
            old = state.stage(stage)
            status = "skipped" if data.get("skipped") else "done" if data["ok"] else "failed"
            detail = str(data.get("detail", old.detail))
            started = old.started_at if old.started_at is not None else record.at
            state = state.with_stage(StageState(stage, status, detail, started, record.at))  # type: ignore[arg-type]
            state = _facts(state, stage, data)
        case "launching":
            state = replace(state, serving="none")
        case "launched":
            identity = Identity.from_json(data["identity"])
            if data["role"] == "new":
                state = replace(state, new_pid=identity.pid, new_port=int(data["port"]))
        case "serving":
            state = replace(state, serving=_serving(data["serving"]))
        case "awaiting":
            state = replace(state, awaiting_decision=True)
        case "decided":
            state = replace(state, awaiting_decision=False)
        case "reopened":
            state = replace(state, outcome=None, sentence="", help="")
        case "ended":
            state = _close_others(state, None, record.at)
            state = replace(
                state,
                outcome=Outcome(data["outcome"]),
                serving=_serving(data["serving"]),
                sentence=str(data.get("sentence", "")),
                help=str(data.get("help", "")),
                awaiting_decision=False,
            )
        case _:
            pass
    return state


def _facts(state: RunState, stage: Stage, data: Mapping[str, Any]) -> RunState:
    if stage is Stage.BASELINE and data.get("measurement"):
        return replace(state, before=Measurement.from_json(data["measurement"]))
    if stage is Stage.MEASURE and data.get("measurement"):
        return replace(state, after=Measurement.from_json(data["measurement"]))
    if stage is Stage.VERDICT and data.get("verdict"):
        return replace(state, verdict=Verdict.from_json(data["verdict"]))
    return state


def _close_others(state: RunState, but: Stage | None, at: float) -> RunState:
    """A stage that never got its result (the runner died in it, or it was aborted) is not active any more."""
    for other in state.stages:
        if other.status == "active" and other.stage is not but:
            state = state.with_stage(replace(other, status="failed", ended_at=at))
    return state


def _serving(word: Any) -> Any:
    if word not in ("old", "new", "none", "unknown"):
        raise ValueError(word)
    return word
