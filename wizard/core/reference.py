"""Reference configurations, corrected for a version and a card, and explained where they differ from lore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wizard.core.expr import Env, Expression, Template
from wizard.core.flags import Catalogue
from wizard.core.flow import Mark

Kind = Literal["set", "leave", "drop", "absent"]
"""``drop``: the version does not take it; ``absent``: it has no such flag, and nothing was to be set."""

MODEL = "model_path"
"""A setting of this name chooses the model by the cards; a model that the person names goes before it."""


@dataclass(frozen=True)
class Choice:
    """One way to treat a setting: ``value`` None leaves it to SGLang. ``when`` None is the last arm."""

    why: Template
    value: Template | None = None
    when: Expression | None = None
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Setting:
    """A setting by its destination name, what the tutorial gives it, and the choices, in order."""

    name: str
    choices: tuple[Choice, ...]
    tutorial: str = ""
    """The value in the tutorial; "" when it does not speak of it, "true" for a bare switch."""
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Reference:
    """A configuration for a kind of use."""

    id: str
    title: str
    summary: str
    model: str
    settings: tuple[Setting, ...]
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Line:
    """A setting worked out: ``flag`` as the version spells it ("" when it has none)."""

    name: str
    flag: str
    tutorial: str
    value: str | None
    why: str
    kind: Kind


def work_out(reference: Reference, env: Env, catalogue: Catalogue, model: str = "") -> tuple[Line, ...]:
    """Every setting for this version and these readings; ``model`` is one that the person names.

    A flag that the version has not, or a value that it does not take, is dropped and said so.
    """
    settings = [s for s in reference.settings if not (model and s.name == MODEL)]
    return tuple(_line(setting, env, catalogue) for setting in settings)


def _line(setting: Setting, env: Env, catalogue: Catalogue) -> Line:
    spec = catalogue.flag_for(setting.name)
    flag = spec.flag if spec is not None else ""
    for choice in setting.choices:
        if choice.when is not None and not choice.when.evaluate(env).truth:
            continue
        why = choice.why.render(env)
        if choice.value is None:
            kind: Kind = "leave" if spec is not None else "absent"
            return Line(setting.name, flag, setting.tutorial, None, why, kind)
        value = choice.value.render(env)
        if spec is None:
            why = f"SGLang {catalogue.version} has no such flag. {why}"
            return Line(setting.name, "", setting.tutorial, None, why, "drop")
        if spec.choices and value not in spec.choices:
            why = f"{flag} of SGLang {catalogue.version} does not take {value}. {why}"
            return Line(setting.name, flag, setting.tutorial, None, why, "drop")
        return Line(setting.name, flag, setting.tutorial, value, why, "set")
    return Line(setting.name, flag, setting.tutorial, None, "nothing is known that speaks for it", "leave")


def argv_of(reference: Reference, lines: tuple[Line, ...], model: str = "") -> tuple[str, ...]:
    """The launch command with every setting that is to be set; a value "true" is a bare switch."""
    chosen = next((line.value for line in lines if line.name == MODEL and line.value), reference.model)
    argv = ["python", "-m", "sglang.launch_server", "--model-path", model or chosen]
    for line in lines:
        if line.kind == "set" and line.value is not None and line.name != MODEL:
            argv += [line.flag] if line.value == "true" else [line.flag, line.value]
    return tuple(argv)


References = Mapping[str, Reference]
