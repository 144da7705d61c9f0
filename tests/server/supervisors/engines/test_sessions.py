"""One session after another: the container that the last one kept makes room, if it is proven to be it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.supervisors.engines.conftest import CONTAINER_ID, SECRET, World, container
from wizard.core.target import Launch
from wizard.server.supervisors import execute, recreated
from wizard.server.supervisors.docker import LABEL
from wizard.server.supervisors.recipe import Change, Run, Write

Make = Callable[[str], World]
OLDER, ASIDE = "7" * 64, "sglang-sgl-wizard-old"
CLIENTS = ("docker", "podman")


def quiet(*_: object) -> None:
    pass


def with_older(world: World, kind: str, label: str | None = OLDER, running: bool = False) -> None:
    """An earlier session's world: this container took the place of the one that is kept beside it."""

    def edit(doc: dict[str, Any]) -> None:
        if label is not None:
            doc["containers"][0]["Config"]["Labels"][LABEL] = label
        slash = "/" if kind == "docker" else ""
        kept = {**container(), "Id": OLDER, "Name": slash + ASIDE, "State": {"Running": running, "Pid": 0}}
        doc["containers"].append(kept)

    world.edit(edit)


def ids(world: World) -> list[str]:
    return [one["Id"] for one in world.doc["containers"]]


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_older_container_goes_once_the_old_one_is_stopped(make: Make, kind: str) -> None:
    world = make(kind)
    with_older(world, kind)
    assert world.found().facts["older"] == OLDER
    found = world.recipe()
    names = [one.name for one in found.steps]
    assert names.index("stop") < names.index("make room") < names.index("set aside")
    before, stop, after = found.parts()
    assert execute.apply((*before, *stop), quiet).ok
    assert OLDER in ids(world)  # until there it can be gone back to
    assert execute.apply(after, quiet).ok
    assert OLDER not in ids(world)
    old, new = world.doc["containers"]
    assert (old["Id"], old["Name"].lstrip("/")) == (CONTAINER_ID, ASIDE)
    assert new["Config"]["Labels"][LABEL] == CONTAINER_ID  # not the label of the session before
    undone = execute.undo(found, names, quiet)
    assert undone.ok, undone.detail
    (left,) = world.doc["containers"]
    assert (left["Id"], left["Name"].lstrip("/"), left["State"]["Running"]) == (CONTAINER_ID, "sglang", True)


@pytest.mark.parametrize("kind", CLIENTS)
def test_without_an_older_one_nothing_makes_room(make: Make, kind: str) -> None:
    world = make(kind)
    assert world.found().facts["older"] is None
    assert "make room" not in [one.name for one in world.recipe().steps]


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(("label", "running"), [(None, False), ("8" * 64, False), (OLDER, True)])
def test_a_container_that_is_not_proven_to_be_ours_is_in_the_way(
    make: Make, kind: str, label: str | None, running: bool
) -> None:
    world = make(kind)
    with_older(world, kind, label, running)
    before = world.doc
    assert world.found().facts["older"] is None
    assert any(f"there is a {ASIDE} already" in one for one in world.refusal())
    assert world.doc == before


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_older_one_that_was_started_meanwhile_is_left_alone(make: Make, kind: str) -> None:
    world = make(kind)
    with_older(world, kind)
    found = world.recipe()
    world.edit(lambda doc: doc["containers"][1].update(State={"Running": True, "Pid": 77}))
    done = execute.apply(found.steps, quiet)
    assert not done.ok
    assert "already in use" in done.detail
    assert execute.undo(found, done.begun, quiet).ok
    kept = next(one for one in world.doc["containers"] if one["Id"] == OLDER)
    assert kept["State"]["Running"] is True
    assert sorted(ids(world)) == sorted([CONTAINER_ID, OLDER])


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_second_session_changes_what_the_first_one_made(make: Make, kind: str) -> None:
    world = make(kind)
    first = world.recipe()
    assert execute.apply(first.steps, quiet).ok
    made = world.doc["containers"][1]["Id"]
    old = world.change().new_argv
    again = tuple("0.7" if word == "0.8" else word for word in old)
    world.details["id"] = made
    environ = dict(world.change().old.environ)
    change = Change(Launch(old, "/", environ), again, folder=world.change().folder, version="0.5.20")
    second = recreated.recipe_of(world.found(), change)
    (write,) = [one.act for one in second.steps if isinstance(one.act, Write)]
    assert f"HF_TOKEN={SECRET}\n" in write.content  # its file of the first session is gone
    (create,) = [s.act.argv for s in second.steps if s.name == "create" and isinstance(s.act, Run)]
    assert [word for word in create if LABEL in word][-1] == f"--label={LABEL}={made}"
    assert len([word for word in create if word.startswith("--env-file")]) == 1
    done = execute.apply(second.steps, quiet)
    assert done.ok, done.detail
    kept, new = world.doc["containers"]
    assert (kept["Id"], kept["Name"].lstrip("/")) == (made, ASIDE)
    assert new["Config"]["Cmd"] == list(again)
    assert f"HF_TOKEN={SECRET}" in new["Config"]["Env"]
    assert execute.undo(second, done.begun, quiet).ok
    (left,) = world.doc["containers"]
    assert (left["Id"], left["State"]["Running"]) == (made, True)
    assert left["Config"]["Cmd"] == list(old)
