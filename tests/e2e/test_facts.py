"""What the wizard takes for granted about a real server, looked at on a real server."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable

import psutil
import pytest

from wizard.core.reading import Outcome
from wizard.core.vocabulary import VOCABULARY
from wizard.probes.base import ProbeContext, sweep

from .conftest import RealServer, StartLoad, get, pids_listening_on
from .home import Home

pytestmark = pytest.mark.e2e


def stream(server: RealServer, tokens: int) -> list[dict[str, object]]:
    """The events of one streamed /generate with token ids in."""
    body = {
        "input_ids": list(range(200, 232)),
        "stream": True,
        "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0.0},
    }
    request = urllib.request.Request(
        server.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    events = []
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                events.append(json.loads(line[6:]))
    return events


def gauge(text: str, name: str) -> float | None:
    """The value of a gauge with one series."""
    found = re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def wait_for(what: str, look: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s} s: {what}")
        time.sleep(0.2)


async def test_a_capped_server_shows_its_queue(home: Home, load: StartLoad) -> None:
    """One start serves all of these questions: a start takes 20 to 50 s."""
    server = home.started("--max-running-requests", "1")

    # The port belongs to the parent, whose command line is whole; the children's are replaced.
    assert pids_listening_on(server.port) == {server.pid}
    parent = psutil.Process(server.pid)
    assert parent.cmdline() == server.argv
    titles = {" ".join(p.cmdline()).strip("\0 ") for p in parent.children(recursive=True)}
    assert {"sglang::scheduler", "sglang::detokenizer"} <= titles

    # /health of a good server takes one second by design.
    started = time.monotonic()
    assert get(server.url + "/health")[0] == 200
    assert 0.9 <= time.monotonic() - started < 15

    # Streaming with token ids: cumulative counts, a finish reason at the end.
    events = stream(server, tokens=12)
    last = events[-1]["meta_info"]
    assert isinstance(last, dict)
    assert last["completion_tokens"] == 12
    assert last["finish_reason"]["type"] == "length"
    assert len(events) >= 2

    # /server_info tells version, cap, pool and the arguments.
    info = server.get_json("/server_info")
    assert info["version"] == "0.5.20"
    assert info["max_running_requests"] == 1
    assert info["max_total_num_tokens"] == 8192
    assert "launch_command" in info

    # Eight clients on a cap of one: one runs, the others wait, the pool is nearly empty.
    got = load(server.url, clients=8, input_tokens=64, output_tokens=64, seconds=60)
    seen: dict[str, float] = {}

    def queue_is_there() -> bool:
        text = get(server.url + "/metrics")[1]
        for name in ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"):
            value = gauge(text, name)
            if value is not None:
                seen[name] = value
        return seen.get("sglang:num_queue_reqs", 0) >= 5 and seen.get("sglang:num_running_reqs") == 1

    wait_for(f"a queue behind the cap; last seen {seen}", queue_is_there)
    assert seen["sglang:token_usage"] < 0.2
    wait_for("finished requests", lambda: got.finished >= 2)
    assert got.failed == 0, got.errors[:3]
    text = get(server.url + "/metrics")[1]
    for name in (
        "sglang:generation_tokens_total",
        "sglang:prompt_tokens_total",
        "sglang:time_to_first_token_seconds_bucket",
        "sglang:inter_token_latency_seconds_bucket",
        "sglang:e2e_request_latency_seconds_bucket",
    ):
        assert f"{name}{{" in text, f"{name} is missing"
    assert "Decode batch" in server.log_text()

    # The probes see the same, all at once, while the clients go on.
    snapshot = await sweep(None, ProbeContext(server.target()))
    outcomes = {name: (r.outcome, r.reason) for name, r in snapshot.results.items()}
    for name in ("host", "port", "process", "http", "sglang", "metrics", "log"):
        assert outcomes[name][0] is Outcome.OK, f"{name}: {outcomes[name]}"
    assert outcomes["gpu"][0] in (Outcome.OK, Outcome.UNAVAILABLE), outcomes["gpu"]
    x = {name: value.x for name, value in snapshot.values().items()}
    assert set(x) <= set(VOCABULARY)
    expected = {
        "port.state": "listening",
        "port.owner_kind": "target",
        "port.owner_pid": server.pid,
        "process.alive": True,
        "process.stopped_children": 0,
        "http.health": "serving",
        "server.version": "0.5.20",
        "server.max_running_requests": 1,
        "requests.running": 1,
        "kv.capacity_tokens": 8192,
    }
    assert {name: x.get(name) for name in expected} == expected
    assert float(x["requests.queued"]) >= 5
    assert int(x["process.children"]) >= 3
    assert float(x["throughput.output"]) > 0
