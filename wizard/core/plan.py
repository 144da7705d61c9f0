"""A plan: one change to the launch command, why, what it costs, and how it will be judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wizard.core.measurement import Workload

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class FlagChange:
    """One flag. ``old``/``new``: its values as words; None = absent (left to SGLang); "" = a bare switch."""

    flag: str
    old: str | None
    new: str | None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"flag": self.flag, "old": self.old, "new": self.new, "why": self.why}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> FlagChange:
        return FlagChange(str(doc["flag"]), doc["old"], doc["new"], str(doc["why"]))


@dataclass(frozen=True)
class VerifyGoal:
    """What must get better, by how much (0.10 = 10 %), and which readings must not get worse.

    ``reading`` is a measurement metric ("throughput.output", "ttft.p50", "itl.p50", ...), or
    "ready" when being up and answering is the whole goal (the server was down before).
    """

    reading: str
    direction: Direction = "higher"
    better_by: float = 0.10
    watch: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "reading": self.reading,
            "direction": self.direction,
            "better_by": self.better_by,
            "watch": list(self.watch),
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> VerifyGoal:
        return VerifyGoal(
            str(doc["reading"]), doc["direction"], float(doc["better_by"]), tuple(doc.get("watch", ()))
        )


@dataclass(frozen=True)
class Plan:
    """One remedy made concrete for one server. ``new_argv`` is a full command line, checked for the version."""

    cause_id: str
    cause_title: str
    remedy_id: str
    remedy_title: str
    old_argv: tuple[str, ...]
    new_argv: tuple[str, ...]
    changes: tuple[FlagChange, ...]
    goal: VerifyGoal
    why: str = ""
    cost: str = ""
    expect: str = ""
    environ: Mapping[str, str | None] = field(default_factory=dict)
    actions: tuple[str, ...] = ()
    """What a person has to do first (e.g. free the port); empty when the wizard can do it all."""
    waits_for_port: bool = False
    """Nothing is changed; the wizard waits until the port is free and starts the old command."""
    by_hand: bool = False
    """A person makes the change where the server is held; the wizard says what, waits for it and verifies."""
    checks: tuple[tuple[str, bool, str], ...] = ()
    """Pre-flight: (name, passed, detail)."""
    notes: tuple[str, ...] = ()
    """What is in nobody's way and still to be known before one agrees: what will not be as it was."""

    def to_json(self) -> dict[str, Any]:
        return {
            "cause_id": self.cause_id,
            "cause_title": self.cause_title,
            "remedy_id": self.remedy_id,
            "remedy_title": self.remedy_title,
            "old_argv": list(self.old_argv),
            "new_argv": list(self.new_argv),
            "changes": [c.to_json() for c in self.changes],
            "goal": self.goal.to_json(),
            "why": self.why,
            "cost": self.cost,
            "expect": self.expect,
            "environ": dict(self.environ),
            "actions": list(self.actions),
            "waits_for_port": self.waits_for_port,
            "by_hand": self.by_hand,
            "checks": [list(c) for c in self.checks],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Plan:
        return Plan(
            cause_id=doc["cause_id"],
            cause_title=doc["cause_title"],
            remedy_id=doc["remedy_id"],
            remedy_title=doc["remedy_title"],
            old_argv=tuple(doc["old_argv"]),
            new_argv=tuple(doc["new_argv"]),
            changes=tuple(FlagChange.from_json(c) for c in doc["changes"]),
            goal=VerifyGoal.from_json(doc["goal"]),
            why=doc["why"],
            cost=doc["cost"],
            expect=doc["expect"],
            environ=dict(doc["environ"]),
            actions=tuple(doc["actions"]),
            waits_for_port=bool(doc.get("waits_for_port", False)),
            by_hand=bool(doc.get("by_hand", False)),
            checks=tuple((str(c[0]), bool(c[1]), str(c[2])) for c in doc["checks"]),
            notes=tuple(str(note) for note in doc.get("notes", ())),
        )


@dataclass(frozen=True)
class Consent:
    """What the person agreed to. Nothing outside it happens.

    ``load_test``: send the workload to the target. ``passive``: judge by the live traffic's
    metrics instead (sends nothing). Neither: apply, wait until ready, no verdict on speed.
    ``drain_limit_s``: how long running requests may finish after SIGTERM. ``escalate``: after that
    limit the tree may be killed (by identity); otherwise the change is called off.
    ``keep``: "auto" keeps fixed/better and rolls the rest back; "ask" waits for a decision.
    """

    load_test: bool = False
    passive: bool = False
    drain_limit_s: float = 60.0
    escalate: bool = True
    keep: Literal["auto", "ask"] = "auto"
    ready_limit_s: float = 900.0

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Consent:
        return Consent(**doc)


@dataclass(frozen=True)
class Stakes:
    """What a restart meets, as far as it is known: requests now, and how long the last start took."""

    running: int | None = None
    queued: int | None = None
    last_start_s: float | None = None

    def requests(self) -> str:
        """ "3 requests run and 5 wait now", or ""."""
        if self.running is None:
            return ""
        waiting = f" and {self.queued} wait" if self.queued else ""
        verb = "request runs" if self.running == 1 else "requests run"
        return f"{self.running} {verb}{waiting} now"


@dataclass(frozen=True)
class Order:
    """What the detached runner is asked to do: the plan, under which consent, with which workload."""

    plan: Plan
    consent: Consent
    workload: Workload | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "consent": self.consent.to_json(),
            "workload": self.workload.to_json() if self.workload else None,
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Order:
        return Order(
            Plan.from_json(doc["plan"]),
            Consent.from_json(doc["consent"]),
            Workload.from_json(doc["workload"]) if doc.get("workload") else None,
        )
