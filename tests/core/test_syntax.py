"""Many threads that parse at once, as probes do."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wizard.core.syntax import parse_expression, read_literal


class Loop:
    """Garbage that runs Python code when it is collected, in the middle of somebody's parsing."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(20):
            pass


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places as often as can be."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(10)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("restless")
def test_threads_do_not_break_each_other() -> None:
    """Without the lock CPython 3.11.7 fails about ten times in these 800 rounds."""
    deep = "[" * 20 + "1" + "]" * 20
    terms = " and ".join(f"kv.usage >= 0.{i}" for i in range(60))

    def work(_: int) -> int:
        failures = 0
        for _ in range(100):
            try:
                parse_expression(terms)
                read_literal(deep)
            except SystemError:
                failures += 1
            Loop()
        return failures

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0
