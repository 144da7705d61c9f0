"""systemd: the text of the drop-in; stop, start and back through a stand-in client that really runs units."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.test_detached import wait
from tests.server.supervisors.world import CLIENT, UNIT, World, world_in
from wizard.core.target import Launch, Target
from wizard.server import proc
from wizard.server.identity import is_alive
from wizard.server.supervisors import systemd, units
from wizard.server.supervisors.assisted import Assisted
from wizard.server.supervisors.contract import SupervisorError, Wish
from wizard.server.supervisors.holders import supervisor_of
from wizard.server.supervisors.tool import ask


def reader() -> Any:
    """The stand-in's own reader of unit files."""
    import importlib.util

    os.environ.setdefault("STANDIN_WORLD", "/nonexistent")
    spec = importlib.util.spec_from_file_location("standin_systemctl", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


READER = reader()
# systemd refuses NUL in a line, as execve does; surrogates are no UTF-8
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@given(st.lists(WORDS, max_size=6), st.sampled_from(["/usr/bin/python3", "python"]))
def test_any_words_come_back_from_an_exec_start_line(rest: list[str], first: str) -> None:
    argv = (first, *rest)
    lines = systemd.drop_in("/usr/bin/python3", Wish(argv)).split("\n")
    (line,) = (one for one in lines if one.startswith("ExecStart=") and one != "ExecStart=")
    assert READER.command(line.removeprefix("ExecStart=")) == ("/usr/bin/python3", list(argv))


@given(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), WORDS)
def test_any_value_comes_back_from_an_environment_line(name: str, value: str) -> None:
    word = READER.words_of(systemd.assignment(name, value))
    assert [w.replace("%%", "%") for w in word] == [f"{name}={value}"]


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--port", "--port"),
        ("a b", '"a b"'),
        ("100%", "100%%"),
        ("$HOME", '"$$HOME"'),
        ('{"a": 1}', '"{\\"a\\": 1}"'),
        ("", '""'),
        (";", '";"'),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_words_as_systemd_wants_them(word: str, written: str) -> None:
    assert systemd.quote(word) == written


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world_in(tmp_path, monkeypatch) as made:
        yield made


def said(_: str) -> None:
    pass


async def test_stop_start_and_back(world: World) -> None:
    signals = world.folder / "signals"
    world.set_up("--signals", str(signals))
    before = world.asked()
    identity, supervisor = world.identity, systemd.Systemd(world.held)
    argv = tuple(proc.cmdline(identity.pid))
    old = Launch(argv, str(world.folder))

    how = await supervisor.stop(identity, drain_limit_s=10, escalate=True, say=said)
    assert "ended by itself" in how
    assert signals.read_text(encoding="ascii").split() == [str(int(signal.SIGTERM))]
    await asyncio.sleep(0.8)  # Restart=always would have started it again by now
    assert not is_alive(identity)
    assert world.main == 0
    assert world.files == [], "what was written for the stop is gone"

    wish = Wish((*argv, "--max-running-requests", "7"), {"SGLANG_X": 'a "b" 100%', "GONE": None})
    new = await supervisor.start(wish)
    world.wait_for_port()
    assert world.asked()[-2:] == ["--max-running-requests", "7"]
    assert proc.environ(new.pid)["SGLANG_X"] == 'a "b" 100%'
    change = world.folder / "etc" / f"{UNIT}.d" / systemd.NAME
    assert stat.S_IMODE(change.stat().st_mode) == 0o600

    await supervisor.stop(new, drain_limit_s=10, escalate=True, say=said)
    await supervisor.hold_still(old)
    await supervisor.start(Wish())
    world.wait_for_port()
    assert world.asked() == before
    assert not change.exists()
    assert not change.parent.exists()


async def test_a_new_server_that_systemd_starts_again_is_held_still(world: World) -> None:
    """It crashes, Restart=always brings it back: the way back must not race with that."""
    world.set_up()
    before, argv = world.asked(), tuple(proc.cmdline(world.main))
    old = Launch(argv, str(world.folder))
    supervisor = systemd.Systemd(world.held)
    await supervisor.stop(world.identity, drain_limit_s=10, escalate=True, say=said)
    new = await supervisor.start(Wish((*argv, "--max-running-requests", "7")))
    world.wait_for_port()
    os.kill(new.pid, signal.SIGKILL)
    await asyncio.sleep(1.0)
    assert world.main not in (0, new.pid), "the stand-in did not start it again"
    await supervisor.hold_still(old)
    assert world.main == 0
    await supervisor.start(Wish())
    world.wait_for_port()
    assert world.asked() == before


async def test_an_untouched_unit_is_not_held_still(world: World) -> None:
    world.set_up()
    identity, supervisor = world.identity, systemd.Systemd(world.held)
    old = Launch(tuple(proc.cmdline(identity.pid)), str(world.folder))
    await supervisor.hold_still(old)
    assert is_alive(identity)
    # a change that was written, and not yet taken in by a restart
    await supervisor._write(supervisor.change, systemd.drop_in(sys.executable, Wish((*old.argv, "--crash"))))
    await supervisor.hold_still(old)
    assert is_alive(identity)
    assert world.files == []


async def test_a_drain_beyond_the_limit(world: World) -> None:
    world.set_up("--drain-s", "600")
    old, supervisor = world.identity, systemd.Systemd(world.held)
    with pytest.raises(SupervisorError, match="still stops after"):
        await supervisor.stop(old, drain_limit_s=0.5, escalate=False, say=said)
    assert is_alive(old)
    how = await supervisor.stop(old, drain_limit_s=0.5, escalate=True, say=said)
    assert "systemd killed it" in how
    assert not is_alive(old)


async def test_a_command_that_fails_at_once(world: World) -> None:
    world.restart = "no"
    world.set_up()
    argv = tuple(proc.cmdline(world.main))
    old = Launch(argv, str(world.folder))
    supervisor = systemd.Systemd(world.held)
    await supervisor.stop(world.identity, drain_limit_s=10, escalate=True, say=said)
    try:
        await supervisor.start(Wish((*argv, "--crash")))  # it may be seen alive just before it ends
    except SupervisorError as refused:
        said(str(refused))
    wait(lambda: world.main == 0)
    await supervisor.hold_still(old)
    await supervisor.start(Wish())
    world.wait_for_port()


def test_what_cannot_be_done_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.set_up()
    assert world.held.is_managed
    assert world.held.says() == f"systemd runs it ({UNIT}, Restart=always)"
    assert "wrapper" in units.held_by(1, UNIT).why_not
    assert "could not be found" in units.held_by(world.main, "other.service").why_not
    assert "own systemd" in units.held_by(world.main, UNIT, user=True).why_not
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert "root" in units.held_by(world.main, UNIT).why_not
        patch.setenv("PATH", "/nonexistent")
        assert "not installed" in units.held_by(world.main, UNIT).why_not


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("BoundBy=proxy.service", "proxy.service would be stopped with it and not started again"),
        ("RequiredBy=empty.target", ""),
        ("RequiredBy=stack.target", "proxy.service would be stopped with it"),
        ("ConsistsOf=coming.service", "coming.service would be stopped with it"),
        ("ConsistsOf=asleep.service", ""),
        ("ExecStop={ path=/bin/kill ; argv[]=/bin/kill -9 ; }", "ExecStop="),
        ("FailureAction=reboot", "told to reboot when it ends (FailureAction=)"),
        ("SuccessAction=none", ""),
        ("Flags=privileged", "a prefix (+)"),
        ("Flags=ignore-failure", ""),
        ("PropagatesStopTo=proxy.service", "proxy.service would be stopped with it"),
    ],
)
def test_a_stop_that_reaches_further_is_left_to_a_person(world: World, line: str, why: str) -> None:
    for name, state in (
        ("proxy.service", "active"),
        ("asleep.service", "inactive"),
        ("coming.service", "activating"),
    ):
        (world.folder / name).write_text("[Service]\nExecStart=/bin/true\n")
        (world.folder / f"{name}.json").write_text(f'{{"state": "{state}"}}')
    for name, takes in (("stack.target", "stack.target proxy.service"), ("empty.target", "asleep.service")):
        (world.folder / name).write_text("")
        (world.folder / f"{name}.json").write_text(json.dumps({"settings": {"ConsistsOf": [takes]}}))
    world.set_up()
    unit = world.folder / UNIT
    unit.write_text(f"{unit.read_text()}{line}\n")
    ask(["systemctl", "daemon-reload"])
    held = world.held
    assert why in held.why_not
    assert held.is_managed is not bool(why)


def test_a_unit_whose_file_was_edited_is_left_to_a_person(world: World) -> None:
    world.set_up()
    unit = world.folder / UNIT
    unit.write_text(f"{unit.read_text()}Environment=A=1\n")
    assert "not loaded yet" in world.held.why_not
    ask(["systemctl", "daemon-reload"])
    assert world.held.is_managed


def test_what_is_shown_holds_no_secret(world: World) -> None:
    world.set_up()
    supervisor = systemd.Systemd(world.held)
    old = Launch(tuple(proc.cmdline(world.main)), "/")
    steps = supervisor.steps(old, Wish((*old.argv, "--tp", "2"), {"HF_TOKEN": "hf_aaaaaaaaaaaaaaaaaaaa"}))
    text = "\n".join((*steps.apply, *steps.undo))
    assert "s3cret" not in text
    assert "hf_aaa" not in text
    assert "systemctl restart sglang.service" in text


async def test_a_file_half_written_by_a_runner_that_died_is_cleared_away(world: World) -> None:
    world.set_up()
    held = systemd.Systemd(world.held)
    for path in (held.stopping, held.change):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text("[Ser")
    await held.start(Wish())
    assert world.files == []


async def test_a_line_whose_failure_counts_as_none_keeps_that(world: World) -> None:
    world.set_up()
    unit = world.folder / UNIT
    unit.write_text(unit.read_text().replace("ExecStart=", "ExecStart=-"))
    ask(["systemctl", "daemon-reload"])
    argv = tuple(proc.cmdline(world.main))
    supervisor = systemd.Systemd(world.held)
    await supervisor.stop(world.identity, drain_limit_s=10, escalate=True, say=said)
    new = await supervisor.start(Wish((*argv, "--max-running-requests", "7")))
    world.wait_for_port()
    text = (world.folder / "etc" / f"{UNIT}.d" / systemd.NAME).read_text(encoding="utf-8")
    assert f"\nExecStart=-{systemd.quote(argv[0])} " in text
    assert is_alive(new)


def test_a_variable_of_the_units_own_file_is_left_to_a_person(world: World) -> None:
    """EnvironmentFile= wins over Environment=, so a drop-in would change nothing."""
    world.set_up()
    unit, own, other = world.folder / UNIT, world.folder / "own.env", world.folder / "other.env"
    own.write_text("# of the server\nHF_ENDPOINT=https://one\n")
    other.write_text("NCCL_DEBUG=INFO\n")
    unit.write_text(f"{unit.read_text()}EnvironmentFile={other}\nEnvironmentFile=-{own}\n")
    ask(["systemctl", "daemon-reload"])
    held, launch = world.held, Launch(tuple(proc.cmdline(world.main)), str(world.folder))
    assert held.is_managed
    for name, why in (("HF_ENDPOINT", f"{own} (EnvironmentFile=) sets HF_ENDPOINT"), ("HF_HOME", "")):
        assert why in units.overrules(held, {name})
        target = Target(port=world.port, held=held, launch=launch)
        chosen = supervisor_of(target, Wish(None, {name: "x"}))
        assert isinstance(chosen, Assisted if why else systemd.Systemd)
        for by_hand, kind in ((True, Assisted), (False, systemd.Systemd)):
            assert isinstance(supervisor_of(target, Wish(None, {name: "x"}), None, by_hand), kind)
    own.unlink()
    assert not units.overrules(held, {"HF_ENDPOINT"})
