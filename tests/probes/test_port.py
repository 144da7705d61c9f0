from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wizard.core.reading import Outcome
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import port
from wizard.probes.base import NoData, ProbeContext, run_probe
from wizard.server import ports, proc
from wizard.server.identity import identify

LAUNCH = Launch(("python", "-m", "sglang.launch_server"), "/")

LISTEN = """
import socket, sys
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def squatter() -> Iterator[tuple[int, int]]:
    """Somebody else's server with a secret in its command line: (pid, port)."""
    child = subprocess.Popen(
        [sys.executable, "-c", LISTEN, "--api-key", "hunter2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    yield child.pid, int(child.stdout.readline())
    child.communicate("")


def test_taken_by_somebody_else(squatter: tuple[int, int]) -> None:
    pid, number = squatter
    result = port.examine(Target(port=number, launch=LAUNCH))
    assert result.outcome is Outcome.OK
    x = {name: value.x for name, value in result.values.items()}
    assert set(x) <= set(VOCABULARY)
    assert x["port.number"] == number
    assert x["port.state"] == "listening"
    assert x["port.owner_pid"] == pid
    assert x["port.owner_kind"] == "other"
    assert x["port.owner_is_target"] is False
    assert "hunter2" not in x["port.owner_command"]
    assert "--api-key" in x["port.owner_command"]
    assert x["port.suggested_free"] != number
    assert ports.can_bind("127.0.0.1", x["port.suggested_free"])


def test_held_by_the_targets_own_child(squatter: tuple[int, int]) -> None:
    pid, number = squatter
    x = {k: v.x for k, v in port.examine(Target(port=number, identity=identify(os.getpid()))).values.items()}
    assert x["port.owner_kind"] == "target"
    assert x["port.owner_is_target"] is True
    assert x["port.owner_pid"] == pid


def test_free() -> None:
    number = ports.suggest_free("127.0.0.1", 42000)
    assert number is not None
    x = {k: v.x for k, v in port.examine(Target(port=number, launch=LAUNCH)).values.items()}
    assert x["port.state"] == "free"
    assert "port.owner_pid" not in x
    assert "port.owner_is_target" not in x


def test_an_owner_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "listeners", lambda number=None: [proc.Listener("0.0.0.0", 30000, None, "7")])
    result = port.examine(Target(port=30000, launch=LAUNCH))
    assert result.values["port.owner_kind"].x == "unknown"
    assert "port.owner_is_target" not in result.values
    assert "permission" in (result.reason or "")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/usr/bin/python3 -m sglang.launch_server --model-path m", "sglang"),
        ("/opt/venv/bin/sglang serve --model-path m", "sglang"),
        ("sglang::scheduler", "sglang"),
        ("python -m wizard.simulator --port 1", "sglang"),
        ("python -m http.server 30000", "other"),
        ("vim sglang.py", "other"),
    ],
)
def test_kinds(command: str, kind: str) -> None:
    assert port.kind_of(4711, command, ()) == kind
    assert port.kind_of(4711, command, (4711,)) == "target"


def test_bound_by_nobody_that_can_be_seen() -> None:
    with socket.socket() as bound:  # bound, not listening: no line in /proc/net/tcp names it
        bound.bind(("127.0.0.1", 0))
        result = port.examine(Target(port=bound.getsockname()[1], launch=LAUNCH))
    assert result.values["port.state"].x == "listening"
    assert result.values["port.owner_kind"].x == "unknown"
    assert result.reason


def test_a_number_that_is_no_port() -> None:
    with pytest.raises(NoData, match="99999"):
        port.examine(Target(port=99999, launch=LAUNCH))


@pytest.mark.parametrize("target", [Target(remote=True), Target(log_path="server.log")])
def test_another_machine_is_not_looked_at(target: Target) -> None:
    with pytest.raises(NoData):
        port.examine(target)


def test_a_local_address_without_a_known_process_is_looked_at(free_port: int) -> None:
    target = Target(port=free_port, remote=True, local=True)
    assert port.examine(target).values["port.state"].x == "free"
    with socket.create_server(("127.0.0.1", free_port)):
        seen = port.examine(target).values
    assert seen["port.state"].x == "listening"
    assert "port.owner_is_target" not in seen  # whoever listens there may well be the server that is meant


async def test_through_the_engine() -> None:
    result = await run_probe("port", ProbeContext(Target(launch=LAUNCH)))
    assert (result.outcome, result.probe) == (Outcome.OK, "port")
    gone = await run_probe("port", ProbeContext(Target(remote=True)))
    assert gone.outcome is Outcome.NO_DATA
    assert gone.reason
