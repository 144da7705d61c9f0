"""From a cause to concrete offers: each remedy with numbers of this server and a checked command line.

A value is computed from readings, kept between its stops, rounded, and never moved the wrong way. A
flag that the installed version does not take is never offered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from wizard.core.argv import CommandLine, attention_groups, parse, set_flag, split, unset_flag, validate
from wizard.core.argv import diff as argv_diff
from wizard.core.expr import Env, Expression, Template, parse_template, show
from wizard.core.flags import Catalogue, snake
from wizard.core.flow import Cause, Change, FlowBook, Remedy
from wizard.core.plan import FlagChange, Plan, VerifyGoal
from wizard.core.reading import Snapshot
from wizard.core.session import Offer
from wizard.core.target import Target

DEFAULT_ROLLBACK = "The old command is started again."


@dataclass(frozen=True)
class Move:
    """One change worked out: ``value`` None = remove; "lower"/"higher" when no number can be known."""

    name: str
    flag: str
    value: str | None
    why: str
    certain: bool
    refused: str = ""
    inert: bool = False
    """Nothing to do: the flag to remove is not on the command line."""


def make_offers(
    cause: Cause, book: FlowBook, target: Target, snapshot: Snapshot, catalogue: Catalogue
) -> tuple[Offer, ...]:
    """An offer for each remedy of the cause, in the cause's order: applicable ones first.

    Remedies whose condition is false here come last, with the reason.
    """
    offers = [make_offer(book.remedies[name], cause, target, snapshot, catalogue) for name in cause.remedies]
    if cause.id == "bad_cli_args":
        from wizard.session.corrections import corrections

        computed = corrections(cause, target, snapshot, catalogue, book)
        # a flag without a right spelling of its own is replaced by another setting: flows know which
        offers = [*computed, *(o for o in offers if o.intents or not computed)]
    if not knows_command(target, snapshot):
        # nobody said that such a flag is there: what helps without it comes first
        return tuple(sorted(offers, key=lambda o: bool(o.intents) and all(v is None for _, v in o.intents)))
    return tuple(sorted(offers, key=lambda o: (o.plan is None, bool(o.why_not) and not o.intents)))


def knows_command(target: Target, snapshot: Snapshot) -> bool:
    """Whether the launch command, or the settings that came of it, can be seen."""
    return target.launch is not None or bool(target.command_text) or snapshot.get("server.tp_size") is not None


def make_offer(remedy: Remedy, cause: Cause, target: Target, snapshot: Snapshot, catalogue: Catalogue) -> Offer:
    """One remedy for one server: with a plan where it can be applied, else with why not."""
    env = snapshot.get
    why, cost = told(remedy.why, env), told(remedy.cost, env)
    actions = _actions(remedy, env)
    applies = remedy.when.evaluate(env) if remedy.when is not None else None
    if applies is not None and applies.truth is False:
        reason = "does not apply here: " + "; ".join(t.says() for t in applies.terms)
        return Offer(remedy, None, reason, (), why, cost, actions)
    command = _command(target, catalogue)
    moves = [_move(change, env, command, catalogue) for change in remedy.changes]
    intents = tuple((m.flag, m.value) for m in moves if m.flag and not m.refused and not m.inert)
    offer = Offer(remedy, None, "", intents, why, cost, actions)
    refused = [m.refused for m in moves if m.refused]
    if refused:
        return _because(offer, "; ".join(refused), keep_intents=False)
    if remedy.changes and moves and all(m.inert for m in moves):
        flags = ", ".join(m.flag for m in moves if m.flag) or moves[0].name
        return _because(offer, f"{flags} is not on the command line", keep_intents=False)
    if not remedy.changes and not remedy.environ and not remedy.waits_for_port:
        return _because(offer, "this is for a person to do")
    if applies is not None and applies.truth is None:
        missing = ", ".join(applies.missing)
        return _because(offer, f"cannot tell whether it applies: {missing} unknown")
    if any(not m.certain for m in moves):
        vague = ", ".join(m.flag for m in moves if not m.certain)
        return _because(offer, f"no value for {vague} can be computed from the readings at hand")
    if target.note:
        return _because(offer, target.note)
    if target.launch is None or command is None:
        return _because(offer, "the launch command of this server is not known (give --pid or --command)")
    if not command.editable:
        return _because(offer, f"its command line cannot be edited safely: {command.why}")
    return Offer(
        remedy, _plan(remedy, cause, env, target, command, moves, catalogue), "", intents, why, cost, actions
    )


def told(template: Template, env: Env) -> str:
    """The text with its numbers; sentences whose numbers are missing are left out."""
    text = template.render(env)
    if all(not isinstance(part, Expression) or part.value(env) is not None for part in template.parts):
        return text
    return " ".join(s for s in re.split(r"(?<=\.) ", text) if "?" not in s)


def _actions(remedy: Remedy, env: Env) -> tuple[str, ...]:
    """What a person does; one whose subject is not known is left out, unless it is all there is."""
    found = tuple(filter(None, (told(action, env) for action in remedy.actions)))
    return found or tuple(action.render(env) for action in remedy.actions)


def _because(offer: Offer, why_not: str, keep_intents: bool = True) -> Offer:
    intents = offer.intents if keep_intents else ()
    return Offer(offer.remedy, None, why_not, intents, offer.why, offer.cost, offer.actions)


def _command(target: Target, catalogue: Catalogue) -> CommandLine | None:
    if target.launch is not None:
        return parse(target.launch.argv, catalogue)
    if target.command_text:
        return parse(split(target.command_text).argv, catalogue)
    return None


def _move(change: Change, env: Env, command: CommandLine | None, catalogue: Catalogue) -> Move:
    spec = catalogue.flag_for(change.name)
    why = told(change.why, env) if change.why else ""
    if spec is None and change.action == "unset":
        return Move(change.name, "", None, why, True, inert=True)
    if spec is None:
        return Move(
            change.name, "", None, why, True, f"SGLang {catalogue.version} has no flag for {change.name}"
        )
    current = command.value(change.name) if command is not None else None
    use = command.use(change.name) if command is not None else None
    flag = use.flag if use is not None else spec.flag  # what stands there keeps its spelling
    if change.action == "unset":
        inert = command is not None and current is None
        return Move(change.name, flag, None, why, True, inert=inert)
    if change.formula is None and change.value.startswith("<"):
        return Move(change.name, flag, change.value, why, False)  # a name that only a person can fill in
    if flag == "--attn-dp-size" and change.value == "true":
        groups = attention_groups(command)
        return Move(change.name, flag, groups, why, groups is not None)
    if change.formula is None:
        number = _number(change.value)
        if number is not None and _wrong_way(change, number, _number(current)):
            return Move(change.name, flag, change.value, why, True, f"{flag} is {current} already")
        if spec.choices is not None and change.value != "true" and change.value not in spec.choices:
            known = f"SGLang {catalogue.version} knows no {flag} {change.value}"
            return Move(change.name, flag, None, why, True, known)
        return Move(change.name, flag, "" if change.value == "true" else change.value, why, True)
    number = change.formula.number(env)
    low = change.low.number(env) if change.low else None
    high = change.high.number(env) if change.high else None
    if number is None or (change.low and low is None and change.direction == "lower"):
        return Move(change.name, flag, change.direction or None, why, False)
    if low is not None and high is not None and low > high:
        return Move(change.name, flag, None, why, True, f"{flag} is at its limit: {show(low)} > {show(high)}")
    number = max(number, low) if low is not None else number
    number = min(number, high) if high is not None else number
    number = _rounded(number, change.step, low, high)
    base = _number(current)
    if base is None:
        reading = env(f"server.{change.name}")
        base = float(reading.x) if reading and isinstance(reading.x, (int, float)) else None
    if _wrong_way(change, number, base):
        return Move(
            change.name,
            flag,
            None,
            why,
            True,
            f"{flag} is {show(base)}; {change.direction} is not possible",
        )
    return Move(change.name, flag, _text(number, change.step), why, True)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _wrong_way(change: Change, new: float, old: float | None) -> bool:
    if old is None or not change.direction or change.name == "port":
        return False
    return new <= old if change.direction == "higher" else new >= old


def _rounded(x: float, step: float, low: float | None, high: float | None) -> float:
    """To a multiple of ``step``, staying within the stops."""
    value = round(x / step) * step
    if high is not None and value > high + 1e-9:
        value = math.floor(high / step + 1e-9) * step
    if low is not None and value < low - 1e-9:
        value = math.ceil(low / step - 1e-9) * step
    return value


def _text(x: float, step: float) -> str:
    if step >= 1:
        return str(round(x))
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return f"{x:.{digits}f}"


def _plan(
    remedy: Remedy,
    cause: Cause,
    env: Env,
    target: Target,
    command: CommandLine,
    moves: Sequence[Move],
    catalogue: Catalogue,
) -> Plan:
    edited = command
    for move in moves:
        if move.inert:
            continue
        if move.value is None:
            edited = unset_flag(edited, move.name)
        else:
            edited = set_flag(edited, move.name, move.value or None)
    reasons = {m.flag: m.why for m in moves}
    return plan_for(remedy, cause, env, target, tuple(edited.argv), catalogue, reasons)


def plan_for(
    remedy: Remedy,
    cause: Cause,
    env: Env,
    target: Target,
    new: tuple[str, ...],
    catalogue: Catalogue,
    reasons: Mapping[str, str] = MappingProxyType({}),
    *,
    reason: str = "",
    why: str = "",
    cost: str = "",
) -> Plan:
    """The plan that puts ``new`` in the place of the target's command. ``reasons``: why, flag by flag.

    ``why`` and ``cost`` stand in for the remedy's own.
    """
    assert target.launch is not None
    old = tuple(target.launch.argv)
    changes = tuple(
        FlagChange(c.flag, c.old, c.new, reasons.get(c.flag, "") or reason or remedy.title)
        for c in argv_diff(old, new, catalogue)
    )
    before = {(p.kind, p.flag) for p in validate(old, catalogue)}
    fresh = [p for p in validate(new, catalogue) if p.fatal and (p.kind, p.flag) not in before]
    checks = (("flags", not fresh, "; ".join(p.message for p in fresh) or f"valid for {catalogue.version}"),)
    goal = remedy.goal or VerifyGoal("ready")
    if not target.is_live:
        goal = VerifyGoal("ready")
    return Plan(
        cause_id=cause.id,
        cause_title=cause.title,
        remedy_id=remedy.id,
        remedy_title=remedy.title,
        old_argv=old,
        new_argv=new,
        changes=changes,
        goal=goal,
        why=why or told(remedy.why, env),
        cost=cost or told(remedy.cost, env),
        expect=told(remedy.expect, env) if remedy.expect else "",
        environ=dict(remedy.environ),
        actions=_actions(remedy, env),
        waits_for_port=remedy.waits_for_port,
        checks=checks,
    )


def forced_offer(target: Target, catalogue: Catalogue, changes: Sequence[tuple[str, str | None]]) -> Offer:
    """A person's own changes (``fix --set FLAG=VALUE``) as an offer: no remedy, checked all the same.

    Raises ValueError with one line when a flag is unknown to the version or the command not editable.
    """
    moves: list[Move] = []
    for name, value in changes:
        spec = catalogue.flag_for(name.lstrip("-").replace("-", "_"))
        if spec is None:
            raise ValueError(f"SGLang {catalogue.version} has no flag {name}")
        moves.append(Move(snake(spec.flag), spec.flag, value, "you asked for it", True))
    command = _command(target, catalogue)
    if target.note:
        raise ValueError(target.note)
    if target.launch is None or command is None:
        raise ValueError("the launch command of this server is not known (give --pid, or --log and --command)")
    if not command.editable:
        raise ValueError(f"its command line cannot be edited safely: {command.why}")
    words = parse_template("You asked for this change.")
    price = parse_template("Not known for a change of your own; the measurement will tell.")
    goal = VerifyGoal("throughput.output", watch=("ttft.p50", "itl.p99", "requests.failed"))
    remedy = Remedy(
        "asked_for", "Apply the change that you gave", (), None, words, price, None, goal, DEFAULT_ROLLBACK
    )
    cause = Cause("asked_for", "A change that you asked for", "", "", "", (), ())
    plan = _plan(remedy, cause, lambda _: None, target, command, moves, catalogue)
    if plan.new_argv == plan.old_argv and not plan.environ:
        raise ValueError("nothing would change: the command has all of that already")
    intents = tuple((m.flag, m.value) for m in moves)
    return Offer(remedy, plan, "", intents, plan.why, plan.cost)
