"""Where recordings of real servers are, for the tests that read them; they skip without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared(path: str) -> Path:
    """A file of the recordings, or skip."""
    root = Path(os.environ.get("SGL_WIZARD_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    found = root / "recordings" / path
    if not found.exists():
        pytest.skip(f"no recording {path}: set SGL_WIZARD_SHARED to the folder that holds recordings/")
    return found
