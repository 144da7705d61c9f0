"""What the driver promises between the agreement and the runner."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.session.test_brain import BOOK, PLAN, REMEDY
from wizard.core.plan import Consent
from wizard.core.session import Approved, CauseChosen, Offer, OffersMade, Opened, SessionState, WentBack
from wizard.core.target import Launch, Target
from wizard.runner import client
from wizard.session.driver import Driver


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """Targets that a runner would have been started for; none is."""
    seen: list[Target] = []

    def start(target: Target, *_: Any) -> Path:
        seen.append(target)
        raise client.StartError("stopped here by the test")

    monkeypatch.setattr(client, "start", start)
    return seen


async def waiting_driver(monkeypatch: pytest.MonkeyPatch, port: int) -> tuple[Driver, asyncio.Task[Any]]:
    """A driver that has agreed to start A once its port is free, and waits."""
    said = asyncio.Event()

    def listen(state: SessionState) -> None:
        if "Waiting for port" in state.note:
            said.set()

    driver = Driver(BOOK, on_state=listen)

    async def no_probes(*_: Any, **__: Any) -> None:
        return None

    async def no_offers(*_: Any) -> None:
        return None

    monkeypatch.setattr(driver, "probe", no_probes)
    monkeypatch.setattr(driver, "_offers", no_offers)
    target = Target(port=port, name="A", launch=Launch(("python", "-m", "sglang.launch_server"), "/"))
    await driver.dispatch(Opened(target))
    await driver.dispatch(CauseChosen("port_in_use"))
    offer = Offer(REMEDY, replace(PLAN, waits_for_port=True))
    await driver.dispatch(OffersMade("port_in_use", (offer,)))
    task = asyncio.ensure_future(driver.dispatch(Approved(Consent(), None)))
    await asyncio.wait_for(said.wait(), 20)
    return driver, task


@pytest.mark.parametrize("event", [WentBack(), Opened(Target(port=1, name="B"))])
async def test_going_away_while_the_port_is_waited_for_calls_it_off(
    event: Any, started: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        driver, task = await waiting_driver(monkeypatch, squatter.getsockname()[1])
        await driver.dispatch(event)
    await asyncio.wait_for(task, 20)
    assert started == []


async def test_a_freed_port_starts_the_server_that_was_agreed_to(
    started: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        driver, task = await waiting_driver(monkeypatch, squatter.getsockname()[1])
    await asyncio.wait_for(task, 20)
    assert [t.name for t in started] == ["A"]
    assert driver.state.starting is None
