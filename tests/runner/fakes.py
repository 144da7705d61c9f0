"""A world in memory for the transaction: servers that can be made to fail at any act."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wizard.core.measurement import Judgement, Measurement, Verdict, Window, Workload
from wizard.core.plan import Consent, FlagChange, Order, Plan, VerifyGoal
from wizard.core.target import Identity, Launch, Target
from wizard.runner.journal import Journal
from wizard.runner.operations import MARK, PortOwner, Progress, Readiness, Released, Started, Stopped

OLD = (
    "python",
    "-m",
    "sglang.launch_server",
    "--port",
    "4000",
    "--max-running-requests",
    "8",
    "--api-key",
    "s3cret",
)
NEW = ("python", "-m", "sglang.launch_server", "--port", "4000", "--api-key", "s3cret")
CAP_16 = (*OLD[:6], "16", *OLD[7:])
OLD_ID = Identity(100, 1000, "boot")


def a_launch() -> Launch:
    return Launch(
        OLD,
        "/srv",
        {"HF_TOKEN": "hf_very", "SGLANG_X": "1"},
        "/srv/server.log",
        uid=os.geteuid(),
        gid=os.getegid(),
    )


def a_target(up: bool = True, port: int = 4000) -> Target:
    return Target(port=port, identity=OLD_ID if up else None, launch=a_launch(), name="fake")


def an_order(
    *,
    goal: str = "throughput.output",
    new: tuple[str, ...] = NEW,
    environ: dict[str, str | None] | None = None,
    **consent: object,
) -> Order:
    plan = Plan(
        "long_queue", "Requests wait", "lift_cap", "Lift the cap", OLD, new,
        (FlagChange("--max-running-requests", "8", "16" if "16" in new else None, "the pool holds more"),),
        VerifyGoal(goal), environ=environ or {},
    )  # fmt: skip
    terms = {"load_test": True, "drain_limit_s": 5.0, **consent}
    return Order(plan, Consent(**terms), Workload(4, 16, 16, windows=2, window_s=1.0))  # type: ignore[arg-type]


def a_measurement(tok_s: float) -> Measurement:
    window = Window(1.0, 10, {"throughput.output": tok_s})
    return Measurement(None, (window, window), {"throughput.output": tok_s})


class RunnerKilled(BaseException):
    """Stands for SIGKILL: nothing of the runner runs after it."""


@dataclass
class Proc:
    argv: tuple[str, ...]
    environ: dict[str, str]
    identity: Identity
    port: int
    alive: bool = True
    ready: bool = False


@dataclass
class FakeWorld:
    """Processes and what goes wrong. ``fail`` maps an act to how it fails:

    "measure:1", "stop:old", "stop:new", "release:2", "launch:new", "ready:new", "ready:old:1" ...
    """

    fail: dict[str, object] = field(default_factory=dict)
    verdicts: list[Judgement] = field(default_factory=lambda: [Judgement.FIXED])
    foreign: PortOwner | None = None
    procs: dict[int, Proc] = field(default_factory=dict)
    signalled: list[Identity] = field(default_factory=list)
    launched: list[Launch] = field(default_factory=list)
    sent_load: int = 0
    salts: list[str] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    next_pid: int = 200
    drains_for: int = 0
    """After a refused stop: so many looks until the old one is gone; it answers no health check meanwhile."""

    def with_old(self) -> FakeWorld:
        self.procs[100] = Proc(OLD, dict(a_launch().environ), OLD_ID, 4000, ready=True)
        return self

    # -- helpers

    def serving(self) -> str:
        ready = [p for p in self.procs.values() if p.alive and p.ready]
        assert len(ready) <= 1, "two servers at once"
        return "none" if not ready else "old" if ready[0].argv == OLD else "new"

    def _hit(self, *names: str) -> object:
        """Count an act; the fault for "name", or for "name:N" at its Nth time."""
        found: object = None
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1
            found = found or self.fail.get(name) or self.fail.get(f"{name}:{self.counts[name]}")
        if isinstance(found, BaseException):
            raise found
        return found

    def _role(self, identity: Identity) -> str:
        return "old" if self.procs[identity.pid].argv == OLD else "new"

    # -- Operations

    def obstacle(self, old: Launch, new: Launch, identity: Identity | None) -> str:
        return str(self._hit("obstacle") or "")

    def alive(self, identity: Identity) -> bool:
        proc = self.procs.get(identity.pid)
        if proc and self.drains_for and "draining" in proc.environ:
            self.drains_for -= 1
            proc.alive = self.drains_for > 0
        return bool(proc and proc.alive and proc.identity == identity)

    def find_marked(self, mark: str) -> Identity | None:
        return next((p.identity for p in self.procs.values() if p.alive and p.environ.get(MARK) == mark), None)

    def end_orphans(self, root: Identity, mark: str) -> tuple[Identity, ...]:
        return ()

    def port_owner(self, host: str, port: int) -> PortOwner | None:
        if self.foreign:
            return self.foreign
        owner = next((p for p in self.procs.values() if p.alive and p.ready and p.port == port), None)
        return PortOwner(owner.identity, owner.argv, f"process {owner.identity.pid}") if owner else None

    def rival(self, launch: Launch, since_s: float) -> PortOwner | None:
        """Any other process with the old words that was not launched here."""
        for proc in self.procs.values():
            if proc.alive and proc.argv == launch.argv and proc.identity != OLD_ID and MARK not in proc.environ:
                return PortOwner(proc.identity, proc.argv, f"process {proc.identity.pid} (below 7, bash)")
        return None

    async def healthy(self, target: Target, port: int, owner: Identity | None) -> bool:
        return any(
            p.alive and p.ready and p.port == port and "draining" not in p.environ
            for p in self.procs.values()
            if owner in (None, p.identity)
        )

    async def stop(
        self, identity: Identity, *, drain_limit_s: float, escalate: bool, on_progress: Progress
    ) -> Stopped:
        role = self._role(identity)
        fault = self._hit("stop", f"stop:{role}")
        self.signalled.append(identity)
        if fault == "draining" and not escalate:
            self.procs[identity.pid].environ["draining"] = "1"
            return Stopped(False, "3 requests still run")
        if fault == "ignored":
            return Stopped(False, "it ignored SIGTERM")
        if fault == "not asked":
            return Stopped(False, "no permission to signal it", asked=False)
        if fault == "frozen" and not escalate:
            self.procs[identity.pid].ready = False
            return Stopped(False, "it is stopped (SIGSTOP)")
        self.procs[identity.pid].alive = False
        on_progress("drained")
        fault = self._hit("stopped", f"stopped:{role}")
        return Stopped(True, "drained")

    by_hand = False

    def keeps(self) -> str:
        return ""

    async def hold_still(self) -> None:
        pass

    async def wait_released(
        self,
        identities: Sequence[Identity],
        target: Target,
        port: int,
        *,
        limit_s: float,
        on_progress: Progress,
    ) -> Released:
        fault = self._hit("release")
        if fault == "stolen":
            self.foreign = PortOwner(Identity(9, 9, "boot"), ("nc", "-l"), "process 9 (nc -l)")
        if fault or self.foreign:
            return Released(False, "port 4000 is held", ("process 9",))
        return Released(True, "free")

    def log_end(self, launch: Launch) -> tuple[str | None, int]:
        return launch.log_path, 10

    async def launch(self, launch: Launch) -> Started:
        role = "old" if launch.argv == OLD else "new"
        fault = self._hit(f"launch:{role}")
        if fault:
            raise OSError("cannot execute")
        self.launched.append(launch)
        identity = Identity(self.next_pid, self.next_pid * 10, "boot")
        self.next_pid += 1
        port = int(launch.argv[launch.argv.index("--port") + 1])
        self.procs[identity.pid] = Proc(launch.argv, dict(launch.environ), identity, port)
        self._hit(f"launched:{role}")
        return Started(identity, launch.log_path, 10)

    async def wait_ready(
        self, child: Started, target: Target, port: int, *, deadline_s: float, on_progress: Progress
    ) -> Readiness:
        proc, role = self.procs[child.identity.pid], self._role(child.identity)
        fault = self._hit(f"ready:{role}")
        if fault == "dies" or not proc.alive:
            proc.alive = False
            return Readiness(False, "it ended with exit code 2", "died")
        if fault == "never":
            return Readiness(False, "not ready after 900 s", "deadline")
        assert proc.port == port
        proc.ready = True
        return Readiness(True, "ready after 20 s", "ready", {"load": 3.0})

    async def settings(
        self, target: Target, port: int, launch: Launch, identity: Identity | None
    ) -> Mapping[str, Any]:
        fault = self._hit("settings")
        if identity is not None and fault in ("dies after", "hangs after"):
            self.procs[identity.pid].ready = False
            self.procs[identity.pid].alive = fault == "hangs after"
        said = {"model_path": "m", "max_running_requests": 64}
        return {**said, **fault} if isinstance(fault, dict) else said

    def environ(self, identity: Identity) -> Mapping[str, str]:
        return self.procs[identity.pid].environ

    def last_error(self, child: Started) -> str:
        return "launch_server.py: error: unrecognized arguments: --nonsense"

    async def measure(
        self, target: Target, port: int, launch: Launch, workload: Workload, *, salt: str, on_progress: Progress
    ) -> Measurement:
        self.sent_load += 1
        self.windows.append(workload.windows)
        self.salts.append(salt)
        fault = self._hit("measure")
        if fault == "empty":
            return Measurement(
                workload, (Window(1.0, 0, {"throughput.output": 0.0}),), errors={"connection refused": 5}
            )
        if fault == "dies":
            for proc in self.procs.values():
                proc.alive = False
        if fault:
            raise RuntimeError("no answer")
        return a_measurement(100.0 * self.counts["measure"])

    async def observe(
        self, target: Target, port: int, launch: Launch, *, windows: int, on_progress: Progress
    ) -> Measurement:
        self._hit("observe")
        return a_measurement(50.0)

    def compare(self, before: Measurement, after: Measurement, goal: VerifyGoal) -> Verdict:
        self._hit("compare")
        word = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        return Verdict(word, f"Throughput: {word.value}.")


def a_journal(folder: Path, target: Target, order: Order) -> Journal:
    return Journal.create(folder / "session-1.db", "1", target, order, {"why": "a test"})
