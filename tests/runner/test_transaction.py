"""Every failure at every stage, against a world in memory: the end state, and what is never lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runner.fakes import (
    CAP_16,
    NEW,
    OLD,
    OLD_ID,
    FakeWorld,
    Proc,
    RunnerKilled,
    a_journal,
    a_target,
    an_order,
)
from wizard.core.measurement import Judgement
from wizard.core.plan import Order
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Identity, Launch, Target
from wizard.core.verdict import ONCE_BEFORE
from wizard.runner.fold import fold
from wizard.runner.journal import Journal, JournalError
from wizard.runner.live import LiveOperations
from wizard.runner.operations import MARK, PortOwner, Readiness, Started, Stopped
from wizard.runner.recovery import How, resume, superseded
from wizard.runner.transaction import Pace, Transaction, run
from wizard.server.proc import boot_id as proc_boot_id

PACE = Pace(poll_s=0.01, health_s=0.01, patience=0.02, least_patience_s=0.1, settle_s=0.05)


async def go(
    folder: Path, world: FakeWorld, order: Order | None = None, target: Target | None = None
) -> RunState:
    target, order = target or a_target(), order or an_order()
    journal = a_journal(folder, target, order)
    try:
        state = await asyncio.wait_for(run(journal, order, target, world, pace=PACE), 10)
        again = fold("1", journal.read_since(0))
        assert again.outcome is state.outcome, "the journal tells what was returned"
        return state
    finally:
        journal.close()


K, R, F, C = Outcome.KEPT, Outcome.ROLLED_BACK, Outcome.ROLLBACK_FAILED, Outcome.CALLED_OFF

TABLE: list[tuple[str, dict[str, object], dict[str, object], Outcome, str]] = [
    ("all goes well", {}, {}, K, "new"),
    ("baseline fails", {"measure:1": "error"}, {}, C, "old"),
    ("baseline empty", {"measure:1": "empty"}, {}, C, "old"),
    ("old dies under load", {"measure:1": "dies"}, {}, R, "old"),
    ("old drains, no escalation agreed", {"stop:old": "draining"}, {"escalate": False}, R, "old"),
    ("old ignores the stop and serves on", {"stop:old": "ignored"}, {"escalate": False}, C, "old"),
    ("old may not be signalled", {"stop:old": "not asked"}, {}, C, "old"),
    ("old is frozen, no escalation agreed", {"stop:old": "frozen"}, {"escalate": False}, F, "none"),
    ("new may not be ended", {"compare": ValueError("x"), "stop:new": "not asked"}, {}, F, "new"),
    ("new does not end", {"compare": ValueError("x"), "stop:new": "ignored"}, {}, F, "new"),
    ("stop raises", {"stop:old:1": PermissionError("not yours")}, {}, C, "old"),
    ("memory not released", {"release:1": "held"}, {}, R, "old"),
    ("release raises", {"release:1": RuntimeError("x")}, {}, R, "old"),
    ("port stolen in the gap", {"release:1": "stolen"}, {}, F, "none"),
    ("new cannot be started", {"launch:new": "error"}, {}, R, "old"),
    ("new dies", {"ready:new": "dies"}, {}, R, "old"),
    ("new never gets ready", {"ready:new": "never"}, {}, R, "old"),
    ("ready raises", {"ready:new": RuntimeError("x")}, {}, R, "old"),
    ("second measurement fails", {"measure:2": "error", "measure:3": "error"}, {}, R, "old"),
    ("new dies under load", {"measure:2": "dies"}, {}, R, "old"),
    ("compare raises", {"compare": ValueError("bug")}, {}, R, "old"),
    ("rollback needs a second try", {"ready:new": "dies", "ready:old:1": "dies"}, {}, R, "old"),
    ("rollback fails", {"ready:new": "dies", "ready:old": "dies"}, {}, F, "none"),
    ("old cannot be started again", {"launch:new": "error", "launch:old": "error"}, {}, F, "none"),
    ("no consent to measure", {}, {"load_test": False}, K, "new"),
    ("new dies soon after it got ready", {"settings:2": "dies after"}, {"load_test": False}, R, "old"),
    ("new hangs soon after it got ready", {"settings:2": "hangs after"}, {"load_test": False}, R, "old"),
    ("the flag is not in force", {"settings:2": {"max_running_requests": 8}}, {"new": CAP_16}, R, "old"),
    ("SGLang takes another value", {"settings:2": {"max_running_requests": 12}}, {"new": CAP_16}, K, "new"),
    ("it serves another model", {"settings:2": {"model_path": "other"}}, {}, R, "old"),
    ("it does not say what it runs with", {"settings": {"model_path": None}}, {}, K, "new"),
    ("passive", {}, {"load_test": False, "passive": True}, K, "new"),
]


@pytest.mark.parametrize(
    ("name", "fail", "consent", "outcome", "serving"), TABLE, ids=[row[0] for row in TABLE]
)
async def test_end_state(
    tmp_path: Path,
    name: str,
    fail: dict[str, object],
    consent: dict[str, object],
    outcome: Outcome,
    serving: str,
) -> None:
    world = FakeWorld(fail=fail, drains_for=6 if name.startswith("old drains") else 0).with_old()
    state = await go(tmp_path, world, an_order(**consent))  # type: ignore[arg-type]
    assert (state.outcome, state.serving, world.serving()) == (outcome, serving, serving), state.sentence
    assert state.sentence
    assert state.active is None
    if outcome is F:
        assert "nohup" in state.help
        assert "--max-running-requests 8" in state.help
        assert "s3cret" not in state.help
        assert "hf_very" not in state.help
        assert str(tmp_path / "session-1.db") in state.help
    if consent.get("load_test") is False:
        assert world.sent_load == 0


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ([Judgement.BETTER], K),
        ([Judgement.NO_DIFFERENCE], R),
        ([Judgement.WORSE], R),
        ([Judgement.CANNOT_TELL, Judgement.FIXED], K),
        ([Judgement.CANNOT_TELL, Judgement.CANNOT_TELL], R),
    ],
)
async def test_verdict_decides(tmp_path: Path, verdicts: list[Judgement], outcome: Outcome) -> None:
    world = FakeWorld(verdicts=list(verdicts)).with_old()
    state = await go(tmp_path, world)
    assert state.outcome is outcome
    assert state.verdict is not None
    twice = len(verdicts) == 2
    most = Judgement.BETTER if twice and verdicts[-1] is Judgement.FIXED else verdicts[-1]
    assert state.verdict.judgement is most
    assert (ONCE_BEFORE in state.verdict.sentence) is twice
    assert set(world.windows) == {world.windows[0]}, "before and after are measured alike"
    assert state.before is not None
    assert state.after is not None
    assert world.counts["measure"] == 1 + len(verdicts)
    assert world.salts[0] == world.salts[1], "the same prompts before and after"
    assert len(set(world.salts)) == len(verdicts), "no server sees the same prompts twice"


async def test_a_second_look_is_no_first_one_after_the_runner_died(tmp_path: Path) -> None:
    """Killed between the second measurement and its verdict: both looks count, not the later one alone."""
    world, order, target = (
        FakeWorld(verdicts=[Judgement.CANNOT_TELL, Judgement.FIXED]).with_old(),
        an_order(),
        a_target(),
    )
    world.fail["compare:2"] = RunnerKilled()
    journal = a_journal(tmp_path, target, order)
    with pytest.raises(RunnerKilled):
        await run(journal, order, target, world, pace=PACE)
    state = await asyncio.wait_for(resume(journal, order, target, world, pace=PACE), 10)
    journal.close()
    assert world.counts["measure"] == 3, "nothing is measured again"
    assert state.outcome is K
    assert state.verdict is not None
    assert state.verdict.judgement is Judgement.BETTER
    assert ONCE_BEFORE in state.verdict.sentence


async def test_rollback_uses_the_untouched_old_launch(tmp_path: Path) -> None:
    world = FakeWorld(fail={"ready:new": "dies"}).with_old()
    state = await go(tmp_path, world, an_order(environ={"SGLANG_X": None, "SGLANG_Y": "2"}))
    new, old = world.launched
    assert new.argv == NEW
    assert "SGLANG_X" not in new.environ
    assert new.environ["SGLANG_Y"] == "2"
    assert old.argv == OLD
    assert {k: v for k, v in old.environ.items() if k != MARK} == {"HF_TOKEN": "hf_very", "SGLANG_X": "1"}
    assert (old.cwd, old.log_path) == ("/srv", "/srv/server.log")
    assert "unrecognized arguments: --nonsense" in state.sentence


async def test_what_could_not_come_back_is_not_stopped(tmp_path: Path) -> None:
    world = FakeWorld(fail={"obstacle": "its working directory /srv is gone"}).with_old()
    state = await go(tmp_path, world)
    assert (state.outcome, state.serving, world.signalled) == (Outcome.CALLED_OFF, "old", [])
    assert "its working directory /srv is gone" in state.sentence


@pytest.mark.parametrize(
    ("at", "fault", "outcome", "says"),
    [
        ("settings:2", {"model_path": "other"}, R, "says that its model is other, and was m"),
        ("settings:2", {"model_path": None}, R, "does not say its model any more, and was m"),
        ("settings:2", None, R, "was put back and serves."),
        ("healthy:2", "dies", R, "was put back and serves."),
        ("healthy", "dies", F, "it got ready and then died"),
        ("healthy", "hangs", F, "then stopped answering"),
    ],
)
async def test_what_was_put_back_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, fault: object, outcome: Outcome, says: str
) -> None:
    """It may serve something else by now, die after one good answer (then it is started once more), or hang."""
    world = FakeWorld(fail={"ready:new": "dies"}).with_old()
    if at.startswith("settings"):
        world.fail[at] = fault
    else:
        ready = world.wait_ready

        async def then_fails(child: Started, *rest: Any, **more: Any) -> Readiness:
            found = await ready(child, *rest, **more)
            if world._role(child.identity) == "old" and (at == "healthy" or world.counts["ready:old"] < 2):
                world.procs[child.identity.pid].alive = fault != "dies"
                world.procs[child.identity.pid].ready = False
            return found

        monkeypatch.setattr(world, "wait_ready", then_fails)
    state = await go(tmp_path, world)
    assert (state.outcome, says in state.sentence) == (outcome, True), state.sentence
    assert state.serving == ("old" if outcome is R else "none")


async def test_a_secret_that_a_server_prints_reaches_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FakeWorld(fail={"ready:new": "dies"}).with_old()
    monkeypatch.setattr(world, "last_error", lambda _child: "Error: login as s3cret with hf_very failed")
    target, order = a_target(), an_order()
    journal = a_journal(tmp_path, target, order)
    try:
        state = await run(journal, order, target, world, pace=PACE)
        records = [str(r.data) for r in journal.read_since(0)]
    finally:
        journal.close()
    assert "login as" in state.sentence
    assert any("login as" in r for r in records)
    for text in (state.sentence, state.help, *records):
        assert "s3cret" not in text
        assert "hf_very" not in text


async def test_server_that_was_down(tmp_path: Path) -> None:
    state = await go(tmp_path, FakeWorld(), an_order(goal="ready"), a_target(up=False))
    assert (state.outcome, state.serving) == (K, "new")
    assert state.verdict is not None
    assert state.verdict.judgement is Judgement.FIXED
    assert state.stage(Stage.BASELINE).status == "skipped"


async def test_server_that_was_down_stays_down(tmp_path: Path) -> None:
    world = FakeWorld(fail={"ready:new": "dies"})
    state = await go(tmp_path, world, an_order(goal="ready"), a_target(up=False))
    assert (state.outcome, state.serving) == (R, "none")
    assert "was down before" in state.sentence
    assert "--nonsense" in state.sentence
    assert [x.argv for x in world.launched] == [NEW]


async def test_other_port(tmp_path: Path) -> None:
    moved = tuple("4001" if w == "4000" else w for w in NEW)
    state = await go(tmp_path, FakeWorld(), an_order(goal="ready", new=moved), a_target(up=False))
    assert (state.outcome, state.new_port) == (K, 4001)


async def test_nothing_to_put_back_means_nothing_is_stopped(tmp_path: Path) -> None:
    from dataclasses import replace

    world = FakeWorld().with_old()
    state = await go(tmp_path, world, target=replace(a_target(), launch=None))
    assert (state.outcome, world.signalled) == (C, [])


@pytest.mark.parametrize("at", ["measure:1", "stop:old", "release:1", "ready:new", "measure:2"])
async def test_abort(tmp_path: Path, at: str) -> None:
    """An abort while an act runs: called off before the stop, else the old command again."""
    world = FakeWorld().with_old()
    order, target = an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    name = {"measure": "measure", "stop": "stop", "release": "wait_released", "ready": "wait_ready"}[
        at.split(":")[0]
    ]
    number = int(at[-1]) if at[-1].isdigit() else 1
    act, calls = getattr(world, name), 0

    async def hanging(*args: object, **kw: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            journal.control("abort")
            if name != "stop":
                await asyncio.sleep(60)
        return await act(*args, **kw)

    setattr(world, name, hanging)
    state = await asyncio.wait_for(run(journal, order, target, world, pace=PACE), 10)
    journal.close()
    assert state.outcome is (C if at == "measure:1" else R)
    assert (state.serving, world.serving()) == ("old", "old")
    assert "Aborted" in state.sentence


@pytest.mark.parametrize(("said", "outcome"), [("keep", K), ("rollback", R), ("abort", R)])
async def test_ask(tmp_path: Path, said: str, outcome: Outcome) -> None:
    world = FakeWorld(verdicts=[Judgement.WORSE]).with_old()
    order, target = an_order(keep="ask"), a_target()
    journal = a_journal(tmp_path, target, order)
    face = Journal.open(journal.path)
    task = asyncio.create_task(run(journal, order, target, world, pace=PACE))
    while not fold("1", face.read_since(0)).awaiting_decision:
        assert not task.done()
        await asyncio.sleep(0.01)
    waiting = fold("1", face.read_since(0))
    assert waiting.verdict is not None
    assert waiting.serving == "new"
    face.control(said)  # type: ignore[arg-type]
    state = await asyncio.wait_for(task, 10)
    assert state.outcome is outcome
    assert not state.awaiting_decision
    face.close()
    journal.close()


async def test_journal_lost_after_the_stop_does_not_leave_the_server_down(tmp_path: Path) -> None:
    world = FakeWorld().with_old()
    order, target = an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    append = journal.append

    def full(kind: str, stage: str = "", data: object = None) -> int:
        if not world.procs[100].alive:
            raise JournalError("disk full")
        return append(kind, stage, data)  # type: ignore[arg-type]

    journal.append = full  # type: ignore[method-assign]
    state = await run(journal, order, target, world, pace=PACE)
    journal.close()
    assert (state.outcome, state.serving, world.serving()) == (R, "old", "old")


def _killed_at(world: FakeWorld, journal: Journal, number: int, before: bool) -> None:
    append, count = journal.append, 0

    def dying(kind: str, stage: str = "", data: object = None) -> int:
        nonlocal count
        count += 1
        if count == number and before:
            raise RunnerKilled
        seq = append(kind, stage, data)  # type: ignore[arg-type]
        if count == number:
            raise RunnerKilled
        return seq

    journal.append = dying  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["auto", "finish", "rollback"])
@pytest.mark.parametrize("fail", [{}, {"ready:new": "dies"}], ids=["good", "bad"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_runner_killed_at_every_record(
    tmp_path: Path, how: How, fail: dict[str, object], before: bool
) -> None:
    """SIGKILL before and after every record; then resume: it serves, under a command that is told."""
    for number in range(1, 60):
        folder = tmp_path / str(number)
        folder.mkdir()
        world, order, target = FakeWorld(fail=dict(fail)).with_old(), an_order(), a_target()
        journal = a_journal(folder, target, order)
        _killed_at(world, journal, number, before)
        try:
            await run(journal, order, target, world, pace=PACE)
            ended = True
        except RunnerKilled:
            ended = False
        journal.close()
        later = Journal.open(journal.path)
        state = await asyncio.wait_for(resume(later, later.order, later.target, world, how, pace=PACE), 10)
        later.close()
        assert state.outcome in (K, R, C), (number, state.sentence, state.help)
        assert state.serving == world.serving() != "none", (number, state)
        assert all(i.pid == 100 or i.pid >= 200 for i in world.signalled)
        if how == "rollback":
            assert state.serving == "old"
        if ended:
            break
    else:
        pytest.fail("the transaction never ended by itself")
    assert number > 15, "the kill went through all the records"


@pytest.mark.parametrize("stranger", [False, True])
async def test_server_that_went_away_untouched_is_not_said_to_serve(tmp_path: Path, stranger: bool) -> None:
    """The runner dies before the stop, then the server: the resume starts nothing, and says how to."""
    world, order, target = FakeWorld().with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    _killed_at(world, journal, 4, before=False)
    with pytest.raises(RunnerKilled):
        await run(journal, order, target, world, pace=PACE)
    journal.close()
    world.procs[100].alive = False
    if stranger:
        world.foreign = PortOwner(Identity(9, 9, "boot"), ("nc", "-l"), "process 9 (nc -l)")
    later = Journal.open(journal.path)
    state = await resume(later, order, target, world, "auto", pace=PACE)
    later.close()
    assert (state.outcome, state.serving) == (C, "unknown" if stranger else "none")
    assert "--max-running-requests 8" in state.help
    assert "ended by itself" in state.sentence
    assert "sessions rollback" not in state.help, "a session that touched nothing has nothing to roll back"
    assert ("process 9" in state.sentence) is stranger
    assert not world.launched
    assert not world.signalled


async def test_old_command_that_serves_already_is_not_waited_for(tmp_path: Path) -> None:
    """A supervisor, or a runner that could not write it down, started it again: it is seen before any wait."""

    class Restarted(FakeWorld):
        async def launch(self, launch: Launch) -> Started:
            self.procs[300] = Proc(OLD, {}, Identity(300, 3000, "boot"), 4000, ready=True)
            return await super().launch(launch)

    world = Restarted(fail={"ready:new": "dies"}).with_old()
    state = await go(tmp_path, world)
    assert (state.outcome, state.serving, world.serving()) == (R, "old", "old"), state.sentence
    assert world.counts["release"] == 1, "only before the new one was launched"
    assert [one.argv for one in world.launched] == [NEW]


@pytest.mark.parametrize("early", [True, False], ids=["before the launch", "while the new one starts"])
async def test_supervisor_is_not_fought(tmp_path: Path, early: bool) -> None:
    """It starts the old command again: its server is left to get ready, and no second one is put beside it."""

    class Supervised(FakeWorld):
        def again(self) -> None:
            self.procs[300] = Proc(OLD, {}, Identity(300, 3000, "boot"), 4000)

        async def stop(self, identity: Identity, **how: Any) -> Stopped:
            done = await super().stop(identity, **how)
            if early and identity == OLD_ID:
                self.again()
            return done

        async def launch(self, launch: Launch) -> Started:
            if not early:
                self.again()
            return await super().launch(launch)

    world, order, target = Supervised().with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    journal.append("runner", "", {"boot_s": 1.0})
    state = await asyncio.wait_for(run(journal, order, target, world, pace=PACE), 10)
    journal.close()
    assert (state.outcome, state.serving, world.serving()) == (R, "old", "old"), state.sentence
    assert "somebody else (process 300" in state.sentence
    assert [one.argv for one in world.launched] == ([] if early else [NEW])
    assert world.procs[300].ready
    assert world.procs[300].identity not in world.signalled


@pytest.mark.parametrize("rebooted", [True, False])
async def test_after_a_reboot_every_process_was_started_since(tmp_path: Path, rebooted: bool) -> None:
    """Seconds after another boot say nothing about who came first in this one."""

    class Looked(FakeWorld):
        def rival(self, launch: Launch, since_s: float) -> PortOwner | None:
            looked.append(since_s)
            return None

    looked: list[float] = []
    boot = "another" if rebooted else proc_boot_id()
    target = replace(a_target(), identity=replace(OLD_ID, boot_id=boot))
    journal = a_journal(tmp_path, target, an_order())
    journal.append("runner", "", {"boot_s": 5000.0})
    Transaction(journal, an_order(), target, Looked(), pace=PACE).rival()
    journal.close()
    assert looked == [0.0 if rebooted else 5000.0]


async def test_resumed_runner_killed_again_and_again(tmp_path: Path) -> None:
    """Each resume dies one record later than the last; the one that lives ends it; two servers never run."""
    for first in range(6, 18, 2):
        folder = tmp_path / str(first)
        folder.mkdir()
        world, order, target = FakeWorld(fail={"ready:new": "dies"}).with_old(), an_order(), a_target()
        journal = a_journal(folder, target, order)
        _killed_at(world, journal, first, before=False)
        with pytest.raises(RunnerKilled):
            await run(journal, order, target, world, pace=PACE)
        journal.close()
        state = None
        for number in range(1, 40):
            later = Journal.open(journal.path)
            _killed_at(world, later, number, before=number % 2 == 0)
            try:
                state = await asyncio.wait_for(resume(later, order, target, world, pace=PACE), 10)
            except RunnerKilled:
                continue
            finally:
                later.close()
            break
        assert state is not None
        assert (state.outcome, state.serving) in ((R, "old"), (C, "old"))
        assert world.serving() == "old"
        assert sum(p.alive for p in world.procs.values()) == 1


async def test_child_that_was_never_recorded_is_found_by_its_mark(tmp_path: Path) -> None:
    world, order, target = FakeWorld(fail={"launched:new": RunnerKilled()}).with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    with pytest.raises(RunnerKilled):
        await run(journal, order, target, world, pace=PACE)
    journal.close()
    later = Journal.open(journal.path)
    state = await resume(later, order, target, world, pace=PACE)
    later.close()
    assert (state.outcome, state.serving) == (K, "new")
    assert len(world.launched) == 1
    assert state.new_pid == 200


async def test_kept_change_can_be_rolled_back_later(tmp_path: Path) -> None:
    world, order, target = FakeWorld().with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    assert (await run(journal, order, target, world, pace=PACE)).outcome is K
    assert (await resume(journal, order, target, world, "auto", pace=PACE)).outcome is K
    state = await resume(journal, order, target, world, "rollback", pace=PACE)
    journal.close()
    assert (state.outcome, state.serving, world.serving()) == (R, "old", "old")


async def test_failed_rollback_can_be_tried_again(tmp_path: Path) -> None:
    world, order, target = FakeWorld(fail={"release:1": "stolen"}).with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    state = await run(journal, order, target, world, pace=PACE)
    assert (state.outcome, state.serving) == (F, "none")
    assert "process 9 (nc -l)" in state.sentence
    world.foreign = None
    state = await resume(journal, order, target, world, pace=PACE)
    journal.close()
    assert (state.outcome, state.serving) == (R, "old")


@pytest.mark.parametrize(
    "line",
    [
        "sglang serve: error: ambiguous option: --cuda-graph-max-bs could match",
        "launch_server.py: error: unrecognized arguments: --x",
        "ValueError: no",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "[2026-01-01 00:00:00] ERROR:    [Errno 98] error while attempting to bind on address",
    ],
)
def test_last_error_of_a_log(tmp_path: Path, line: str) -> None:
    log = tmp_path / "server.log"
    before = b"ValueError: of an earlier start\n"
    log.write_bytes(before + b"\xff loading\n" + line.encode() + b"\n[x] Sleeping, no error here\n")
    child = Started(Identity(1, 1, "b"), str(log), len(before))
    said = line.removeprefix("[2026-01-01 00:00:00] ")
    assert LiveOperations(tmp_path / "session-1.db").last_error(child) == said
    log.write_bytes(before)
    assert LiveOperations(tmp_path / "session-1.db").last_error(child) == ""


def test_the_error_of_a_log_is_what_failed_first(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    lines = (
        "[2026-01-01 00:00:00] server_args={'model_path': 'm'}",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.",
        "[2026-01-01 00:00:01] Received sigquit from a child process. It usually means the child failed.",
        "RuntimeError: Rank 0 scheduler died during initialization (exit code: -3).",
    )
    log.write_text("\n".join(lines))
    child = Started(Identity(1, 1, "b"), str(log), 0)
    assert LiveOperations(tmp_path / "session-1.db").last_error(child) == lines[1]


async def test_session_of_another_machine_is_not_resumed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wizard.runner import recovery

    journal = a_journal(tmp_path, a_target(), an_order())
    assert recovery.belongs_elsewhere(journal) == ""
    monkeypatch.setattr(recovery, "here", lambda: {"machine_id": "other", "hostname": "other"})
    assert "resume it there" in recovery.belongs_elsewhere(journal)
    journal.close()


async def test_server_that_hung_before_is_put_back_as_it_was(tmp_path: Path) -> None:
    """It lived but did not answer: putting it back cannot demand more than that."""
    world = FakeWorld(fail={"ready:new": "dies", "ready:old": "never"}).with_old()
    world.procs[100].ready = False
    state = await go(tmp_path, world, an_order(goal="ready"))
    assert (state.outcome, state.serving) == (R, "old")
    assert "does not answer, as it did not before" in state.sentence
    assert [p.argv for p in world.procs.values() if p.alive] == [OLD]


async def test_an_older_session_is_not_put_back_over_a_later_ones_server(tmp_path: Path) -> None:
    """Session 1 was kept; session 2 relaunched on the same port: rollback 1 touches and writes nothing."""
    world, order, target = FakeWorld().with_old(), an_order(), a_target()
    journal = a_journal(tmp_path, target, order)
    kept = await run(journal, order, target, world, pace=PACE)
    assert kept.outcome is K
    for each in world.procs.values():
        each.alive = False
    before, signalled, launched = len(journal.read_since(0)), list(world.signalled), len(world.launched)
    later = Identity(900, 9000, "boot")
    world.foreign = PortOwner(later, ("python", "-m", "x"), "process 900 (python -m x)", (), "2")
    why = superseded(Transaction(journal, order, target, world), "rollback")
    assert "process 900" in why
    assert "started by session 2: roll that one back first" in why
    state = await asyncio.wait_for(resume(journal, order, target, world, "rollback", pace=PACE), 5)
    assert (state.outcome, state.serving) == (K, "new")
    assert len(journal.read_since(0)) == before
    assert (world.signalled, len(world.launched)) == (signalled, launched)
    world.foreign = None  # rolled back meanwhile: now it works
    state = await asyncio.wait_for(resume(journal, order, target, world, "rollback", pace=PACE), 5)
    journal.close()
    assert (state.outcome, state.serving) == (R, "old")


async def test_a_failed_rollback_does_not_say_none_while_a_stranger_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FakeWorld(fail={"release:1": "stolen"}).with_old()

    async def healthy(target: Target, port: int, owner: Identity | None) -> bool:
        return True

    monkeypatch.setattr(world, "healthy", healthy)
    state = await go(tmp_path, world)
    assert (state.outcome, state.serving) == (F, "unknown")
