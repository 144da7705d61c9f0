"""Options of the target, before and behind the verb."""

from __future__ import annotations

import pytest

from wizard.cli.main import DEFAULTS, build_parser, filled

GIVEN = {
    "--url": "http://10.9.8.7:30000",
    "--pid": "7",
    "--log": "a.log",
    "--command": "python -m sglang.launch_server",
    "--metrics": "m.txt",
    "--symptom": "slow",
    "--request": "r.json",
    "--endpoint": "/generate",
    "--hardware": "H200",
}


@pytest.mark.parametrize("verb", ["check", "fix", "probe", "reference"])
@pytest.mark.parametrize("option", GIVEN)
def test_a_target_counts_in_front_of_the_verb_too(verb: str, option: str) -> None:
    before = filled(build_parser().parse_args([option, GIVEN[option], verb]))
    behind = filled(build_parser().parse_args([verb, option, GIVEN[option]]))
    assert vars(before) == vars(behind)
    name = {"--command": "command_text"}.get(option, option.strip("-"))
    assert str(getattr(before, name)) == GIVEN[option]
    assert DEFAULTS.keys() <= vars(before).keys()


def test_a_switch_counts_in_front_of_the_verb_too() -> None:
    assert filled(build_parser().parse_args(["--local", "check"])).local is True
    assert filled(build_parser().parse_args(["check"])).local is False
