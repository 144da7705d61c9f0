"""What holds for every engine: written down before it is done, undone from anywhere, nothing secret shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.server.supervisors.engines.conftest import KINDS, NEW, OLD, SECRET, World
from wizard.core.held import Held
from wizard.core.target import Identity, Target
from wizard.server.supervisors import execute, recreated
from wizard.server.supervisors.contract import Wish
from wizard.server.supervisors.recipe import Guard, Recipe, Remove, Run, Write

Make = Callable[[str], World]
READS = ("inspect", "image", "get", "auth", "config")
ONE_STEP = ("compose", "kubernetes")


class Died(Exception):
    """The runner ended here."""


class Journal:
    """``dies``: it cannot be written from this record on."""

    def __init__(self, dies: int | None = None) -> None:
        self.dies = dies
        self.records: list[tuple[str, str]] = []

    def __call__(self, event: str, step: str, data: Mapping[str, Any]) -> None:
        if self.dies is not None and len(self.records) >= self.dies:
            raise Died
        self.records.append((event, step))

    @property
    def begun(self) -> list[str]:
        return [step for event, step in self.records if event == "doing"]


def made(world: World, **more: Any) -> Recipe:
    found = world.recipe(**more)
    read = Recipe.from_json(json.loads(json.dumps(found.to_json())))  # as a later runner reads it
    assert read == found
    return read


@pytest.mark.parametrize("kind", KINDS)
def test_finding_only_asks_and_a_recipe_touches_nothing(make: Make, kind: str) -> None:
    world = make(kind)
    before, tree = world.doc, world.tree
    found = world.found()
    assert found.kind == kind
    assert found.obstacles == ()
    restarts = "the kubelet starts it again" if kind == "kubernetes" else "restart policy unless-stopped"
    assert found.restarts == restarts
    asked = world.calls
    assert asked
    assert all(set(READS) & set(call) for call in asked)
    recreated.recipe_of(found, world.change())
    assert (world.doc, world.tree, world.calls) == (before, tree, asked)


@pytest.mark.parametrize("kind", KINDS)
def test_apply_changes_what_runs_and_undo_brings_back_what_was(make: Make, kind: str) -> None:
    world = make(kind)
    before, tree = world.serving, world.tree
    found = made(world)
    done = execute.apply(found.steps, Journal())
    assert done.ok, done.detail
    assert execute.wait(found, Journal()).ok
    changed = json.dumps(world.serving)
    assert changed != json.dumps(before)
    assert "0.8" in changed
    undone = execute.undo(found, done.begun, Journal())
    assert undone.ok, undone.detail
    assert (world.serving, world.tree) == (before, tree)
    again = execute.undo(found, done.begun, Journal())
    assert again.ok, again.detail
    assert (world.serving, world.tree) == (before, tree)


@pytest.mark.parametrize("kind", KINDS)
def test_undo_from_every_place_where_the_runner_may_have_died(make: Make, kind: str) -> None:
    world = make(kind)
    first, before, tree = world.doc, world.serving, world.tree
    found = made(world)
    for dies in range(2 * len(found.steps) + 1):
        journal = Journal(dies)
        try:
            done = execute.apply(found.steps, journal)
            assert done.ok, done.detail
            assert dies == 2 * len(found.steps)
        except Died:
            pass
        for undo_dies in (1, 3, None):  # and the way back may be cut too
            try:
                undone = execute.undo(found, journal.begun, Journal(undo_dies))
            except Died:
                continue
            assert undone.ok, (dies, undone.detail)
        assert (world.serving, world.tree) == (before, tree), f"died at record {dies}: {journal.records}"
        world.write(first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_without_a_start_and_then_the_start_is_the_whole_way_back(make: Make, kind: str) -> None:
    world = make(kind)
    first, before, tree = world.doc, world.serving, world.tree
    found = made(world)
    assert found.is_one_step is (kind in ONE_STEP)
    for count in range(1, len(found.steps) + 1):
        done = execute.apply(found.steps[:count], Journal())
        assert done.ok, done.detail
        still = Journal()
        undone = execute.undo(found, done.begun, still, restart=False)
        assert undone.ok, undone.detail
        assert found.restarts not in still.begun
        if found.stops in done.begun:
            assert [one["State"]["Running"] for one in world.doc["containers"]] == [False]
        else:
            assert (world.serving, world.tree) == (before, tree)
        assert execute.undo(found, done.begun, Journal(), restart=True).ok
        assert (world.serving, world.tree) == (before, tree), done.begun
        world.write(first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_recipe_are_the_whole_of_it(make: Make, kind: str) -> None:
    world = make(kind)
    found = made(world)
    before, stop, after = found.parts()
    assert (*before, *stop, *after) == found.steps
    if kind in ONE_STEP:
        assert (stop, after) == ((), ())
        return
    assert [one.name for one in stop] == ["stop"]
    assert execute.apply(before, Journal()).ok
    assert [one["State"]["Running"] for one in world.doc["containers"]] == [True, False]
    assert execute.apply(stop, Journal()).ok
    assert [one["State"]["Running"] for one in world.doc["containers"]] == [False, False]
    assert execute.apply(after, Journal()).ok
    assert [one["State"]["Running"] for one in world.doc["containers"]] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_that_could_not_be_written_down(make: Make, kind: str) -> None:
    world = make(kind)
    found = made(world)
    before, tree, calls = world.doc, world.tree, world.calls
    with pytest.raises(Died):
        execute.apply(found.steps, Journal(0))
    with pytest.raises(Died):
        execute.wait(found, Journal(0))
    with pytest.raises(Died):
        execute.undo(found, [step.name for step in found.steps], Journal(0))
    assert (world.doc, world.tree, world.calls) == (before, tree, calls)

    seen: list[int] = []

    def watching(event: str, step: str, data: Mapping[str, Any]) -> None:
        if event == "doing":
            seen.append(len(world.calls))

    execute.apply(found.steps, watching)
    assert seen[0] == len(calls)
    assert len(world.calls) > seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_plans_flag_differs_in_what_runs(make: Make, kind: str) -> None:
    world = make(kind)
    before = json.dumps(world.serving)
    done = execute.apply(made(world).steps, Journal())
    assert done.ok, done.detail
    after = json.dumps(world.serving)
    assert SECRET in after
    if kind in ONE_STEP:
        assert after.replace('"0.8"', '"0.9"') == before
    else:
        old, new = world.doc["containers"]
        assert (old["Config"]["Cmd"], new["Config"]["Cmd"]) == (list(OLD), list(NEW))


@pytest.mark.parametrize("kind", KINDS)
def test_a_variable_is_set_there_too(make: Make, kind: str) -> None:
    world = make(kind)
    before = world.serving
    found = made(world, environ={"SGL_WIZARD_SESSION": "session-1:ab $cd%"})
    done = execute.apply(found.steps, Journal())
    assert done.ok, done.detail
    assert "session-1:ab" in json.dumps(world.doc)
    assert execute.undo(found, done.begun, Journal()).ok
    assert world.serving == before


def _another_secret(world: World, kind: str) -> str:
    """A variable of the container that the server's own environment does not have."""
    name, value = "OTHER_TOKEN", "another-secret-77"

    def edit(doc: dict[str, Any]) -> None:
        if kind == "podman":
            doc["containers"][0]["Config"]["CreateCommand"][2:2] = ["-e", f"{name}={value}"]
        elif kind != "kubernetes":
            doc["containers"][0]["Config"]["Env"].append(f"{name}={value}")

    world.edit(edit)
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_are_shown_to_nobody_and_files_with_them_to_the_owner_alone(make: Make, kind: str) -> None:
    world = make(kind)
    other = _another_secret(world, kind)
    found, old = made(world), world.change().old
    held = Held("docker", "sglang", details=world.details)
    was = Target(identity=Identity(1, 1, "b"), launch=old, version="0.5.20")
    steps = recreated.Recreated(held, was, Wish(NEW), None).steps(old, Wish(NEW))
    shown = "\n".join((*steps.apply, *steps.undo))
    assert SECRET not in shown
    assert other not in shown
    assert "***" in shown
    acts = [one.act for one in found.steps] + [one.act for one in found.undo]
    for act in acts:
        if isinstance(act, Write) and SECRET in act.content:
            assert act.mode == 0o600
        if isinstance(act, Run):
            assert f"HF_TOKEN={SECRET}" not in " ".join(act.argv)
            assert other not in " ".join(act.argv)
    for one in found.steps:
        if isinstance(one.act, Write):
            assert execute.apply((one,), Journal()).ok
            assert Path(one.act.path).stat().st_mode & 0o777 == one.act.mode


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_somebody_else_wrote_is_left_alone(make: Make, kind: str) -> None:
    world = make(kind)
    found = made(world)
    write = next(step for step in found.steps if isinstance(step.act, Write))
    assert isinstance(write.act, Write)
    path = Path(write.act.path)
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")
    done = execute.apply(found.steps, Journal())
    assert not done.ok
    assert "somebody else" in done.detail
    assert path.read_text() == "theirs"
    with pytest.raises(execute.ActFailed):
        execute._remove(Remove(str(path), write.act.content))
    assert path.read_text() == "theirs"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("docker", "docker create"),
        ("docker", "docker update"),
        ("docker", "docker stop"),
        ("docker", "docker rename"),
        ("docker", "docker start"),
        ("podman", "podman create"),
        ("compose", "docker compose --project-name=stack --project-directory"),
        ("kubernetes", "kubectl patch"),
    ],
)
def test_a_command_that_fails_ends_it_there_and_can_be_undone(make: Make, kind: str, command: str) -> None:
    world = make(kind)
    before, tree = world.serving, world.tree
    found = made(world)
    world.edit(lambda doc: doc.update(fails=command))
    journal = Journal()
    done = execute.apply(found.steps, journal)
    assert not done.ok
    assert "told to fail" in done.detail
    assert journal.records[-1][0] == "failed"
    world.edit(lambda doc: doc.pop("fails"))
    undone = execute.undo(found, done.begun, Journal())
    assert undone.ok, undone.detail
    assert (world.serving, world.tree) == (before, tree)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_way_back_is_told_of(make: Make, kind: str) -> None:
    world = make(kind)
    found = made(world)
    assert execute.apply(found.steps, Journal()).ok
    assert execute.wait(found, Journal()).ok
    if kind in ONE_STEP:
        assert "takes the change back" in found.keeps
        return
    assert [one["Name"].lstrip("/") for one in world.doc["containers"]] == ["sglang-sgl-wizard-old", "sglang"]
    assert f"{kind} rm sglang-sgl-wizard-old" in found.keeps
    assert "kept as sglang-sgl-wizard-old" in found.blast


def test_the_words_of_the_world_are_those_of_the_plan() -> None:
    assert len([1 for a, b in zip(OLD, NEW, strict=True) if a != b]) == 1


def says(doc: object) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({json.dumps(doc)!r})")


@pytest.mark.parametrize(
    ("has", "wants", "any_order", "fits"),
    [
        (["b", "a"], ["a", "b"], True, True),
        (["b", "a"], ["a", "b"], False, False),
        (["a", "a", "b"], ["a", "b", "b"], True, False),  # as often, too
        (["a"], ["a", "b"], True, False),
        ([{"x": 2}, {"x": 1}], [{"x": 1}, {"x": 2}], True, True),
        (None, [], True, True),
        (["a"], None, True, False),
    ],
)
def test_lists_whose_order_says_nothing(has: object, wants: object, any_order: bool, fits: bool) -> None:
    guard = Guard(says([{"Binds": has}]), expect={"Binds": wants}, any_order=("Binds",) if any_order else ())
    assert execute.differences(guard) == ([] if fits else ["Binds"])
    assert execute.differences(Guard(says([{"Binds": has}]), expect={"Binds": wants, "Other": 1})) != []


def test_binds_in_another_order_are_the_same_container(make: Make) -> None:
    """Docker 20.10 answers with another order in each container."""
    world = make("docker")
    world.edit(lambda doc: doc["containers"][0]["HostConfig"].update(Binds=["/a:/a", "/b:/b"]))
    found = made(world)
    before, _, _ = found.parts()
    names = [one.name for one in before]
    assert execute.apply(before[: names.index("compare")], Journal()).ok
    world.edit(lambda doc: doc["containers"][1]["HostConfig"]["Binds"].reverse())
    assert world.doc["containers"][1]["HostConfig"]["Binds"] == ["/b:/b", "/a:/a"]
    compare = before[names.index("compare")]
    assert execute.apply((compare,), Journal()).ok
    world.edit(lambda doc: doc["containers"][1]["HostConfig"].update(Binds=["/b:/b", "/x:/a"]))
    assert "HostConfig.Binds" in execute.apply((compare,), Journal()).detail
