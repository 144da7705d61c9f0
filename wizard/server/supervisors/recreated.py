"""Containers, services and pods: relaunched by a recipe through the client of the engine that holds them.

The recipe is made before anything is touched, and written down beside the session's journal with every act of
it, so that any later runner can go on or back from wherever the last one stopped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from wizard.core.held import Held
from wizard.core.redact import clean, redact_text
from wizard.core.target import Identity, Launch, Target
from wizard.server import proc
from wizard.server.configfile import launch_secrets
from wizard.server.identity import identify, is_alive
from wizard.server.supervisors import clients, compose, docker, engines, execute, kubernetes, podman
from wizard.server.supervisors.book import Book
from wizard.server.supervisors.contract import Say, Steps, StillStops, SupervisorError, Wish
from wizard.server.supervisors.recipe import CannotRecreate, Change, Found, Recipe, Step
from wizard.server.supervisors.shown import to_type
from wizard.server.supervisors.words import says_the_same

T = TypeVar("T")

START_LIMIT_S = 60.0
"""Until the server's process is there, not until it serves. An entrypoint may do things before it."""
POLL_S = 0.2
GONE_S = 20.0
"""CUDA processes take seconds to go after their container was stopped."""
FORWARDERS = frozenset({"docker-proxy", "conmon", "rootlessport", "rootlesskit", "slirp4netns", "pasta"})
"""Processes that hold a published port on the host in the place of what is in the container."""

_RECIPES: Mapping[str, Callable[[Found, Change], Recipe]] = {
    "docker": docker.recipe,
    "podman": podman.recipe,
    "compose": compose.recipe,
    "kubernetes": kubernetes.recipe,
}


def find(details: Mapping[str, str]) -> Found:
    """What the engine says of the container that ``details`` (``Held.details``) name. Only asks."""
    if details["engine"] == "kubernetes":
        return kubernetes.find(details.get("pod", ""), details["id"], details.get("hostname", ""))
    engine: Literal["docker", "podman"] = "podman" if details["engine"] == "podman" else "docker"
    return engines.find(engine, details["id"])


def recipe_of(found: Found, change: Change) -> Recipe:
    """How the engine makes the change. Touches nothing. Raises CannotRecreate where something would be lost."""
    if found.obstacles:
        raise CannotRecreate(*found.obstacles)
    return _RECIPES[found.kind](found, change)


class Recreated:
    """``was``: the server before the change. ``wish``: what this session asks for. ``path``: where the recipe
    and its acts are written down; None where nothing will be done, only told."""

    by_hand = False
    why = ""

    def __init__(self, held: Held, was: Target, wish: Wish, path: Path | None) -> None:
        assert was.launch is not None
        self._held, self._was, self._wish, self._old = held, was, wish, was.launch
        self._book = Book(path) if path is not None else None
        self._recipe: Recipe | None = None

    @property
    def recipe(self) -> Recipe:
        """Raises CannotRecreate."""
        if self._recipe is None:
            self._recipe = (self._book.recipe() if self._book is not None else None) or self._made(60.0)
        return self._recipe

    @property
    def is_one_step(self) -> bool:
        """One act of the holder ends the old server and starts the new one."""
        return self.recipe.is_one_step

    def _made(self, drain_limit_s: float) -> Recipe:
        wish = self._wish
        folder = str(self._book.path.parent) if self._book is not None else "/nonexistent"
        change = Change(
            self._old,
            wish.argv or self._old.argv,
            {n: x for n, x in (wish.environ or {}).items()},
            folder,
            self._was.version,
            drain_limit_s,
        )
        return recipe_of(find(self._held.details), change)

    def steps(self, old: Launch, wish: Wish) -> Steps:
        known = launch_secrets(old)
        shown = [
            tuple(redact_text(clean(line), known) for line in to_type(acts))
            for acts in (self.recipe.steps, self.recipe.undo_after(self._begun() or self._all()))
        ]
        return Steps(*shown)

    def _begun(self) -> list[str]:
        return self._book.begun() if self._book is not None else []

    def _all(self) -> list[str]:
        return [one.name for one in self.recipe.steps]

    # -- acts

    async def stop(self, identity: Identity, *, drain_limit_s: float, escalate: bool, say: Say) -> str:
        if identity != self._was.identity:
            await self._back(say)
            return f"{self._held.name} was ended, and the change to it taken back"
        began = time.monotonic()
        recipe = await asyncio.to_thread(self._begin, drain_limit_s)
        if recipe.is_one_step and not escalate:
            raise SupervisorError(
                f"{self._held.name} is killed by its holder after the drain limit, which was not agreed to"
            )
        before, stop, _ = recipe.parts()
        await self._do(before, say, "preparing")
        if not escalate:
            await self._ask_to_end(recipe, identity, drain_limit_s, say)
        await self._do(stop, say, "running requests may end")
        await self._do(recipe.wait if recipe.is_one_step else (), say, "waiting for its holder")
        # a rollout is over when the new one is ready: the old one may still answer what it began
        await self._until_gone(identity, GONE_S + (drain_limit_s if recipe.is_one_step else 0.0))
        took = time.monotonic() - began
        how = "was replaced" if recipe.is_one_step else "is stopped, and kept"
        return f"{self._held.name} {how} after {took:.0f} s"

    def _begin(self, drain_limit_s: float) -> Recipe:
        book = self._on_disk()
        if not book.exists:
            try:
                self._recipe = self._made(drain_limit_s)
            except CannotRecreate as error:
                raise SupervisorError(str(error)) from None
            book.open(self._recipe)
        return self.recipe

    def _on_disk(self) -> Book:
        if self._book is None:
            raise SupervisorError("nothing can be done without a session")
        return self._book

    async def _ask_to_end(self, recipe: Recipe, identity: Identity, limit_s: float, say: Say) -> None:
        """Without consent to kill: the tool's own stop would kill, so the server is only asked first."""
        answer = await asyncio.to_thread(clients.ask, recipe.quiet_stop)
        if not answer.ok:
            raise SupervisorError(answer.said)
        began = time.monotonic()
        while is_alive(identity):
            waited = time.monotonic() - began
            if waited >= limit_s:
                raise StillStops(f"it still stops after {waited:.0f} s; it will end by itself")
            say(f"running requests may end: {waited:.0f} of {limit_s:g} s")
            await asyncio.sleep(POLL_S)

    async def _do(self, acts: Sequence[Step], say: Say, what: str) -> None:
        book = self._on_disk()
        todo = [one for one in acts if one.name not in book.begun()]
        done = await _told(lambda: execute.apply(todo, book), say, what)
        if not done.ok:
            raise SupervisorError(_plain(done.detail, self._old))

    async def _until_gone(self, identity: Identity, limit_s: float) -> None:
        began = time.monotonic()
        while is_alive(identity):
            if time.monotonic() - began >= limit_s:
                raise StillStops(f"process {identity.pid} still runs although its holder ended it")
            await asyncio.sleep(POLL_S)

    async def hold_still(self, old: Launch) -> None:
        await self._back(lambda _: None)

    async def _back(self, say: Say, restart: bool = False) -> None:
        book = self._on_disk()
        recipe, begun = book.recipe(), book.begun()
        if recipe is None or not begun:
            return
        done = await _told(
            lambda: execute.undo(recipe, begun, book.try_to, restart=restart), say, "taking the change back"
        )
        if not done.ok:
            raise SupervisorError(_plain(done.detail, self._old))

    async def start(self, wish: Wish) -> Identity:
        def say(_: str) -> None:
            """The transaction tells of a start what the server's log says."""

        if wish.is_old:
            await self._back(say, restart=True)
        else:
            await self._do(self.recipe.parts()[2], say, "starting it")
            await self._do(self.recipe.wait, say, "waiting for its holder")
        began = time.monotonic()
        while time.monotonic() - began < START_LIMIT_S:
            found = await asyncio.to_thread(self._server, Wish() if wish.is_old else self._wish)
            if found is not None:
                return found
            await asyncio.sleep(POLL_S)
        raise SupervisorError(
            f"{self._held.name} has no process of that command here after {START_LIMIT_S:g} s"
        )

    def keeps(self) -> str:
        recipe = self._book.recipe() if self._book is not None else None
        return recipe.keeps if recipe is not None else ""

    # -- what runs

    def changed(self) -> Identity | None:
        """The changed server, if its holder runs it now."""
        recipe = self._book.recipe() if self._book is not None else None
        return self._server(self._wish) if recipe is not None else None

    def owner_behind(self, pid: int) -> Identity | None:
        """The server behind a process of its holder: one that forwards a published port, or its own."""
        words = proc.cmdline(pid)
        try:
            main = execute.main_pid(self.recipe)
            if main is not None and main in (pid, *proc.ancestors(pid)):
                return self.changed() or self._server(Wish())
            if words and os.path.basename(words[0]) in FORWARDERS:
                return self.changed() or self._server(Wish())
        except CannotRecreate:
            pass
        return None

    def log_path(self) -> str | None:
        """Where the server's output goes now, if that is a file that can be read here."""
        return execute.log_path(self.recipe)

    def _server(self, wish: Wish) -> Identity | None:
        """The process that runs what is wished for: below the holder's main process where that is known, else
        the youngest on this host."""
        main = execute.main_pid(self.recipe)
        if self.recipe.main_pid:
            pids = [] if main is None else [main, *(one.pid for one in proc.descendants(main))]
        else:
            pids = list(proc.pids())
        found = [pid for pid in pids if self._runs(pid, wish)]
        tops = [identify(pid) for pid in found if not set(found).intersection(proc.ancestors(pid))]
        return max((one for one in tops if one is not None), key=lambda i: i.start_ticks, default=None)

    def _runs(self, pid: int, wish: Wish) -> bool:
        words, wanted = proc.cmdline(pid), wish.argv or self._old.argv
        if not words or (words != wanted and not says_the_same(words, wanted, self._was.version)):
            return False
        environ, mine = proc.environ(pid), (wish if not wish.is_old else self._wish).environ or {}
        expected = {n: self._old.environ.get(n) for n in mine} if wish.is_old else mine
        return all(environ.get(name) == value for name, value in expected.items())


async def _told(work: Callable[[], T], say: Say, what: str) -> T:
    """Runs beside the loop; says every second how long it takes."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    began = time.monotonic()
    while True:
        done, _ = await asyncio.wait({task}, timeout=1.0)
        if done:
            return task.result()
        say(f"{what}: {time.monotonic() - began:.0f} s")


def _plain(text: str, old: Launch) -> str:
    return redact_text(clean(text), launch_secrets(old))
