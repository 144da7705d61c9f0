"""``sessions``: what it shows of each end, what it refuses, and nothing secret anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli import shapes
from tests.ports import free_port
from tests.runner.fakes import FakeWorld, a_journal, a_target, an_order
from wizard.cli import output
from wizard.cli.main import run
from wizard.core.measurement import Judgement
from wizard.runner import client, transaction
from wizard.session.layout import WIDTH

ENDS = [
    ({}, Judgement.FIXED, 0, "FIXED.", "the new command"),
    ({}, Judgement.WORSE, 4, "ROLLED BACK.", "the old command"),
    ({"ready:new": "dies"}, Judgement.FIXED, 4, "ROLLED BACK.", "the old command"),
    ({"ready:new": "dies", "ready:old": "dies"}, Judgement.FIXED, 5, "TYPE THIS:", "nothing"),
]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(output, "_documents", 0)


def session(folder: Path, fail: dict[str, object], verdict: Judgement) -> str:
    target, order = a_target(), an_order()
    journal = a_journal(folder, target, order)
    world = FakeWorld(fail=fail, verdicts=[verdict]).with_old()
    asyncio.run(transaction.run(journal, order, target, world, pace=transaction.Pace(0.01, 0.01)))
    journal.close()
    return client.session_id(journal.path)


@pytest.mark.parametrize(("fail", "verdict", "code", "word", "serving"), ENDS)
def test_each_end_is_told(
    fail: dict[str, object],
    verdict: Judgement,
    code: int,
    word: str,
    serving: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = session(tmp_path, fail, verdict)
    assert run(("sessions", "show", number)) == 0
    shown = capsys.readouterr().out
    assert word in shown
    assert f"Serving now: {serving}." in shown
    assert run(("sessions", "show", number, "--json")) == 0
    document = shapes.document(capsys.readouterr().out, shapes.FIX)
    assert document["session"] == number
    assert run(("sessions", "report")) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"# Session {number}")
    assert run(("sessions", "list")) == 0
    listed = capsys.readouterr().out
    if code in (0, 4):  # ended: resume only tells it, with the exit code of its end
        assert run(("sessions", "resume", number)) == code
        assert word in capsys.readouterr().out
    for text in (shown, page, listed):
        assert "s3cret" not in text
        assert "hf_very" not in text
    helped = shown.split("TYPE THIS:")[0]
    assert all(len(line) <= WIDTH or " " not in line.strip() for line in helped.splitlines())


def test_putting_back_asks_names_the_command_and_hides_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = session(tmp_path, {}, Judgement.FIXED)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    assert run(("sessions", "rollback", number)) == 2
    err = capsys.readouterr().err
    assert "--max-running-requests" in err
    assert "--yes" in err
    assert "s3cret" not in err
    assert run(("sessions", "rollback", number, "--yes", "--read-only")) == 2
    assert "read-only" in capsys.readouterr().err
    assert run(("sessions", "abort", number, "--yes")) == 2
    assert "nothing is under way" in capsys.readouterr().err
    assert client.read(client.find(number)).serving == "new"


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("verb", [("resume",), ("resume", "--rollback"), ("rollback", "1", "--yes")])
def test_read_only_is_obeyed_wherever_it_stands(
    verb: tuple[str, ...], at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runner of this one died: resume would bring it to an end."""
    a_journal(tmp_path, a_target(), an_order()).close()
    words = ["sessions", *verb]
    words.insert(at, "--read-only")
    before = (tmp_path / "session-1.db").read_bytes()
    assert run(words) == 2
    assert "read-only: a session is only shown" in capsys.readouterr().err
    assert (tmp_path / "session-1.db").read_bytes() == before


@pytest.mark.parametrize("alive", [True, False])
def test_a_change_of_this_server_that_has_no_end_comes_before_a_new_one(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between stop and start nothing listens: a second wizard hears why, not that nobody is there."""
    port = free_port()
    a_journal(tmp_path, a_target(port=port), an_order()).close()
    monkeypatch.setattr(client, "runner_alive", lambda _: alive)
    assert run(("fix", "--url", f"http://127.0.0.1:{port}", "--unset", "x", "--yes")) == 3
    said = capsys.readouterr().err
    assert ("session 1 is at work on" if alive else "session 1 was cut off in its change of") in said
    assert "sgl-wizard sessions resume 1" in said
    assert run(("fix", "--url", f"http://127.0.0.1:{free_port()}", "--unset", "x", "--yes")) != 0
    assert "session 1" not in capsys.readouterr().err, "another server's change is another matter"


@pytest.mark.parametrize("at_work", [True, False])
def test_check_tells_of_a_change_that_was_cut_off(
    at_work: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    a_journal(tmp_path, a_target(port=port), an_order()).close()
    monkeypatch.setattr(client, "runner_alive", lambda path: at_work)
    word = "is at work on" if at_work else "was cut off in its change of"
    assert run(("check", "--url", f"http://127.0.0.1:{port}", "--json")) == 3
    told = capsys.readouterr()
    assert f"session 1 {word}" in told.err
    document = shapes.document(told.out, shapes.CHECK)
    assert document["unfinished"]["session"] == "1"
    assert document["unfinished"]["runner_alive"] is at_work
    assert run(("check", "--url", f"http://127.0.0.1:{free_port()}", "--json")) == 3
    told = capsys.readouterr()
    assert "session 1" not in told.err
    assert shapes.document(told.out, shapes.CHECK)["unfinished"] is None


def test_check_makes_no_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "none"))
    assert run(("check", "--url", f"http://127.0.0.1:{free_port()}")) == 3
    assert not (tmp_path / "none").exists()
