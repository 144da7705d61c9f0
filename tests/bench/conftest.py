"""Benches run alone on a quiet machine: ``SGL_WIZARD_BENCH=1 pytest tests/bench -s``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("SGL_WIZARD_BENCH"):
        return
    skip = pytest.mark.skip(reason="a bench: SGL_WIZARD_BENCH=1 pytest tests/bench -s, on a quiet machine")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
