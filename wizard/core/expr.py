"""Three-valued conditions over readings, with the reason for each answer.

The language is a small subset of Python's expression syntax: dotted reading names, numbers, text,
``and or not``, comparisons (chained too), ``in`` with a list or a words reading, ``+ - * / // %``
and the functions ``min max abs round floor ceil known either`` (``either`` is the first of its
arguments that is known). Nothing else parses, and nothing is ever
executed: the syntax tree is walked here.

Truth has three values (Kleene): True, False and None for unknown. A missing reading is unknown, so
``gpu.utilization < 40 and requests.queued == 0`` without a GPU but with a queue of 12 is False.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from wizard.core.reading import Scalar, Value
from wizard.core.syntax import parse_expression
from wizard.core.vocabulary import SHARES, VOCABULARY, Reading

Env = Callable[[str], "Value | None"]
Truth = bool | None

MAX_SOURCE = 2000
"""Longest expression accepted, in characters: far above any real one, far below a parser bomb."""


class ExprError(ValueError):
    """A condition that does not parse. ``column`` counts from 0 within the source."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


@dataclass(frozen=True)
class Term:
    """One comparison (or bare flag) of a condition, as it came out, with the readings it looked at."""

    text: str
    truth: Truth
    readings: tuple[tuple[str, Value | None], ...]

    def says(self) -> str:
        """``requests.running 8 >= server.max_running_requests 8``: the condition with its numbers."""
        parts = [f"{name} = {show(value.x) if value else 'unknown'}" for name, value in self.readings]
        return f"{self.text}  ({', '.join(parts)})" if parts else self.text


@dataclass(frozen=True)
class Evaluation:
    """The answer and the terms that decided it (for True and False: only those that made it so)."""

    truth: Truth
    terms: tuple[Term, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Readings without a value among the deciding terms, each once."""
        names = [n for t in self.terms for n, v in t.readings if v is None]
        return tuple(dict.fromkeys(names))


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
}
FUNCTION_NAMES = (*_FUNCTIONS, "known", "either")


def _dotted(node: ast.AST) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        return ".".join((node.id, *reversed(parts)))
    return None


def _check(node: ast.AST) -> None:
    """Raise ExprError at the first construct that is not in the language."""
    column = getattr(node, "col_offset", 0)
    if _dotted(node) is not None:
        return
    if isinstance(node, ast.Constant):
        if node.value is None or not isinstance(node.value, (bool, int, float, str)):
            raise ExprError(f"{node.value!r} is not a number, a text or True/False", column)
        return
    if isinstance(node, ast.Call):
        name = _dotted(node.func)
        if name not in FUNCTION_NAMES:
            known = ", ".join(FUNCTION_NAMES)
            raise ExprError(f"{name or 'this'} is not a function here; there are {known}", column)
        if node.keywords or not node.args:
            raise ExprError(f"{name}() takes one or more plain arguments", column)
        if name == "known" and (len(node.args) != 1 or _dotted(node.args[0]) is None):
            raise ExprError("known() takes the name of one reading", column)
        for argument in node.args:
            _check(argument)
        return
    if isinstance(node, ast.BinOp) and type(node.op) not in _ARITHMETIC:
        raise ExprError(f"operator {type(node.op).__name__} is not allowed", column)
    if isinstance(node, ast.Compare):
        for op in node.ops:
            if type(op) not in _COMPARE and not isinstance(op, (ast.In, ast.NotIn)):
                raise ExprError(f"comparison {type(op).__name__} is not allowed", column)
    allowed = (ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.List, ast.Tuple)
    if not isinstance(node, allowed):
        raise ExprError(f"{type(node).__name__} is not allowed in a condition", column)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, (ast.Not, ast.USub)):
        raise ExprError(f"operator {type(node.op).__name__} is not allowed", column)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            _check(child)


def _names(node: ast.AST) -> Iterator[tuple[str, int]]:
    name = _dotted(node)
    if name is not None:
        yield name, getattr(node, "col_offset", 0)
        return
    if isinstance(node, ast.Call):
        for argument in node.args:
            yield from _names(argument)
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


class Expression:
    """A parsed condition or formula. Immutable; make one with ``parse``."""

    __slots__ = ("_terms", "_tree", "source")

    def __init__(self, source: str, tree: ast.expr) -> None:
        self.source = source
        self._tree = tree
        self._terms: dict[int, tuple[str, tuple[str, ...]]] = {}  # by id of a node of the tree, which stays

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.source == self.source

    def __hash__(self) -> int:
        return hash(self.source)

    def names(self) -> tuple[tuple[str, int], ...]:
        """Readings named, each with the column of its first use."""
        first: dict[str, int] = {}
        for name, column in _names(self._tree):
            first.setdefault(name, column)
        return tuple(first.items())

    def evaluate(self, env: Env) -> Evaluation:
        """The truth of the condition and the terms that decided it. Never raises."""
        return self._truth(self._tree, env)

    def number(self, env: Env) -> float | None:
        """The value of a formula, or None when a reading is missing or it has no number."""
        x = self._value(self._tree, env)
        if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x):
            return None
        return float(x)

    def value(self, env: Env) -> Scalar | None:
        """The value of a formula of any kind, or None when unknown."""
        x = self._value(self._tree, env)
        if isinstance(x, (bool, int, float, str)):
            return x
        return tuple(str(i) for i in x) if isinstance(x, tuple) else None

    def _term(self, node: ast.AST, truth: Truth, env: Env) -> Evaluation:
        known = self._terms.get(id(node))
        if known is None:  # worked out once: a triage evaluates every sign of every cause
            text = ast.get_source_segment(self.source, node) or self.source
            known = (text, tuple(dict.fromkeys(n for n, _ in _names(node))))
            self._terms[id(node)] = known
        text, names = known
        return Evaluation(truth, (Term(text, truth, tuple((n, env(n)) for n in names)),))

    def _truth(self, node: ast.expr, env: Env) -> Evaluation:
        if isinstance(node, ast.BoolOp):
            return self._bool_op(node, env)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._truth(node.operand, env)
            truth = None if inner.truth is None else not inner.truth
            return Evaluation(truth, inner.terms)
        x = self._value(node, env)
        return self._term(node, x if isinstance(x, bool) else None, env)

    def _bool_op(self, node: ast.BoolOp, env: Env) -> Evaluation:
        parts = [self._truth(child, env) for child in node.values]
        decisive = isinstance(node.op, ast.Or)
        if any(p.truth is decisive for p in parts):
            truth: Truth = decisive
        elif all(p.truth is (not decisive) for p in parts):
            truth = not decisive
        else:
            truth = None
        terms = tuple(t for p in parts if p.truth is truth for t in p.terms)
        return Evaluation(truth, terms)

    def _value(self, node: ast.expr, env: Env) -> Any:
        """The value of a node; None is unknown."""
        name = _dotted(node)
        if name is not None:
            reading = env(name)
            return None if reading is None else reading.x
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [self._value(item, env) for item in node.elts]
            return None if any(i is None for i in items) else tuple(items)
        if isinstance(node, ast.Call):
            return self._call(node, env)
        if isinstance(node, ast.Compare):
            return self._compare(node, env)
        if isinstance(node, ast.BoolOp):
            return self._bool_op(node, env).truth
        if isinstance(node, ast.UnaryOp):
            inner = self._value(node.operand, env)
            if isinstance(node.op, ast.Not):
                return (not inner) if isinstance(inner, bool) else None
            return -inner if _is_number(inner) else None
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, env), self._value(node.right, env)
            if not (_is_number(left) and _is_number(right)):
                return None
            try:
                return _ARITHMETIC[type(node.op)](left, right)
            except (ZeroDivisionError, OverflowError):
                return None
        return None

    def _call(self, node: ast.Call, env: Env) -> Any:
        function = _dotted(node.func)
        if function == "known":
            return env(_dotted(node.args[0]) or "") is not None
        values = [self._value(a, env) for a in node.args]
        if function == "either":
            return next((v for v in values if v is not None), None)
        if not all(_is_number(v) for v in values):
            return None
        try:
            if function in ("min", "max") and len(values) == 1:
                return values[0]
            return _FUNCTIONS[function or ""](*values)
        except (TypeError, ValueError, OverflowError):
            return None

    def _compare(self, node: ast.Compare, env: Env) -> Truth:
        result: Truth = True
        left = self._value(node.left, env)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._value(right_node, env)
            one = _compare_values(op, left, right)
            if one is False:
                return False
            if one is None:
                result = None
            left = right
        return result


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _compare_values(op: ast.cmpop, left: Any, right: Any) -> Truth:
    if left is None or right is None:
        return None
    if isinstance(op, (ast.In, ast.NotIn)):
        if not isinstance(right, (tuple, str)) or (isinstance(right, str) and not isinstance(left, str)):
            return None
        return (left in right) is isinstance(op, ast.In)
    same_kind = (_is_number(left) and _is_number(right)) or type(left) is type(right)
    if not same_kind:
        return None
    if _is_number(left) and (math.isnan(left) or math.isnan(right)):
        return None
    return _COMPARE[type(op)](left, right)


@lru_cache(maxsize=4096)
def parse(source: str) -> Expression:
    """Parse a condition or formula.

    Raises ExprError with a column when it is not in the language.
    """
    if len(source) > MAX_SOURCE:
        raise ExprError(f"longer than {MAX_SOURCE} characters", 0)
    text = source.strip()
    try:
        tree = parse_expression(text)
    except SyntaxError as error:
        raise ExprError(f"cannot read this condition: {error.msg}", max(0, (error.offset or 1) - 1)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExprError(f"cannot read this condition: {error}", 0) from None
    try:
        _check(tree)
    except RecursionError:
        raise ExprError("nested too deeply", 0) from None
    return Expression(text, tree)


def show(x: object) -> str:
    """A value as people write it: 905,795, 1.2, 0.012, yes/no."""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int):
        return f"{x:,}"
    if isinstance(x, float):
        if not math.isfinite(x):
            return "unknown"
        if x == int(x) and abs(x) < 1e15:
            return f"{int(x):,}"
        size = abs(x)
        if size >= 100:
            return f"{x:,.0f}"
        if size >= 10:
            return f"{x:.1f}"
        return f"{x:.2f}" if size >= 0.1 else f"{x:.3g}"
    if isinstance(x, tuple):
        return ", ".join(str(i) for i in x)
    return str(x)


_NUMBERED = ("pid", "port", "code")
"""Units of numbers that name something: people copy them, so they have no thousands separators."""
_COUNTED = Reading("", "", "", ())


@dataclass(frozen=True)
class Template:
    """Text with ``{formula}`` holes, e.g. ``{kv.capacity_tokens / requests.tokens_mean} requests``."""

    source: str
    parts: tuple[str | Expression, ...]

    def names(self) -> tuple[tuple[str, int], ...]:
        return tuple(pair for part in self.parts if isinstance(part, Expression) for pair in part.names())

    def render(self, env: Env) -> str:
        """The text with numbers filled in, shares in per cent; a hole whose readings are missing is a ``?``."""
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            else:
                x = part.value(env)
                if part.source.strip() in SHARES and isinstance(x, (int, float)):
                    out.append(f"{100 * x:.3g} %" if abs(x) < 0.01 else f"{x:.0%}".replace("%", " %"))
                    continue
                plain = isinstance(x, int) and VOCABULARY.get(part.source.strip(), _COUNTED).unit in _NUMBERED
                out.append("?" if x is None else str(x) if plain else show(x))
        return "".join(out)


@lru_cache(maxsize=4096)
def parse_template(source: str) -> Template:
    """Parse a text with holes; ``{{`` and ``}}`` stand for braces. Raises ExprError with a column."""
    parts: list[str | Expression] = []
    text: list[str] = []
    i = 0
    while i < len(source):
        if source.startswith(("{{", "}}"), i):
            text.append(source[i])
            i += 2
        elif source[i] == "{":
            end = source.find("}", i)
            if end < 0:
                raise ExprError("'{' without '}'", i)
            if text:
                parts.append("".join(text))
                text = []
            try:
                parts.append(parse(source[i + 1 : end]))
            except ExprError as error:
                raise ExprError(error.message, i + 1 + error.column) from None
            i = end + 1
        else:
            text.append(source[i])
            i += 1
    if text:
        parts.append("".join(text))
    return Template(source, tuple(parts))
