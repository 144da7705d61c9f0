"""Loading of checklists (``goals:``) and of reference configurations (``references:``)."""

from __future__ import annotations

from wizard.core.checklist import STATUSES, Box, BoxState, Goal
from wizard.core.expr import parse_template
from wizard.core.reference import Choice, Reference, Setting
from wizard.flowfile.source import Doc, nearest

GOAL_KEYS = ("title", "summary", "boxes")
BOX_KEYS = ("id", "title", "states", "unknown", "remedy", "folklore", "source")
STATE_KEYS = ("is", "when", "otherwise", "says", "remedy")
REFERENCE_KEYS = ("title", "summary", "model", "settings")
SETTING_KEYS = ("name", "tutorial", "choices")
CHOICE_KEYS = ("value", "when", "why")


def goal(name: str, doc: Doc) -> Goal:
    fields = doc.fields(f"goal {name}", GOAL_KEYS, GOAL_KEYS)
    boxes = tuple(_box(b) for b in (fields["boxes"].elements("boxes") if "boxes" in fields else ()))
    ids = [b.id for b in boxes]
    for box in boxes:
        if ids.count(box.id) > 1:
            doc.wrong(f'box "{box.id}" of goal "{name}" is defined twice')
    return Goal(name, _text(fields, "title"), _text(fields, "summary"), boxes, doc.mark)


def _box(doc: Doc) -> Box:
    fields = doc.fields("a box", BOX_KEYS, ("id", "title", "states", "unknown"))
    states = tuple(_state(s) for s in (fields["states"].elements("states") if "states" in fields else ()))
    if any(s.when is None for s in states[:-1]):
        doc.wrong('"otherwise" must be the last state')
    return Box(
        id=_text(fields, "id"),
        title=_text(fields, "title"),
        states=states,
        unknown=_text(fields, "unknown"),
        remedy=_text(fields, "remedy"),
        folklore=_text(fields, "folklore"),
        source=_text(fields, "source"),
        mark=doc.mark,
    )


def _state(doc: Doc) -> BoxState:
    fields = doc.fields("a state", STATE_KEYS, ("is", "says"))
    otherwise = "otherwise" in fields and fields["otherwise"].truth()
    if doc.is_mapping and ("when" in fields) == otherwise:
        doc.wrong('a state needs either "when" or "otherwise: true"')
    status = _text(fields, "is")
    if status not in STATUSES:
        fields.get("is", doc).wrong(f'"{status}" is none of {", ".join(STATUSES)}{nearest(status, STATUSES)}')
        status = "unknown"
    return BoxState(
        status=status,  # type: ignore[arg-type]
        says=fields["says"].template() if "says" in fields else parse_template(""),
        when=fields["when"].expression() if "when" in fields else None,
        remedy=_text(fields, "remedy"),
        mark=fields.get("when", doc).inner_mark,
    )


def reference(name: str, doc: Doc) -> Reference:
    fields = doc.fields(f"reference {name}", REFERENCE_KEYS, REFERENCE_KEYS)
    settings = fields["settings"].elements("settings") if "settings" in fields else []
    return Reference(
        id=name,
        title=_text(fields, "title"),
        summary=_text(fields, "summary"),
        model=_text(fields, "model"),
        settings=tuple(_setting(s) for s in settings),
        mark=doc.mark,
    )


def _setting(doc: Doc) -> Setting:
    fields = doc.fields("a setting", SETTING_KEYS, ("name", "choices"))
    choices = fields["choices"].elements("choices") if "choices" in fields else []
    return Setting(
        _text(fields, "name"), tuple(_choice(c) for c in choices), _text(fields, "tutorial"), doc.mark
    )


def _choice(doc: Doc) -> Choice:
    fields = doc.fields("a choice", CHOICE_KEYS, ("why",))
    return Choice(
        why=fields["why"].template() if "why" in fields else parse_template(""),
        value=fields["value"].template() if "value" in fields else None,
        when=fields["when"].expression() if "when" in fields else None,
        mark=fields.get("when", doc).inner_mark,
    )


def _text(fields: dict[str, Doc], name: str) -> str:
    return fields[name].text() if name in fields else ""
