"""What can be said of the launch command by itself: would this version take it, and does it do harm?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from wizard.core import hardware
from wizard.core.argv import CommandLine, parse, split
from wizard.core.commandrules import RuleBook
from wizard.core.expr import Env
from wizard.core.findings import Checked, Finding, examine
from wizard.core.reading import Scalar, Trust, Value
from wizard.core.redact import clean, redact_text
from wizard.core.target import Target
from wizard.server.catalogue import for_version, next_newer
from wizard.server.configfile import ConfigError, merged

CONFIG_JSON_BYTES = 1 << 20


def command_of(target: Target, version: str | None = None) -> CommandLine | None:
    """The target's command line as data, the settings of its ``--config`` file among them; None if unknown."""
    command = typed_command(target, version)
    if command is None:
        return None
    try:
        return merged(command, _folder(target))
    except ConfigError:
        return command  # said among the findings


def typed_command(target: Target, version: str | None = None) -> CommandLine | None:
    """The target's command line as it was typed."""
    catalogue = for_version(version or target.version)
    if target.launch is not None:
        return parse(target.launch.argv, catalogue)
    if target.command_text:
        pasted = split(target.command_text)
        return parse(pasted.argv, catalogue) if pasted.argv else None
    return None


def _folder(target: Target) -> str:
    return target.launch.cwd if target.launch is not None else os.getcwd()


def check(target: Target, rules: RuleBook | None, version: str | None, others: Env) -> Checked | None:
    """Everything to be said of the target's command; None when there is none. ``version`` None: not known."""
    typed = typed_command(target, version)
    if typed is None or typed.kind == "none":
        return None
    found: tuple[Finding, ...] = ()
    command = typed
    try:
        command = merged(typed, _folder(target))
    except ConfigError as error:
        # a command from another host names a file of that host: not to find it here proves nothing
        ends = target.launch is not None or "no such file" not in str(error)
        found = (Finding("bad_value", "--config", str(error), (), ends),)
    env = _environment(command, target, others)
    newer = next_newer(version) if version and not command.catalogue.exact else None
    checked = examine(command, rules or RuleBook(), env, version_known=version is not None, newer=newer)
    if not found:
        return checked
    return Checked(checked.version, tuple(sorted((*found, *checked.findings), key=lambda f: not f.ends_start)))


def readings(checked: Checked, target: Target, version: str | None) -> dict[str, Value]:
    """The findings as readings ``command.*``."""

    def said(x: Scalar) -> Value:
        return Value(x, Trust.REPORTED, "command line")

    def names(found: tuple[Finding, ...]) -> tuple[str, ...]:
        return tuple(f.rule or f"{f.kind} {f.flag}".strip() for f in found)

    def words(found: tuple[Finding, ...]) -> tuple[str, ...]:
        return tuple(clean(redact_text(f.says())) for f in found)

    refused = tuple(f for f in checked.errors if not f.rule)
    values = {
        "command.checked_version": said(checked.version),
        "command.version_known": said(version is not None),
        "command.alone": said(is_alone(target)),
        "command.errors": said(names(checked.errors)),
        "command.errors_say": said(words(checked.errors)),
        "command.notes": said(names(checked.notes)),
        "command.notes_say": said(words(checked.notes)),
        "command.refused": said(len(refused)),
    }
    if checked.errors:
        first = (refused or checked.errors)[0]
        values["command.first_error"] = said(words((first,))[0])
    return values


def is_alone(target: Target) -> bool:
    """Nothing but a command was given: no log, no server, no symptom."""
    told = target.log_path or target.metrics_path or target.symptom or target.request_path
    return bool(target.command_text) and not told and not target.is_live and target.launch is None


def _environment(command: CommandLine, target: Target, others: Env) -> Env:
    """Other readings for the rules: the cards that were told or seen, and the config.json of a local model."""
    told = hardware.read(target.hardware)
    facts: dict[str, Scalar | None] = {
        "gpu.count": told.count,
        "gpu.memory_total_gb": told.memory_gb,
        "gpu.capability": told.capability,
        "gpu.mig": told.mig or None,
    }
    model = command.value("model_path")
    facts.update(model_facts(os.path.join(_folder(target), model)) if model else {})
    values = {k: Value(x, Trust.REPORTED, "told") for k, x in facts.items() if x is not None}
    return lambda name: values.get(name) or others(name)


def model_facts(folder: str) -> dict[str, Scalar | None]:
    """Heads, context and quantization from a local model's config.json; empty when it cannot be read."""
    path = os.path.join(folder, "config.json")
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > CONFIG_JSON_BYTES:
            return {}
        with open(path, encoding="utf-8", errors="replace") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    inner = document.get("text_config")
    texts = [inner, document] if isinstance(inner, dict) else [document]

    def first(name: str, fits: Callable[[object], bool]) -> Scalar | None:
        return next((t[name] for t in texts if fits(t.get(name))), None)

    def whole(x: object) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and x > 0

    scaled = any(t.get("rope_scaling") or t.get("rope_parameters") for t in texts)
    quantization = document.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return {
        "model.heads": first("num_attention_heads", whole),
        "model.kv_heads": first("num_key_value_heads", whole),
        "model.context": None if scaled else first("max_position_embeddings", whole),
        "model.quantization": method if isinstance(method, str) else None,
    }
