"""What every test starts with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from wizard.runner import latch

settings.register_profile("shared cores", deadline=None)  # how long an example takes says nothing here
settings.load_profile("shared cores")


@pytest.fixture(autouse=True)
def open_latch() -> Iterator[None]:
    """A test that runs a verb with ``--read-only`` in this process closes the latch for none after it."""
    latch.close(False)
    yield
    latch.close(False)
