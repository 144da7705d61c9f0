"""From apply to ready against stopping and starting a server by hand, in one run, on real SGLang (CPU)."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e import install
from tests.e2e.conftest import RealServer, cli_in, family, get, kill, pids_listening_on, servers_in

pytestmark = pytest.mark.bench

ROUNDS = 3
BUDGET = 1.1
STAGES = ("stop", "release", "launch", "ready")


def by_hand(server: RealServer) -> None:
    """What a person does: SIGTERM, wait until the tree and the port are gone."""
    tree = family(psutil.Process(server.pid))
    server.popen.terminate()
    server.popen.wait(60)
    psutil.wait_procs(tree, timeout=60)
    while pids_listening_on(server.port):
        time.sleep(0.1)


def until_healthy(url: str) -> None:
    while True:
        try:
            if get(f"{url}/health", limit_s=25)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)


def test_apply_to_ready(tmp_path: Path) -> None:
    folder = install.default_folder()
    if not install.is_installed(folder):
        pytest.skip("no SGLang for the CPU: python tests/e2e/install.py")
    hand, wizard = [], []
    with servers_in(tmp_path, folder) as launch:
        for _ in range(ROUNDS):
            server = launch(("--max-running-requests", "8"))
            began = time.monotonic()
            by_hand(server)
            again = launch(("--max-running-requests", "8"), port=server.port, wait=False)
            until_healthy(again.url)
            hand.append(time.monotonic() - began)

            answer = cli_in(tmp_path)(
                *("fix", "--pid", str(again.pid), "--set", "max_running_requests=16"),
                *("--no-load-test", "--yes", "--json"),
            )
            assert answer.code == 0, answer.out + answer.err
            stages = {s["stage"]: s["seconds"] for s in answer.document["stages"]}
            wizard.append(sum(stages[name] for name in STAGES))
            print({name: round(stages[name], 2) for name in STAGES}, "by hand", round(hand[-1], 2))
            again.popen.wait(10)
            for pid in pids_listening_on(again.port):
                kill(family(psutil.Process(pid)))
    ratio = statistics.median(wizard) / statistics.median(hand)
    print(f"apply to ready: {wizard} s, by hand {hand} s, ratio {ratio:.3f}")
    assert ratio <= BUDGET
