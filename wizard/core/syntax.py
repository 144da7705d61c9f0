"""Python's parser for text from outside, one thread at a time.

CPython 3.11 keeps the depth of the tree it is building in one place for all threads. Two probes that
parse at the same moment can end in "SystemError: AST constructor recursion depth mismatch" (seen on
3.11.7 with the log and sglang probes side by side; CPython issue 106905).
"""

from __future__ import annotations

import ast
import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """One parser at a time, and nothing on stderr about odd escapes in somebody else's text."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse_expression(text: str) -> ast.expr:
    """The tree of an expression; nothing is executed. Raises what ``ast.parse`` raises."""
    with _quietly():
        return ast.parse(text, mode="eval").body


def read_literal(text: str) -> Any:
    """The value of a literal. Raises what ``ast.literal_eval`` raises."""
    with _quietly():
        return ast.literal_eval(text)


def parse_module(text: str) -> ast.Module:
    """The tree of a source file; nothing is executed. Raises what ``ast.parse`` raises."""
    with _quietly():
        return ast.parse(text)
