"""The server's log: how far it got, what it measured at its start, its load, and what failed first."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from wizard.core.clue import search
from wizard.core.logtext import in_order_of_weight, leading
from wizard.core.reading import Outcome, ProbeResult, Trust, Value
from wizard.core.redact import clean, redact_text
from wizard.core.story import Batch, Story
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, Unavailable, in_thread
from wizard.probes.logfile import LogView, read_live, read_saved
from wizard.server.identity import is_alive

RECENT_S = 60.0
"""Counts of a live server are of its last minute; of a saved log, of all its lines."""

ERROR_CHARS = 300

_PLAIN = (
    "log.avail_before_load_gb",
    "log.avail_after_load_gb",
    "log.oom_tried_gb",
    "log.oom_free_gb",
    "log.oom_total_gb",
    "log.oom_other_gb",
    "log.needed_fraction",
    "log.fitting_ranks",
    "weights.memory_gb",
    "graph.memory_gb",
    "kv.pool_gb",
    "server.available_memory_gb",
)


def log_path_of(target: Target) -> str | None:
    """The file that the target writes to: named by the person, else where its output goes."""
    if target.log_path is not None or target.launch is None:
        return target.log_path
    return target.launch.log_path or target.launch.stderr_path


def readings_of(view: LogView, path: str, now: float | None) -> ProbeResult:
    """A log as readings. ``now``: of a live server, whose last minute counts; None for a saved log."""
    story, name = view.story, os.path.basename(path)
    values = {
        "log.path": Value(path, source=path),
        "log.phase": Value(story.phase, source=f"{name}:{story.last_line}"),
        "log.fired_up": Value(story.fired_up, Trust.REPORTED, source=name),
    }

    def at(line: int) -> str:
        return f"{name}:{line}"

    if story.start_s is not None:
        values["log.start_s"] = Value(story.start_s, Trust.REPORTED, at(story.settings_line))
    for reading in _PLAIN:
        if reading in story.numbers:
            x, line = story.numbers[reading]
            values[reading] = Value(x, Trust.REPORTED, at(line))
    if "log.port_taken" in story.numbers:
        x, line = story.numbers["log.port_taken"]
        values["log.port_taken"] = Value(int(x), Trust.REPORTED, at(line))
    tokens = story.numbers.get("max_total_num_tokens") or story.numbers.get("pool_tokens")
    if tokens is not None:
        values["kv.capacity_tokens"] = Value(int(tokens[0]), Trust.REPORTED, at(tokens[1]))
        pool = story.numbers.get("kv.pool_gb")
        if pool is not None and pool[0] > 0.05 and tokens[0] > 0:
            cell = round(pool[0] * 1024**3 / tokens[0])
            values["kv.cell_bytes"] = Value(cell, Trust.ESTIMATED, at(pool[1]))
    fraction = story.settings.get("mem_fraction_static")
    if isinstance(fraction, (int, float)) and not isinstance(fraction, bool):
        values["server.mem_fraction_static"] = Value(float(fraction), Trust.REPORTED, at(story.settings_line))
    hits = story.ordered_hits
    lead = leading(hits)
    values["log.signatures"] = Value(in_order_of_weight(hits), source=name)
    cause = lead.signature.cause if lead is not None else ""
    values["log.cause"] = Value(cause or "none", source=name)
    if lead is not None:
        error = clean(redact_text(lead.text))[:ERROR_CHARS].replace("\n", " ")
        values["log.signature"] = Value(lead.signature.id, source=at(lead.number))
        values["log.failed_in"] = Value(lead.phase, source=at(lead.number))
        values["log.error"] = Value(error, Trust.REPORTED, at(lead.number))
    values.update(_load(story, view, now, name))
    return ProbeResult("log", Outcome.OK, values, _passed_over(view))


def _load(story: Story, view: LogView, now: float | None, name: str) -> dict[str, Value]:
    """Running, queued and retracted requests and pool usage: largest over the window of lines."""
    newest = story.last_stamp
    if now is not None and (newest is None or now - view.modified > RECENT_S):
        return {}  # nothing was written lately: old lines say nothing of now
    since = newest - RECENT_S if now is not None and newest is not None else None

    def recent(stamp: float | None) -> bool:
        return since is None or (stamp is not None and stamp >= since)

    batches = [b for b in story.batches if recent(b.stamp)]
    if not story.fired_up and story.settings:
        batches = []  # its own warm-up
    source = f"{name}, batch lines"
    values: dict[str, Value] = {}

    def largest(reading: str, numbers: Iterable[float | int | None]) -> None:
        known = [n for n in numbers if n is not None]
        if known:
            values[reading] = Value(max(known), Trust.REPORTED, source)

    largest("requests.running", (b.running for b in batches))
    largest("requests.queued", (b.queued for b in _settled(batches)))
    waiting = [b for b in _settled(batches) if b.queued]
    # a pool that filled up long after the last one waited is well used, not too small
    largest("kv.usage", (b.usage for b in waiting or batches))
    graphs = [b.graph for b in batches if b.graph is not None and b.decode]
    if graphs:
        share = sum(graphs) / len(graphs)
        values["decode.cuda_graph_share"] = Value(round(share, 3), Trust.REPORTED, source)
    if batches or story.retracted:
        retracted = sum(count for stamp, count in story.retractions if recent(stamp))
        values["requests.retracted"] = Value(retracted, Trust.REPORTED, f"{name}, lines about retraction")
        values["requests.retracted_total"] = Value(story.retracted, Trust.REPORTED, f"{name}, since its start")
    stamps = [b.stamp for b in batches if b.stamp is not None]
    if stamps:
        values["log.window_s"] = Value(max(stamps) - min(stamps), source=source)
    return values


def _settled(batches: list[Batch]) -> list[Batch]:
    """Decode lines where there are any: a prefill line counts what it is about to admit as waiting."""
    decode = [b for b in batches if b.decode and b.queued is not None]
    return decode or batches


def _passed_over(view: LogView) -> str | None:
    if view.unsearched:
        return f"{view.unsearched / 1e6:.0f} MB in the middle of the log were not searched: out of time"
    if view.passed_over > 1e6:
        return f"{view.passed_over / 1e6:.0f} MB in the middle of the log were passed over"
    if view.carriage.muted:
        names = sorted(view.carriage.muted)
        return f"lines of {', '.join(names[:5])}{' ...' * (len(names) > 5)} are not SGLang's and were left out"
    return None


class LogProbe:
    """The log of the target: tail of a live one, all of a saved one."""

    spec = ProbeSpec("log", "Log", timeout_s=30.0, cost="reads the log file")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx)


def examine(ctx: ProbeContext) -> ProbeResult:
    """Raises NoData or Unavailable in one clear line."""
    target = ctx.target
    path = log_path_of(target)
    if path is None:
        if target.remote and target.local:
            raise NoData("no process was found at this address, and so no log", "give --log FILE")
        if target.remote:
            raise NoData(
                "the server runs on another machine, and so its log", "copy it here and give --log FILE"
            )
        raise NoData(
            "the server's output goes to no file that can be read",
            "start it with its output in a file, or give --log FILE",
        )
    live = target.identity is not None and is_alive(target.identity)
    try:
        view = read_live(path, ctx.signatures) if live else read_saved(path, ctx.signatures)
    except FileNotFoundError:
        raise Unavailable(f"the log {path} is not there", "give --log FILE") from None
    except PermissionError:
        raise Unavailable(f"the log {path} may not be read", "run as its owner, or give --log FILE") from None
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(f"the log {path} cannot be read: {why}", "give --log FILE") from None
    if view.size == 0:
        raise NoData(f"the log {path} is empty")
    if view.carriage.vllm:
        raise NoData(
            f"{os.path.basename(path)} is a log of vLLM, not of SGLang: nothing in it was judged",
            "give the log of the SGLang server",
        )
    result = readings_of(view, path, ctx.now() if live else None)
    ids, quotes = search(ctx.clues, "log", view.story.digest)
    source = os.path.basename(path)
    found = {
        "log.clues": Value(ids, source=source),
        "log.quotes": Value(tuple(clean(redact_text(q)) for q in quotes), source=source),
    }
    return replace(result, values={**result.values, **found})
