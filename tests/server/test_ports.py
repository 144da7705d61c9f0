from __future__ import annotations

import os
import socket

from tests.ports import free_port
from tests.server.conftest import Stage, who
from wizard.server.ports import can_bind, port_state, suggest_free


def test_a_free_port() -> None:
    port = free_port()
    assert can_bind("127.0.0.1", port)
    assert port_state("127.0.0.1", port).state == "free"


def test_the_owner_of_a_taken_port_is_named(stage: Stage) -> None:
    port = free_port()
    pid = stage.server(port)
    found = port_state("127.0.0.1", port)
    assert found.state == "listening"
    assert found.owner == who(pid)
    assert "--port" in found.owner_argv
    assert found.inode
    assert not can_bind("127.0.0.1", port)


def test_a_listener_on_another_address_counts_but_the_nearest_is_named(stage: Stage) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        pid = stage.server(port, "--host", "127.0.0.2")
        assert port_state("127.0.0.2", port).owner == who(pid)
        assert port_state("127.0.0.1", port).owner == who(os.getpid())
        assert port_state("0.0.0.0", port).owner is not None
    assert port_state("127.0.0.1", port).state == "free"
    assert port_state("0.0.0.0", port).owner == who(pid), "a wildcard bind would collide with it"


def test_a_port_in_time_wait_is_free_as_for_uvicorn() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first keeps TIME_WAIT
        client.close()
    assert port_state("127.0.0.1", port).state == "free"


def test_an_outgoing_connection_can_hold_the_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        port = client.getsockname()[1]
        found = port_state("127.0.0.1", port)
        assert not can_bind("127.0.0.1", port)
        assert found.state == "listening"
        assert found.owner == who(os.getpid())


def test_bound_without_listening_is_not_free() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = port_state("127.0.0.1", sock.getsockname()[1])
        assert found.state == "listening"
        assert found.owner is None


def test_what_is_no_port() -> None:
    for number in (0, -1, 65536, 99999):
        assert not can_bind("127.0.0.1", number)
        assert port_state("127.0.0.1", number).state == "free"
    assert suggest_free("127.0.0.1", 99999) is not None


def test_the_suggestion_is_near_and_free() -> None:
    near = free_port()
    with socket.create_server(("127.0.0.1", near)):
        found = suggest_free("127.0.0.1", near)
        assert found is not None
        assert found != near
        assert abs(found - near) < 200
        assert can_bind("127.0.0.1", found)
