"""Did it help: two measurements of the same workload, compared. Pure and repeatable.

Each metric's ratio after / before gets a 95 % interval: a bootstrap over whole windows, then widened, because

* windows of one run resemble each other (a queue that drains, prompts that move in step), so a few of them know
  less than as many independent samples would: a plain bootstrap of 4 windows is too sure of itself;
* the same command started twice differs by a little although nothing was changed.

The widening is Student's t over the normal quantile, times sqrt(n / (n - 1)) for the bootstrap's own shortage
at n windows, times sqrt((1 + r) / (1 - r)) for a correlation r = RESEMBLANCE of neighbouring windows, and
never less than START_SPREAD. Windows that resemble each other more than that still make it too sure. With
fewer than FEW windows on a side, "better" and "worse" also need every window after to lie beyond every window
before.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from wizard.core.measurement import METRICS, Comparison, Judgement, Measurement, Verdict, Window, Workload
from wizard.core.plan import VerifyGoal
from wizard.core.verdict_text import Reason, sentence

SAME = 0.05
"""An interval within 5 % of no change is no difference."""
START_SPREAD = 0.02
"""Least half-width: repeated starts of one command differ about so much (H200, load A64: 4,138 and 4,114 tok/s
with a flag changed that does not matter)."""
RESEMBLANCE = 0.3
"""Assumed, not estimated: from a handful of windows it cannot be. In simulated series of 4 windows that have it
and 3 to 10 % noise, about 7 of 100 unchanged servers are called better or worse; with 0.5, 10 of 100."""
FEW = 5
LEAST_WINDOWS = 2
PRICE_LIMIT = 2.0
"""A watched metric that got worse by more than this, and by more than the goal got better, is too high a price
for "fixed". On an H200 a cap of 8 lifted gives 3.3 times the tokens for 2.7 times the ITL p99, and is a fix."""
PRICE_WITHOUT_GAIN = 1.25
FAILING_SHARE = 0.05
MOST_EXTRA_WINDOWS = 60
ONCE_BEFORE = "That is two measurements after the change against one before, when the old server still ran."

_COUNTS = frozenset({"requests.failed", "requests.queued", "requests.retracted"})
_SHOWN = tuple(name for name in METRICS if name != "kv.usage")
_T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def compare(
    before: Measurement, after: Measurement, goal: VerifyGoal, *, seed: int = 7, resamples: int = 2000
) -> Verdict:
    """The verdict on a change, with a row for each metric that both sides have.

    fixed: the goal's whole interval is at least ``goal.better_by`` better, requests do not fail where none did
    before, and no watched metric pays more than PRICE_LIMIT for it. better: surely better, but not that much
    or at such a price. worse, no_difference: as sure. cannot_tell: anything else, and why. Prices are named.
    """
    failed_before, failed_after = _failed(before), _failed(after)
    first_error = max(after.errors, key=lambda text: after.errors[text], default="")
    base = Reason(
        None,
        failed_before=failed_before,
        failed_after=failed_after,
        first_error=first_error,
        live=before.workload is None or after.workload is None,
    )
    if goal.reading == "ready":
        return _ready(after, goal, base)
    if not _same_workload(before.workload, after.workload):
        why = "the two measurements are of different workloads"
        return _verdict(Judgement.CANNOT_TELL, goal, replace(base, why=why), ())
    names = [*_SHOWN, *(n for n in (goal.reading, *goal.watch) if n not in _SHOWN)]
    rows = []
    for name in names:
        row = _compare_metric(name, before, after, goal, random.Random(f"{seed}:{name}"), resamples)
        if row is not None:
            rows.append(row)
    by_name = {row.metric: row for row in rows}
    row = by_name.get(goal.reading)
    queue = by_name.get("requests.queued")
    reason = replace(base, goal=row, queue_gone=queue is not None and _gone(queue))
    if row is None:
        return _nothing_before(before, after, goal, reason, tuple(rows))
    if _nothing_came(before) and not _nothing_came(after):
        return _nothing_before(before, after, goal, reason, tuple(rows))
    return _weigh(before, after, goal, reason, row, by_name, tuple(rows))


def pool(looks: Sequence[Measurement]) -> Measurement:
    """Several measurements of one server under one workload as one: all their windows, none preferred."""
    first = looks[0]
    windows = tuple(window for look in looks for window in look.windows)
    errors: Counter[str] = Counter()
    for look in looks:
        errors.update(look.errors)
    failed = sum(look.totals.get("requests.failed", 0.0) for look in looks)
    work = replace(first.workload, windows=len(windows)) if first.workload is not None else None
    return Measurement(work, windows, {"requests.failed": failed}, dict(errors), first.note)


def second_look(like: Verdict, pooled: Verdict) -> Verdict:
    """The verdict after a second measurement of the changed server, the old one being gone.

    ``like``: the second measurement alone against the one before, which has as many windows. ``pooled``: all
    windows after against it, so that the unclear first look is not forgotten. Only what both say counts; and
    "before" cannot be looked at again, so never "fixed": a longer one might have refuted it.
    """
    good = (Judgement.FIXED, Judgement.BETTER)
    words = {like.judgement, pooled.judgement}
    said = f"{pooled.sentence} {ONCE_BEFORE}"
    if words <= set(good):
        limit = " So no more than better is said." if pooled.judgement is Judgement.FIXED else ""
        return Verdict(Judgement.BETTER, said + limit, pooled.comparisons)
    if len(words) == 1:
        return Verdict(pooled.judgement, said, pooled.comparisons)
    return Verdict(Judgement.CANNOT_TELL, f"{said} The two looks do not agree.", pooled.comparisons)


def _weigh(
    before: Measurement,
    after: Measurement,
    goal: VerifyGoal,
    reason: Reason,
    row: Comparison,
    rows: dict[str, Comparison],
    table: tuple[Comparison, ...],
) -> Verdict:
    worse = [r for name, r in rows.items() if r.judgement is Judgement.WORSE and name != goal.reading]
    watched = [r for r in worse if r.metric in goal.watch]
    prices = tuple(watched + [r for r in worse if r.metric.startswith(("itl.", "ttft.")) and r not in watched])
    limit = max(PRICE_LIMIT, _gain(row, goal) or 1.0)
    too_high = tuple(r for r in watched if r.metric != "requests.failed" and _loss(r, goal) > limit)
    reason = replace(reason, prices=prices, too_high=too_high)
    judgement = row.judgement
    if reason.failed_after > 0 and reason.failed_before == 0:
        finished = sum(window.samples for window in after.windows)
        failing = reason.failed_after / (reason.failed_after + finished) >= FAILING_SHARE
        if failing:
            return _verdict(Judgement.WORSE, goal, reason, table)
        if judgement is Judgement.FIXED:
            judgement = Judgement.BETTER
    if judgement is Judgement.FIXED and too_high:
        judgement = Judgement.BETTER
    if judgement in (Judgement.NO_DIFFERENCE, Judgement.CANNOT_TELL):
        paid = tuple(r for r in watched if _sure_loss(r, goal) > PRICE_WITHOUT_GAIN)
        if paid:
            return _verdict(Judgement.WORSE, goal, replace(reason, too_high=paid), table)
    if judgement is Judgement.CANNOT_TELL:
        reason = replace(reason, extra_windows=_extra_windows(row, goal.reading, before, after))
    return _verdict(judgement, goal, reason, table)


def _ready(after: Measurement, goal: VerifyGoal, reason: Reason) -> Verdict:
    """Being up was the goal, and the caller found it ready; a measurement can only take that back."""
    finished = sum(window.samples for window in after.windows)
    if not after.windows:
        return _verdict(Judgement.FIXED, goal, reason, ())
    if finished or not _nothing_came(after):
        return _verdict(Judgement.FIXED, goal, replace(reason, why=f"{finished} requests finished"), ())
    why = "it is up, but every request fails" if reason.failed_after else "it is up, but no request finished"
    judgement = Judgement.NO_DIFFERENCE if reason.failed_after else Judgement.CANNOT_TELL
    return _verdict(judgement, goal, replace(reason, why=why), ())


def _nothing_before(
    before: Measurement, after: Measurement, goal: VerifyGoal, reason: Reason, rows: tuple[Comparison, ...]
) -> Verdict:
    """The goal cannot be divided: one side does not have it."""
    enough = len(before.windows) >= LEAST_WINDOWS and len(after.windows) >= LEAST_WINDOWS
    if enough and _nothing_came(before) and all(_came(window) for window in after.windows):
        sound = reason.failed_after == 0
        judgement = Judgement.FIXED if sound else Judgement.BETTER
        return _verdict(judgement, goal, replace(reason, why="nothing came through before"), rows)
    if enough and _nothing_came(after) and not _nothing_came(before):
        return _verdict(Judgement.WORSE, goal, replace(reason, why="nothing comes through any more"), rows)
    if not enough:
        why, extra = "too few windows", LEAST_WINDOWS + 2
    else:
        why, extra = "the goal was not seen on both sides", 0
    return _verdict(Judgement.CANNOT_TELL, goal, replace(reason, why=why, extra_windows=extra), rows)


def _verdict(judgement: Judgement, goal: VerifyGoal, reason: Reason, rows: tuple[Comparison, ...]) -> Verdict:
    return Verdict(judgement, sentence(judgement, goal, reason), rows)


def _compare_metric(
    name: str, before: Measurement, after: Measurement, goal: VerifyGoal, rng: random.Random, resamples: int
) -> Comparison | None:
    """None when a side does not have the metric at all."""
    old = [w.values[name] for w in before.windows if math.isfinite(w.values.get(name, math.nan))]
    new = [w.values[name] for w in after.windows if math.isfinite(w.values.get(name, math.nan))]
    if not old or not new:
        return None
    x, y = _mean(old), _mean(new)
    ratio = y / x if x > 0 else None
    low, high = None, None
    if ratio is not None and min(len(old), len(new)) >= LEAST_WINDOWS:
        low, high = _interval(old, new, ratio, rng, resamples)
    unjudged = Comparison(name, x, y, ratio, low, high, Judgement.CANNOT_TELL)
    judgement = _judge_count(unjudged) if name in _COUNTS else None
    if judgement is not None and name == goal.reading:
        judgement = _settle_count(judgement, old, new)
    if name in _COUNTS and x == y == 0 and name not in (goal.reading, *goal.watch):
        return None
    if judgement is None:
        judgement = _judge(unjudged, old, new, goal)
    return replace(unjudged, judgement=judgement)


def _interval(
    old: Sequence[float], new: Sequence[float], ratio: float, rng: random.Random, resamples: int
) -> tuple[float, float]:
    """95 % interval of the ratio of means. Holds ``ratio``; its bounds are never negative."""
    drawn = []
    for _ in range(resamples):
        x = _mean(rng.choices(old, k=len(old)))
        if x > 0:
            drawn.append(_mean(rng.choices(new, k=len(new))) / x)
    drawn.sort()
    low, high = ratio, ratio
    if drawn:
        low = min(low, drawn[int(len(drawn) * 0.025)])
        high = max(high, drawn[min(len(drawn) - 1, int(len(drawn) * 0.975))])
    fewest = min(len(old), len(new))
    freedom = len(old) + len(new) - 2
    t = _T_975[freedom - 1] if freedom <= len(_T_975) else 2.1
    widening = t / 1.96 * math.sqrt(fewest / (fewest - 1) * (1 + RESEMBLANCE) / (1 - RESEMBLANCE))
    if low <= 0:
        return 0.0, ratio + (high - ratio) * widening
    down = max(math.log(ratio / low) * widening, START_SPREAD)
    up = max(math.log(high / ratio) * widening, START_SPREAD)
    return ratio * math.exp(-down), ratio * math.exp(up)


def _judge(row: Comparison, old: Sequence[float], new: Sequence[float], goal: VerifyGoal) -> Judgement:
    if row.low is None or row.high is None or row.ratio is None:
        return Judgement.CANNOT_TELL
    if row.low >= 1 - SAME and row.high <= 1 + SAME:
        return Judgement.NO_DIFFERENCE
    if row.low <= 1 <= row.high:
        return Judgement.CANNOT_TELL
    apart = min(new) > max(old) or max(new) < min(old)
    if min(len(old), len(new)) < FEW and not apart:
        return Judgement.CANNOT_TELL
    higher = _higher_is_better(row.metric, goal)
    if (row.low > 1) is not higher:
        return Judgement.WORSE
    if row.metric == goal.reading:
        far = row.low >= 1 + goal.better_by if higher else row.high <= 1 - min(goal.better_by, 0.99)
        return Judgement.FIXED if far else Judgement.BETTER
    return Judgement.BETTER


def _judge_count(row: Comparison) -> Judgement | None:
    """Counts of a window are often 0 and small: less than one request more or less is nothing.

    None: judge it by its ratio.
    """
    x, y = row.before or 0.0, row.after or 0.0
    least = 0.0 if row.metric == "requests.failed" else 1.0
    if abs(y - x) < least or x == y:
        return Judgement.NO_DIFFERENCE
    if x == 0:
        return Judgement.WORSE
    return Judgement.BETTER if y == 0 else None


def _settle_count(judgement: Judgement, old: Sequence[float], new: Sequence[float]) -> Judgement:
    """A count that is the goal: there was some in every window and there is none, or the other way round."""
    if min(len(old), len(new)) < LEAST_WINDOWS:
        return Judgement.CANNOT_TELL
    if judgement is Judgement.NO_DIFFERENCE or min(new) > max(old):
        return judgement
    return Judgement.FIXED if max(new) < min(old) else Judgement.CANNOT_TELL


def _higher_is_better(metric: str, goal: VerifyGoal) -> bool:
    if metric in METRICS:
        return METRICS[metric][1] == "higher"
    return metric != goal.reading or goal.direction == "higher"


def _gain(row: Comparison, goal: VerifyGoal) -> float | None:
    """How many times better; below 1 is worse."""
    if row.ratio is None:
        return None
    if _higher_is_better(row.metric, goal):
        return row.ratio
    return 1 / row.ratio if row.ratio > 0 else math.inf


def _loss(row: Comparison, goal: VerifyGoal) -> float:
    gain = _gain(row, goal)
    return math.inf if not gain else 1 / gain


def _sure_loss(row: Comparison, goal: VerifyGoal) -> float:
    """How many times worse at the least."""
    if row.low is None or row.high is None:
        return _loss(row, goal)
    return 1 / max(row.high, 1e-9) if _higher_is_better(row.metric, goal) else row.low


def _gone(queue: Comparison) -> bool:
    x, y = queue.before or 0.0, queue.after or 0.0
    return x >= 2 and y <= max(1.0, 0.1 * x)


def _extra_windows(row: Comparison, metric: str, before: Measurement, after: Measurement) -> int:
    """Windows of each side that would settle it: an interval shrinks with the root of their number."""
    having = min(sum(metric in w.values for w in m.windows) for m in (before, after))
    if row.ratio is None or row.low is None or row.high is None or row.low <= 0 or having < LEAST_WINDOWS:
        return LEAST_WINDOWS + 2
    half = math.log(row.high / row.low) / 2
    aim = max(abs(math.log(row.ratio)), SAME)
    if row.low > 1 or row.high < 1 or half <= aim:
        return max(1, FEW - having)
    return min(MOST_EXTRA_WINDOWS, max(1, math.ceil(having * (half / aim) ** 2) - having))


def _same_workload(x: Workload | None, y: Workload | None) -> bool:
    if x is None or y is None:
        return x is y
    return replace(x, windows=1, warmup_s=0.0) == replace(y, windows=1, warmup_s=0.0)


def _failed(m: Measurement) -> int:
    counted = sum(w.values.get("requests.failed", 0.0) for w in m.windows)
    said = 0 if m.workload is None else sum(m.errors.values())  # of live traffic: scrapes that failed
    return round(max(counted, m.totals.get("requests.failed", 0.0), said))


def _came(window: Window) -> bool:
    return window.samples > 0 or window.values.get("throughput.output", 0.0) > 0


def _nothing_came(m: Measurement) -> bool:
    return bool(m.windows) and not any(_came(window) for window in m.windows)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
