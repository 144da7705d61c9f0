"""The checklist screen: where the boxes stand, moving between goals, and what enter does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.books import BOOK
from tests.tui import samples
from tests.tui.stage import SIZES, shown
from wizard.core.session import CauseChosen, SessionState

GOALS = replace(samples.BOOK, goals=BOOK.goals)
CAPPED = samples.snapshot(server__max_running_requests_set=8, requests__queued=31, requests__running=8)


@pytest.mark.parametrize("size", SIZES)
async def test_the_boxes_stand_as_the_server_does(size: tuple[int, int]) -> None:
    async with shown(samples.classify(CAPPED), size=size) as view:
        view.engine.book = GOALS
        await view.press("t")
        assert "[memory]" in view.screen
        assert "! A cap only where decode runs out of memory" in view.screen
        await view.press("right")
        assert "[throughput]" in view.screen
        assert "> ! No cap below what the pool can hold" in view.screen
        assert "31 requests wait behind the cap of 8." in view.screen
        await view.press("enter")
        assert view.engine.sent == [CauseChosen("tune_throughput")]


async def test_where_nothing_is_open_enter_says_so() -> None:
    async with shown(samples.classify()) as view:
        view.engine.book = GOALS
        await view.press("t", "left", "left")
        assert "[latency]" in view.screen
        await view.press("enter")
        assert view.engine.sent == []
        assert "No box of this goal is open" in view.screen
        await view.press("b")
        assert "Requests wait too long" in view.screen


async def test_the_list_offers_tuning_too() -> None:
    async with shown(samples.classify(CAPPED)) as view:
        view.engine.book = GOALS
        await view.put(samples.classify(CAPPED))
        await view.press("end", "enter")
        assert "tune: checklists" in view.screen


async def test_a_list_longer_than_the_screen_follows_the_cursor() -> None:
    flow = samples.BOOK.flows["requests_wait"]
    more = {f"f{i}": replace(flow, id=f"f{i}", title=f"Trouble {i}") for i in range(20)}
    async with shown(samples.classify(CAPPED)) as view:
        view.engine.book = replace(GOALS, flows={**GOALS.flows, **more})
        await view.put(samples.classify(CAPPED))
        assert "↓" in view.screen
        assert "Requests queue before they run" in view.screen, "the detail stays in view"
        await view.press("end")
        assert "> Nothing. Tune it" in view.screen
        assert "↑" in view.screen
        await view.press("home")
        assert "> " in view.screen
        assert "↑ " not in view.screen.split("choose")[0]


async def test_no_title_is_cut_on_a_small_screen() -> None:
    async with shown(samples.classify(CAPPED), size=(80, 24)) as view:
        view.engine.book = GOALS
        await view.press("t")
        for goal in GOALS.goals.values():
            assert f"[{goal.id}]" in view.screen
            for box in goal.boxes:
                assert box.title in view.screen, (goal.id, box.id)
            await view.press("right")


@pytest.mark.parametrize("state", [samples.classify(CAPPED), samples.solve()])
async def test_the_key_is_shown_where_it_works(state: SessionState) -> None:
    async with shown(state, size=(80, 24)) as view:
        view.engine.book = GOALS
        assert "t tune" in view.screen
        await view.press("t")
        assert "[memory]" in view.screen
