"""The screens at 80x24 and 120x40: what they show for a state, what keys send."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual import events

from tests.tui import samples
from tests.tui.stage import SIZES, shown
from wizard.core.session import (
    Answered,
    Approved,
    CauseChosen,
    Decided,
    FlowChosen,
    LookForMe,
    OfferChosen,
    Opened,
    ReadOnlySet,
    StartedOver,
    WentBack,
)

sized = pytest.mark.parametrize("size", SIZES)


@sized
async def test_a_newcomer_is_welcomed(size: tuple[int, int]) -> None:
    async with shown(size=size) as view:
        assert "Looking for SGLang servers" in view.screen
        view.engine.on_targets((), ())
        await view.settle()
        assert "sgl-wizard demo" in view.screen
        assert "check --log FILE" in view.screen


async def test_one_server_is_opened_at_once() -> None:
    async with shown() as view:
        view.engine.on_targets((samples.TARGET,), ())
        await view.settle()
        assert view.engine.sent == [Opened(samples.TARGET)]


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which sessions a runner was started for, and how; none is really started."""
    from wizard.runner import client

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(client, "find", lambda number: number)
    monkeypatch.setattr(client, "resume", lambda path, how="auto": asked.append((path, how)))
    return asked


@pytest.mark.parametrize("alive", [False, True])
async def test_an_unfinished_session_comes_first(alive: bool, resumed: list[tuple[str, str]]) -> None:
    sessions = (samples.summary("7", None, alive=alive), samples.summary("6", samples.RunOutcome.KEPT))
    async with shown() as view:
        view.engine.on_targets((samples.TARGET,), sessions)
        await view.settle()
        assert view.engine.sent == []
        assert f"> {'Follow' if alive else 'Finish or roll back'} session 7" in view.screen
        assert "session 6" not in view.screen
        await view.press("enter")
        assert resumed == ([] if alive else [("7", "auto")])
        assert ("attach", "7") in view.engine.calls


async def test_a_session_that_cannot_be_resumed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from wizard.runner import client

    def refuse(number: str) -> object:
        raise client.StartError("held by another runner [/x]")

    monkeypatch.setattr(client, "find", refuse)
    async with shown() as view:
        view.engine.on_targets((), (samples.summary("7", None),))
        await view.settle()
        await view.press("enter")
        assert "! StartError: held by another runner [/x]" in view.screen


async def test_several_servers_are_offered_and_an_address_can_be_typed() -> None:
    other = replace(samples.TARGET, port=30001, name="qwen", simulated=True)
    async with shown() as view:
        view.engine.on_targets((samples.TARGET, other), ())
        await view.settle()
        assert "2 servers on this machine" in view.screen
        assert "SIMULATED" in view.screen
        await view.press("u", *"nonsense:x", "enter")
        assert "not an address" in view.screen
        await view.press(*["backspace"] * 10, *"30001", "enter")
        assert view.engine.sent == [Opened(other)], "a known address is that server, with its identity"


@sized
async def test_classify(size: tuple[int, int]) -> None:
    async with shown(samples.classify(), size=size) as view:
        text = view.screen
        assert "(1) Classify" in text
        assert "> Requests wait too long" in text
        assert "▲ likely" in text
        assert "Likely: 31 requests wait while 8 run" in text
        assert "Out of memory [rank0] [/x]" in text
        assert "8 / 8" in text
        assert "6.72 s" in text
        assert "SERVING" in text
        assert "up 3 h 12 m" in text
        assert ("watch", True) in view.engine.calls
        await view.press("enter")
        assert view.engine.sent == [FlowChosen("requests_wait")]
        await view.press("enter")
        assert len(view.engine.sent) == 1, "a second enter before the state moved on is no second answer"


async def test_classify_look_for_me_and_live_history() -> None:
    async with shown(samples.classify()) as view:
        for at, queue in enumerate((10, 20, 31), 2):
            await view.put(samples.classify(samples.snapshot(float(at), requests__queued=queue)))
        row = next(r for r in view.rows if " queue " in r)
        assert "█▃▆█" in row
        await view.press("down")
        assert "> I don't know: look for me" in view.screen
        await view.press("enter")
        assert view.engine.sent == [LookForMe()]


async def test_classify_says_why_nothing_is_wrong() -> None:
    async with shown(samples.classify(ended="Nothing is wrong: it serves.", note="a note [/x]")) as view:
        assert "Nothing is wrong: it serves." in view.screen
        assert "! a note [/x]" in view.screen


@sized
async def test_diagnose(size: tuple[int, int]) -> None:
    async with shown(samples.diagnose(), size=size) as view:
        text = view.screen
        assert "What keeps more requests from running at once?" in text
        assert "> A cap on running requests   suggested: running 8 >= cap 8" in text
        assert "refuted: KV pool 0.01 >= 0.9" in text
        assert "supported  long_queue" in text
        assert "refuted    kv_cache_exhausted" in text
        assert "not seen: host.load_1m" in text
        assert "Requests wait too long" in view.rows[0]
        await view.press("enter")
        assert view.engine.sent == [Answered(1)]


async def test_diagnose_says_how_to_find_out_by_hand() -> None:
    async with shown(samples.diagnose()) as view:
        await view.press("end")
        assert "To find out by hand: Look at the last Decode batch line" in view.screen
        await view.press("enter")
        assert "A request waits until there is room" in view.screen
        await view.press("b")
        assert "> I cannot tell" in view.screen
        assert view.engine.sent == []
        await view.press("b")
        assert view.engine.sent == [WentBack()]


async def test_without_readings_the_person_is_asked() -> None:
    async with shown(samples.diagnose(snapshot=samples.Snapshot())) as view:
        assert "> I cannot tell" in view.screen
        assert "unknown: no reading of kv.usage" in view.screen
        assert "suggested" not in view.screen


async def test_the_cursor_stays_where_the_person_put_it() -> None:
    async with shown(samples.diagnose()) as view:
        await view.press("up")
        await view.put(samples.diagnose(snapshot=samples.snapshot(9.0)))
        assert "> The KV pool is full" in view.screen


async def test_an_end_of_a_flow_offers_the_way_on() -> None:
    async with shown(
        samples.diagnose(node_id="none", ended="Nothing waits: there is nothing to mend.")
    ) as view:
        assert "Nothing waits: there is nothing to mend." in view.screen
        await view.press("enter")
        assert view.engine.sent == [StartedOver()]


@sized
async def test_solve(size: tuple[int, int]) -> None:
    async with shown(samples.solve(), size=size) as view:
        text = view.screen
        for part in (
            "cause: Requests queue",
            "- --max-running-requests 8",
            "+ (left to SGLang)",
            "valid for 0.5.20 ✓",
            "Why     905,795 KV tokens",
            "Expect  2.9x to 3.6x",
            "(estimated)",
            "Price   restart: about 26 s down",
            "If it fails the old command is started again by itself",
            "flags ✓",
            "[>Measure, apply, verify<]",
            "[ Apply without load test ]",
            "[ Only show me ]",
            "[ Watch live traffic instead ]",
            "o 1 more",
        ):
            assert part in text
        assert ("watch", False) in view.engine.calls or ("watch", True) not in view.engine.calls


async def test_nothing_is_applied_before_yes() -> None:
    async with shown(samples.solve()) as view:
        await view.press("enter")
        text = view.screen
        assert "64 clients, 1024 in / 256 out" in text
        assert "http://127.0.0.1:30000 and nowhere else" in text
        assert "up to 1 m 00 s" in text
        assert "[>No, back<]" in text
        await view.press("enter")
        assert view.engine.sent == []
        await view.press("enter", "y")
        assert view.engine.sent == [Approved(samples.CONSENT, samples.WORKLOAD)]


@pytest.mark.parametrize(("moves", "passive"), [(1, False), (3, True)])
async def test_what_a_button_consents_to(moves: int, passive: bool) -> None:
    async with shown(samples.solve()) as view:
        await view.press(*["tab"] * moves, "enter")
        assert "Nothing is sent" in view.screen
        await view.press("left", "enter")
        (event,) = view.engine.sent
        assert isinstance(event, Approved)
        assert event.workload is None
        assert (event.consent.load_test, event.consent.passive) == (False, passive)


async def test_a_plan_that_changed_under_the_question_is_not_approved() -> None:
    async with shown(samples.solve()) as view:
        await view.press("enter")
        changed = replace(samples.OFFERS[0], plan=replace(samples.PLAN, new_argv=("other",)))
        await view.put(samples.solve(offers=(changed,)))
        await view.press("y")
        assert view.engine.sent == []


async def test_read_only_shows_and_does_nothing() -> None:
    async with shown(samples.solve(read_only=True)) as view:
        assert "read-only: ON" in view.rows[0]
        assert "( Measure, apply, verify )" in view.screen
        assert "[>Only show me<]" in view.screen
        await view.press("left", "left", "enter")
        assert view.engine.sent == []
        await view.press("R")
        assert view.engine.sent == [ReadOnlySet(False)]


async def test_a_failed_check_disables_applying() -> None:
    plan = replace(samples.PLAN, checks=(("port", False, "30000 is taken by pid 5 [/x]"),))
    async with shown(samples.solve(offers=(replace(samples.OFFERS[0], plan=plan),))) as view:
        assert "✗ port: 30000 is taken by pid 5 [/x]" in view.screen
        assert "( Measure, apply, verify )" in view.screen


async def test_other_remedies_and_the_full_command() -> None:
    async with shown(samples.solve()) as view:
        await view.press("d")
        assert "# Now" in view.screen
        assert "--model-path /m/llama-8b" in view.screen
        await view.press("b", "o")
        assert "not here: this is for a person" in view.screen
        await view.press("down")
        assert "Lower the concurrency of the clients" in view.screen
        await view.press("enter")
        assert view.engine.sent == [OfferChosen(1)]


async def test_a_cause_without_a_plan_says_what_to_do() -> None:
    async with shown(samples.solve(offer_index=1)) as view:
        assert "Cannot be applied from here: this is for a person to do" in view.screen
        assert "--max-running-requests higher" in view.screen
        assert "Measure" not in view.screen


@sized
async def test_progress(size: tuple[int, int]) -> None:
    async with shown(samples.verify(samples.running(1000.0)), size=size) as view:
        view.app.now = lambda: 1012.0  # type: ignore[method-assign]
        await view.put(samples.verify(samples.running(1000.0), note="x"))
        text = view.screen
        assert "(4) Verify" in text
        assert "● start" in text
        assert "21 s" in text
        assert "Load weight begin [rank0]: CUDA OOM [/x] red" in text
        assert "Safe to close this terminal: sgl-wizard sessions resume 7" in text
        await view.press("b")
        assert view.engine.sent == []
        await view.press("a")
        assert "Abort the change?" in view.screen
        await view.press("y")
        assert view.engine.sent == [Decided("abort")]


async def test_leaving_a_change_under_way_says_that_it_goes_on() -> None:
    async with shown(samples.verify(samples.running())) as view:
        await view.press("q")
        assert "It goes on by itself" in view.screen
        assert "sgl-wizard sessions resume 7" in view.screen
        await view.press("escape")
        assert view.app.is_running
        await view.press("q", "y")
        assert view.app.return_value == 1


async def test_a_dead_runner_is_said(resumed: list[tuple[str, str]]) -> None:
    async with shown(samples.verify(replace(samples.running(), runner_alive=False))) as view:
        assert "Nobody works on this change any more" in view.screen
        assert "[>Finish or roll back now<]" in view.screen
        await view.press("enter", "y")
        assert resumed == [("7", "auto")]
        assert ("attach", "7") in view.engine.calls


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_kept_change_can_be_undone_after_a_yes(read_only: bool, resumed: list[tuple[str, str]]) -> None:
    async with shown(samples.verify(samples.kept(), read_only=read_only)) as view:
        await view.press("tab", "tab")
        assert "[>Put the old one back<]" in view.screen
        await view.press("enter")
        if read_only:
            assert "Read-only" in view.screen
            assert resumed == []
            return
        assert "The server is down until it is ready" in view.screen
        assert resumed == []
        await view.press("y")
        assert resumed == [("7", "rollback")]


@sized
async def test_the_verdict_and_the_decision(size: tuple[int, int]) -> None:
    run = samples.judged(awaiting_decision=True, runner_alive=True)
    async with shown(samples.verify(run), size=size) as view:
        text = view.screen
        assert view.rows[3].startswith(" FIXED. 3.3 times the tokens")
        assert "+227 %" in text
        assert "3.1x to 3.4x" in text
        assert "worse" in text
        assert "same workload: 64 clients" in text
        assert "[>Keep it<]" in text
        await view.press("tab", "enter")
        assert view.engine.sent == [Decided("rollback")]


async def test_after_it_was_kept() -> None:
    async with shown(samples.verify(samples.kept())) as view:
        assert "It serves under the new command" in view.screen
        await view.press("s")
        assert "# The new command" in view.screen
        assert "--max-running-requests" not in view.screen
        await view.press("b", "r")
        assert "Report of session 7" in view.screen
        assert samples.HOSTILE_SHOWN in view.screen
        await view.press("b", "q")
        assert view.app.return_value == 0


async def test_a_failed_rollback_shows_what_to_type() -> None:
    async with shown(samples.verify(samples.rollback_failed())) as view:
        assert "ROLLBACK FAILED. Neither command starts." in view.rows[3]
        assert "What to type now:" in view.screen
        assert "cd /srv" in view.screen
        await view.press("q")
        assert view.app.return_value == 5


@sized
async def test_evidence_shows_each_probe_with_reason_and_remedy(size: tuple[int, int]) -> None:
    async with shown(samples.classify(), size=size) as view:
        await view.press("e")
        await view.press("end")
        assert "✗ unavailable" in view.screen
        assert "CUDA OOM [/x] red [bold]not bold[/bold]" in " ".join(view.screen.split())
        assert "to enable: install the NVIDIA driver" in view.screen
        await view.press("home")
        assert "ttft.p50" in view.screen
        assert "measured  /metrics" in view.screen
        await view.press("b")
        assert "What hurts" in view.screen or "Requests wait too long" in view.screen


async def test_why_shows_the_arithmetic_and_leads_to_a_cause() -> None:
    async with shown(samples.classify()) as view:
        await view.press("w")
        assert "log-odds -3 + 5 + 1 = 3, so 95%" in view.screen
        assert "See it yourself: grep running-req LOG" in view.screen
        await view.press("enter")
        assert view.engine.sent == [CauseChosen("long_queue")]


async def test_the_log_is_shown_as_it_is() -> None:
    async with shown(samples.classify()) as view:
        await view.press("l")
        assert samples.HOSTILE_SHOWN in view.screen
        assert "last" in view.screen


async def test_an_overlay_lets_the_stage_below_catch_up() -> None:
    async with shown(samples.classify()) as view:
        await view.press("question_mark")
        assert "Everywhere" in view.screen
        await view.put(samples.diagnose())
        assert "Everywhere" in view.screen
        await view.press("escape")
        assert "(2) Diagnose" in view.screen


async def test_hostile_text_everywhere_is_text() -> None:
    evil = samples.HOSTILE
    target = replace(samples.TARGET, name=evil, note=evil, version=evil)
    async with shown(samples.classify(target=target, note=evil, ended=evil)) as view:
        assert view.screen.count("[rank0]: CUDA OOM [/x] red [bold]") >= 2
        await view.put(
            samples.solve(target=target, note=evil, offers=(replace(samples.OFFERS[1], why_not=evil),))
        )
        assert samples.HOSTILE_SHOWN in " ".join(view.screen.split())
        run = samples.judged(outcome=samples.RunOutcome.ROLLED_BACK, sentence=evil, help=evil, serving="old")
        await view.put(samples.verify(run))
        assert f"ROLLED BACK. {samples.HOSTILE_SHOWN}" in view.screen
        assert "\x1b" not in view.screen


@pytest.mark.parametrize("size", [(60, 20), (40, 10), (71, 24), (80, 21)])
async def test_a_small_terminal_is_told_so(size: tuple[int, int]) -> None:
    async with shown(samples.classify(), size=size) as view:
        assert f"{size[0]}x{size[1]} is too small: 72x22 needed." in view.screen
        assert "Requests wait" not in view.screen
        await view.pilot.resize_terminal(80, 24)
        await view.settle()
        assert "> Requests wait too long" in view.screen


async def test_back_from_the_first_stage_is_the_choice_of_the_server() -> None:
    async with shown(samples.classify()) as view:
        await view.press("b")
        view.engine.on_targets((samples.TARGET,), ())
        await view.settle()
        assert "1 server on this machine" in view.screen
        assert view.engine.sent == []
        await view.press("b")
        assert "(1) Classify" in view.screen
        assert "llama-8b" in view.screen


async def test_resume_follows_the_session() -> None:
    async with shown(resume="7") as view:
        assert ("attach", "7") in view.engine.calls
        assert "find_targets" not in view.engine.calls


async def test_an_engine_that_cannot_start_ends_in_one_line() -> None:
    from wizard.tui.app import WizardApp

    def broken(*_: object) -> object:
        raise ValueError("flows/x.yaml:3:5: no such reading")

    app = WizardApp(broken)
    async with app.run_test() as pilot:
        while app.is_running:
            await pilot.pause(0.01)
    assert app.failure == "ValueError: flows/x.yaml:3:5: no such reading"


async def test_an_unchanged_state_repaints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from wizard.tui.widgets.rows import Lines

    async with shown(samples.classify()) as view:
        painted: list[object] = []
        original = Lines.refresh

        def counted(self: Lines, *regions: object, **how: object) -> Lines:
            painted.append((self, regions, how))
            return original(self, *regions, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(Lines, "refresh", counted)
        await view.put(samples.classify())
        assert painted == []
        await view.put(samples.classify(samples.snapshot(5.0, requests__queued=32)))
        assert painted, "a change does repaint"
        assert all(region.height == 1 for _, regions, _ in painted for region in regions)  # type: ignore[attr-defined]


async def test_a_storm_of_keys_breaks_nothing() -> None:
    async with shown(samples.classify()) as view:
        for _ in range(8):
            for key in ("e", "end", "b", "w", "escape", "l", "end", "b", "question_mark", "b"):
                view.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await view.settle()
        assert view.app.is_running
        await view.press("escape")
        assert any(text in view.screen for text in ("Requests wait too long", "Looking for SGLang servers"))
