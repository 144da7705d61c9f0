"""What to ask consent for: the workload that resembles what the server sees now, and the limits."""

from __future__ import annotations

from wizard.core.measurement import Workload
from wizard.core.plan import Consent
from wizard.core.session import SessionState

DRAIN_LIMIT_S = 60.0
"""How long running requests may finish. SGLang itself drains without limit (recordings/cpu/FINDINGS)."""


def propose_run(state: SessionState, quick: bool = False) -> tuple[Consent, Workload]:
    """Consent with a load test, and a workload of the load's own size, bounded by context and pool."""
    from wizard.measure.workload import propose

    def number(name: str) -> float | None:
        value = state.snapshot.get(name)
        return float(value.x) if value is not None and isinstance(value.x, (int, float)) else None

    def whole(name: str) -> int | None:
        x = number(name)
        return int(x) if x is not None else None

    workload = propose(
        number("requests.running"),
        number("requests.queued"),
        number("requests.prompt_tokens_mean"),
        number("requests.output_tokens_mean"),
        kv_capacity=whole("kv.capacity_tokens"),
        context_length=whole("server.context_length"),
        quick=quick,
    )
    live = state.target is not None and state.target.is_live
    return Consent(load_test=live, drain_limit_s=DRAIN_LIMIT_S, escalate=True), workload
