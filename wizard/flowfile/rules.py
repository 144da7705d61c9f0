"""Rules about launch commands, from YAML (``command_rules``, ``foreign_flags``), and their lint."""

from __future__ import annotations

from collections.abc import Iterator

from wizard.core.commandrules import ARG, GIVEN, MODEL_NAMES, RULE_KINDS, CommandRule, ForeignName, RuleBook
from wizard.core.expr import parse, parse_template
from wizard.core.flow import Mark
from wizard.core.versions import parts_of
from wizard.core.vocabulary import VOCABULARY
from wizard.flowfile.source import Doc, Problem, nearest

RULE_KEYS = ("id", "kind", "flag", "when", "why", "instead", "ends_start", "versions", "source")
FOREIGN_KEYS = ("means", "why", "keeps_value")


def rule(doc: Doc) -> CommandRule:
    """One entry of ``command_rules``. Problems are noted in the document."""
    fields = doc.fields("a command rule", RULE_KEYS, ("id", "kind", "flag", "when", "why"))
    kind = fields["kind"].text() if "kind" in fields else "harmful"
    if kind not in RULE_KINDS:
        fields["kind"].wrong(f'"{kind}" is no kind of rule: {", ".join(RULE_KINDS)}')
        kind = "harmful"
    versions = fields["versions"].text() if "versions" in fields else ""
    try:
        parts_of(versions)
    except ValueError as error:
        fields["versions"].wrong(str(error))
        versions = ""
    instead = fields["instead"].items("instead") if "instead" in fields else ()
    return CommandRule(
        id=fields["id"].text() if "id" in fields else "",
        kind=kind,  # type: ignore[arg-type]
        flag=fields["flag"].text() if "flag" in fields else "",
        when=fields["when"].expression() if "when" in fields else parse("False"),
        why=fields["why"].template() if "why" in fields else parse_template(""),
        instead={name: value.template() for name, _, value in instead},
        ends_start="ends_start" in fields and fields["ends_start"].truth(),
        versions=versions,
        source=fields["source"].text() if "source" in fields else "",
        mark=fields["when"].inner_mark if "when" in fields else doc.mark,
    )


def foreign(name: str, doc: Doc) -> ForeignName:
    """One entry of ``foreign_flags``."""
    fields = doc.fields(f"foreign flag {name}", FOREIGN_KEYS, ("why",))
    if not name.startswith("--"):
        doc.wrong("a foreign flag is written with its two dashes")
    return ForeignName(
        flag=name,
        means=fields["means"].text() if "means" in fields else "",
        why=fields["why"].text() if "why" in fields else "",
        keeps_value="keeps_value" not in fields or fields["keeps_value"].truth(),
        mark=doc.mark,
    )


def lint_rules(book: RuleBook) -> Iterator[Problem]:
    """Names that no version knows, ids that stand twice, foreign names that SGLang has."""
    from wizard.server.catalogue import exists_in_any_version, for_version, known_names

    seen: set[str] = set()
    for one in book.rules:
        if one.id in seen:
            yield Problem(one.mark, f'the command rule "{one.id}" stands here twice')
        seen.add(one.id)
        templates = [one.why, *one.instead.values()]
        names = [*one.when.names(), *(n for t in templates for n in t.names())]
        for name in [one.flag, *one.instead]:
            if not exists_in_any_version(name):
                yield Problem(
                    one.mark, f'no SGLang version has a setting "{name}"{nearest(name, known_names())}'
                )
        for name, column in names:
            at = Mark(one.mark.file, one.mark.line, one.mark.column + column)
            prefix = next((p for p in (ARG, GIVEN) if name.startswith(p)), "")
            if prefix:
                setting = name[len(prefix) :]
                if not exists_in_any_version(setting):
                    yield Problem(
                        at, f'no SGLang version has a setting "{setting}"{nearest(setting, known_names())}'
                    )
            elif name not in VOCABULARY and name not in MODEL_NAMES:
                yield Problem(at, f'unknown reading "{name}"{nearest(name, (*VOCABULARY, *MODEL_NAMES))}')
    spans, newest = for_version(None).spans, for_version(None).version
    for entry in book.foreign.values():
        if entry.flag in spans and spans[entry.flag].last == newest:
            yield Problem(entry.mark, f"{entry.flag} is a flag of SGLang {spans[entry.flag].first} and later")
        if entry.means and not exists_in_any_version(entry.means):
            yield Problem(
                entry.mark,
                f'no SGLang version has a setting "{entry.means}"{nearest(entry.means, known_names())}',
            )
