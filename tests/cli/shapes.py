"""The documents of ``--json`` as DESIGN fixes them: JSON Schemas that tests hold every document against."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

_TEXT = {"type": "string"}
_WORDS = {"type": "array", "items": _TEXT}
_MAYBE = {"type": ["string", "null"]}
_TRUST = {"enum": ["measured", "reported", "estimated", "documented"]}

_EVIDENCE = {
    "type": "object",
    "required": ["reading", "value", "source", "trust"],
    "properties": {"reading": _TEXT, "source": _TEXT, "trust": _TRUST},
}
_REMEDY = {
    "type": "object",
    "required": ["id", "title", "set", "unset", "env", "actions", "why"],
    "properties": {
        "id": _TEXT,
        "title": {"type": "string", "minLength": 1},
        "set": {"type": "object", "propertyNames": {"pattern": "^--"}, "additionalProperties": _TEXT},
        "unset": {"type": "array", "items": {"type": "string", "pattern": "^--"}},
        "env": {"type": "object"},
        "actions": _WORDS,
        "why": _TEXT,
    },
}
_CAUSE = {
    "type": "object",
    "required": ["id", "family", "title", "confidence", "evidence", "against", "remedies"],
    "properties": {
        "id": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
        "family": _TEXT,
        "title": {"type": "string", "minLength": 1},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "evidence": {"type": "array", "minItems": 1, "items": _EVIDENCE},
        "against": {"type": "array", "items": _EVIDENCE},
        "remedies": {"type": "array", "items": _REMEDY},
    },
}
_PROBE = {
    "type": "object",
    "required": ["id", "outcome", "reason"],
    "properties": {
        "id": _TEXT,
        "outcome": {"enum": ["ok", "no_data", "unavailable", "timed_out", "failed"]},
        "reason": _MAYBE,
    },
}
CHECK: dict[str, Any] = {
    "type": "object",
    "required": ["schema_version", "target", "verdict", "causes", "probes"],
    "properties": {
        "schema_version": {"const": 1},
        "target": {"type": "object"},
        "verdict": {"enum": ["healthy", "problem", "unknown"]},
        "causes": {"type": "array", "maxItems": 5, "items": _CAUSE},
        "probes": {"type": "array", "minItems": 1, "items": _PROBE},
    },
    "if": {"properties": {"verdict": {"const": "healthy"}}},
    "then": {"properties": {"causes": {"maxItems": 0}}},
}
_CHANGE = {
    "type": "object",
    "required": ["flag", "old", "new", "why"],
    "properties": {"flag": {"type": "string", "pattern": "^--"}, "old": _MAYBE, "new": _MAYBE, "why": _TEXT},
}
FIX: dict[str, Any] = {
    "type": "object",
    "required": [
        "schema_version",
        "session",
        "target",
        "cause",
        "plan",
        "before",
        "after",
        "verdict",
        "report",
    ],
    "properties": {
        "schema_version": {"const": 1},
        "session": _MAYBE,
        "target": {"type": "object"},
        "cause": {"type": "object"},
        "plan": {
            "type": "object",
            "required": ["old", "new", "changes"],
            "properties": {"old": _WORDS, "new": _WORDS, "changes": {"type": "array", "items": _CHANGE}},
        },
        "before": {"type": "object"},
        "after": {"type": "object"},
        "verdict": {
            "enum": [
                "fixed",
                "better",
                "no_difference",
                "worse",
                "cannot_tell",
                "rolled_back",
                "rollback_failed",
                "nothing_wrong",
            ]
        },
        "report": _MAYBE,
    },
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["schema_version", "error", "exit_code"],
    "properties": {
        "schema_version": {"const": 1},
        "error": {"type": "string", "minLength": 1},
        "exit_code": {"type": "integer"},
    },
}


def document(text: str, shape: dict[str, Any]) -> dict[str, Any]:
    """``text`` is exactly one JSON document of this shape; returns it."""
    found = json.loads(text)
    jsonschema.validate(found, shape)
    assert isinstance(found, dict)
    return found
