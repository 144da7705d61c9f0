"""What a session tells: the document for programs, the page for people, and nothing secret in either."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runner.fakes import FakeWorld, a_journal, a_launch, a_target, an_order
from wizard.core.measurement import Judgement
from wizard.core.progress import Outcome
from wizard.runner.client import find, list_sessions, read
from wizard.runner.command import clean_line, shell_command
from wizard.runner.journal import JournalError
from wizard.runner.report import report, to_document, write_report
from wizard.runner.transaction import Pace, run


async def _session(folder: Path, fail: dict[str, object], verdict: Judgement = Judgement.FIXED) -> Path:
    world = FakeWorld(fail=fail, verdicts=[verdict]).with_old()
    target, order = a_target(), an_order()
    journal = a_journal(folder, target, order)
    await run(journal, order, target, world, pace=Pace(0.01, 0.01))
    journal.close()
    return journal.path


@pytest.mark.parametrize(
    ("fail", "verdict", "word", "serving"),
    [
        ({}, Judgement.FIXED, "fixed", "new"),
        ({}, Judgement.WORSE, "rolled_back", "old"),
        ({"measure": "error"}, Judgement.FIXED, "cannot_tell", "old"),
        ({"ready:new": "dies", "ready:old": "dies"}, Judgement.FIXED, "rollback_failed", "none"),
    ],
)
async def test_document_and_page(
    tmp_path: Path, fail: dict[str, object], verdict: Judgement, word: str, serving: str
) -> None:
    path = await _session(tmp_path, fail, verdict)
    document, page = to_document(path), report(path)
    assert document["verdict"] == word
    assert document["serving"] == serving
    assert document["plan"]["changes"][0]["flag"] == "--max-running-requests"
    assert "--max-running-requests" in page
    for text in (json.dumps(document), page):
        assert "s3cret" not in text
        assert "hf_very" not in text
    if serving == "none":
        assert "nohup" in page


HOSTILE = "x\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp\r# Kept.\x07\x1b]8;;never ended"


async def test_a_report_and_a_list_can_be_shown_with_cat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and versions are what a server, or a path, said of itself."""
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path))
    target = replace(a_target(), name=HOSTILE, version=f"0.5.20{HOSTILE}")
    order = an_order()
    order = replace(order, plan=replace(order.plan, why=f"because {HOSTILE}", cause_title=f"Wait {HOSTILE}"))
    journal = a_journal(tmp_path, target, order)
    await run(journal, order, target, FakeWorld(verdicts=[Judgement.FIXED]).with_old(), pace=Pace(0.01, 0.01))
    journal.close()
    file = write_report(journal.path)
    assert file is not None
    page = file.read_text(encoding="utf-8")
    for text in (page, list_sessions()[0].target):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    server = next(line for line in page.splitlines() if line.startswith("Server: "))
    assert "gnp # Kept." in server, "what stands in a name stays in its line"
    assert "## What serves now" in page
    assert "\n" not in list_sessions()[0].target


async def test_sessions_are_listed_newest_first_and_damaged_ones_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path))
    path = await _session(tmp_path, {})
    (tmp_path / "session-10.db").write_bytes(b"junk")
    newest, oldest = list_sessions()
    assert newest.error
    assert not newest.is_unfinished
    assert (oldest.id, oldest.outcome, oldest.runner_alive) == ("1", Outcome.KEPT, False)
    assert find("1") == path
    assert read(path).outcome is Outcome.KEPT
    for wrong in ("2", "../1", "x"):
        with pytest.raises(JournalError):
            find(wrong)


def test_command_to_type() -> None:
    command = shell_command(a_launch(), {"SGLANG_X": "other"})
    assert command.startswith("cd /srv && env HF_TOKEN=*** SGLANG_X=1 nohup python -m sglang.launch_server")
    assert command.endswith(">> /srv/server.log 2>&1 < /dev/null &")
    assert "--api-key ***" in command


def test_log_lines_are_safe_to_show() -> None:
    line = clean_line(
        "\x1b[31mred\x1b[0m\x07 server_args=ServerArgs(api_key='top', port=1, admin_api_key=None)"
    )
    assert line == "red server_args=ServerArgs(api_key='***', port=1, admin_api_key=None)"
