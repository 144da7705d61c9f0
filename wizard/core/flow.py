"""The decision trees as data: flows, nodes, branches, causes, signs and remedies.

``wizard.flowfile`` builds these from YAML; nothing here reads files. ``suggest`` answers which
branch of a node the readings point to, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from wizard.core.clue import Clue
from wizard.core.expr import Env, Expression, Template, Truth
from wizard.core.logtext import Signature
from wizard.core.plan import VerifyGoal
from wizard.core.wording import Wording

if TYPE_CHECKING:
    from wizard.core.checklist import Goal
    from wizard.core.commandrules import RuleBook
    from wizard.core.reference import Reference


@dataclass(frozen=True)
class Mark:
    """Where a thing stands in its file; lines and columns count from 1."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Branch:
    """An answer to a node's question. ``when`` None with ``otherwise`` True is the last arm."""

    to: str
    label: str
    when: Expression | None = None
    otherwise: bool = False
    to_mark: Mark = Mark()
    mark: Mark = Mark()


@dataclass(frozen=True)
class Node:
    """A step of a flow: a question with branches, a cause, a hand-over to another flow, or an end."""

    id: str
    ask: str = ""
    help: str = ""
    probes: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    unknown: str = ""
    """How a person can find the answer by hand when the readings cannot tell."""
    cause: str | None = None
    flow: str | None = None
    end: str = ""
    mark: Mark = Mark()

    @property
    def kind(self) -> Literal["question", "cause", "flow", "end"]:
        if self.branches:
            return "question"
        if self.cause is not None:
            return "cause"
        return "flow" if self.flow is not None else "end"


@dataclass(frozen=True)
class Flow:
    """A family of trouble, in a person's words, and the tree that narrows it down."""

    id: str
    title: str
    summary: str
    family: str
    start: str
    nodes: Mapping[str, Node]
    likely: Expression | None = None
    likely_says: Template | None = None
    order: int = 100
    mark: Mark = Mark()


@dataclass(frozen=True)
class Sign:
    """Evidence for (weight > 0) or against (weight < 0) a cause, in log-odds.

    1 = a hint, 3 = strong, 6 = as good as proof. ``says`` puts it in words with the numbers.
    """

    when: Expression
    weight: float
    says: Template
    mark: Mark = Mark()


@dataclass(frozen=True)
class Cause:
    """What is wrong. ``why`` is the mechanism, ``see`` the command by which a person sees it alone."""

    id: str
    title: str
    family: str
    why: str
    see: str
    signs: tuple[Sign, ...]
    remedies: tuple[str, ...]
    source: str = ""
    mark: Mark = Mark()


@dataclass(frozen=True)
class Change:
    """What a remedy does to one setting, by the flag's destination name (``max_running_requests``).

    ``action`` "unset" removes the flag; "set" puts ``value`` (text, or a formula whose number is
    rounded to ``step`` and kept within ``low``/``high``). ``direction`` says which way it moves, for
    when the formula's readings are missing; a change may never move the other way.
    """

    name: str
    action: Literal["set", "unset"]
    value: str = ""
    formula: Expression | None = None
    step: float = 1.0
    low: Expression | None = None
    high: Expression | None = None
    direction: Literal["higher", "lower", ""] = ""
    why: Template | None = None
    mark: Mark = Mark()


@dataclass(frozen=True)
class Remedy:
    """A way out of a cause: changes to the launch command, or actions for a person, or both."""

    id: str
    title: str
    changes: tuple[Change, ...]
    when: Expression | None
    why: Template
    cost: Template
    expect: Template | None
    goal: VerifyGoal | None
    rollback: str
    actions: tuple[Template, ...] = ()
    environ: Mapping[str, str | None] = field(default_factory=dict)
    waits_for_port: bool = False
    """The person frees the port; the wizard only waits and starts the unchanged command."""
    source: str = ""
    mark: Mark = Mark()


@dataclass(frozen=True)
class FlowBook:
    """Everything loaded from ``flows/``: one name space for flows, one for causes, one for remedies."""

    flows: Mapping[str, Flow] = field(default_factory=dict)
    causes: Mapping[str, Cause] = field(default_factory=dict)
    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    signatures: tuple[Signature, ...] = ()
    clues: tuple[Clue, ...] = ()
    goals: Mapping[str, Goal] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)
    command_rules: RuleBook | None = None
    wording: Wording = field(default_factory=Wording)

    def cause(self, cause_id: str, env: Env) -> Cause | None:
        """What is to be solved: a cause of trouble, or a goal of tuning as it stands here."""
        for goal in self.goals.values():
            if goal.cause_id == cause_id:
                return goal.as_cause(env)
        return self.causes.get(cause_id)

    def ordered_flows(self) -> tuple[Flow, ...]:
        return tuple(sorted(self.flows.values(), key=lambda f: (f.order, f.id)))

    def flows_with_cause(self, cause_id: str) -> tuple[str, ...]:
        return tuple(f.id for f in self.ordered_flows() if any(n.cause == cause_id for n in f.nodes.values()))


@dataclass(frozen=True)
class Arm:
    """One branch as the readings see it: ``truth`` and the terms in words."""

    branch: Branch
    truth: Truth
    says: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suggestion:
    """The branches of a node with their truth; ``index`` is the suggested one, None = ask the person.

    A branch is suggested when it is true and every branch before it is false. If one before it is
    unknown, the readings cannot tell: the wizard asks instead of guessing.
    """

    arms: tuple[Arm, ...]
    index: int | None


def suggest(node: Node, env: Env) -> Suggestion:
    """Which answer the readings point to. Never guesses over a missing reading."""
    arms: list[Arm] = []
    for branch in node.branches:
        if branch.when is None:
            arms.append(Arm(branch, None, ()))
            continue
        outcome = branch.when.evaluate(env)
        arms.append(Arm(branch, outcome.truth, tuple(t.says() for t in outcome.terms), outcome.missing))
    for index, arm in enumerate(arms):
        if arm.branch.otherwise:
            return Suggestion(tuple(arms), index)
        if arm.truth is True:
            return Suggestion(tuple(arms), index)
        if arm.truth is None:
            return Suggestion(tuple(arms), None)
    return Suggestion(tuple(arms), None)
