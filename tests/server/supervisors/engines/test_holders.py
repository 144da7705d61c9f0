"""From a process to who holds it: the engine is asked, and one that does not answer is told, not guessed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.supervisors.engines.conftest import (
    CONTAINER_ID,
    KINDS,
    OLD,
    POD_UID,
    SECRET,
    World,
)
from wizard.core.held import Held
from wizard.server import proc
from wizard.server.supervisors import cgroups, holders

Make = Callable[[str], World]
Start = Callable[..., int]
SLEEPS = "import time\ntime.sleep(120)\n"
GROUPS = {
    "docker": f"0::/system.slice/docker-{CONTAINER_ID}.scope",
    "podman": f"0::/machine.slice/libpod-{CONTAINER_ID}.scope/container",
    "compose": f"0::/system.slice/docker-{CONTAINER_ID}.scope",
    "kubernetes": f"5:cpu:/kubepods/besteffort/pod{POD_UID}/{CONTAINER_ID}",
}
MINE = "0::/user.slice/user-0.slice/session-1.scope"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Real processes under any words that Python takes: a module sglang.launch_server, or a script ``run``."""
    place = tmp_path / "place"
    (place / "sglang").mkdir(parents=True)
    for name in ("sglang/__init__.py", "sglang/launch_server.py", "run", "start"):
        (place / name).write_text("" if name.endswith("__init__.py") else SLEEPS)
    started: list[subprocess.Popen[bytes]] = []

    def made(*words: str, **environ: str) -> int:
        env = {"PYTHONPATH": str(place), **environ}
        process = subprocess.Popen(words, executable=sys.executable, cwd=place, env=env)
        started.append(process)
        end = time.monotonic() + 10
        while proc.cmdline(process.pid) != words:
            assert time.monotonic() < end
            time.sleep(0.01)
        return process.pid

    yield made
    for process in started:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture
def lives_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Say that a process lives in a cgroup; of all others the kernel tells, and of the wizard ``MINE``."""
    said: dict[int | str, str] = {"self": MINE, os.getpid(): MINE}
    really = cgroups.read

    def read(pid: int | str) -> str:
        return said[pid] if pid in said else really(pid)

    monkeypatch.setattr(cgroups, "read", read)

    def say(pid: int, text: str) -> None:
        said[pid] = text

    return say


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_is_held_by_what_its_engine_says(
    make: Make, start: Start, lives_in: Callable[[int, str], None], kind: str
) -> None:
    world = make(kind)
    pid = start(*OLD, HF_TOKEN=SECRET, HOSTNAME="sglang-6f-x")
    assert holders.holder_in(MINE, MINE, pid) is None
    lives_in(pid, GROUPS[kind])
    before = world.doc
    held = holders.holder_of(pid)
    assert held is not None
    assert held.kind == kind
    assert (held.why_not, held.is_managed) == ("", True)
    assert held.name == {"compose": "stack/llm", "kubernetes": "llm/deployment/sglang"}.get(kind, "sglang")
    assert {name: held.details[name] for name in world.details} == world.details
    assert SECRET not in repr(held)
    assert Held.from_json(held.to_json()) == held
    assert world.doc == before


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("docker", "docker does not answer: told to fail"),
        ("podman", "podman does not answer: told to fail"),
        ("compose", "docker does not answer: told to fail"),
        ("kubernetes", "its pod is not found: told to fail"),
    ],
)
def test_an_engine_that_does_not_answer_leaves_it_held(make: Make, start: Start, kind: str, why: str) -> None:
    world = make(kind)
    world.edit(lambda doc: doc.update(fails={"podman": "podman", "kubernetes": "kubectl"}.get(kind, "docker")))
    held = holders.holder_in(GROUPS[kind], MINE, start(*OLD))
    assert held is not None
    assert held.kind == ("docker" if kind == "compose" else kind)
    assert held.name == (f"pod {POD_UID}" if kind == "kubernetes" else CONTAINER_ID[:12])
    assert why in held.why_not
    assert not held.is_managed


@pytest.mark.parametrize("kind", ["docker", "podman", "kubernetes"])
def test_an_engine_without_its_client_leaves_it_held(
    make: Make, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    make(kind)
    monkeypatch.setenv("PATH", str(tmp_path))
    held = holders.holder_in(GROUPS[kind], MINE, start(*OLD))
    assert held is not None
    assert held.kind == kind
    client = "kubectl" if kind == "kubernetes" else kind
    assert f"{client} is not installed here (it is not on PATH)" in held.why_not


def test_a_container_of_an_unknown_tool_and_one_that_holds_the_wizard_too(make: Make, start: Start) -> None:
    make("docker")
    pid = start(*OLD)
    held = holders.holder_in(f"0::/default/{CONTAINER_ID}", MINE, pid)
    assert held is not None
    assert (held.name, held.why_not) == (CONTAINER_ID[:12], "its tool is not known here")
    assert holders.holder_in(GROUPS["docker"], f"{GROUPS['docker']}/other", pid) is None


def test_where_its_port_and_its_log_are(make: Make, start: Start) -> None:
    world = make("docker")
    ports = {
        "30000/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "9000/tcp": [{"HostIp": "::1", "HostPort": "9"}, {"HostIp": "0.0.0.0", "HostPort": "10"}],
        "7/tcp": None,
    }
    world.edit(lambda doc: doc["containers"][0]["NetworkSettings"].update(Ports=ports))
    world.edit(lambda doc: doc["containers"][0].update(LogPath="/var/x-json.log"))
    held = holders.holder_in(GROUPS["docker"], MINE, start(*OLD))
    assert held is not None
    assert held.details["30000/tcp"] == "0.0.0.0 8080"
    assert held.details["9000/tcp"] == "::1 9"
    assert "7/tcp" not in held.details
    assert held.details["log"] == "/var/x-json.log"


@pytest.mark.parametrize(
    ("words", "group", "unit"),
    [
        (("docker", "run", "--rm", "--name", "sglang", "img"), "0::/system.slice/llm.service", "llm.service"),
        (("docker", "run", "--name=sglang", "img"), "0::/system.slice/llm.service", "llm.service"),
        (("/usr/bin/docker", "start", "-a", "sglang"), "0::/system.slice/llm.service", "llm.service"),
        (("docker", "run", "--name", "sglang", "img"), "0::/system.slice/docker.service", ""),
        (("docker", "run", "--name", "sglang", "img"), "0::/user.slice/user-0.slice/session-2.scope", ""),
        (("docker", "run", "--name", "sglang-2", "img"), "0::/system.slice/llm.service", ""),
        (("docker", "start", "-a", "sglang-2"), "0::/system.slice/llm.service", ""),
        (("notdocker", "run", "--name", "sglang", "img"), "0::/system.slice/llm.service", ""),
    ],
)
def test_a_container_in_the_foreground_of_a_unit_is_the_units(
    make: Make,
    start: Start,
    lives_in: Callable[[int, str], None],
    words: tuple[str, ...],
    group: str,
    unit: str,
) -> None:
    world = make("docker")
    assert world.found().obstacles == ()
    lives_in(start(*words), group)
    wanted = (f"the unit {unit} starts it: change its ExecStart=",) if unit else ()
    assert world.found().obstacles == wanted
    held = holders.holder_in(GROUPS["docker"], MINE, start(*OLD))
    assert held is not None
    assert held.why_not == "".join(wanted)
