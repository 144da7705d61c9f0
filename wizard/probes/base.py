"""What a probe is, and the engine that runs them: all at once, each with its own time-out.

A probe returns readings or raises; the engine turns whatever happens into one of five outcomes. Slow
or hung work of one probe delays nobody else, and never the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Protocol, TypeVar

from wizard.core.clue import Clue
from wizard.core.commandrules import RuleBook
from wizard.core.logtext import Signature
from wizard.core.reading import Outcome, ProbeResult, Snapshot
from wizard.core.target import Target
from wizard.core.vocabulary import PROBES

T = TypeVar("T")


@dataclass(frozen=True)
class ProbeSpec:
    """``cost`` says in words what running it does to the server; all of these are passive."""

    id: str
    title: str
    timeout_s: float
    cost: str = "passive"


@dataclass(frozen=True)
class ProbeContext:
    """What a probe may look at. ``now`` gives Unix seconds."""

    target: Target
    window_s: float = 2.0
    signatures: tuple[Signature, ...] = ()
    clues: tuple[Clue, ...] = ()
    rules: RuleBook | None = None
    now: Callable[[], float] = time.time
    previous: Snapshot = field(default_factory=Snapshot)


class Probe(Protocol):
    spec: ProbeSpec

    async def read(self, ctx: ProbeContext) -> ProbeResult: ...


class _Short(Exception):
    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class NoData(_Short):
    """There is nothing to read here (no server, no file): an answer, not a fault."""


class Unavailable(_Short):
    """It cannot be read here; ``remedy`` says how to enable it."""


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """Run blocking work on a daemon thread of its own.

    The default executor's threads are joined at exit, so one hung NVML call would hang the exit.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result, error = None, None
        try:
            result = work(*args)
        except BaseException as caught:  # handed to the loop, which owns it
            error = caught
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:
            return  # the loop is gone: nobody waits any more

    threading.Thread(target=body, daemon=True, name=f"probe-{getattr(work, '__name__', 'work')}").start()
    return await future


def get_probe(name: str) -> Probe:
    """The probe of that id; its module is imported now, not before. Raises KeyError."""
    if name not in PROBES:
        raise KeyError(name)
    module = import_module(f"wizard.probes.{name}")
    probe: Probe = getattr(module, f"{name.capitalize()}Probe")()
    return probe


async def run_probe(name: str, ctx: ProbeContext) -> ProbeResult:
    """One probe to one of five outcomes. Never raises."""
    from wizard.core.redact import clean, redact_text

    started = time.monotonic()

    def short(outcome: Outcome, reason: str, remedy: str | None = None) -> ProbeResult:
        return ProbeResult(name, outcome, {}, clean(redact_text(reason)), remedy)

    try:
        probe = get_probe(name)
        limit = probe.spec.timeout_s + (ctx.window_s if name == "metrics" else 0.0)
        result = await asyncio.wait_for(_awaited(probe.read(ctx)), limit)
    except NoData as error:
        result = short(Outcome.NO_DATA, error.reason, error.remedy)
    except Unavailable as error:
        result = short(Outcome.UNAVAILABLE, error.reason, error.remedy)
    except asyncio.TimeoutError:
        result = short(Outcome.TIMED_OUT, f"no answer within {limit:g} s")
    except Exception as error:  # the engine's promise: no probe crashes another, or the wizard
        text = str(error).split("\n")[0]
        result = short(Outcome.FAILED, f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return replace(result, elapsed_s=time.monotonic() - started, at=ctx.now())


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def sweep(
    probes: Iterable[str] | None,
    ctx: ProbeContext,
    on_result: Callable[[ProbeResult], None] | None = None,
) -> Snapshot:
    """Run probes (all when None) at once; results go to ``on_result`` as they come.

    Returns ``ctx.previous`` with the new results laid over it.
    """
    snapshot = ctx.previous
    tasks = [asyncio.ensure_future(run_probe(name, ctx)) for name in (probes or PROBES)]
    for done in asyncio.as_completed(tasks):
        result = await done
        snapshot = snapshot.with_result(result)
        if on_result is not None:
            on_result(result)
    return snapshot
