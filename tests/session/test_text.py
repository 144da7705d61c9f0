from __future__ import annotations

from wizard.core.progress import RunState
from wizard.session.text import ending_lines


def test_a_change_whose_runner_died_does_not_end_without_a_word() -> None:
    assert any("sgl-wizard sessions resume" in line for line in ending_lines(RunState("1")))
    assert not ending_lines(RunState("1", runner_alive=True))
