"""A checklist and a reference configuration in words and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wizard.core.argv import shell_join
from wizard.core.checklist import WORDS, Goal, Ticked
from wizard.core.flags import Catalogue
from wizard.core.reference import Line, Reference, argv_of
from wizard.session.layout import row, wrapped

KINDS = {"leave": "left to SGLang", "drop": "left out", "absent": "this version has no such flag"}
MARKS = {"done": "[x]", "not_done": "[ ]", "does_not_apply": "[-]", "harmful": "[!]", "unknown": "[?]"}


def version_lines(catalogue: Catalogue) -> list[str]:
    """That the flags are another version's than the one asked for; nothing where they are its own."""
    return row("version", catalogue.stands_in) if catalogue.stands_in else []


def checklist_lines(goal: Goal, ticked: Sequence[Ticked]) -> list[str]:
    """``[ ] Clients send enough: not done``, with the reason, what folklore says, and how to see it."""
    lines = [f"{goal.title}. {goal.summary}", ""]
    lines = [line for text in lines for line in (wrapped(text) if text else [""])]
    for item in ticked:
        lines += wrapped(f"{item.box.title}: {WORDS[item.status]}", f"{MARKS[item.status]} ")
        if item.says:
            what = "see it: " if item.status == "unknown" and item.missing else ""
            lines += wrapped(what + item.says, "    ")
        if item.box.folklore:
            lines += wrapped(f"mind: {item.box.folklore}", "    ")
    return lines


def checklist_document(goal: Goal, ticked: Sequence[Ticked]) -> dict[str, Any]:
    return {
        "goal": goal.id,
        "title": goal.title,
        "boxes": [
            {
                "id": item.box.id,
                "title": item.box.title,
                "status": item.status,
                "says": item.says,
                "missing": list(item.missing),
                "folklore": item.box.folklore,
                "source": item.box.source,
                "remedy": item.remedy or None,
            }
            for item in ticked
        ],
    }


def reference_lines(reference: Reference, lines: Sequence[Line], catalogue: Catalogue, model: str) -> list[str]:
    """The command, then every setting: what it is now, what the tutorial had, and why."""
    out = [*wrapped(f"{reference.title}, for SGLang {catalogue.version}"), *version_lines(catalogue)]
    out += [*wrapped(reference.summary), ""]
    out += [shell_join(argv_of(reference, tuple(lines), model)), ""]
    for item in lines:
        now = f"{item.flag} {item.value}" if item.kind == "set" else KINDS[item.kind]
        now = item.flag if item.value == "true" else now
        name = item.flag or "--" + item.name.replace("_", "-")
        had = f" (tutorial: {'on' if item.tutorial == 'true' else item.tutorial})" if item.tutorial else ""
        out += wrapped(f"{name}: {now}{had}" if item.kind != "set" else f"{now}{had}", "  ")
        out += wrapped(item.why, "      ")
    return out


def reference_document(
    reference: Reference, lines: Sequence[Line], catalogue: Catalogue, model: str
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "reference": reference.id,
        "title": reference.title,
        "version": catalogue.version,
        "version_note": catalogue.stands_in or None,
        "argv": list(argv_of(reference, tuple(lines), model)),
        "settings": [
            {
                "name": item.name,
                "flag": item.flag,
                "value": item.value,
                "tutorial": item.tutorial or None,
                "kind": item.kind,
                "why": item.why,
            }
            for item in lines
        ],
    }
