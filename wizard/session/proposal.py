"""What to ask consent for: a workload that resembles what the server sees now, limits, and what is at stake."""

from __future__ import annotations

from wizard.core.measurement import Workload
from wizard.core.plan import Consent, Stakes
from wizard.core.session import SessionState

DRAIN_LIMIT_S = 60.0
"""How long running requests may finish. SGLang itself drains without limit (recordings/cpu/FINDINGS)."""
READY_LIMIT_S = 900.0
"""Where the last start cannot be seen: a large model from a slow disk (the wizard's ready.py moves the limit
on while the log shows progress)."""
LEAST_READY_LIMIT_S = 300.0
"""Kernels compiled for a new configuration take minutes in silence, however short the last start was."""
LAST_STARTS = 4.0
"""A new start may take so many times as long as the last one before it is given up."""


def propose_run(state: SessionState, quick: bool = False) -> tuple[Consent, Workload]:
    """Consent with a load test, and a workload of the load's own size, bounded by context and pool."""
    from wizard.measure.workload import propose

    workload = propose(
        _number(state, "requests.running"),
        _number(state, "requests.queued"),
        _number(state, "requests.prompt_tokens_mean"),
        _number(state, "requests.output_tokens_mean"),
        kv_capacity=_whole(state, "kv.capacity_tokens"),
        context_length=_whole(state, "server.context_length"),
        quick=quick,
    )
    live = state.target is not None and state.target.is_live
    consent = Consent(
        load_test=live,
        drain_limit_s=DRAIN_LIMIT_S,
        escalate=True,
        ready_limit_s=ready_limit_s(_number(state, "log.start_s")),
    )
    return consent, workload


def ready_limit_s(last_start_s: float | None) -> float:
    """The longest wait for a new server, from how long the last start took."""
    if last_start_s is None:
        return READY_LIMIT_S
    return max(LEAST_READY_LIMIT_S, round(LAST_STARTS * last_start_s))


def stakes_of(state: SessionState) -> Stakes:
    """What a restart meets now."""
    return Stakes(
        _whole(state, "requests.running"), _whole(state, "requests.queued"), _number(state, "log.start_s")
    )


def _number(state: SessionState, name: str) -> float | None:
    value = state.snapshot.get(name)
    return float(value.x) if value is not None and isinstance(value.x, (int, float)) else None


def _whole(state: SessionState, name: str) -> int | None:
    x = _number(state, name)
    return int(x) if x is not None else None
