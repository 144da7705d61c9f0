"""Lint: proves that the flows hang together before anybody relies on them at night.

Every node is reachable and ends, every name exists, every flag exists in some catalogued SGLang
version, every write can be verified and rolled back, every raise has a stop, and no two remedies of
a cause pull one flag in two directions (unless their conditions can never hold together).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from wizard.core.checklist import Goal
from wizard.core.clue import TEXT_CAP
from wizard.core.expr import Expression, Template
from wizard.core.flow import Cause, Change, Flow, FlowBook, Mark, Node, Remedy
from wizard.core.literals import required_texts
from wizard.core.logtext import LINE_CAP
from wizard.core.reference import Reference
from wizard.core.vocabulary import PROBES, VOCABULARY
from wizard.flowfile.apart import never_together
from wizard.flowfile.cause_ids import KNOWN_CAUSES
from wizard.flowfile.patterns import too_slow
from wizard.flowfile.rules import lint_rules
from wizard.flowfile.source import Problem, nearest


def lint(book: FlowBook) -> list[Problem]:
    """All problems of how the pieces fit together (shape problems come from loading)."""
    problems: list[Problem] = []
    for flow in book.flows.values():
        problems.extend(_flow(flow, book))
    for cause in book.causes.values():
        problems.extend(_cause(cause, book))
    for remedy in book.remedies.values():
        problems.extend(_remedy(remedy))
    for goal in book.goals.values():
        problems.extend(_goal(goal, book))
    for reference in book.references.values():
        problems.extend(_reference(reference))
    problems.extend(_unused(book))
    problems.extend(_patterns(book))
    if book.command_rules is not None:
        problems.extend(lint_rules(book.command_rules))
    for signature in book.signatures:
        if signature.cause and signature.cause not in book.causes and signature.cause not in KNOWN_CAUSES:
            message = f'signature "{signature.id}" names unknown cause "{signature.cause}"'
            problems.append(Problem(Mark("flows/signatures.yaml", 1, 1), message))
    return problems


def _names(part: Expression | Template | None, mark: Mark, template: bool = False) -> Iterator[Problem]:
    for name, column in part.names() if part is not None else ():
        if name not in VOCABULARY:
            at = Mark(mark.file, mark.line, mark.column + (0 if template else column))
            yield Problem(at, f'unknown reading "{name}"{nearest(name, VOCABULARY)}')


def _flow(flow: Flow, book: FlowBook) -> Iterator[Problem]:
    yield from _names(flow.likely, flow.mark)
    yield from _names(flow.likely_says, flow.mark, template=True)
    for node in flow.nodes.values():
        yield from _node(node, book)
    reached = _reachable(flow)
    for node in flow.nodes.values():
        if node.id not in reached:
            yield Problem(node.mark, f'node "{node.id}" cannot be reached from "{flow.start}"')
    cycle = _cycle(flow)
    if cycle:
        yield Problem(flow.nodes[cycle[0]].mark, f"the flow runs in a circle: {' > '.join(cycle)}")


def _node(node: Node, book: FlowBook) -> Iterator[Problem]:
    for probe in node.probes:
        if probe not in PROBES:
            yield Problem(node.mark, f'unknown probe "{probe}"{nearest(probe, PROBES)}')
    for name in node.show:
        if name not in VOCABULARY:
            yield Problem(node.mark, f'unknown reading "{name}"{nearest(name, VOCABULARY)}')
    for index, branch in enumerate(node.branches):
        yield from _names(branch.when, branch.mark)
        if branch.otherwise and index != len(node.branches) - 1:
            yield Problem(branch.mark, '"otherwise" must be the last branch')
    if node.branches and not node.branches[-1].otherwise:
        yield Problem(node.mark, f'node "{node.id}" has no last branch with "otherwise: true"')
    if node.cause is not None and node.cause not in book.causes:
        yield Problem(node.mark, f'unknown cause "{node.cause}"{nearest(node.cause, book.causes)}')
    if node.flow is not None and node.flow not in book.flows:
        yield Problem(node.mark, f'unknown flow "{node.flow}"{nearest(node.flow, book.flows)}')


def _reachable(flow: Flow) -> set[str]:
    reached: set[str] = set()
    waiting = [flow.start]
    while waiting:
        node = flow.nodes.get(waiting.pop())
        if node is not None and node.id not in reached:
            reached.add(node.id)
            waiting.extend(b.to for b in node.branches)
    return reached


def _cycle(flow: Flow) -> list[str]:
    """A circle of nodes, or an empty list. Depth first, without recursion."""
    done: set[str] = set()
    for start in flow.nodes:
        path: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            name, index = stack.pop()
            if index == 0:
                if name in done or name not in flow.nodes:
                    continue
                if name in path:
                    return [*path[path.index(name) :], name]
                path.append(name)
            branches = flow.nodes[name].branches
            if index < len(branches):
                stack.append((name, index + 1))
                to = branches[index].to
                if to in path:
                    return [*path[path.index(to) :], to]
                stack.append((to, 0))
            else:
                done.add(name)
                path.remove(name)
    return []


def _cause(cause: Cause, book: FlowBook) -> Iterator[Problem]:
    if cause.id not in KNOWN_CAUSES:
        yield Problem(cause.mark, f'"{cause.id}" is no cause id{nearest(cause.id, KNOWN_CAUSES)}')
    spoken_for = (
        any(s.weight > 0 for s in cause.signs)
        or any(c.weights.get(cause.id, 0) > 0 for c in book.clues)
        or any(s.cause == cause.id and s.weight > 0 for s in book.signatures)
    )
    if not spoken_for:
        yield Problem(cause.mark, f'cause "{cause.id}" has no sign that speaks for it')
    for sign in cause.signs:
        yield from _names(sign.when, sign.mark)
        yield from _names(sign.says, sign.mark, template=True)
        if sign.weight == 0 or abs(sign.weight) > 10:
            yield Problem(sign.mark, "a weight is between -10 and 10, and not 0")
    for name in cause.remedies:
        if name not in book.remedies:
            yield Problem(cause.mark, f'unknown remedy "{name}"{nearest(name, book.remedies)}')
    yield from _fights(cause, [book.remedies[r] for r in cause.remedies if r in book.remedies])


def _fights(cause: Cause, remedies: Iterable[Remedy]) -> Iterator[Problem]:
    """Two ways of one flag are for two situations: allowed where their conditions can never hold together."""
    moves: dict[str, list[tuple[str, Remedy]]] = {}
    for remedy in remedies:
        for change in remedy.changes:
            if not change.direction:
                continue
            before = moves.setdefault(change.name, [])
            against = [other for way, other in before if way != change.direction]
            before.append((change.direction, remedy))
            for other in (o for o in against if not never_together(o.when, remedy.when)):
                yield Problem(
                    change.mark,
                    f'remedies "{other.id}" and "{remedy.id}" of cause "{cause.id}" move '
                    f'"{change.name}" in opposite directions',
                )


def _remedy(remedy: Remedy) -> Iterator[Problem]:
    yield from _names(remedy.when, remedy.mark)
    for template in (remedy.why, remedy.cost, remedy.expect, *remedy.actions):
        yield from _names(template, remedy.mark, template=True)
    writes = bool(remedy.changes or remedy.environ or remedy.waits_for_port)
    if writes and remedy.goal is None:
        yield Problem(remedy.mark, f'remedy "{remedy.id}" changes the server, so it needs "verify"')
    if writes and not remedy.rollback:
        yield Problem(remedy.mark, f'remedy "{remedy.id}" changes the server, so it needs "rollback"')
    if not writes and not remedy.actions:
        yield Problem(remedy.mark, f'remedy "{remedy.id}" neither changes anything nor says what to do')
    for change in remedy.changes:
        yield from _change(change, remedy)


def _change(change: Change, remedy: Remedy) -> Iterator[Problem]:
    if not _flag_exists(change.name):
        message = f'no catalogued SGLang has a flag "{change.name}"{nearest(change.name, _flag_names())}'
        yield Problem(change.mark, message)
    for part in (change.formula, change.low, change.high):
        yield from _names(part, change.mark)
    yield from _names(change.why, change.mark, template=True)
    if change.formula is not None:
        if not change.direction:
            yield Problem(change.mark, f'the formula for "{change.name}" needs "direction"')
        if change.direction == "higher" and change.high is None:
            yield Problem(change.mark, f'"{change.name}" is raised without a stop: give "high"')
        if change.direction == "lower" and change.low is None:
            yield Problem(change.mark, f'"{change.name}" is lowered without a stop: give "low"')
        if change.step <= 0:
            yield Problem(change.mark, "step must be above 0")


def _patterns(book: FlowBook) -> Iterator[Problem]:
    """A pattern that a hostile line can stop the wizard with is a defect."""
    looked = [(s.id, s.pattern, LINE_CAP) for s in book.signatures]
    looked += [(c.id, p, TEXT_CAP) for c in book.clues for p in (c.pattern, c.unless) if p]
    for name, pattern, characters in looked:
        steps = too_slow(pattern, characters)
        if steps is not None:
            message = f'the pattern of "{name}" may take {steps:.0e} steps; use fewer or narrower gaps'
            yield Problem(Mark("flows", 1, 1), message)
    for signature in book.signatures:
        if required_texts(signature.pattern) is None:
            message = f'the pattern of "{signature.id}" needs no certain text: costly on large logs'
            yield Problem(Mark("flows", 1, 1), message)


def _goal(goal: Goal, book: FlowBook) -> Iterator[Problem]:
    for box in goal.boxes:
        for name in filter(None, (box.remedy, *(s.remedy for s in box.states))):
            if name not in book.remedies:
                yield Problem(box.mark, f'unknown remedy "{name}"{nearest(name, book.remedies)}')
        if box.remedy and not any(s.status in ("not_done", "harmful") for s in box.states):
            yield Problem(box.mark, f'box "{box.id}" has a remedy, but no state that wants it')
        for state in box.states:
            yield from _names(state.when, state.mark)
            yield from _names(state.says, state.mark, template=True)


def _reference(reference: Reference) -> Iterator[Problem]:
    for setting in reference.settings:
        if not _flag_exists(setting.name):
            message = f'no catalogued SGLang has a flag "{setting.name}"{nearest(setting.name, _flag_names())}'
            yield Problem(setting.mark, message)
        for choice in setting.choices:
            yield from _names(choice.when, choice.mark)
            yield from _names(choice.why, choice.mark, template=True)
            yield from _names(choice.value, choice.mark, template=True)


@lru_cache(maxsize=1024)
def _flag_exists(name: str) -> bool:
    from wizard.server.catalogue import catalogued_versions, for_version

    return any(for_version(v).flag_for(name) is not None for v in reversed(catalogued_versions()))


def _flag_names() -> list[str]:
    from wizard.server.catalogue import for_version

    return sorted({spec.dest for spec in for_version(None).specs})


def _unused(book: FlowBook) -> Iterator[Problem]:
    used = {r for cause in book.causes.values() for r in cause.remedies}
    boxes = [box for goal in book.goals.values() for box in goal.boxes]
    used |= {name for box in boxes for name in (box.remedy, *(s.remedy for s in box.states))}
    for remedy in book.remedies.values():
        if remedy.id not in used:
            yield Problem(remedy.mark, f'remedy "{remedy.id}" belongs to no cause')
