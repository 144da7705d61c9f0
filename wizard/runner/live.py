"""The real operations: thin calls into wizard.server, wizard.measure and the GPU probe, all imported late."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wizard.core.logscan import feed_line
from wizard.core.logstory import LogReader
from wizard.core.logtext import Signature, leading
from wizard.core.measurement import Measurement, Verdict, Workload
from wizard.core.plan import VerifyGoal
from wizard.core.story import Story
from wizard.core.target import Identity, Launch, Target
from wizard.runner import orphans, processes
from wizard.runner.command import api_key, clean_line
from wizard.runner.operations import PortOwner, Progress, Readiness, Released, Started, Stopped
from wizard.runner.state_dir import server_log_path
from wizard.server import proc
from wizard.server.identity import is_alive

if TYPE_CHECKING:
    from wizard.server.launch import Launched

HEALTH_LIMIT_S = 5.0
"""A healthy /health takes 1.0 s by design, a dead scheduler's answers 503 only after 20 s (recorded)."""

_ERROR_LINE = re.compile(
    r"^(?:[\w./ -]{1,80}: )?error: |^(?:\w+\.)*\w*(?:Error|Exception|Exit)\b\s*(?::|$)|\b(?:ERROR|CRITICAL)\b"
)
"""An error that no signature knows."""

NEEDED = (
    "httpx",
    "wizard.core.verdict",
    "wizard.flowfile.load",
    "wizard.probes.logfile",
    "wizard.probes.sglang",
    "wizard.measure.client",
    "wizard.measure.passive",
    "wizard.probes.gpu",
    "wizard.server.launch",
    "wizard.server.ready",
    "wizard.server.release",
    "wizard.server.stop",
    "wizard.runner.baseline",
    "wizard.runner.command",
    "wizard.runner.held",
    "wizard.runner.judging",
    "wizard.runner.rollback",
)


def load_all() -> None:
    """Import all code that a transaction may need, before anything is touched.

    A package that is upgraded or removed during a relaunch must not break the way back. Raises ImportError.
    """
    for name in NEEDED:
        importlib.import_module(name)
    known_signatures()


@lru_cache(maxsize=1)
def known_signatures() -> tuple[Signature, ...]:
    """What lines of a log mean, from the flows that came with the wizard."""
    from wizard.flowfile.load import load_book
    from wizard.flowfile.resources import flows_dir

    return load_book(flows_dir(), proven=True).signatures


class LiveOperations:
    """Acts on this machine. ``journal``: the session's file, beside which a fallback server log lives."""

    by_hand = False

    def __init__(self, journal: Path) -> None:
        self._fallback_log = str(server_log_path(journal))
        self._born: dict[Identity, Launched] = {}
        self._stopped: dict[Identity, tuple[Identity, ...]] = {}

    def keeps(self) -> str:
        return ""

    def alive(self, identity: Identity) -> bool:
        return is_alive(identity)

    def find_marked(self, mark: str) -> Identity | None:
        return processes.find_marked(mark)

    def end_orphans(self, root: Identity, mark: str) -> tuple[Identity, ...]:
        return tuple(orphans.end(orphans.orphans_of(root, mark)))

    def port_owner(self, host: str, port: int) -> PortOwner | None:
        return processes.port_owner(host, port)

    def rival(self, launch: Launch, since_s: float) -> PortOwner | None:
        return processes.rival(launch, since_s)

    def obstacle(self, old: Launch, new: Launch, identity: Identity | None) -> str:
        from wizard.server.again import obstacle

        why = obstacle(old, identity, self._fallback_log)
        return why or obstacle(new, None, self._fallback_log)

    async def healthy(self, target: Target, port: int, owner: Identity | None) -> bool:
        import httpx

        from wizard.server.ready import owns, status_of

        async def is_own() -> bool:
            if owner is None:
                return True
            mine = await asyncio.to_thread(owns, owner, target.host, port, target.inside_port)
            return mine is True and is_alive(owner)

        if not await is_own():
            return False
        try:
            # unverified, as readiness is: a self-signed server must not read as unhealthy
            async with httpx.AsyncClient(timeout=HEALTH_LIMIT_S, trust_env=False, verify=False) as client:
                status = await asyncio.wait_for(
                    status_of(client, f"{_base_url(target, port)}/health"), HEALTH_LIMIT_S
                )
            return status == 200 and await is_own()  # it may have changed hands meanwhile
        except (httpx.HTTPError, TimeoutError, asyncio.TimeoutError):
            return False

    async def stop(
        self, identity: Identity, *, drain_limit_s: float, escalate: bool, on_progress: Progress
    ) -> Stopped:
        from wizard.server.stop import stop_tree

        done = await stop_tree(
            identity,
            drain_limit_s=drain_limit_s,
            escalate=escalate,
            on_progress=on_progress,
            cancelled=lambda: False,  # a drain that has begun is ended; the old command then comes back
        )
        self._stopped[identity] = done.tree
        return Stopped(done.ok, done.detail, asked=done.how != "not_signalled")

    async def hold_still(self) -> None:
        """Nobody but the wizard starts a bare process again."""

    async def wait_released(
        self,
        identities: Sequence[Identity],
        target: Target,
        port: int,
        *,
        limit_s: float,
        on_progress: Progress,
    ) -> Released:
        from wizard.server.release import wait_released

        # The card's memory was held by the children: wait for the whole trees that were stopped.
        trees = [one for identity in identities for one in (identity, *self._stopped.get(identity, ()))]
        done = await wait_released(
            tuple(dict.fromkeys(trees)),
            target.host,
            port,
            card_memory=_card_memory(target),
            limit_s=limit_s,
            on_progress=on_progress,
        )
        return Released(done.ok, done.detail, done.holders)

    def log_end(self, launch: Launch) -> tuple[str | None, int]:
        path = launch.stderr_path or launch.log_path or self._fallback_log  # as wizard.server.launch follows it
        try:
            return path, os.stat(path).st_size
        except OSError:
            return path, 0

    async def launch(self, launch: Launch) -> Started:
        from wizard.server.launch import launch as start

        child = start(launch, fallback_log=self._fallback_log)
        self._born[child.identity] = child
        return Started(child.identity, child.log_path, child.log_offset, child.note)

    async def wait_ready(
        self, child: Started, target: Target, port: int, *, deadline_s: float, on_progress: Progress
    ) -> Readiness:
        from wizard.server.ready import wait_ready

        born = self._born.get(child.identity)
        done = await wait_ready(
            child.identity,
            target.host,
            port,
            log_path=child.log_path,
            log_offset=child.log_offset,
            deadline_s=deadline_s,
            on_progress=on_progress,
            poll=born.poll if born is not None else None,
            scheme=target.scheme,
            inside_port=target.inside_port,
        )
        code = born.poll() if born is not None else None  # only a parent learns it
        detail = done.detail if code is None else f"{done.detail}, exit code {code}"
        return Readiness(done.ok, detail, done.kind, dict(done.phase_times))

    async def settings(
        self, target: Target, port: int, launch: Launch, identity: Identity | None
    ) -> Mapping[str, Any]:
        from wizard.probes.sglang import info_of

        asked = replace(target, port=port, launch=launch, identity=identity or target.identity)
        return (await info_of(asked))[0]

    def environ(self, identity: Identity) -> Mapping[str, str]:
        found = proc.environ(identity.pid)
        return found if is_alive(identity) else {}

    def last_error(self, child: Started) -> str:
        if child.log_path is None:
            return ""
        from wizard.probes.logfile import read_saved

        size = os.stat(child.log_path).st_size
        start = child.log_offset if child.log_offset <= size else 0
        return cause_in(read_saved(child.log_path, known_signatures(), start=start).story)

    async def measure(
        self, target: Target, port: int, launch: Launch, workload: Workload, *, salt: str, on_progress: Progress
    ) -> Measurement:
        from wizard.measure.client import measure

        key = api_key(launch)
        return await measure(_base_url(target, port), workload, api_key=key, progress=on_progress, salt=salt)

    async def observe(
        self, target: Target, port: int, launch: Launch, *, windows: int, on_progress: Progress
    ) -> Measurement:
        from wizard.measure.passive import observe

        key = api_key(launch)
        return await observe(_base_url(target, port), windows=windows, api_key=key, progress=on_progress)

    def compare(self, before: Measurement, after: Measurement, goal: VerifyGoal) -> Verdict:
        from wizard.core.verdict import compare

        return compare(before, after, goal)


def cause_in(story: Story) -> str:
    """The line that names the failure: the earliest that is no victim, else the last error; or ""."""
    lead = leading(story.ordered_hits)
    if lead is not None:
        return clean_line(lead.text).strip()[:300]
    found = [line for line in story.digest.splitlines() if _ERROR_LINE.search(line)]
    return clean_line(found[-1]).strip()[:300] if found else ""


def story_of(lines: Iterable[bytes]) -> Story:
    """Lines that stand in no file, read as a log."""
    reader = LogReader(known_signatures(), keeps_batches=False)
    for number, raw in enumerate(lines, 1):
        feed_line(reader, raw, number)
    return reader.story


def _base_url(target: Target, port: int) -> str:
    return replace(target, port=port).base_url


def _card_memory(target: Target) -> Callable[[], dict[int, int]] | None:
    try:
        from wizard.probes.gpu import card_memory_by_pid
    except ImportError:
        return None
    return lambda: card_memory_by_pid(target)
