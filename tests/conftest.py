"""What every test starts with, and how many run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from wizard.runner import latch

settings.register_profile("shared cores", deadline=None)  # how long an example takes says nothing here
settings.load_profile("shared cores")

HERE = Path(__file__).parent
MOST_WORKERS = 8
ALONE = {"e2e": "SGL_WIZARD_E2E", "bench": "SGL_WIZARD_BENCH", "engines": "SGL_WIZARD_ENGINES"}
"""Folders, and the variable that switches each on: what measures a quiet machine, or shares one real server or
engine, runs one after another."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For ``-n auto``: one more than the processors, because most tests wait for what they started.

    0, which means no workers at all, for single tests and for a part that runs alone.
    """
    told = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    if told:
        return int(told)
    asked = config.invocation_params
    words = [str(word) for word in asked.args] or [str(asked.dir)]
    folders = [HERE / name for name in ALONE]
    paths = [(asked.dir / word).resolve() for word in words]
    alone = any(path == folder or folder in path.parents for path in paths for folder in folders)
    if alone or any("::" in word for word in words) or any(os.environ.get(v) for v in ALONE.values()):
        return 0
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)


@pytest.fixture(autouse=True)
def open_latch() -> Iterator[None]:
    """A test that runs a verb with ``--read-only`` in this process closes the latch for none after it."""
    latch.close(False)
    yield
    latch.close(False)
