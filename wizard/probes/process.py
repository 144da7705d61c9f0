"""The target's process tree: alive, by identity; age, memory, CPU and stopped children.

Everything comes from /proc through psutil. A pid alone proves nothing (it may have been given to another
process): the start time and the boot must match too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from wizard.core.reading import Outcome, ProbeResult, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, in_thread
from wizard.server import proc
from wizard.server.identity import identify
from wizard.server.identity import is_alive as is_alive

if TYPE_CHECKING:
    import psutil

GIB = 1 << 30
CPU_SAMPLE_S = 0.2

_STATES = {"R": "running", "S": "sleeping", "D": "sleeping", "I": "sleeping", "T": "stopped", "t": "stopped"}


def is_running(pid: int, start_ticks: int) -> bool:
    """That very process is there and not a zombie."""
    found = identify(pid)
    return found is not None and found.start_ticks == start_ticks


def tree(target: Target) -> list[psutil.Process]:
    """The target's parent process and all below it, parent first; empty when it is not running."""
    import psutil

    if target.identity is None or not is_alive(target.identity):
        return []
    try:
        parent = psutil.Process(target.identity.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def tree_pids(target: Target) -> set[int]:
    return {process.pid for process in tree(target)}


def command_of(pid: int) -> str:
    """The command line of a process as words, redacted; its short name where the line is empty or closed."""
    from wizard.core.redact import redact_argv

    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        raw = b""
    argv = [word for word in raw.decode(errors="replace").split("\0") if word]
    if argv:
        return " ".join(" ".join(redact_argv(argv)).split())  # one line: a program given with -c has many
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _short_name(process: psutil.Process) -> str:
    """``sglang::scheduler (pid 4711)``: what the process calls itself (setproctitle), in its first word."""
    words = command_of(process.pid).split()
    return f"{words[0][:60] if words else 'process'} (pid {process.pid})"


def _cpu_seconds(processes: list[psutil.Process]) -> dict[int, float]:
    import psutil

    spent = {}
    for process in processes:
        try:
            times = process.cpu_times()
            spent[process.pid] = times.user + times.system
        except psutil.Error:
            continue
    return spent


def _by_role(
    family: list[psutil.Process], before: dict[int, float], after: dict[int, float], window_s: float
) -> dict[str, float]:
    """Per cent of a core of the parent, and of the busiest child that calls itself detokenizer or scheduler."""
    busiest: dict[str, float] = {}
    for index, process in enumerate(family):
        if process.pid not in after:
            continue
        title = "tokenizer" if index == 0 else command_of(process.pid)[:80]
        role = next((r for r in ("detokenizer", "scheduler", "tokenizer") if r in title), None)
        if role is not None:
            spent = max(0.0, after[process.pid] - before.get(process.pid, after[process.pid]))
            name = f"process.{role}_percent"
            busiest[name] = max(busiest.get(name, 0.0), round(100 * spent / window_s, 1))
    return busiest


def examine(target: Target) -> ProbeResult:
    """Readings of the target's tree. Raises NoData when the target is no process of this machine."""
    import psutil

    if target.identity is None:
        if target.remote and target.local:
            raise NoData("no process that can be seen here answers at this address")
        if target.remote:
            raise NoData("the server runs on another machine, and so its processes")
        if target.launch is None:
            raise NoData("the target is a saved log: there is no process to look at")
        return ProbeResult(
            "process",
            Outcome.OK,
            {"process.alive": Value(False, source="no process")},
            "the server is not running",
        )
    pid, source = target.identity.pid, f"/proc/{target.identity.pid}"
    values = {"process.pid": Value(pid, source=source), "process.alive": Value(False, source=source)}
    family = tree(target)
    if not family:
        letter, ticks = proc.state(pid), proc.start_ticks(pid)
        if not letter:
            reason = f"process {pid} is gone"
        elif ticks != target.identity.start_ticks:
            reason = f"process {pid} is gone; the pid belongs to another process now"
        else:
            reason = f"process {pid} has ended and waits for its parent to notice (zombie)"
            values["process.state"] = Value("zombie", source=source)
        return ProbeResult("process", Outcome.OK, values, reason)

    values["process.alive"] = Value(True, source=source)
    before, sampled = _cpu_seconds(family), time.monotonic()
    rss_bytes, stopped, unreadable = 0, 0, 0
    names: list[str] = []
    for process in family:
        try:
            rss_bytes += process.memory_info().rss
        except psutil.Error:
            unreadable += 1
        if process.pid != pid and _STATES.get(proc.state(process.pid)) == "stopped":
            stopped += 1
            names.append(_short_name(process))
    letter, up_s = proc.state(pid), proc.uptime_s(pid)
    if letter and up_s is not None:
        values["process.state"] = Value(_STATES.get(letter, "sleeping"), source=f"{source}/stat")
        values["process.uptime_s"] = Value(round(up_s, 1), source=f"{source}/stat")
    values["process.rss_gb"] = Value(round(rss_bytes / GIB, 3), source=f"{source} and below")
    values["process.children"] = Value(len(family) - 1, source=source)
    values["process.stopped_children"] = Value(stopped, source=source)
    values["process.stopped_names"] = Value(tuple(names), source=source)
    try:
        values["process.user"] = Value(family[0].username(), source=source)
    except psutil.Error:
        pass  # it ended under our hands: the rest still tells what was
    time.sleep(max(0.0, CPU_SAMPLE_S - (time.monotonic() - sampled)))
    after, window_s = _cpu_seconds(family), time.monotonic() - sampled
    if after:
        busy_s = sum(max(0.0, spent - before.get(p, spent)) for p, spent in after.items())
        values["process.cpu_percent"] = Value(round(100 * busy_s / window_s, 1), source=f"{source} and below")
        for reading, x in _by_role(family, before, after, window_s).items():
            values[reading] = Value(x, source=f"{source} and below")
    return ProbeResult(
        "process", Outcome.OK, values, f"{unreadable} of its processes ended meanwhile" if unreadable else None
    )


class ProcessProbe:
    """Is the target's own process there, and in what state."""

    spec = ProbeSpec("process", "Process tree", timeout_s=2.0, cost="reads /proc, 0.2 s CPU sample")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx.target)


PROBE = ProcessProbe()
