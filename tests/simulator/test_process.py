"""The process tree and its ends: recordings/cpu/FINDINGS.md, Signals and Start failures."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.simulator.conftest import Launch, Running


def long_stream(server: Running, tokens: int, into: list[str]) -> threading.Thread:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True}
    body = {"text": "hello", "sampling_params": sampling, "stream": True}
    thread = threading.Thread(target=lambda: into.append(server.request("/generate", body)[1]))
    before = server.log.count("POST /generate")  # the warm-up's line is there already
    thread.start()
    end = time.monotonic() + 10
    while server.log.count("POST /generate") == before and time.monotonic() < end:
        time.sleep(0.01)
    return thread


def test_tree_looks_like_sglang(launch: Launch) -> None:
    server = launch().wait_ready()
    child = server.child()
    assert Path(f"/proc/{child}/comm").read_text() == "sglang::schedul\n"
    assert Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0") == b"sglang::scheduler"
    assert Path(f"/proc/{child}/environ").read_bytes().strip(b"\0") == b""
    parent = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"--model-path\0llama-3.1-8b\0" in parent
    assert b"SGLANG_SIM_SPEED=20" in Path(f"/proc/{server.process.pid}/environ").read_bytes()


def test_sigterm_idle_leaves_with_zero(launch: Launch) -> None:
    server = launch().wait_ready()
    child = server.child()
    server.process.terminate()
    assert server.wait_exit() == 0
    assert "Gracefully exiting... Remaining number of requests 0." in server.log
    assert not Path(f"/proc/{child}").exists()


def test_sigterm_drains_and_still_takes_requests(launch: Launch) -> None:
    server = launch().wait_ready()
    got: list[str] = []
    thread = long_stream(server, 300, got)
    server.process.terminate()
    server.wait_log("SIGTERM received. signum=None frame=None. Draining requests and shutting down...")
    assert server.request("/health")[0] == 503
    assert server.request("/generate", {"text": "x", "sampling_params": {"max_new_tokens": 2}})[0] == 200
    assert server.wait_exit() == 0
    thread.join()
    assert got[0].rstrip().endswith("data: [DONE]")
    assert "Remaining number of requests 1." in server.log


def test_sigint_closes_the_port_and_finishes_streams(launch: Launch) -> None:
    server = launch().wait_ready()
    got: list[str] = []
    thread = long_stream(server, 300, got)
    server.process.send_signal(signal.SIGINT)
    server.wait_log("Shutting down")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), 1).close()
    assert server.wait_exit() == 0
    thread.join()
    assert got[0].rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_dead_scheduler_takes_the_parent_with_it(launch: Launch, number: int, code: int) -> None:
    server = launch().wait_ready()
    child = server.child()
    os.kill(child, number)
    assert server.wait_exit() == -9
    crashed = (
        f"Subprocess scheduler_0 (pid={child}) crashed with exit code {code}. Triggering SIGQUIT for cleanup..."
    )
    assert crashed in server.log
    assert "Sleeping 5 seconds before crash diagnostics" in server.log


def test_killed_parent_leaves_no_child(launch: Launch) -> None:
    server = launch().wait_ready()
    child = server.child()
    server.process.kill()
    assert server.wait_exit() == -9
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        if Path(f"/proc/{child}/stat").read_bytes().rsplit(b") ", 1)[1].startswith(b"Z"):
            return
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


def test_stopped_scheduler_freezes_numbers_and_heals(launch: Launch) -> None:
    server = launch("--enable-metrics").wait_ready()
    child = server.child()
    os.kill(child, signal.SIGSTOP)
    try:
        assert server.metric("max_total_num_tokens") is not None
        assert server.request("/v1/loads")[0] == 200
        with pytest.raises(OSError):
            server.request("/server_info", timeout=1.5)
        with pytest.raises(OSError):
            server.request("/health", timeout=1.5)
    finally:
        os.kill(child, signal.SIGCONT)
    assert server.request("/health")[0] == 200


def test_port_taken_by_another_simulator_lies_and_leaves_with_three(launch: Launch) -> None:
    first = launch("--max-total-tokens", "20000", "--mem-fraction-static", "0.4").wait_ready()
    second = launch("--max-total-tokens", "20000", "--mem-fraction-static", "0.4", port=first.port)
    assert second.wait_exit() == 3
    assert f"[Errno 98] error while attempting to bind on address ('127.0.0.1', {first.port})" in second.log
    assert "The server is fired up and ready to roll!" in second.log
    assert "Uvicorn running" not in second.log
    assert first.request("/health")[0] == 200


def test_port_taken_by_a_silent_listener_hangs(launch: Launch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = launch(port=silent.getsockname()[1])
        server.wait_log("Waiting for application shutdown.")
        server.process.terminate()
        time.sleep(1.0)
        assert server.process.poll() is None
        assert "fired up" not in server.log


@pytest.mark.parametrize("place", ["load", "kv", "capture"])
def test_crash_while_starting(launch: Launch, place: str) -> None:
    server = launch(SGLANG_SIM_FAULT=f"crash_at={place}")
    assert server.wait_exit() == 1
    assert "Rank 0 scheduler died during initialization (exit code: -9)." in server.log


def test_never_ready_and_a_wrong_fault(launch: Launch) -> None:
    hanging = launch(SGLANG_SIM_FAULT="never_ready")
    hanging.wait_log("Tree cache initialized")
    time.sleep(0.3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", hanging.port), 1).close()
    wrong = launch(SGLANG_SIM_FAULT="crash_at=lunch")
    assert wrong.wait_exit() == 1
    assert "unknown place 'lunch'" in wrong.log


def test_memory_that_lingers_after_death(launch: Launch) -> None:
    server = launch(SGLANG_SIM_FAULT="release_slowly=3").wait_ready()
    holder = server.card["processes"][0]["pid"]
    assert holder not in (server.process.pid, server.child())
    server.process.terminate()
    assert server.wait_exit() == 0
    assert Path(f"/proc/{holder}").exists()
    end = time.monotonic() + 8
    while Path(f"/proc/{holder}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{holder}").exists()
