"""The holders' tools are asked with a limit on time and size; a recipe for Compose and Podman in detail."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.supervisors.engines.conftest import NEW, World
from wizard.server.supervisors.clients import ask, ask_json, value_at
from wizard.server.supervisors.execute import main_pid
from wizard.server.supervisors.recipe import Run, Write

Make = Callable[[str], World]


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_tool_that_does_not_answer_is_ended_at_its_limit() -> None:
    began = time.monotonic()
    found = ask(python("import time; print('x', flush=True); time.sleep(60)"), limit_s=1.0)
    assert (found.code, found.out) == (None, "x\n")
    assert "did not answer within 1 s" in found.said
    assert time.monotonic() - began < 20
    closed = ask(python("import os, time; os.close(1); os.close(2); time.sleep(60)"), limit_s=1.0)
    assert closed.code is None  # streams that are closed early are no end
    assert time.monotonic() - began < 40


def test_what_a_tool_writes_is_bounded() -> None:
    found = ask(python("while True: print('x' * 9999)"), most=100_000)
    assert found.code is None
    assert len(found.out) < 300_000


def test_answers_of_tools() -> None:
    assert ask(("no-such-tool-here",)).said == "no-such-tool-here is not installed here (it is not on PATH)"
    bad = ask(python("import sys; print('a\\nb  \\n', file=sys.stderr); sys.exit(3)"))
    assert (bad.code, bad.ok, bad.said) == (3, False, "b")
    assert ask(python("import sys; print(sys.stdin.read())")).out == "\n"
    assert ask_json(python("print('{')")) == (None, f"{sys.executable} did not answer with JSON")
    assert ask_json(python("print('[1]')")) == ([1], "")


def test_places_in_documents() -> None:
    doc = {"a": [{"b.c": 1, "d": None}], "e": {"f": 0}}
    assert value_at(doc, "a.0.b\\.c") == 1
    assert value_at([doc], "e.f") == 0
    assert value_at(doc, "a.1.d") is None
    assert value_at([], "a") is None


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda doc: doc["compose"].update(hash="h2"), "were changed since"),
        (lambda doc: labels(doc).update({"com.docker.compose.oneoff": "True"}), "one-off"),
        (lambda doc: labels(doc).update({"com.docker.compose.container-number": "2"}), "several containers"),
        (lambda doc: doc["images"][0].update(RepoTags=[]), "another image"),
        (lambda doc: doc.update(fails="docker compose"), "docker compose does not answer"),
        (lambda doc: labels(doc).update({"io.podman.compose.project": "x"}), "podman-compose"),
    ],
)
def test_a_compose_service_that_is_not_changed(make: Make, how: Callable[[Any], object], why: str) -> None:
    world = make("compose")
    world.edit(how)
    before = world.doc
    reasons = world.refusal()
    assert any(why in reason for reason in reasons), reasons
    assert world.doc == before


def labels(doc: Any) -> Any:
    return doc["containers"][0]["Config"]["Labels"]


def test_an_override_is_yaml_and_fills_nothing_in(make: Make) -> None:
    import yaml

    world = make("compose")
    found = world.recipe(environ={"A": "$x"})
    (write,) = [step.act for step in found.steps if isinstance(step.act, Write)]
    service = yaml.safe_load(write.content)["services"]["llm"]
    assert [word.replace("$$", "$") for word in service["command"]] == list(NEW)
    assert '{"a": "$$x 100%"}' in service["command"]
    assert service["environment"] == {"A": "$$x"}
    assert "the variable A away" in world.refusal(environ={"A": None})[0]
    Path(write.path).write_text("theirs")
    assert any("take it over" in one for one in world.found().obstacles)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--rm"], "--rm"),
        (["--pod", "x"], "--pod"),
        (["-e", "HF_TOKEN"], "came from the shell"),
        (["--brand-new=1"], "--brand-new"),
        (["--env", "A_TOKEN=a b"], "read in another way"),
    ],
)
def test_a_podman_container_that_is_not_replaced(make: Make, options: list[str], why: str) -> None:
    world = make("podman")
    world.edit(lambda doc: doc["containers"][0]["Config"]["CreateCommand"].__setitem__(slice(2, 2), options))
    before = world.doc
    reasons = world.refusal()
    assert any(why in reason for reason in reasons), reasons
    assert world.doc == before


def test_podmans_own_words_are_used_again(make: Make) -> None:
    world = make("podman")
    found = world.recipe()
    (create,) = [s.act.argv for s in found.steps if s.name == "create" and isinstance(s.act, Run)]
    assert "-d" not in create
    assert create[create.index("--shm-size") + 1] == "32g"
    assert "--env=A=b c" in create
    assert create[create.index("python3") :] == NEW


@pytest.mark.parametrize("kind", ["docker", "podman", "compose"])
def test_the_process_that_the_holder_runs(make: Make, kind: str) -> None:
    world = make(kind)
    found = world.recipe()
    assert main_pid(found) == 4000
    world.edit(lambda doc: doc.update(fails=found.main_pid[0]))
    assert main_pid(found) is None
