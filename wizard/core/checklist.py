"""Tuning goals as checklists: each box reads the live server and says how it stands, and why.

Boxes are data of ``flows/``; nothing here knows a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wizard.core.expr import Env, Expression, Template
from wizard.core.flow import Cause, Mark

Status = Literal["done", "not_done", "does_not_apply", "harmful", "unknown"]
STATUSES: tuple[Status, ...] = ("done", "not_done", "does_not_apply", "harmful", "unknown")
WORDS: Mapping[Status, str] = {
    "done": "done",
    "not_done": "not done",
    "does_not_apply": "does not apply here",
    "harmful": "harmful here",
    "unknown": "cannot tell",
}


@dataclass(frozen=True)
class BoxState:
    """One way a box can stand. ``when`` None is the last arm, which holds when none before did."""

    status: Status
    says: Template
    when: Expression | None = None
    remedy: str = ""
    """Another remedy than the box's own."""
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Box:
    """An advice: what it is, how it can stand, and the remedy that ticks it (or undoes the harm)."""

    id: str
    title: str
    states: tuple[BoxState, ...]
    unknown: str
    """How a person can see it by hand when the readings cannot tell."""
    remedy: str = ""
    folklore: str = ""
    """What is often said about it; empty when it is said rightly."""
    source: str = ""
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Goal:
    """What somebody tunes for, and its checklist."""

    id: str
    title: str
    summary: str
    boxes: tuple[Box, ...]
    mark: Mark = field(default_factory=Mark)

    @property
    def cause_id(self) -> str:
        return f"tune_{self.id}"

    def as_cause(self, env: Env) -> Cause:
        """The goal as something to solve: its remedies are those of the boxes that want one here."""
        wanted = [r.remedy for r in tick(self, env) if r.wants_remedy]
        return Cause(
            id=self.cause_id,
            title=self.title,
            family="tuning",
            why=self.summary,
            see="",
            signs=(),
            remedies=tuple(dict.fromkeys(wanted)),
            mark=self.mark,
        )


@dataclass(frozen=True)
class Ticked:
    """How one box stands here, in words; ``missing`` are the readings that would tell."""

    box: Box
    status: Status
    says: str
    missing: tuple[str, ...] = ()
    remedy: str = ""
    """What ticks the box, or undoes the harm; empty when nothing does, or nothing has to."""

    @property
    def wants_remedy(self) -> bool:
        return bool(self.remedy)


def tick(goal: Goal, env: Env) -> tuple[Ticked, ...]:
    """Every box of a goal, in its order. A state behind an unknown one is never guessed."""
    return tuple(_tick(box, env) for box in goal.boxes)


def _tick(box: Box, env: Env) -> Ticked:
    for state in box.states:
        if state.when is None:
            return _stands(box, state, env)
        outcome = state.when.evaluate(env)
        if outcome.truth is None:
            return Ticked(box, "unknown", box.unknown, outcome.missing)
        if outcome.truth:
            return _stands(box, state, env)
    return Ticked(box, "unknown", box.unknown)


def _stands(box: Box, state: BoxState, env: Env) -> Ticked:
    wanted = state.status in ("not_done", "harmful")
    return Ticked(
        box, state.status, state.says.render(env), remedy=(state.remedy or box.remedy) if wanted else ""
    )
