"""Read-only makes what writes unreachable, not only hidden."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runner.fakes import a_target
from tests.session.test_brain import BOOK, PLAN
from wizard.core.plan import Consent, Order
from wizard.core.session import Decided, ReadOnlySet
from wizard.runner import client, latch
from wizard.session.driver import Driver

ORDER = Order(PLAN, Consent())
WRITING: dict[str, Callable[[Path], Any]] = {
    "start": lambda _: client.start(a_target(), ORDER),
    "resume": lambda folder: client.resume(folder / "session-1.db"),
    "rollback": lambda folder: client.resume(folder / "session-1.db", "rollback"),
    "abort": lambda folder: client.send(folder / "session-1.db", "abort"),
}


@pytest.mark.parametrize("way", WRITING)
def test_nothing_that_writes_passes(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    spawned: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **_: spawned.append(a))
    latch.close()
    with pytest.raises(client.StartError, match="read-only"):
        WRITING[way](tmp_path)
    assert not spawned
    assert not (tmp_path / "state").exists()


async def test_the_toggle_closes_the_latch_and_opens_it() -> None:
    driver = Driver(BOOK)
    await driver.dispatch(ReadOnlySet(True))
    assert latch.is_closed()
    await driver.dispatch(ReadOnlySet(False))
    assert not latch.is_closed()


async def test_a_wish_to_a_runner_is_refused_with_a_note(tmp_path: Path) -> None:
    """Whatever state the screens are in: the latch is behind them."""
    from wizard.core.progress import RunState
    from wizard.core.session import RunChanged

    driver = Driver(BOOK)
    driver.session_path = tmp_path / "session-1.db"
    await driver.dispatch(RunChanged(RunState("1", runner_alive=True)))
    latch.close()
    state = await driver.dispatch(Decided("abort"))
    assert "read-only" in driver.state.note or "read-only" in state.note
