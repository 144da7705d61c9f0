"""The state folder is removed while ``fix`` follows the change: what is left to say, and no traceback."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.runner.fakes import a_target
from wizard.cli.fix import report_end
from wizard.core.progress import RunState
from wizard.runner.command import shell_command


def test_the_old_command_is_told_when_its_session_was_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = a_target()
    driver: Any = SimpleNamespace(
        session_path=tmp_path / "session-1.db", state=SimpleNamespace(target=target, offer=None)
    )
    code = report_end(argparse.Namespace(json=False), cast("Any", driver), RunState("1"))
    said = capsys.readouterr().err
    assert code == 1
    assert "removed" in said
    assert "look which command serves" in said
    assert target.launch is not None
    assert shell_command(target.launch) in said
