"""From ``flows/*.yaml`` to a FlowBook; every problem of every file is reported, none hides another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wizard.core.checklist import Goal
from wizard.core.clue import PLACES, Clue
from wizard.core.commandrules import CommandRule, ForeignName, RuleBook
from wizard.core.expr import parse_template
from wizard.core.flow import Branch, Cause, Change, Flow, FlowBook, Mark, Node, Remedy, Sign
from wizard.core.logtext import Signature
from wizard.core.measurement import METRICS
from wizard.core.plan import Direction, VerifyGoal
from wizard.core.reference import Reference
from wizard.core.versions import parts_of
from wizard.flowfile import goals, rules
from wizard.flowfile.cause_ids import KNOWN_CAUSES
from wizard.flowfile.source import Doc, FlowFileError, Problem, nearest, read
from wizard.flowfile.wording import check_wording, load_wording

TOP_KEYS = (
    "flow",
    "title",
    "summary",
    "family",
    "order",
    "likely",
    "likely_says",
    "start",
    "nodes",
    "causes",
    "remedies",
    "signatures",
    "clues",
    "goals",
    "references",
    "command_rules",
    "foreign_flags",
    "signs",
)
NODE_KEYS = ("ask", "help", "probes", "show", "branches", "unknown", "cause", "flow", "end")
BRANCH_KEYS = ("to", "when", "otherwise", "label")
CAUSE_KEYS = ("title", "family", "why", "see", "signs", "remedies", "source")
SIGN_KEYS = ("when", "weight", "says")
REMEDY_KEYS = (
    "title",
    "change",
    "when",
    "why",
    "cost",
    "expect",
    "verify",
    "rollback",
    "actions",
    "environ",
    "waits_for_port",
    "source",
)
CHANGE_KEYS = ("to", "step", "low", "high", "direction", "why", "value")
VERIFY_KEYS = ("reading", "better_by", "direction", "watch")
SIGNATURE_KEYS = ("id", "pattern", "role", "phase", "cause", "versions", "note", "weight")
CLUE_KEYS = ("id", "where", "pattern", "for", "says", "unless", "versions")

DEFAULT_ROLLBACK = "The old command is started again."


class _Book:
    def __init__(self, proven: bool) -> None:
        self.proven = proven
        self.flows: dict[str, Flow] = {}
        self.causes: dict[str, Cause] = {}
        self.remedies: dict[str, Remedy] = {}
        self.signatures: dict[str, Signature] = {}
        self.clues: dict[str, Clue] = {}
        self.goals: dict[str, Goal] = {}
        self.references: dict[str, Reference] = {}
        self.rules: list[CommandRule] = []
        self.foreign: dict[str, ForeignName] = {}
        self.signs: list[tuple[str, Doc, list[Sign]]] = []


def flow_files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.glob("*.y*ml") if p.suffix in (".yaml", ".yml"))


def parse_book(directory: Path, proven: bool = False) -> tuple[FlowBook, list[Problem]]:
    """Everything that could be read, and everything wrong with it (shape and names in one file).

    ``lint`` looks at how the pieces fit together.
    """
    problems: list[Problem] = []
    book = _Book(proven)
    if not directory.is_dir():
        problems.append(Problem(Mark(str(directory), 1, 1), "is not a folder with flow files"))
        return FlowBook(), problems
    files = flow_files(directory)
    if not files:
        problems.append(Problem(Mark(str(directory), 1, 1), "has no *.yaml file"))
    for path in files:
        root = read(path, f"{directory.name}/{path.name}", problems)
        if root is not None:
            _file(root, book)
    for name, doc, signs in book.signs:
        if name in book.causes:
            book.causes[name] = replace(book.causes[name], signs=(*book.causes[name].signs, *signs))
        else:
            doc.wrong(f'signs of an unknown cause "{name}"{nearest(name, book.causes)}')
    # noise first: a line that healthy servers print too must never reach a pattern that accuses
    signatures = sorted(book.signatures.values(), key=lambda s: s.role != "noise")
    built = FlowBook(
        book.flows,
        book.causes,
        book.remedies,
        tuple(signatures),
        tuple(book.clues.values()),
        book.goals,
        book.references,
        RuleBook(tuple(book.rules), book.foreign),
        load_wording(directory),
    )
    return built, problems


def load_book(directory: Path, proven: bool = False) -> FlowBook:
    """A FlowBook that is fit for use. ``proven``: files that came with the wizard, and were linted before.

    Raises FlowFileError with all problems (of shape and of lint) when it is not.
    """
    book, problems = parse_book(directory, proven)
    if not proven:
        from wizard.flowfile.lint import lint

        problems.extend(lint(book))
        problems.extend(check_wording(directory, book))
    if problems:
        raise FlowFileError(problems)
    return book


def _file(root: Doc, book: _Book) -> None:
    top = root.fields("a flow file", TOP_KEYS)
    if "causes" in top:
        for name, key, doc in top["causes"].items("causes"):
            _once(name, key, book.causes, "cause")
            book.causes[name] = _cause(name, doc)
    if "remedies" in top:
        for name, key, doc in top["remedies"].items("remedies"):
            _once(name, key, book.remedies, "remedy")
            book.remedies[name] = _remedy(name, doc)
    if "signatures" in top:
        for doc in top["signatures"].elements("signatures"):
            _signature(doc, book)
    if "clues" in top:
        for doc in top["clues"].elements("clues"):
            _clue(doc, book)
    if "goals" in top:
        for name, key, doc in top["goals"].items("goals"):
            _once(name, key, book.goals, "goal")
            book.goals[name] = goals.goal(name, doc)
    if "references" in top:
        for name, key, doc in top["references"].items("references"):
            _once(name, key, book.references, "reference")
            book.references[name] = goals.reference(name, doc)
    if "command_rules" in top:
        book.rules += [rules.rule(doc) for doc in top["command_rules"].elements("command_rules")]
    if "foreign_flags" in top:
        for name, _, doc in top["foreign_flags"].items("foreign_flags"):
            book.foreign[name] = rules.foreign(name, doc)
    if "signs" in top:  # of causes that stand in another file
        for name, key, doc in top["signs"].items("signs"):
            book.signs.append((name, key, [_sign(d) for d in doc.elements("signs")]))
    if "flow" in top:
        for needed in ("title", "summary", "family", "start", "nodes"):
            if needed not in top:
                root.wrong(f'the flow lacks "{needed}"')
                return
        flow_id = top["flow"].text()
        _once(flow_id, top["flow"], book.flows, "flow")
        book.flows[flow_id] = _flow(flow_id, root, top)


def _once(
    name: str, doc: Doc, known: Mapping[str, Flow | Cause | Remedy | Goal | Reference], what: str
) -> None:
    if name in known:
        doc.wrong(f'{what} "{name}" is defined twice (first in {known[name].mark})')


def _flow(flow_id: str, root: Doc, top: dict[str, Doc]) -> Flow:
    nodes = {name: _node(name, doc) for name, _, doc in top["nodes"].items("nodes")}
    start = top["start"].text()
    if start not in nodes:
        top["start"].wrong(f'no node "{start}" in this flow{nearest(start, nodes)}')
    for node in nodes.values():
        for branch in node.branches:
            if branch.to and branch.to not in nodes:
                message = f'no node "{branch.to}" in this flow{nearest(branch.to, nodes)}'
                root.problems.append(Problem(branch.to_mark, message))
    return Flow(
        id=flow_id,
        title=top["title"].text(),
        summary=top["summary"].text(),
        family=top["family"].text(),
        start=start,
        nodes=nodes,
        likely=top["likely"].expression() if "likely" in top else None,
        likely_says=top["likely_says"].template() if "likely_says" in top else None,
        order=int(top["order"].number(100)) if "order" in top else 100,
        mark=root.mark,
    )


def _node(name: str, doc: Doc) -> Node:
    fields = doc.fields(f"node {name}", NODE_KEYS)
    kinds = [k for k in ("branches", "cause", "flow", "end") if k in fields]
    if len(kinds) != 1 and doc.is_mapping:
        doc.wrong(f'node "{name}" needs exactly one of branches, cause, flow or end; it has {kinds or "none"}')
    if "branches" in fields:
        for needed in ("ask", "unknown"):
            if needed not in fields:
                doc.wrong(f'node "{name}" asks, so it needs "{needed}"')
    branches = tuple(
        _branch(b) for b in (fields["branches"].elements("branches") if "branches" in fields else ())
    )
    return Node(
        id=name,
        ask=fields["ask"].text() if "ask" in fields else "",
        help=fields["help"].text() if "help" in fields else "",
        probes=fields["probes"].words("probes") if "probes" in fields else (),
        show=fields["show"].words("show") if "show" in fields else (),
        branches=branches,
        unknown=fields["unknown"].text() if "unknown" in fields else "",
        cause=fields["cause"].text() if "cause" in fields else None,
        flow=fields["flow"].text() if "flow" in fields else None,
        end=fields["end"].text() if "end" in fields else "",
        mark=doc.mark,
    )


def _branch(doc: Doc) -> Branch:
    fields = doc.fields("a branch", BRANCH_KEYS, ("to", "label"))
    otherwise = "otherwise" in fields and fields["otherwise"].truth()
    if doc.is_mapping and ("when" in fields) == otherwise:
        doc.wrong('a branch needs either "when" or "otherwise: true"')
    return Branch(
        to=fields["to"].text() if "to" in fields else "",
        label=fields["label"].text() if "label" in fields else "",
        when=fields["when"].expression() if "when" in fields else None,
        otherwise=otherwise,
        to_mark=fields.get("to", doc).mark,
        mark=fields.get("when", doc).inner_mark,
    )


def _cause(name: str, doc: Doc) -> Cause:
    fields = doc.fields(f"cause {name}", CAUSE_KEYS, ("title", "family", "why", "see"))
    signs = tuple(_sign(d) for d in (fields["signs"].elements("signs") if "signs" in fields else ()))
    return Cause(
        id=name,
        title=fields["title"].text() if "title" in fields else name,
        family=fields["family"].text() if "family" in fields else "",
        why=fields["why"].text() if "why" in fields else "",
        see=fields["see"].text() if "see" in fields else "",
        signs=signs,
        remedies=fields["remedies"].words("remedies") if "remedies" in fields else (),
        source=fields["source"].text() if "source" in fields else "",
        mark=doc.mark,
    )


def _sign(doc: Doc) -> Sign:
    fields = doc.fields("a sign", SIGN_KEYS, SIGN_KEYS)
    return Sign(
        when=fields.get("when", doc).expression(),
        weight=fields["weight"].number() if "weight" in fields else 0.0,
        says=fields["says"].template() if "says" in fields else parse_template(""),
        mark=fields.get("when", doc).inner_mark,
    )


def _remedy(name: str, doc: Doc) -> Remedy:
    fields = doc.fields(f"remedy {name}", REMEDY_KEYS, ("title", "why", "cost"))
    changes = tuple(
        _change(key, value)
        for key, _, value in (fields["change"].items("change") if "change" in fields else ())
    )
    environ = {
        key: (None if value.text() == "unset" else value.text())
        for key, _, value in (fields["environ"].items("environ") if "environ" in fields else ())
    }
    actions = fields["actions"].elements("actions") if "actions" in fields else []
    return Remedy(
        id=name,
        title=fields["title"].text() if "title" in fields else name,
        changes=changes,
        when=fields["when"].expression() if "when" in fields else None,
        why=fields["why"].template() if "why" in fields else parse_template(""),
        cost=fields["cost"].template() if "cost" in fields else parse_template(""),
        expect=fields["expect"].template() if "expect" in fields else None,
        goal=_goal(fields["verify"]) if "verify" in fields else None,
        rollback=fields["rollback"].text() if "rollback" in fields else DEFAULT_ROLLBACK,
        actions=tuple(a.template() for a in actions),
        environ=environ,
        waits_for_port="waits_for_port" in fields and fields["waits_for_port"].truth(),
        source=fields["source"].text() if "source" in fields else "",
        mark=doc.mark,
    )


def _change(name: str, doc: Doc) -> Change:
    if not doc.is_mapping:
        text = doc.text()
        if text == "unset":
            return Change(name, "unset", mark=doc.mark)
        return Change(name, "set", value=text, mark=doc.mark)
    fields = doc.fields(f"change of {name}", CHANGE_KEYS)
    if ("to" in fields) == ("value" in fields):
        doc.wrong('a change needs either "to" (a formula) or "value" (a word)')
    direction = fields["direction"].text() if "direction" in fields else ""
    if direction not in ("higher", "lower", ""):
        fields["direction"].wrong('direction is "higher" or "lower"')
        direction = ""
    value = fields["value"].text() if "value" in fields else ""
    return Change(
        name=name,
        action="unset" if value == "unset" else "set",
        value=value,
        formula=fields["to"].expression() if "to" in fields else None,
        step=fields["step"].number(1.0) if "step" in fields else 1.0,
        low=fields["low"].expression() if "low" in fields else None,
        high=fields["high"].expression() if "high" in fields else None,
        direction=direction,  # type: ignore[arg-type]
        why=fields["why"].template() if "why" in fields else None,
        mark=doc.mark,
    )


def _goal(doc: Doc) -> VerifyGoal:
    if not doc.is_mapping:
        if doc.text() != "ready":
            doc.wrong('verify is "ready" or {reading: ..., better_by: 10 %, watch: [...]}')
        return VerifyGoal("ready")
    fields = doc.fields("verify", VERIFY_KEYS, ("reading",))
    reading = fields["reading"].text() if "reading" in fields else "throughput.output"
    if reading not in METRICS and reading != "ready":
        fields["reading"].wrong(f'no such measurement "{reading}"{nearest(reading, METRICS)}')
    watch = fields["watch"].words("watch") if "watch" in fields else ()
    for name in watch:
        if name not in METRICS:
            fields["watch"].wrong(f'no such measurement "{name}"{nearest(name, METRICS)}')
    direction: Direction = "lower" if METRICS.get(reading, ("", "higher"))[1] == "lower" else "higher"
    better_by = 0.10
    if "better_by" in fields:
        text = fields["better_by"].text()
        try:
            better_by = float(text.rstrip("% ")) / (100 if text.endswith("%") else 1)
        except ValueError:
            fields["better_by"].wrong(f'"{text}" is not a share such as 10 %')
    return VerifyGoal(reading, direction, better_by, watch)


def _signature(doc: Doc, book: _Book) -> None:
    fields = doc.fields("a signature", SIGNATURE_KEYS, ("id", "pattern", "role"))
    if not {"id", "pattern", "role"} <= fields.keys():
        return
    name = fields["id"].text()
    if name in book.signatures:
        fields["id"].wrong(f'signature "{name}" is defined twice')
    try:
        book.signatures[name] = Signature(
            id=name,
            pattern=fields["pattern"].text(),
            role=fields["role"].text(),  # type: ignore[arg-type]
            phase=fields["phase"].text() if "phase" in fields else "",
            cause=fields["cause"].text() if "cause" in fields else "",
            versions=fields["versions"].text() if "versions" in fields else "",
            note=fields["note"].text() if "note" in fields else "",
            weight=fields["weight"].number() if "weight" in fields else 0.0,
        )
    except ValueError as error:
        fields["pattern"].wrong(str(error))


def _clue(doc: Doc, book: _Book) -> None:
    fields = doc.fields("a clue", CLUE_KEYS, ("id", "where", "pattern", "for"))
    if not {"id", "where", "pattern", "for"} <= fields.keys():
        return
    name = fields["id"].text()
    if name in book.clues:
        fields["id"].wrong(f'clue "{name}" is defined twice')
    where = fields["where"]
    places = where.words("where") if where.is_list else (where.text(),)
    weights = {cause: value.number() for cause, _, value in fields["for"].items("for")}
    for cause, key, _ in fields["for"].items("for"):
        if cause not in KNOWN_CAUSES:
            key.wrong(f'"{cause}" is no cause id{nearest(cause, KNOWN_CAUSES)}')
    for cause, weight in weights.items():
        if weight == 0 or abs(weight) > 10:
            fields["for"].wrong(f"the weight for {cause} is between -10 and 10, and not 0")
    try:
        book.clues[name] = Clue(
            id=name,
            places=PLACES if places == ("any",) else places,
            pattern=fields["pattern"].text(),
            weights=weights,
            says=fields["says"].text() if "says" in fields else "",
            unless=fields["unless"].text() if "unless" in fields else "",
            versions=fields["versions"].text() if "versions" in fields else "",
        )
        if not book.proven:
            book.clues[name].check()
            parts_of(book.clues[name].versions)
    except ValueError as error:
        fields["pattern"].wrong(str(error))
