"""What the sglang probe says of the launch command by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.books import BOOK
from wizard.core.reading import Outcome, Scalar
from wizard.core.target import Launch, Target
from wizard.probes import launchline
from wizard.probes.base import ProbeContext
from wizard.probes.sglang import SglangProbe

HEAD = "python -m sglang.launch_server "
RULES = BOOK.command_rules


async def said(target: Target) -> dict[str, Scalar]:
    result = await SglangProbe().read(ProbeContext(target=target, rules=RULES))
    return {name: value.x for name, value in result.values.items()}


async def test_errors_and_notes_are_readings() -> None:
    text = HEAD + "--model-path m --enforce-eager --api-key s3cret --max-running-requests 8 --port x"
    found = await said(Target(port=0, command_text=text, version="0.5.20"))
    assert found["command.errors"] == ("unknown --enforce-eager", "bad_value --port")
    assert found["command.refused"] == 2
    assert "--disable-decode-cuda-graph" in str(found["command.first_error"])
    assert found["command.notes"] == ("cap_far_below_default",)
    assert (found["command.alone"], found["command.version_known"]) == (True, True)
    assert "s3cret" not in repr(found)


async def test_with_a_symptom_the_command_is_not_alone() -> None:
    found = await said(Target(port=0, command_text=HEAD + "--model-path m", symptom="slow"))
    assert (found["command.alone"], found["command.version_known"]) == (False, False)
    assert "command.first_error" not in found


async def test_the_file_and_the_model_beside_the_command_are_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({"text_config": {"num_attention_heads": 12, "max_position_embeddings": 4096}})
    )
    (tmp_path / "c.yaml").write_text("tp-size: 8\ncontext-length: 8192\nmax-running-requests: 300\n")
    argv = (*HEAD.split(), "--model-path", "m", "--config", "c.yaml")
    target = Target(port=0, launch=Launch(argv, str(tmp_path)), version="0.5.20")
    found = await said(target)
    assert found["command.errors"] == ("heads_not_divisible", "context_over_model")
    assert found["server.max_running_requests_set"] == 300
    lost = Target(port=0, launch=Launch((*argv[:-1], "none.yaml"), str(tmp_path)), version="0.5.20")
    assert "no such file" in str((await said(lost))["command.first_error"])


@pytest.mark.parametrize("text", ["[]", "{", '{"num_attention_heads": "x"}', "[" * 20000])
def test_an_odd_model_folder_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert not any(launchline.model_facts(str(tmp_path)).values())


async def test_a_text_without_a_command_is_not_judged() -> None:
    target = Target(port=0, command_text="lm.launch()")
    result = await SglangProbe().read(ProbeContext(target=target, rules=RULES))
    assert result.outcome is Outcome.NO_DATA
    assert not any(name.startswith("command.") for name in result.values)
    assert "nor its command line" in str(result.reason)
