"""The probes on a simulated server: every reading has a known name and the values that the flags imply."""

from __future__ import annotations

import pytest

from tests.books import BOOK
from tests.simulator.conftest import Launch, launch
from wizard.core.reading import Outcome
from wizard.core.target import Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes.base import ProbeContext, sweep
from wizard.server.discovery import target_from_pid

__all__ = ["launch"]

SIGNATURES = BOOK.signatures
MINE = ("http", "sglang", "metrics", "log")


async def readings(target: Target) -> dict[str, object]:
    snapshot = await sweep(MINE, ProbeContext(target, window_s=1.0, signatures=SIGNATURES))
    for result in snapshot.results.values():
        assert set(result.values) <= set(VOCABULARY), result.probe
        assert result.outcome in (Outcome.OK, Outcome.NO_DATA), (result.probe, result.reason)
    return {name: value.x for name, value in snapshot.values().items()}


async def test_a_server_with_a_cap_and_metrics(launch: Launch) -> None:
    running = launch("--max-running-requests", "8", "--enable-metrics").wait_ready()
    x = await readings(target_from_pid(running.process.pid))
    assert x["http.health"] == "serving"
    assert x["server.simulated"] is True
    assert x["server.version"] == "0.5.20"
    assert x["server.max_running_requests_set"] == 8
    assert x["server.max_running_requests"] == 8
    assert int(str(x["server.default_max_running_requests"])) >= 2048
    assert x["server.metrics_enabled"] is True
    assert x["requests.queued"] == 0
    assert x["log.fired_up"] is True
    assert "log.signature" not in x
    assert float(str(x["log.avail_before_load_gb"])) > float(str(x["log.avail_after_load_gb"]))


async def test_a_server_without_metrics(launch: Launch) -> None:
    running = launch().wait_ready()
    x = await readings(target_from_pid(running.process.pid))
    assert x["server.metrics_enabled"] is False
    assert x["requests.running"] in (0, 1)  # the http probe's /health runs one token, as on the real server
    assert "throughput.output" not in x


@pytest.mark.parametrize(
    ("flags", "signature"),
    [
        (("--mem-fraction-static", "0.05"), "not_enough_memory"),
        (("--no-such-flag", "7"), "bad_cli_args"),
    ],
)
async def test_a_start_that_fails(launch: Launch, flags: tuple[str, ...], signature: str) -> None:
    running = launch(*flags)
    running.wait_exit()
    x = await readings(Target(port=0, log_path=str(running.log_path)))
    assert x["log.signature"] == signature
    assert x["log.error"]
