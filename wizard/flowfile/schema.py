"""JSON Schema of a flow file, for editors. The loader is the judge; this helps while typing."""

from __future__ import annotations

from typing import Any

from wizard.core.checklist import STATUSES
from wizard.core.clue import PLACES
from wizard.core.commandrules import RULE_KINDS
from wizard.core.measurement import METRICS
from wizard.core.vocabulary import PROBES, VOCABULARY
from wizard.flowfile.cause_ids import KNOWN_CAUSES


def schema() -> dict[str, Any]:
    """The schema as a JSON-ready document (draft 2020-12)."""
    text = {"type": "string"}
    scalar = {"type": ["string", "number", "boolean"]}
    condition = {"type": ["string", "boolean"], "description": "condition over readings, three-valued"}
    words = {"type": "array", "items": text}

    def record(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": properties,
            "required": required,
        }

    branch = record(
        {"to": text, "when": condition, "otherwise": {"const": True}, "label": text}, ["to", "label"]
    )
    node = record(
        {
            "ask": text,
            "help": text,
            "probes": {"type": "array", "items": {"enum": list(PROBES)}},
            "show": {"type": "array", "items": {"enum": sorted(VOCABULARY)}},
            "branches": {"type": "array", "items": branch, "minItems": 1},
            "unknown": text,
            "cause": {"enum": sorted(KNOWN_CAUSES)},
            "flow": text,
            "end": text,
        },
        [],
    )
    sign = record({"when": condition, "weight": {"type": "number"}, "says": text}, ["when", "weight", "says"])
    cause = record(
        {
            "title": text,
            "family": text,
            "why": text,
            "see": text,
            "signs": {"type": "array", "items": sign},
            "remedies": words,
            "source": text,
        },
        ["title", "family", "why", "see"],
    )
    change = record(
        {
            "to": scalar,
            "value": scalar,
            "step": {"type": "number", "exclusiveMinimum": 0},
            "low": scalar,
            "high": scalar,
            "direction": {"enum": ["higher", "lower"]},
            "why": text,
        },
        [],
    )
    verify = {
        "oneOf": [
            {"const": "ready"},
            record(
                {
                    "reading": {"enum": [*METRICS, "ready"]},
                    "better_by": scalar,
                    "direction": {"enum": ["higher", "lower"]},
                    "watch": {"type": "array", "items": {"enum": list(METRICS)}},
                },
                ["reading"],
            ),
        ]
    }
    remedy = record(
        {
            "title": text,
            "change": {"type": "object", "additionalProperties": {"anyOf": [scalar, change]}},
            "when": condition,
            "why": text,
            "cost": text,
            "expect": text,
            "verify": verify,
            "rollback": text,
            "actions": words,
            "environ": {"type": "object", "additionalProperties": scalar},
            "waits_for_port": {"type": "boolean"},
            "source": text,
        },
        ["title", "why", "cost"],
    )
    signature = record(
        {
            "id": text,
            "pattern": text,
            "role": {"enum": ["lead", "victim", "noise", "info"]},
            "phase": text,
            "cause": {"enum": sorted(KNOWN_CAUSES)},
            "versions": text,
            "note": text,
            "weight": {"type": "number"},
        },
        ["id", "pattern", "role"],
    )
    place = {"enum": [*PLACES, "any"]}
    clue = record(
        {
            "id": text,
            "where": {"anyOf": [place, {"type": "array", "items": place, "minItems": 1}]},
            "pattern": text,
            "for": {
                "type": "object",
                "propertyNames": {"enum": sorted(KNOWN_CAUSES)},
                "additionalProperties": {"type": "number"},
            },
            "says": text,
            "unless": text,
            "versions": text,
        },
        ["id", "where", "pattern", "for"],
    )
    arm = {"when": condition, "says": text, "remedy": text, "otherwise": {"const": True}}
    state = record({"is": {"enum": list(STATUSES)}, **arm}, ["is", "says"])
    box = record(
        {
            "id": text,
            "title": text,
            "states": {"type": "array", "items": state, "minItems": 1},
            "unknown": text,
            "remedy": text,
            "folklore": text,
            "source": text,
        },
        ["id", "title", "states", "unknown"],
    )
    goal = record(
        {"title": text, "summary": text, "boxes": {"type": "array", "items": box, "minItems": 1}},
        ["title", "summary", "boxes"],
    )
    choice = record({"value": scalar, "when": condition, "why": text}, ["why"])
    setting = record(
        {"name": text, "tutorial": scalar, "choices": {"type": "array", "items": choice, "minItems": 1}},
        ["name", "choices"],
    )
    reference = record(
        {"title": text, "summary": text, "model": text, "settings": {"type": "array", "items": setting}},
        ["title", "summary", "model", "settings"],
    )
    rule = record(
        {
            "id": text,
            "kind": {"enum": list(RULE_KINDS)},
            "flag": text,
            "when": condition,
            "why": text,
            "instead": {"type": "object", "additionalProperties": scalar},
            "ends_start": {"type": "boolean"},
            "versions": text,
            "source": text,
        },
        ["id", "kind", "flag", "when", "why"],
    )
    foreign = record({"means": text, "why": text, "keeps_value": {"type": "boolean"}}, ["why"])
    top = record(
        {
            "flow": text,
            "title": text,
            "summary": text,
            "family": text,
            "order": {"type": "number"},
            "likely": condition,
            "likely_says": text,
            "start": text,
            "nodes": {"type": "object", "additionalProperties": node},
            "causes": {
                "type": "object",
                "propertyNames": {"enum": sorted(KNOWN_CAUSES)},
                "additionalProperties": cause,
            },
            "remedies": {"type": "object", "additionalProperties": remedy},
            "signatures": {"type": "array", "items": signature},
            "clues": {"type": "array", "items": clue},
            "goals": {"type": "object", "additionalProperties": goal},
            "references": {"type": "object", "additionalProperties": reference},
            "command_rules": {"type": "array", "items": rule},
            "signs": {"type": "object", "additionalProperties": {"type": "array", "items": sign}},
            "foreign_flags": {"type": "object", "additionalProperties": foreign},
        },
        [],
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sgl-wizard flow file", **top}
