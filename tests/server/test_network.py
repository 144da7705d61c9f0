"""A server in a network of its own, really: what it listens on, how it is reached, who answers in its place."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.server.conftest import Stage, wait_until, who
from wizard.core.reading import Outcome
from wizard.core.target import Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import port as probe
from wizard.probes.reach import why_somebody_else
from wizard.server import discovery, network, proc
from wizard.server.ready import owns

ROOT = str(Path(__file__).parents[2])
ADDRESS = "10.213.7.9"
UNSHARE = shutil.which("unshare")
IN_THERE = f"""
import fcntl, os, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x49))  # SIOCSIFFLAGS: up
if sys.argv[1] == "address":  # SIOCSIFADDR, as a container has one beside loopback
    there = struct.pack("H2x4s8x", socket.AF_INET, socket.inet_aton("{ADDRESS}"))
    fcntl.ioctl(s, 0x8916, struct.pack("16s16s8x", b"lo:1", there))
os.execvp(sys.argv[2], sys.argv[2:])
"""
LISTENS = """
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
print("listens", flush=True)
time.sleep(120)
"""


@pytest.fixture
def inside(stage: Stage) -> Callable[..., int]:
    """Starts words in a new network; loopback is up there, ``address``: it has another address, too."""
    if UNSHARE is None:
        pytest.skip("no unshare here")
    tried = subprocess.run([UNSHARE, "-n", "true"], capture_output=True, timeout=20)
    if tried.returncode:
        pytest.skip("no right to make a network namespace here")
    env = {**os.environ, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "1"}
    env |= {"SGLANG_SIM_CARD": str(stage.folder / "card.json"), "SGLANG_SIM_START_S": "0.3"}

    def start(*words: str, address: bool = True, log: str = "log") -> int:
        setup = [sys.executable, "-c", IN_THERE, "address" if address else "loopback"]
        pid = stage.run([str(UNSHARE), "-n", *setup, *words], env, log=log).pid
        wait_until(lambda: proc.cmdline(pid) == words, f"{words[:3]} in a network of its own")
        return pid

    return start


@pytest.fixture
def server(inside: Callable[..., int], stage: Stage) -> Callable[..., tuple[int, int]]:
    """A simulator in a network of its own, serving there: (pid, port)."""

    def start(host: str = "0.0.0.0", *, address: bool = True) -> tuple[int, int]:
        number = free_port()
        words = [sys.executable, "-m", "wizard.simulator", "--model-path", "m", "--load-format", "dummy"]
        pid = inside(*words, "--host", host, "--port", str(number), address=address, log="server.log")
        wait_until(lambda: "ready to roll" in (stage.folder / "server.log").read_text(), "it serves", 60.0)
        return pid, number

    return start


@pytest.fixture
def squatter(stage: Stage) -> Callable[[int], int]:
    """Somebody who listens out here."""

    def start(number: int) -> int:
        pid = stage.script(LISTENS, str(number), log="squatter").pid
        stage.wait_for("squatter", "listens")
        return pid

    return start


def joined(stage: Stage, pid: int, number: int) -> int:
    """Somebody who listens in the network of ``pid``, and is not of its tree."""
    setns = f"setns(os.open('/proc/{pid}/ns/net', os.O_RDONLY), 0)"  # in os since Python 3.12
    code = f"import ctypes, os\nassert ctypes.CDLL(None).{setns} == 0\n{LISTENS}"
    found = stage.script(code, str(number), log="joined").pid
    stage.wait_for("joined", "listens")
    return found


def test_it_is_seen_that_a_network_is_its_own(server: Callable[..., tuple[int, int]]) -> None:
    pid, _ = server()
    assert network.is_elsewhere(pid)
    assert network.address_of(pid) == ADDRESS
    assert not network.is_elsewhere(os.getpid())
    assert not network.is_elsewhere(2**22 + 1)
    assert network.address_of(2**22 + 1) is None


def test_loopback_alone_is_no_address(server: Callable[..., tuple[int, int]]) -> None:
    pid, number = server("127.0.0.1", address=False)
    assert network.is_elsewhere(pid)
    assert network.address_of(pid) is None
    assert network.listens_there(pid, number) is True


def test_what_it_listens_on_is_not_what_anybody_here_listens_on(
    server: Callable[..., tuple[int, int]], squatter: Callable[[int], int], stage: Stage
) -> None:
    pid, number = server()
    other = free_port()
    squatter(other)
    assert network.listens_there(pid, number) is True
    assert network.listens_there(pid, other) is None  # that one listens out here
    assert proc.listeners(number) == []
    assert [one.port for one in proc.listeners(number, {pid}, network_of=pid)] == [number]
    assert owns(who(pid), ADDRESS, number, number) is True


def test_another_process_in_its_network(server: Callable[..., tuple[int, int]], stage: Stage) -> None:
    pid, number = server()
    other = free_port()
    stranger = joined(stage, pid, other)
    assert network.is_elsewhere(stranger)
    assert network.listens_there(pid, other) is False
    assert network.listens_there(pid, number) is True
    target = Target(port=other, inside_port=other, identity=who(pid))
    assert why_somebody_else(target) == f"another process listens on port {other}, not this server"
    x = {name: value.x for name, value in probe.examine(target).values.items()}
    assert x["port.state"] == "listening"
    assert (x["port.owner_kind"], x["port.owner_is_target"]) == ("unknown", False)
    assert "port.owner_pid" not in x


def test_the_port_probe_looks_in_there(
    server: Callable[..., tuple[int, int]], squatter: Callable[[int], int]
) -> None:
    pid, number = server()
    published = free_port()
    squatter(published)  # what forwards to it: docker-proxy, conmon ...
    target = Target(port=published, inside_port=number, identity=who(pid))
    result = probe.examine(target)
    assert result.outcome is Outcome.OK
    x = {name: value.x for name, value in result.values.items()}
    assert set(x) <= set(VOCABULARY)
    assert x["port.number"] == published
    assert (x["port.state"], x["port.owner_kind"]) == ("listening", "target")
    assert x["port.owner_is_target"] is True
    owner = x["port.owner_pid"]
    assert isinstance(owner, int)
    assert owner == pid or pid in proc.ancestors(owner)
    assert f"leads to port {number} of its own network" in (result.reason or "")
    assert result.values["port.state"].source.startswith(f"/proc/{pid}/net/tcp")
    assert why_somebody_else(target) is None
    # looked at from out here, the forwarder would be a stranger on the server's port
    out_here = probe.examine(replace(target, inside_port=None))
    assert out_here.values["port.owner_is_target"].x is False
    assert why_somebody_else(replace(target, inside_port=None)) is not None
    free = free_port()
    nobody = probe.examine(replace(target, inside_port=free))
    assert nobody.values["port.state"].x == "free"
    assert "port.owner_kind" not in nobody.values
    assert why_somebody_else(replace(target, inside_port=free)) is None


def test_a_server_in_a_network_of_its_own_is_found_with_its_address(
    server: Callable[..., tuple[int, int]],
) -> None:
    pid, number = server()
    target = discovery.target_from_pid(pid)
    assert target.identity == who(pid)
    assert (target.host, target.port, target.inside_port) == (ADDRESS, number, number)
    assert target.simulated
    assert "container" in target.note  # a network of its own: how it is reached after a relaunch is not known
    (found,) = [one for one in discovery.find_servers() if one.identity == target.identity]
    assert (found.host, found.port, found.inside_port) == (ADDRESS, number, number)
    behind = discovery.target_from_url(f"http://{ADDRESS}:{number}")
    assert behind.identity is None  # not an address of this host, as far as it can tell
    assert Target.from_json(target.to_json()) == target


def test_who_listens_out_here_on_the_same_port_is_not_it(
    server: Callable[..., tuple[int, int]], squatter: Callable[[int], int]
) -> None:
    pid, number = server()
    stranger = squatter(number)
    behind = discovery.target_from_url(f"http://127.0.0.1:{number}")
    assert behind.identity is None
    assert f"process {stranger} answers there" in behind.note
    assert discovery.target_from_pid(pid).identity == who(pid)
    with socket.create_connection(("127.0.0.1", number), timeout=5):
        pass  # it is really the stranger who answers


def test_a_published_port_leads_to_it(server: Callable[..., tuple[int, int]]) -> None:
    """As an engine tells of a published port (``Held.details``)."""
    from wizard.core.held import Held

    pid, number = server()
    target = replace(discovery.target_from_pid(pid), port=number, inside_port=None)
    for said, host in (
        ("0.0.0.0 8080", "127.0.0.1"),
        (":: 8080", "::1"),
        ("192.0.2.1 8080", "192.0.2.1"),
    ):
        held = Held("docker", "x", details={f"{number}/tcp": said})
        found = discovery._reached(replace(target, held=held), pid)
        assert (found.host, found.port, found.inside_port) == (host, 8080, number)
    other = Held("docker", "x", details={f"{number + 1}/tcp": "0.0.0.0 8080"})
    found = discovery._reached(replace(target, held=other), pid)
    assert (found.host, found.port, found.inside_port) == (ADDRESS, number, number)
