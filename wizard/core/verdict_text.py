"""The verdict in one or two plain sentences with its numbers. What it cost is always said."""

from __future__ import annotations

from dataclasses import dataclass

from wizard.core.measurement import METRICS, Comparison, Judgement
from wizard.core.plan import VerifyGoal

_NAMES = {
    "throughput.output": "tokens a second",
    "throughput.requests": "requests a second",
    "ttft.p50": "median time to first token",
    "ttft.p99": "time to first token (p99)",
    "itl.p50": "median inter-token latency",
    "itl.p99": "inter-token latency (p99)",
    "e2e.p50": "median request latency",
    "e2e.p99": "request latency (p99)",
    "requests.failed": "failed requests in a window",
    "requests.queued": "requests in the queue",
    "requests.retracted": "retractions in a window",
    "kv.usage": "use of the KV pool",
}


@dataclass(frozen=True)
class Reason:
    """Why the verdict is what it is. ``prices``: what got worse; ``too_high``: what forbids a better word."""

    goal: Comparison | None
    prices: tuple[Comparison, ...] = ()
    too_high: tuple[Comparison, ...] = ()
    queue_gone: bool = False
    failed_before: int = 0
    failed_after: int = 0
    first_error: str = ""
    extra_windows: int = 0
    live: bool = False
    why: str = ""


def sentence(judgement: Judgement, goal: VerifyGoal, reason: Reason) -> str:
    """Does not repeat the judgement's word: faces print it in front."""
    row = reason.goal
    if goal.reading == "ready":
        return _ready(judgement, reason)
    if judgement is Judgement.CANNOT_TELL:
        parts = [_unsure(row, reason)]
    elif reason.why:
        parts = [_capital(reason.why) + _after_only(row)]
    elif row is None:
        parts = ["The goal was not measured"]
    elif row.judgement is Judgement.CANNOT_TELL:
        parts = [f"{_capital(name(row.metric))}: {_from_to(row)}{_between(row)}"]
    elif row.judgement is Judgement.NO_DIFFERENCE:
        parts = [f"{_capital(name(row.metric))} stayed the same: {_from_to(row)}{_between(row)}"]
    else:
        parts = [_change(row) + (", and the queue is gone" if reason.queue_gone else "")]
    if judgement is Judgement.BETTER and row is not None and row.judgement is Judgement.BETTER:
        parts.append(f"That is surely better, but not surely by {goal.better_by * 100:.0f} %{_between(row)}")
    if reason.failed_after and not reason.failed_before:
        said = f" ({reason.first_error})" if reason.first_error else ""
        requests = "request fails" if reason.failed_after == 1 else "requests fail"
        parts.append(f"{reason.failed_after:,} {requests} now and none did before{said}")
    worse = judgement is Judgement.WORSE
    for price in reason.too_high:
        parts.append(_capital(_moved(price)) if worse else f"Too high a price: {_moved(price)}")
    others = [_moved(price) for price in reason.prices if price not in reason.too_high]
    if others:
        parts.append(("Worse too: " if worse else "The price: ") + "; ".join(others[:3]))
    if reason.live and judgement is not Judgement.CANNOT_TELL:
        parts.append("This was live traffic, which may have changed by itself")
    return ". ".join(parts) + "."


def name(metric: str) -> str:
    return _NAMES.get(metric, metric)


def amount(metric: str, x: float | None) -> str:
    """A number with its unit: ``1,264``, ``6.7 s``, ``60 ms``, ``82 %``."""
    if x is None:
        return "unknown"
    unit = METRICS.get(metric, ("", ""))[0]
    if unit == "ms":
        return f"{x / 1000:.1f} s" if x >= 1000 else f"{x:.0f} ms" if x >= 20 else f"{x:.1f} ms"
    if unit == "ratio":
        return f"{x * 100:.0f} %"
    return f"{x:,.0f}" if abs(x) >= 20 or x == int(x) else f"{x:.1f}"


def _change(row: Comparison) -> str:
    if METRICS.get(row.metric, ("", ""))[1] != "higher" or row.ratio is None:
        return _capital(_moved(row))
    span = f" ({amount(row.metric, row.before)} to {amount(row.metric, row.after)})"
    if row.ratio >= 1.5:
        return f"{row.ratio:.1f} times the {name(row.metric)}{span}"
    word = "more" if row.ratio >= 1 else "fewer"
    return f"{abs(row.ratio - 1) * 100:.0f} % {word} {name(row.metric)}{span}"


def _moved(row: Comparison) -> str:
    before, after = row.before or 0.0, row.after or 0.0
    verb = "rose" if after > before else "fell"
    return f"{name(row.metric)} {verb} from {amount(row.metric, row.before)} to {amount(row.metric, row.after)}"


def _from_to(row: Comparison) -> str:
    return f"{amount(row.metric, row.before)} before, {amount(row.metric, row.after)} after"


def _between(row: Comparison) -> str:
    if row.low is None or row.high is None:
        return ""
    return f" (the change lies between {(row.low - 1) * 100:+.0f} % and {(row.high - 1) * 100:+.0f} %)"


def _after_only(row: Comparison | None) -> str:
    return f" ({name(row.metric)}: {_from_to(row)})" if row is not None else ""


def _unsure(row: Comparison | None, reason: Reason) -> str:
    extra = reason.extra_windows
    windows = "window" if extra == 1 else "windows"
    more = f". About {extra} more {windows} on each side would tell" if extra else ""
    if row is None:
        return _capital(reason.why or "the goal was not measured") + more
    why = f" ({reason.why})" if reason.why else ""
    return f"{_capital(name(row.metric))}: {_from_to(row)}{why}{_between(row)}{more}"


def _ready(judgement: Judgement, reason: Reason) -> str:
    if judgement is Judgement.FIXED:
        return "It is up and answers" + (f": {reason.why}." if reason.why else ".")
    said = f" ({reason.first_error})" if reason.first_error else ""
    return _capital(reason.why) + said + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
