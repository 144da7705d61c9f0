"""Where the flows are: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path


def flows_dir() -> Path:
    """The folder of the flows that came with the wizard."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "_flows"
    return packed if packed.is_dir() else package.parent / "flows"
