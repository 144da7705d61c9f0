"""Memory: the formulas against recordings/h200/memory.csv, and the ways in which a start runs out of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulator.conftest import ROOT, Launch
from wizard.simulator.argv import parse
from wizard.simulator.card import CardFile, OutOfMemory
from wizard.simulator.gpu import GIB, H100, H200, CardModel


@pytest.mark.parametrize(
    ("card", "flags", "fraction"),
    [
        (H200, "", 0.903),
        (H200, "--chunked-prefill-size 2048", 0.929),
        (H200, "--chunked-prefill-size 512", 0.929),
        (H200, "--disable-cuda-graph", 0.910),
        (H200, "--disable-prefill-cuda-graph", 0.907),
        (H200, "--cuda-graph-max-bs-decode 8", 0.907),
        (H200, "--max-running-requests 8", 0.903),
        (H100, "", 0.830),
    ],
)
def test_default_fraction(card: CardModel, flags: str, fraction: float) -> None:
    assert parse(["--model-path", "m", *flags.split()], card).mem_fraction_static == fraction


@pytest.mark.parametrize(
    ("flags", "tokens", "running", "available_gb"),
    [
        ("", 905795, 3538, 9.78),
        ("--mem-fraction-static 0.5", 446265, 2048, 66.66),
        ("--mem-fraction-static 0.93", 936580, 3658, 5.97),
        ("--mem-fraction-static 0.85", 845359, 3302, 17.27),
        ("--max-running-requests 8", 905794, 8, 11.86),
        ("--max-total-tokens 30000", 30000, 2048, 117.42),
        ("--chunked-prefill-size 512", 935442, 3654, 7.2),
        ("--disable-cuda-graph", 913776, 3569, 10.55),
    ],
)
def test_start_agrees_with_the_recordings(
    launch: Launch, flags: str, tokens: int, running: int, available_gb: float
) -> None:
    server = launch(*flags.split())
    server.wait_log("available_gpu_mem=")
    shown = re.search(
        r"max_total_num_tokens=(\d+), .*max_running_requests=(\d+), .*available_gpu_mem=([\d.]+) GB", server.log
    )
    assert shown
    assert int(shown[1]) == pytest.approx(tokens, rel=2e-4)
    assert int(shown[2]) == pytest.approx(running, rel=1e-3)
    assert float(shown[3]) == pytest.approx(available_gb, abs=0.15)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--mem-fraction-static 0.1", "Raise --mem-fraction-static above 0.109"),
        ("--mem-fraction-static 0.10864", "Not enough memory. Please try to increase --mem-fraction-static"),
        ("--mem-fraction-static 0.975", "Capture prefill CUDA graph failed: CUDA out of memory."),
        ("--mem-fraction-static 0.99", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"),
    ],
)
def test_a_fraction_that_cannot_be(launch: Launch, flags: str, says: str) -> None:
    server = launch(*flags.split())
    assert server.wait_exit() == -9
    assert "Scheduler hit an exception: Traceback (most recent call last):" in server.log
    assert says in server.log
    assert "Received sigquit from a child process. It usually means the child failed." in server.log
    assert server.card["processes"] == []


def neighbour(card: Path, gb: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "SGLANG_SIM_CARD": str(card)}
    command = [sys.executable, "-m", "wizard.simulator.neighbour", "--gb", gb]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "holding" in process.stdout.readline()
    return process


def test_a_neighbour_shrinks_the_pool_and_a_bigger_one_stops_the_start(launch: Launch, tmp_path: Path) -> None:
    other = neighbour(tmp_path / "card.json", "60")
    try:
        server = launch().wait_ready()
        assert server.json("/server_info")["max_total_num_tokens"] < 470_000
        names = {each["pid"]: each["name"] for each in server.card["processes"]}
        assert names == {other.pid: "python3", server.child(): "sglang::scheduler"}
        second = launch()
        assert second.wait_exit() == -9
        assert f"Process {other.pid} has 60.00 GiB memory in use." in second.log
        server.process.terminate()
        server.wait_exit()
        bigger = neighbour(tmp_path / "card.json", "70")
        try:
            third = launch()
            assert third.wait_exit() == -9
            assert "Tried to allocate 224.00 MiB" in third.log
        finally:
            bigger.terminate()
            bigger.wait()
    finally:
        other.terminate()
        other.wait()


def test_a_neighbour_that_comes_later_kills_it_at_the_first_long_prefill(
    launch: Launch, tmp_path: Path
) -> None:
    server = launch("--mem-fraction-static", "0.9", "--disable-prefill-cuda-graph").wait_ready()
    free_gb = (139.81 * GIB - sum(each["used_bytes"] for each in server.card["processes"])) / GIB
    other = neighbour(tmp_path / "card.json", f"{free_gb - 0.1:.2f}")
    try:
        with pytest.raises(OSError):
            server.request(
                "/generate", {"input_ids": [5] * 8000, "sampling_params": {"max_new_tokens": 2}}, timeout=5
            )
        assert server.wait_exit() == -9
        assert "torch.OutOfMemoryError: CUDA out of memory." in server.log
        assert "SIGQUIT received. signum=None, frame=None." in server.log
    finally:
        other.terminate()
        other.wait()


def test_card_file_is_private_accounts_and_forgets_the_dead(tmp_path: Path) -> None:
    card = CardFile(tmp_path / "card.json", H200)
    card.allocate(100 * GIB, "me")
    assert (tmp_path / "card.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OutOfMemory, match=r"Tried to allocate 50\.00 GiB.*39\.81 GiB is free"):
        card.allocate(50 * GIB, "me")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = CardFile(tmp_path / "card.json", H200, child.pid)
    other.allocate(30 * GIB, "other")
    assert card.free_bytes() / GIB == pytest.approx(9.81, abs=0.01)
    child.kill()
    child.wait()
    assert card.free_bytes() / GIB == pytest.approx(39.81, abs=0.01)
    card.show(utilization=50)
    state = card.read()
    assert [each["pid"] for each in state["processes"]] == [os.getpid()]
    assert state["simulated"] is True
    assert state["memory_total_bytes"] == 143771 << 20
    assert time.time() - state["updated"] < 60


def test_a_broken_card_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{half")
    card = CardFile(tmp_path / "card.json", H200)
    assert card.allocate(GIB, "me") == H200.usable_bytes - GIB


def test_a_deleted_card_file_is_written_again_with_what_is_held(tmp_path: Path) -> None:
    card = CardFile(tmp_path / "card.json", H200)
    card.allocate(100 * GIB, "me")
    (tmp_path / "card.json").unlink()
    card.show(utilization=10)
    assert [each["used_bytes"] for each in card.read()["processes"]] == [100 * GIB]
