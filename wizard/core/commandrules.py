"""Rules about launch commands, as data: settings that contradict each other, end a start, or do harm.

A condition reads the command through names of their own: ``arg.tp_size`` is what the line gives for a
setting (a switch that is not given is False), ``given.tp_size`` whether it gives it at all, and
``model.heads`` what the config.json of a local model says. Other readings (``gpu.count``) count too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wizard.core.commandline import CommandLine
from wizard.core.expr import Env, Expression, Template
from wizard.core.flags import FlagSpec
from wizard.core.flow import Mark
from wizard.core.reading import Scalar, Trust, Value

FindingKind = Literal["unknown", "ambiguous", "deprecated", "contradictory", "harmful", "bad_value", "missing"]
RULE_KINDS: tuple[FindingKind, ...] = ("contradictory", "harmful", "bad_value", "missing")

ARG, GIVEN, MODEL = "arg.", "given.", "model."
NOWHERE = Mark()
MODEL_NAMES = ("model.heads", "model.kv_heads", "model.context", "model.quantization")


@dataclass(frozen=True)
class CommandRule:
    """``flag`` is the setting to blame (an intent or a destination). ``ends_start``: SGLang does not come up.

    ``instead``: settings to give (name -> template of a value, "" for a switch) or to take out ("unset").
    ``versions``: the span it holds in; "" for all.
    """

    id: str
    kind: FindingKind
    flag: str
    when: Expression
    why: Template
    instead: Mapping[str, Template] = field(default_factory=dict)
    ends_start: bool = False
    versions: str = ""
    source: str = ""
    mark: Mark = NOWHERE


@dataclass(frozen=True)
class ForeignName:
    """A flag that SGLang never had (another server's, or from a recipe), or that left it, and the setting
    that it means. Of one that left, this holds for the versions after the last that took it.

    ``means`` "" : there is nothing to set, ``why`` says so. ``keeps_value``: its value means the same.
    """

    flag: str
    means: str
    why: str
    keeps_value: bool = True
    mark: Mark = NOWHERE


@dataclass(frozen=True)
class RuleBook:
    rules: tuple[CommandRule, ...] = ()
    foreign: Mapping[str, ForeignName] = field(default_factory=dict)


_HUMAN = re.compile(r"^([+-]?\d+(?:\.\d+)?)\s*([kKmMgGtT])(i?)$")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def typed(text: str, spec: FlagSpec | None) -> Scalar | None:
    """A value as its flag reads it; None where a shell fills it in, or where it is none."""
    if "$" in text or "`" in text:
        return None
    kind = spec.type if spec is not None else "str"
    human = _HUMAN.match(text)
    if human and kind in ("human_readable_int", "int"):
        base = 1024 if human[3] else 1000
        return int(float(human[1]) * base ** _POWERS[human[2].lower()])
    if kind in ("int", "human_readable_int", "float"):
        try:
            return float(text) if kind == "float" else int(text)
        except ValueError:
            return None
    return text


def environment(command: CommandLine, others: Env, *, complete: bool = True) -> Env:
    """What a rule's condition may read. ``complete`` False: what the line does not give may stand elsewhere."""

    def look(name: str) -> Value | None:
        if name.startswith(ARG):
            return _arg(command, name[len(ARG) :], complete)
        if name.startswith(GIVEN):
            given = command.use(name[len(GIVEN) :]) is not None
            return None if not given and not complete else _said(given)
        return others(name)

    return look


def _said(x: Scalar) -> Value:
    return Value(x, Trust.REPORTED, "command line")


def _arg(command: CommandLine, name: str, complete: bool) -> Value | None:
    use = command.use(name)
    way = command.catalogue.spell(name)
    spec = command.catalogue.by_option.get(way[0].flag) if way else None
    switch = bool(way) and (way[0].value is not None or (spec is not None and spec.is_switch))
    if use is None:
        return _said(False) if switch and complete else None
    if use.spec is not None and use.spec.is_switch:
        return _said(not use.negated)
    if switch:
        return _said(True)
    if len(use.values) > 1:
        return _said(use.values)
    x = typed(use.text, use.spec)
    return None if x is None else _said(x)
