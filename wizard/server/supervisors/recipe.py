"""A relaunch through the engine that holds a server, as data: what is run, in what order, how it is undone.

A recipe is made before anything is touched and written into the session's journal (0600: it holds secrets),
so that any later runner can go on or back. ``execute`` is the only place that acts on one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from wizard.core.target import Launch

Kind = Literal["docker", "podman", "compose", "kubernetes"]

OLD_SUFFIX = "-sgl-wizard-old"
NEW_SUFFIX = "-sgl-wizard-new"
"""Names of the kept old container, and of the new one until it takes the old one's place."""


class CannotRecreate(Exception):
    """The holder's change cannot be made without loss or guessing; each reason is one clause for a person."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Found:
    """What a holder's own tool says of it.

    ``name``: the container, project/service or namespace/workload, as that tool calls it. ``restarts``: by what
    it starts the server again, "" for nothing. ``facts``: what it said (JSON, secrets included), all that a
    recipe goes by. ``obstacles``: why the wizard cannot change it there by itself; then a person does it.
    """

    kind: Kind
    name: str
    restarts: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    obstacles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What shall be different: ``new_argv`` beside ``old.argv``, and variables (None: unset).

    ``folder``: a private (0700) folder for files that only the commands need. ``version``: the installed
    SGLang, by whose catalogue words are read. ``drain_limit_s``: how long running requests may finish.
    """

    old: Launch
    new_argv: tuple[str, ...]
    environ: Mapping[str, str | None] = field(default_factory=dict)
    folder: str = "/tmp"
    version: str | None = None
    drain_limit_s: float = 60.0


@dataclass(frozen=True)
class Guard:
    """A question that changes nothing. Holds when the command succeeds and says what is expected.

    ``prints``: all that it prints, blanks around it aside. ``expect``: dotted places in the JSON document it
    prints (or in the first of a list) and their values; a missing, null, empty or zero value are one.
    ``any_order``: those of the places that hold lists whose order says nothing.
    """

    argv: tuple[str, ...]
    prints: str | None = None
    expect: Mapping[str, Any] = field(default_factory=dict)
    any_order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A command, by words and never through a shell. Skipped when ``only_if`` does not hold, or ``unless``
    does (a question without an answer is neither: then ``only_if`` skips, and ``unless`` does not)."""

    argv: tuple[str, ...]
    limit_s: float = 60.0
    only_if: Guard | None = None
    unless: Guard | None = None
    may_fail: bool = False


@dataclass(frozen=True)
class Write:
    """A file made in one rename. ``previous``: what it must hold before (None: it must not be there)."""

    path: str
    content: str
    mode: int = 0o600
    previous: str | None = None


@dataclass(frozen=True)
class Remove:
    """Take a file away if it still holds ``content``; ``folder``: and its folder, when that is empty then."""

    path: str
    content: str
    folder: bool = False


@dataclass(frozen=True)
class Check:
    """Nothing is changed: the recipe ends here, with ``says``, unless the guard holds."""

    guard: Guard
    says: str


Act: TypeAlias = Run | Write | Remove | Check
_ACTS: Mapping[str, type[Run | Write | Remove | Check]] = {
    "run": Run,
    "write": Write,
    "remove": Remove,
    "check": Check,
}


@dataclass(frozen=True)
class Step:
    """One act of a recipe, by a name that is unique in it."""

    name: str
    act: Act


@dataclass(frozen=True)
class Undo:
    """One act of the way back, needed once the step ``after`` was begun (whether or not it got through)."""

    name: str
    act: Act
    after: str


@dataclass(frozen=True)
class Recipe:
    """A whole relaunch through its holder.

    ``steps`` in order; after ``stops`` the old server is down ("": one act ends it and starts the new one);
    ``wait`` until the holder calls it up; ``undo`` in order, each act harmless when repeated; ``restarts`` is
    the one of them that starts the old server ("" as above). ``main_pid``: prints the pid of what runs then
    (empty: it is not to be had). ``log_path``: prints its log's file. ``blast``: what is hit, for the consent.
    ``keeps``: what a person has to know of a change that stays.
    """

    kind: Kind
    name: str
    blast: str
    steps: tuple[Step, ...] = ()
    wait: tuple[Step, ...] = ()
    undo: tuple[Undo, ...] = ()
    main_pid: tuple[str, ...] = ()
    log_path: tuple[str, ...] = ()
    keeps: str = ""
    stops: str = ""
    restarts: str = ""
    quiet_stop: tuple[str, ...] = ()
    """Asks the old server to end, and never forces it; () where the tool always forces in the end."""

    @property
    def is_one_step(self) -> bool:
        return not self.stops

    def parts(self) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]:
        """Up to the act that stops the old server, that act, and the rest; one step: all is the first."""
        at = next((i for i, one in enumerate(self.steps) if one.name == self.stops), len(self.steps))
        return self.steps[:at], self.steps[at : at + 1], self.steps[at + 1 :]

    def undo_after(self, begun: Sequence[str]) -> tuple[Undo, ...]:
        """The way back from where these steps were begun."""
        return tuple(one for one in self.undo if one.after in begun)

    def to_json(self) -> dict[str, Any]:
        """Whole, secrets included: for the journal. What people see goes through ``shown``."""
        doc = {name: getattr(self, name) for name in _PLAIN}
        doc.update({n: [_step_json(s) for s in getattr(self, n)] for n in ("steps", "wait", "undo")})
        return {name: list(x) if isinstance(x, tuple) else x for name, x in doc.items()}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Recipe:
        plain: dict[str, Any] = {n: tuple(doc[n]) if isinstance(doc[n], list) else doc[n] for n in _PLAIN}
        lists: dict[str, Any] = {n: tuple(_step(s) for s in doc[n]) for n in ("steps", "wait")}
        undo = tuple(Undo(s["name"], _act(s["act"]), s["after"]) for s in doc["undo"])
        return Recipe(**plain, **lists, undo=undo)


_PLAIN = ("kind", "name", "blast", "main_pid", "log_path", "keeps", "stops", "restarts", "quiet_stop")


def _step_json(step: Step | Undo) -> dict[str, Any]:
    act = {"is": next(name for name, cls in _ACTS.items() if isinstance(step.act, cls)), **asdict(step.act)}
    rest = {"after": step.after} if isinstance(step, Undo) else {}
    return {"name": step.name, "act": act, **rest}


def _step(doc: Mapping[str, Any]) -> Step:
    return Step(doc["name"], _act(doc["act"]))


def _act(doc: Mapping[str, Any]) -> Act:
    fields = {name: x for name, x in doc.items() if name != "is"}
    if "argv" in fields:
        fields["argv"] = tuple(fields["argv"])
    for name in ("guard", "only_if", "unless"):
        if fields.get(name) is not None:
            lists = {n: tuple(fields[name].get(n, ())) for n in ("argv", "any_order")}
            fields[name] = Guard(**{**fields[name], **lists})
    return _ACTS[doc["is"]](**fields)
