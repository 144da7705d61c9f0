"""A systemd unit: the change is a drop-in with the new ExecStart, and the rollback removes it.

A plain ``systemctl stop`` sends SIGTERM to the whole control group (KillMode=control-group is the default,
systemd.kill(5)), which kills SGLang's scheduler first and cuts every stream (recordings/cpu). So a second
drop-in below /run, which no reboot survives, asks for KillMode=mixed while it is stopped: SIGTERM to the
server's own process, and SIGKILL to what is left once the drain limit has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from wizard.core.held import Held
from wizard.core.redact import HIDDEN, is_secret_variable, redact_argv
from wizard.core.target import MARK, Identity, Launch
from wizard.server import proc
from wizard.server.identity import identify, is_alive
from wizard.server.supervisors.contract import Plain, Say, Steps, StillStops, SupervisorError, Wish
from wizard.server.supervisors.tool import act
from wizard.server.supervisors.units import client, show

NAME = "zz-sgl-wizard.conf"
STOP_NAME = "zz-sgl-wizard-stop.conf"
POLL_S = 0.2
START_LIMIT_S = 30.0
"""Until the unit has a process; not until that serves."""
STOP_SLACK_S = 20.0
"""After the drain limit systemd kills by itself; CUDA processes take seconds to go."""
QUIET_STOP_S = 10.0

_PLAIN = re.compile(r"[\w@%+=:,./-]+\Z", re.ASCII)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b"}


# -- words as a unit file has them


def quote(word: str) -> str:
    """One word of an ``ExecStart=`` line, systemd.service(5): %, $ doubled, C escapes inside double quotes."""
    doubled = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.match(doubled) and "$" not in doubled:
        return doubled
    return '"' + _escaped(doubled) + '"'


def assignment(name: str, value: str) -> str:
    """One quoted ``NAME=value`` of an ``Environment=`` line; "$" has no meaning there (systemd.exec(5))."""
    return '"' + _escaped(f"{name}={value}".replace("%", "%%")) + '"'


def _escaped(text: str) -> str:
    out = []
    for char in text:
        known = _ESCAPES.get(char)
        out.append(known if known else f"\\x{ord(char):02x}" if ord(char) < 32 or ord(char) == 127 else char)
    return "".join(out)


def drop_in(program: str, wish: Wish, prefix: str = "") -> str:
    """The text of the drop-in. ``program``: the path that the unit runs; argv[0] stays what it was. ``prefix``:
    "-" where the unit's own line has it: an end with an error is none."""
    assert wish.argv is not None
    first = quote(program) if wish.argv[0] == program else f"@{quote(program)} {quote(wish.argv[0])}"
    lines = [
        "# Written by sgl-wizard. To take the change back: remove this file, systemctl daemon-reload, restart.",
        "[Service]",
        "ExecStart=",
        f"ExecStart={prefix}" + " ".join([first, *map(quote, wish.argv[1:])]),
    ]
    for name, value in sorted((wish.environ or {}).items()):
        lines.append(
            f"Environment={assignment(name, value)}" if value is not None else f"UnsetEnvironment={name}"
        )
    return "\n".join(lines) + "\n"


def _shown(environ: Mapping[str, str | None] | None) -> dict[str, str | None]:
    return {k: HIDDEN if v is not None and is_secret_variable(k) else v for k, v in (environ or {}).items()}


class Systemd(Plain):
    """Stops and starts one unit. ``held``: managed, of this kind. ``old``: as the server ran before the change;
    a drop-in that carries its mark is an earlier session's, kept, and part of the old command.
    """

    def __init__(self, held: Held, old: Launch | None = None) -> None:
        self._old = old
        self.unit = held.name
        self.program, self._prefix = held.details["program"], held.details.get("prefix", "")
        self.change = Path(held.details["folder"]) / f"{self.unit}.d" / NAME
        self.before = self.change.with_suffix(".before")  # systemd reads *.conf only
        self.stopping = Path(held.details["run_folder"]) / f"{self.unit}.d" / STOP_NAME
        self._client = client()

    def steps(self, old: Launch, wish: Wish) -> Steps:
        shown = Wish(tuple(redact_argv(wish.argv or old.argv)), _shown(wish.environ))
        text = drop_in(self.program, shown, self._prefix).splitlines()[1:]
        restart = (f"systemctl restart {self.unit}",)
        return Steps(
            (f"# {self.change}:", *text, "systemctl daemon-reload", *restart),
            (*self._back(wish), "systemctl daemon-reload", *restart),
        )

    def _back(self, wish: Wish) -> tuple[str, ...]:
        """What a person types to undo the drop-in; ``wish`` old: once the change was begun."""
        if self._is_olds(_read(self.change)):
            return () if wish.is_old else (f"mv {self.before} {self.change}",)
        if wish.is_old and self.before.exists():
            return (f"mv {self.before} {self.change}",)
        return (f"rm {self.change}",)

    def _is_olds(self, text: str | None) -> bool:
        mark = self._old.environ.get(MARK, "") if self._old is not None else ""
        return bool(mark and text and mark in text)

    async def stop(self, identity: Identity, *, drain_limit_s: float, escalate: bool, say: Say) -> str:
        began = time.monotonic()
        limit = f"{max(1, round(drain_limit_s))}s" if escalate else "infinity"
        await self._write(self.stopping, f"[Service]\nKillMode=mixed\nTimeoutStopSec={limit}\n")
        try:
            await act([*self._client, "stop", "--no-block", self.unit])
            last = drain_limit_s + (STOP_SLACK_S if escalate else 0.0)
            while is_alive(identity):
                waited = time.monotonic() - began
                if waited >= last:
                    raise StillStops(f"{self.unit} still stops after {waited:.0f} s; it will end by itself")
                say(f"running requests may end: {waited:.0f} of {drain_limit_s:g} s")
                await asyncio.sleep(POLL_S)
            await self._until_inactive(STOP_SLACK_S)
        finally:
            await self._remove(self.stopping)
        took = time.monotonic() - began
        how = "it ended by itself" if took <= drain_limit_s else "systemd killed it"
        return f"{how} after {took:.0f} s ({self.unit} is stopped)"

    async def hold_still(self, old: Launch) -> None:
        await self._remove(self.stopping)  # of a runner that died in a stop
        if not await self._take_back():
            return
        if await self._state() in ("inactive", "failed"):
            return
        found = await asyncio.to_thread(show, self._client, self.unit)
        if proc.cmdline(int(found.get("MainPID", "0"))) == old.argv:
            return
        await self._write(self.stopping, f"[Service]\nKillMode=mixed\nTimeoutStopSec={QUIET_STOP_S:g}s\n")
        try:
            await act([*self._client, "stop", self.unit], QUIET_STOP_S + STOP_SLACK_S)
        finally:
            await self._remove(self.stopping)

    async def start(self, wish: Wish) -> Identity:
        await self._remove(self.stopping)
        if wish.is_old:
            await self._take_back()
        else:
            kept = _variables(self._remember() or "", (wish.environ or {}).keys())
            await self._write(self.change, drop_in(self.program, wish, self._prefix) + kept)
        with contextlib.suppress(SupervisorError):
            await act([*self._client, "reset-failed", self.unit])  # or its start limit would refuse
        await act([*self._client, "start", "--no-block", self.unit])
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(show, self._client, self.unit)
            pid = found.get("MainPID", "0")
            identity = identify(int(pid)) if pid.isdigit() and pid != "0" else None
            if identity is not None and is_alive(identity) and self._runs(identity.pid, wish):
                return identity
            if await self._state() == "failed":
                raise SupervisorError(f"{self.unit} failed at once: journalctl -u {self.unit} says why")
            await asyncio.sleep(POLL_S)
        raise SupervisorError(f"{self.unit} has no process of that command after {START_LIMIT_S:g} s")

    def keeps(self) -> str:
        return f"{self.change} stays: take it over into the unit's own file, or leave it there"

    def _remember(self) -> str | None:
        """An earlier session's drop-in is put aside, to come back with the old command; returns its text."""
        earlier = _read(self.change)
        if earlier is None:
            _removed(self.before)
        else:
            _write_whole(self.before, earlier)
        return earlier

    async def _take_back(self) -> bool:
        """Whether there was a drop-in of this change; what stood in its place stands there again."""
        now = await asyncio.to_thread(_read, self.change)
        if now is None or self._is_olds(now):
            self.change.with_suffix(".new").unlink(missing_ok=True)  # of a runner that died before it was whole
            with contextlib.suppress(OSError):
                self.change.parent.rmdir()  # only where it is empty
            return False
        earlier = await asyncio.to_thread(_read, self.before)
        if earlier is None:
            await self._remove(self.change)
        else:
            await self._write(self.change, earlier)
            _removed(self.before)
        return True

    def _runs(self, pid: int, wish: Wish) -> bool:
        """Between fork and exec a unit's process is still systemd's own executor."""
        argv = proc.cmdline(pid)
        wanted = wish.argv if wish.argv is not None else self._old.argv if self._old is not None else None
        if wanted is None:
            return bool(argv) and "systemd" not in os.path.basename(argv[0])
        return tuple(argv) == tuple(wanted)

    async def _until_inactive(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while await self._state() not in ("inactive", "failed"):
            if time.monotonic() > deadline:
                raise SupervisorError(f"{self.unit} is not stopped although its process ended")
            await asyncio.sleep(POLL_S)

    async def _state(self) -> str:
        return (await act([*self._client, "show", self.unit, "-p", "ActiveState", "--value"])).strip()

    async def _write(self, path: Path, text: str) -> None:
        _write_whole(path, text)
        await act([*self._client, "daemon-reload"])

    async def _remove(self, path: Path) -> None:
        if _removed(path):
            await act([*self._client, "daemon-reload"])


def _write_whole(path: Path, text: str) -> None:
    """0600: the command may hold a key. Whole or not at all. Raises SupervisorError."""
    fresh = path.with_suffix(".new")  # systemd reads *.conf only
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh.touch(mode=0o600)
        fresh.chmod(0o600)
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise SupervisorError(f"{path} cannot be written: {error.strerror}") from None


def _removed(path: Path) -> bool:
    """Whether there was something to remove. Raises SupervisorError."""
    found = path.exists()
    try:
        for one in (path, path.with_suffix(".new")):  # a runner may have died before it renamed the latter
            one.unlink(missing_ok=True)
    except OSError as error:
        raise SupervisorError(f"{path} cannot be removed: {error.strerror}") from None
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # only where it is empty, that is where it was ours
    return found


def _variables(text: str, but: Collection[str]) -> str:
    """The lines of a drop-in that set or unset variables, except those of the names ``but``."""
    lines = [line for line in text.splitlines() if line.startswith(("Environment=", "UnsetEnvironment="))]
    names = [line.partition("=")[2].removeprefix('"').partition("=")[0] for line in lines]
    return "".join(f"{line}\n" for line, name in zip(lines, names, strict=True) if name not in but)


def _read(path: Path) -> str | None:
    """None where there is none. Raises SupervisorError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SupervisorError(f"{path} cannot be read: {error}") from None
