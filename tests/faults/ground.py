"""The ground of one run: a card, a state folder, a target, decoys beside it, and the commands a user types."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.faults import watch, world
from tests.faults.terminal import Terminal
from tests.faults.world import MARKER, Proc, Wanted
from tests.ports import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 200.0
"""Of one command; only a bound, the slowest honest one waits twice 60 s for memory that stays held."""
RESUMES = 4
"""So often a user tries again; a story that needs more is judged as it stands."""
ROLLBACK_SHARE = 0.3
"""So often the user of an unfinished change wants the old command back, whatever became of the new one."""

STATE_REMOVED = "the state folder was removed"
"""A note of a scene: no session can hold anything any more."""

Wrapper = Literal["exec", "group", "shell", "supervised"]
WRAPPERS: tuple[Wrapper, ...] = ("exec", "group", "shell")
SHORT_LOAD = (
    *("--windows", "4", "--window-s", "0.5", "--warmup-s", "0.3"),
    *("--clients", "16", "--input-tokens", "64", "--output-tokens", "32"),
)


class Late(AssertionError):
    """Something that the harness itself needs did not come: a defect of the harness or a dead machine."""


@dataclass(frozen=True)
class Change:
    """What is asked of ``sgl-wizard fix``. ``helps`` None: nothing is measured, being ready is the goal."""

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    words: tuple[str, ...]
    helps: bool | None = None

    @property
    def ends_new(self) -> bool:
        """Whether it is kept when nothing goes wrong."""
        return self.helps is not False


_CAP = ("--max-running-requests", "2")
PLAIN = Change("plain", _CAP, (), ("--unset", "max_running_requests", "--no-load-test"))
HELPS = Change("helps", _CAP, (), ("--unset", "max_running_requests", *SHORT_LOAD), helps=True)
HURTS = Change("hurts", (), _CAP, ("--set", "max_running_requests=2", *SHORT_LOAD), helps=False)
_FULL = ("--mem-fraction-static", "0.99")
BROKEN = Change("broken", (), _FULL, ("--set", "mem_fraction_static=0.99", "--no-load-test"), helps=False)


@dataclass(frozen=True)
class Ran:
    """A command that a user typed and what it said."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + "\n" + self.err

    @property
    def doc(self) -> Any:
        try:
            return json.loads(self.out)
        except ValueError:
            return {}


@dataclass
class Decoy:
    """A bystander that writes down its signals."""

    name: str
    process: subprocess.Popen[bytes]
    born: Proc
    signals: Path

    def harm(self) -> str:
        """What was done to it, or ""."""
        heard = self.signals.read_text(encoding="ascii").split("\n")[0] if self.signals.exists() else ""
        now = world.look(self.born.pid)
        if heard:
            return f"{self.name} got {heard}"
        if now is None or now.start != self.born.start:
            return f"{self.name} was killed"
        return f"{self.name} was stopped" if now.state == "T" else ""


@dataclass
class Scene:
    """One run. ``moment`` is drawn for its fault; ``fault_at`` is when it struck (monotonic seconds)."""

    folder: Path
    change: Change
    wrapper: Wrapper
    rng: random.Random
    moment: Any = None
    target_env: Mapping[str, str] = field(default_factory=dict)
    state: Path = field(init=False)
    port: int = field(init=False)
    marker: str = field(init=False)
    decoys: list[Decoy] = field(default_factory=list)
    own: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    face: subprocess.Popen[bytes] | None = None
    fault_at: float | None = None
    settled_at: float = 0.0
    supervisor: Proc | None = None
    mounts: list[Path] = field(default_factory=list)
    terminals: list[Terminal] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    silent: str = ""
    """What a user was not told when it mattered, or ""."""
    ready_limit_s: float = 12.0
    secret: str = ""
    """The target's API key, or "": nobody may ever see it."""

    def __post_init__(self) -> None:
        self.state, self.marker = self.folder / "state", f"{self.rng.getrandbits(64):016x}-{os.getpid()}"
        self.home = self.folder / "home of the server"
        self.home.mkdir(parents=True)
        self.port = free_port()

    # -- what is there before

    @property
    def old_argv(self) -> tuple[str, ...]:
        return self._argv(self.change.old)

    def _argv(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        plain = ("--model-path", "llama-3.1-8b", "--port", str(self.port), "--enable-metrics")
        plain += ("--api-key", self.secret) if self.secret else ()
        return (sys.executable, "-m", "wizard.simulator", *plain, *flags)

    @property
    def wanted(self) -> Wanted:
        log = str(self.home / "server.log")
        return Wanted(self.old_argv, self._argv(self.change.new), str(self.home), self.marker, log)

    def environ(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SGL", "FAULTS"))}
        return {**kept, "PYTHONPATH": str(ROOT), **more}

    def spawn(
        self, words: tuple[str, ...], log: Path, env: Mapping[str, str], **how: Any
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            process = subprocess.Popen(
                words, cwd=self.home, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, **how
            )
        self.own.append(process)
        return process

    def set_up(self) -> None:
        """Decoys first, then the target, ready to serve."""
        group = self.stand_decoys()
        env = self.environ(
            **{MARKER: self.marker, "SGLANG_SIM_CARD": str(self.folder / "card.json")},
            SGLANG_SIM_START_S="5",
            SGLANG_SIM_SPEED="5",
            **self.target_env,
        )
        log, words = Path(self.wanted.log), self.old_argv
        command = shlex.join(words)
        match self.wrapper:
            case "group":
                self.spawn(words, log, env, process_group=group.born.group)
            case "shell":
                heard = shlex.quote(str(self.folder / "shell.signals"))
                script = f"trap 'echo signalled >> {heard}' TERM HUP INT; {command}; exit 0"
                self.spawn(("bash", "-c", script), log, env, start_new_session=True)
            case "supervised":
                script = f"while true; do {command}; sleep 0.3; done"
                shell = self.spawn(("bash", "-c", script), log, env, start_new_session=True)
                self.supervisor = world.look(shell.pid)
            case _:
                self.spawn(words, log, env, start_new_session=True)
        self.wait(lambda: world.serving(self.port, self.wanted).healthy, "the target to serve")

    def stand_decoys(self) -> Decoy:
        """Three bystanders that could be mistaken for the target; the first leads a process group."""
        first = self._decoy("decoy with the port", ("sglang.launch_server", "--port", str(self.port)))
        self._decoy("decoy that looks like a server", ("--port", str(self.port)), fake=True)
        self._decoy("decoy named like its scheduler", ("sglang::scheduler", "python -m sglang.launch_server"))
        return first

    def _decoy(self, name: str, words: tuple[str, ...], fake: bool = False) -> Decoy:
        path = self.folder / f"signals-{len(self.decoys)}"
        env = self.environ(FAULTS_DECOY=str(path))
        if fake:
            env["PYTHONPATH"] = f"{HERE / 'fake'}:{ROOT}"
            argv: tuple[str, ...] = (sys.executable, "-m", "sglang.launch_server", *words)
        else:
            argv = (sys.executable, str(HERE / "decoy.py"), str(path), *words)
        process = self.spawn(argv, self.folder / "decoys.log", env, process_group=0)
        return self.adopt(name, process, path)

    def adopt(self, name: str, process: subprocess.Popen[bytes], path: Path) -> Decoy:
        """A process of ours that is a decoy from now on."""
        self.wait(lambda: path.with_name(f"{path.name}.standing").exists(), name)
        born = world.look(process.pid)
        if born is None:
            raise Late(f"{name} does not stand")
        self.decoys.append(Decoy(name, process, born, path))
        return self.decoys[-1]

    # -- the change and the user

    @property
    def journal(self) -> Path:
        return self.state / "session-1.db"

    def wizard_env(self, hook: str = "") -> dict[str, str]:
        env = self.environ(SGL_WIZARD_STATE_DIR=str(self.state))
        if hook:
            env |= {"PYTHONPATH": f"{ROOT}:{HERE / 'hook'}", "SGL_FAULTS_HOOK": hook}
        return env

    def start_fix(self, *more: str, hook: str = "", name: str = "fix") -> subprocess.Popen[bytes]:
        """``sgl-wizard fix`` as a user starts it from a terminal of their own."""
        words: tuple[str, ...] = (
            "fix",
            "--url",
            f"http://127.0.0.1:{self.port}",
            "--window",
            "0.2",
            "--yes",
            "--drain",
            "3",
        )
        words = (*words, "--ready-limit", f"{self.ready_limit_s:g}", *self.change.words, *more)
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "wizard", *words],
                cwd=self.folder,
                env=self.wizard_env(hook),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.own.append(process)
        if self.face is None:
            self.face = process
        return process

    def end_of(self, process: subprocess.Popen[bytes], name: str = "fix") -> Ran:
        """Wait for a ``fix``; what it said counts among what the user saw."""
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Late(f"{name} does not end") from None
        out, err = (
            (self.folder / f"{name}.{part}").read_text(encoding="utf-8", errors="replace")
            for part in ("out", "err")
        )
        self.ran.append(Ran((name,), code, out, err))
        return self.ran[-1]

    def user(self, *words: str, hook: str = "") -> Ran:
        """Any other ``sgl-wizard`` command, to its end."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "wizard", *words],
                cwd=self.folder,
                env=self.wizard_env(hook),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise Late(f"{' '.join(words)} does not end") from None
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        self.ran.append(Ran(words, done.returncode, out, err))
        return self.ran[-1]

    def sessions(self) -> list[dict[str, Any]]:
        """What ``sessions list`` says, oldest first."""
        doc = self.user("sessions", "list", "--json").doc
        return list(reversed(doc.get("sessions", []))) if isinstance(doc, dict) else []

    def settle(self) -> None:
        """What a user does until nothing is unfinished: wait for ``fix``, look, resume."""
        if self.face is not None:
            ran = self.end_of(self.face)
            ended = any(line.kind == "ended" for line in watch.lines(self.journal))
            if self.journal.exists() and not ended and ran.code >= 0 and "sessions resume" not in ran.said:
                self.silent = f"fix ended with exit {ran.code} and did not say that the change is unfinished"
        for _ in range(RESUMES):
            open_ones = [s for s in self.sessions() if s["outcome"] is None and not s["error"]]
            if not open_ones:
                break
            for session in open_ones:
                hook = self.hooks.pop(0) if self.hooks else ""
                verb = ("rollback", "--yes") if self.rng.random() < ROLLBACK_SHARE else ("resume",)
                self.user("sessions", verb[0], str(session["id"]), *verb[1:], hook=hook)
        self.settled_at = time.monotonic()

    # -- the fault

    def struck(self) -> None:
        """Now."""
        self.fault_at = time.monotonic()

    def no_more(self) -> bool:
        """Whether no more records are to be waited for: ``fix`` has ended."""
        return self.face is not None and self.face.poll() is not None

    def until(self, name: str, path: Path | None = None) -> watch.Line:
        return watch.until(path or self.journal, name, self.no_more)

    def runner(self) -> Proc | None:
        """The runner of a session of ours, by its command line."""
        for one in world.everybody():
            words = world.argv(one.pid)
            if "wizard.runner" in words and any(w.startswith(str(self.state)) for w in words):
                return one
        return None

    def server(self, which: Literal["old", "new"]) -> Proc | None:
        """The root of a running target: the old one or what was relaunched with the new command."""
        words = self.old_argv if which == "old" else self.wanted.new
        found = [one for one in world.marked(self.marker) if world.argv(one.pid) == words]
        pids = {one.pid for one in found}
        return next((one for one in found if one.ppid not in pids), None)

    def servers(self) -> list[Proc]:
        """All processes of this run's servers, old and new, serving or not."""
        return [one for one in world.marked(self.marker) if "wizard.simulator" in world.argv(one.pid)]

    def kill(self, process: Proc | None, number: signal.Signals = signal.SIGKILL) -> None:
        """Only what belongs to this run. Raises NotReached when it is gone already."""
        if process is None or not world.same(process):
            raise watch.NotReached("its process is gone")
        os.kill(process.pid, number)

    def wait(self, done: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
        deadline = time.monotonic() + limit_s
        while True:
            found = done()
            if found:
                return found
            if time.monotonic() > deadline:
                raise Late(f"waited {limit_s:g} s for {what}")
            time.sleep(0.02)

    # -- afterwards

    def clear(self) -> None:
        """End everything of this run, by identity; unmount what was mounted."""
        for terminal in self.terminals:
            terminal.close()
        for process in self.own:
            if process.poll() is None:
                process.kill()
            process.wait()
        for _ in range(50):
            left = [*world.marked(self.marker), *filter(None, [self.runner()])]
            if not left:
                break
            for one in left:
                if world.same(one):
                    os.kill(one.pid, signal.SIGKILL)
            time.sleep(0.05)
        for mount in self.mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)
