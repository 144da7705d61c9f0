"""YAML with marks: every value knows its file, line and column, so that an error can point at it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wizard.core.expr import ExprError, Expression, Template, parse, parse_template
from wizard.core.flow import Mark

MAX_BYTES = 1_000_000
"""Largest flow file read: far above any real one."""

MAX_DEPTH = 30
"""Deepest nesting read; real files have 6. Deeper costs the parser quadratic time."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a flow file: ``flows/x.yaml:12:7 unknown probe "gpo"; did you mean "gpu"?``"""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark} {self.message}"


class FlowFileError(Exception):
    """The flow files cannot be used; ``problems`` says where and why, all of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?`` or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f'; did you mean "{close[0]}"?' if close else ""


class Doc:
    """A YAML node with its file. Its methods give Python values or note a problem and a default."""

    def __init__(self, node: yaml.Node, file: str, problems: list[Problem]) -> None:
        self.node = node
        self.file = file
        self.problems = problems

    @property
    def mark(self) -> Mark:
        return Mark(self.file, self.node.start_mark.line + 1, self.node.start_mark.column + 1)

    @property
    def inner_mark(self) -> Mark:
        """Where the text itself starts: after the quote of a quoted scalar."""
        mark = self.mark
        return Mark(mark.file, mark.line, mark.column + self._inner(0))

    def wrong(self, message: str, offset: int = 0) -> None:
        mark = self.mark
        self.problems.append(Problem(Mark(mark.file, mark.line, mark.column + offset), message))

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def child(self, node: yaml.Node) -> Doc:
        return Doc(node, self.file, self.problems)

    def items(self, what: str) -> Iterator[tuple[str, Doc, Doc]]:
        """(key, key doc, value doc) of a mapping; duplicates are a problem."""
        if not isinstance(self.node, yaml.MappingNode):
            self.wrong(f"{what} must be a mapping (name: value)")
            return
        seen: set[str] = set()
        for key_node, value_node in self.node.value:
            key = self.child(key_node)
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            if not name:
                key.wrong(f"a key of {what} must be a plain word")
                continue
            if name in seen:
                key.wrong(f'"{name}" stands here twice')
                continue
            seen.add(name)
            yield name, key, self.child(value_node)

    def fields(self, what: str, allowed: Iterable[str], required: Iterable[str] = ()) -> dict[str, Doc]:
        """A mapping with known keys only."""
        allowed = tuple(allowed)
        found: dict[str, Doc] = {}
        for name, key, value in self.items(what):
            if name in allowed:
                found[name] = value
            else:
                key.wrong(f'unknown key "{name}" in {what}{nearest(name, allowed)}')
        for name in required:
            if name not in found:
                self.wrong(f'{what} lacks "{name}"')
        return found

    def elements(self, what: str) -> list[Doc]:
        if not isinstance(self.node, yaml.SequenceNode):
            self.wrong(f"{what} must be a list")
            return []
        return [self.child(n) for n in self.node.value]

    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            self.wrong("this must be a text")
            return ""
        return str(self.node.value).strip()

    def words(self, what: str) -> tuple[str, ...]:
        return tuple(d.text() for d in self.elements(what))

    def number(self, default: float = 0.0) -> float:
        text = self.text()
        try:
            return float(text)
        except ValueError:
            self.wrong(f'"{text}" is not a number')
            return default

    def truth(self) -> bool:
        text = self.text().lower()
        if text not in ("true", "false"):
            self.wrong(f'"{text}" is neither true nor false')
        return text == "true"

    def expression(self) -> Expression:
        try:
            return parse(self.text())
        except ExprError as error:
            self.wrong(error.message, self._inner(error.column))
            return parse("False")

    def template(self) -> Template:
        try:
            return parse_template(self.text())
        except ExprError as error:
            self.wrong(error.message, self._inner(error.column))
            return parse_template("?")

    def _inner(self, column: int) -> int:
        """Columns into a one-line scalar start after its quote."""
        node = self.node
        if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
            return 0
        return column + (1 if node.style in ("'", '"') else 0)


def read(path: Path, shown_as: str, problems: list[Problem]) -> Doc | None:
    """The root of a YAML file, or None with a problem noted. Anchors and aliases are refused."""
    start = Mark(shown_as, 1, 1)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            problems.append(Problem(start, f"{size} bytes; a flow file has at most {MAX_BYTES}"))
            return None
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        problems.append(Problem(start, f"cannot be read: {error.strerror}"))
        return None
    except UnicodeDecodeError as error:
        problems.append(Problem(start, f"is not UTF-8 text (byte {error.start})"))
        return None
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            place: Any = event.start_mark
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                mark = Mark(shown_as, place.line + 1, place.column + 1)
                problems.append(Problem(mark, "anchors and aliases (& and *) are not used in flows"))
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                mark = Mark(shown_as, place.line + 1, place.column + 1)
                problems.append(Problem(mark, f"is nested more than {MAX_DEPTH} deep"))
                return None
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        at: Any = error.problem_mark or error.context_mark
        mark = Mark(shown_as, at.line + 1, at.column + 1) if at else start
        problems.append(Problem(mark, f"is not YAML: {error.problem or error.context}"))
        return None
    except (yaml.YAMLError, RecursionError) as error:
        problems.append(Problem(start, f"is not YAML: {str(error).splitlines()[0]}"))
        return None
    if node is None:
        problems.append(Problem(start, "is empty"))
        return None
    return Doc(node, shown_as, problems)
