"""Constants out of a package's source files, by reading: nothing of them is imported or run.

Covers what SGLang's argument definitions are written with (0.4.0 to 0.5.23): lists, names, imports,
enums, class attributes, comprehensions over them. Everything else is ``Unknown``. Bounded in files,
bytes and time, so that a strange installation costs a second and not the session.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wizard.core.syntax import parse_module

MOST_FILES = 200
MOST_FILE_BYTES = 2 << 20
MOST_BYTES = 12 << 20
MOST_SECONDS = 4.0
MOST_DEPTH = 40


class Unknown(Exception):
    """What the source says cannot be told without running it."""


class TooMuch(Unknown):
    """The bounds on files, bytes or time are used up."""


class Sources:
    """The modules below one folder (site-packages, or ``python/`` of a checkout)."""

    def __init__(
        self, root: Path, package: str = "sglang", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self.package = package
        self._clock = clock
        self._until = clock() + MOST_SECONDS
        self._bytes = 0
        self._modules: dict[str, Module] = {}

    def module(self, dotted: str) -> Module:
        """A module by its dotted name. Raises Unknown when there is none, TooMuch past the bounds."""
        if dotted not in self._modules:
            self._modules[dotted] = Module(self, dotted, self._tree(dotted))
        return self._modules[dotted]

    def names_in(self, dotted: str) -> list[str]:
        """Modules of a package, without ``__init__``; [] when there is no such package."""
        folder = self.root.joinpath(*dotted.split("."))
        try:
            stems = sorted(p.stem for p in folder.glob("*.py"))
        except OSError:
            return []
        return [f"{dotted}.{stem}" for stem in stems if stem != "__init__"]

    def _tree(self, dotted: str) -> ast.Module:
        base = self.root.joinpath(*dotted.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if len(self._modules) >= MOST_FILES or self._clock() > self._until:
                raise TooMuch(f"{self.root} holds more than can be read in time")
            try:
                with path.open("rb") as file:
                    data = file.read(MOST_FILE_BYTES + 1)
            except OSError:
                continue
            self._bytes += len(data)
            if len(data) > MOST_FILE_BYTES or self._bytes > MOST_BYTES:
                raise TooMuch(f"{path} is larger than what is read")
            try:
                return parse_module(data.decode("utf-8", "replace"))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                raise Unknown(f"{path} cannot be read as Python") from None
        raise Unknown(dotted)


class ClassOf:
    """A class found in the source, with the module that its body reads names from."""

    def __init__(self, module: Module, node: ast.ClassDef) -> None:
        self.module, self.node = module, node

    def attribute(self, name: str) -> Any:
        scope: dict[str, Any] = {}
        for node in self.node.body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        value = self.module.try_value(node.value, scope)
                        if target.id == name:
                            return _sure(value)
                        scope[target.id] = value
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value:
                return self.module.value(node.value, {})
        raise Unknown(f"{self.node.name}.{name}")

    def members(self) -> list[tuple[str, Any]]:
        """Names and values of an enum."""
        return [
            (node.targets[0].id, self.module.try_value(node.value, {}))
            for node in self.node.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and not node.targets[0].id.startswith("_")
        ]


class Module:
    """One source file; names are looked up when asked for."""

    def __init__(self, sources: Sources, dotted: str, tree: ast.Module) -> None:
        self.sources, self.dotted, self.tree = sources, dotted, tree
        self._found: dict[str, Any] = {}
        self._open: set[str] = set()
        self.imports: dict[str, tuple[str, str]] = {}
        self.defs: dict[str, ast.AST] = {}
        stars = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if alias.name == "*":
                        stars.append(node.module)
                    else:
                        self.imports.setdefault(alias.asname or alias.name, (node.module, alias.name))
        self.stars = [name for name in stars if name.startswith(sources.package)]
        for item in tree.body:
            if isinstance(item, ast.Assign):
                for target in item.targets:
                    # `ServerArgs = msgspec.defstruct(...)` (0.5.20) must not hide the class of that name
                    if isinstance(target, ast.Name) and not isinstance(self.defs.get(target.id), ast.ClassDef):
                        self.defs[target.id] = item.value
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value:
                self.defs[item.target.id] = item.value
            elif isinstance(item, (ast.ClassDef, ast.FunctionDef)):
                self.defs[item.name] = item

    def name(self, name: str) -> Any:
        """What a name of this module stands for. Raises Unknown."""
        if name in self._found:
            return self._found[name]
        if name in self._open:
            raise Unknown(f"{name} is defined by itself")
        self._open.add(name)
        try:
            self._found[name] = self._look_up(name)
        finally:
            self._open.discard(name)
        return self._found[name]

    def _look_up(self, name: str) -> Any:
        node = self.defs.get(name)
        if isinstance(node, ast.ClassDef):
            return ClassOf(self, node)
        if isinstance(node, ast.FunctionDef):
            return node
        if isinstance(node, ast.expr):
            return self._extended(name, self.value(node, {}))
        if name in self.imports:
            module, original = self.imports[name]
            if module.startswith(self.sources.package):
                return self.sources.module(module).name(original)
        for module in self.stars:
            try:
                return self.sources.module(module).name(name)
            except TooMuch:
                raise
            except Unknown:
                continue
        raise Unknown(name)

    def _extended(self, name: str, value: Any) -> Any:
        """A list with what ``NAME.extend([...])`` and ``NAME.append(...)`` add below it."""
        for node in self.tree.body:
            call = node.value if isinstance(node, ast.Expr) else None
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            owner = call.func.value
            if isinstance(owner, ast.Name) and owner.id == name and isinstance(value, list):
                if call.func.attr == "extend":
                    value = [*value, *self.value(call.args[0], {})]
                elif call.func.attr == "append":
                    value = [*value, self.value(call.args[0], {})]
        return value

    def try_value(self, node: ast.expr, scope: Mapping[str, Any]) -> Any:
        """The value, or the Unknown that tells why there is none."""
        try:
            return self.value(node, scope)
        except TooMuch:
            raise
        except Unknown as unknown:
            return unknown

    def value(self, node: ast.expr, scope: Mapping[str, Any], depth: int = 0) -> Any:
        """The value of an expression. Raises Unknown."""
        if depth > MOST_DEPTH:
            raise Unknown("nested too deeply")
        try:
            return self._value(node, scope, depth + 1)
        except (TypeError, KeyError, AttributeError, ValueError, IndexError, RecursionError) as error:
            raise Unknown(str(error)) from None

    def _value(self, node: ast.expr, scope: Mapping[str, Any], depth: int) -> Any:
        def of(inner: ast.expr) -> Any:
            return self.value(inner, scope, depth)

        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return _sure(scope[node.id]) if node.id in scope else self.name(node.id)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            found: list[Any] = []
            for item in node.elts:
                if isinstance(item, ast.Starred):
                    found.extend(of(item.value))
                else:
                    found.append(of(item))
            return found
        if isinstance(node, ast.Dict):
            return self._dict(node, scope, depth)
        if isinstance(node, ast.Attribute):
            base = of(node.value)
            if isinstance(base, ClassOf):
                return base.attribute(node.attr)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            return -of(node.operand) if isinstance(node.op, ast.USub) else not of(node.operand)
        if isinstance(node, ast.BinOp):
            return _operation(node.op, of(node.left), of(node.right))
        if isinstance(node, ast.IfExp):
            return of(node.body) if of(node.test) else of(node.orelse)
        if isinstance(node, ast.JoinedStr):
            return "".join(str(of(v.value if isinstance(v, ast.FormattedValue) else v)) for v in node.values)
        if isinstance(node, (ast.ListComp, ast.SetComp)) and len(node.generators) == 1:
            return self._comprehension(node, scope, depth)
        if isinstance(node, ast.Call):
            return self._call(node, scope, depth)
        raise Unknown(ast.unparse(node)[:80])

    def _dict(self, node: ast.Dict, scope: Mapping[str, Any], depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                found.update(self.value(item, scope, depth))
            else:  # the keys are what choices are made of; a value may be anything
                found[self.value(key, scope, depth)] = self.try_value(item, scope)
        return found

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp, scope: Mapping[str, Any], depth: int
    ) -> list[Any]:
        one = node.generators[0]
        items = self.value(one.iter, scope, depth)
        if isinstance(items, ClassOf):
            text = ast.unparse(node.elt)
            pairs = items.members()
            if text.endswith(".name.lower()"):
                return [name.lower() for name, _ in pairs]
            if text.endswith(".name"):
                return [name for name, _ in pairs]
            if text.endswith(".value"):
                return [_sure(value) for _, value in pairs]
            raise Unknown(text)
        if not isinstance(one.target, ast.Name) or one.ifs:
            raise Unknown("a comprehension with conditions")
        return [self.value(node.elt, {**scope, one.target.id: x}, depth) for x in list(items)[:2000]]

    def _call(self, node: ast.Call, scope: Mapping[str, Any], depth: int) -> Any:
        name = ast.unparse(node.func)
        if name in ("list", "tuple", "set", "frozenset", "sorted") and len(node.args) <= 1:
            value = self.value(node.args[0], scope, depth) if node.args else []
            items = [n for n, _ in value.members()] if isinstance(value, ClassOf) else list(value)
            return sorted(items) if name in ("set", "frozenset", "sorted") else items
        if name.endswith(".keys") and isinstance(node.func, ast.Attribute):
            return list(self.value(node.func.value, scope, depth))
        if name.rsplit(".", 1)[-1] == "field":
            for keyword in node.keywords:
                if keyword.arg == "default":
                    return self.value(keyword.value, scope, depth)
                if keyword.arg == "default_factory":
                    made = ast.unparse(keyword.value)
                    if isinstance(keyword.value, ast.Lambda):
                        return self.value(keyword.value.body, scope, depth)
                    return {"list": [], "dict": {}, "set": []}[made]
        if isinstance(node.func, ast.Name) and not node.args and not node.keywords:
            function = self.name(node.func.id)
            home = self
            if node.func.id in self.imports and node.func.id not in self.defs:
                home = self.sources.module(self.imports[node.func.id][0])
            if isinstance(function, ast.FunctionDef):
                returns = [s.value for s in function.body if isinstance(s, ast.Return) and s.value]
                if returns:
                    return home.value(returns[-1], {}, depth)
        raise Unknown(name)


def _operation(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Add):
        return left + right
    if isinstance(op, ast.Sub):
        return left - right
    if isinstance(op, ast.Mult) and all(isinstance(x, (int, float)) for x in (left, right)):
        return left * right
    if isinstance(op, ast.BitOr):
        return {**left, **right} if isinstance(left, dict) else [*left, *right]
    raise Unknown("an operation")


def _sure(value: Any) -> Any:
    if isinstance(value, Unknown):
        raise value
    return value
