"""Each end of the flows about speed and availability is reached by readings alone; causes rank right."""

from __future__ import annotations

import pytest

from tests.books import BOOK
from wizard.core.reading import Outcome, ProbeResult, Scalar, Snapshot, Value
from wizard.core.session import (
    Answered,
    FlowChosen,
    ReadingsArrived,
    SessionState,
    Step,
    advance,
    current_suggestion,
)
from wizard.core.triage import named, rank

Readings = dict[str, Scalar]

H200: Readings = {
    "process.alive": True,
    "process.stopped_children": 0,
    "process.uptime_s": 4000.0,
    "process.tokenizer_percent": 30.0,
    "process.detokenizer_percent": 20.0,
    "process.scheduler_percent": 100.0,
    "host.cpu_percent": 20.0,
    "host.cpu_count": 16,
    "http.reachable": True,
    "http.health": "serving",
    "http.health_latency_s": 1.0,
    "metrics.frozen": False,
    "requests.running": 53,
    "requests.queued": 0,
    "requests.queued_mean": 0.0,
    "requests.retracted": 0,
    "requests.aborted": 0,
    "requests.finished": 300,
    "requests.prompt_tokens_mean": 1024.0,
    "requests.output_tokens_mean": 256.0,
    "requests.tokens_mean": 1280.0,
    "kv.usage": 0.09,
    "kv.capacity_tokens": 905795,
    "throughput.output": 4138.0,
    "ttft.p50": 60.0,
    "ttft.p99": 1534.0,
    "itl.p50": 7.8,
    "itl.p99": 50.0,
    "e2e.p50": 3300.0,
    "queue.p50": 5.0,
    "cache.hit_ratio": 0.0,
    "decode.cuda_graph_share": 1.0,
    "weights.memory_gb": 15.0,
    "speculation.accept_length": 0.0,
    "gpu.utilization": 100,
    "gpu.power_w": 666.0,
    "gpu.power_limit_w": 700.0,
    "gpu.memory_bandwidth_gbs": 4800.0,
    "gpu.capability": 9.0,
    "server.device": "cuda",
    "server.max_running_requests": 2048,
    "server.default_max_running_requests": 2048,
    "server.cuda_graph_disabled": False,
    "server.disable_radix_cache": False,
    "server.schedule_policy": "fcfs",
    "server.speculative_algorithm": "none",
    "server.attention_backend": "fa3",
    "server.chunked_prefill_size": 8192,
    "server.enable_mixed_chunk": False,
    "log.phase": "serving",
    "log.signatures": (),
}
"""An H200 with an 8B model under 64 clients: recording h200/t_default, load A."""


def snapshot(readings: Readings) -> Snapshot:
    values = {name: Value(x) for name, x in readings.items()}
    return Snapshot().with_result(ProbeResult("all", Outcome.OK, values))


def walk(flow: str, readings: Readings) -> tuple[str, str | None, SessionState]:
    """Follows the readings: the flow and node where it ends, and the cause there."""
    state = SessionState()
    for event in (ReadingsArrived(snapshot(readings)), FlowChosen(flow)):
        state, _ = advance(state, event, BOOK)
    for _ in range(20):
        suggestion = current_suggestion(state, BOOK)
        if state.step is not Step.DIAGNOSE or state.ended or suggestion is None or suggestion.index is None:
            break
        state, _ = advance(state, Answered(suggestion.index, "readings"), BOOK)
    return f"{state.flow_id}.{state.node_id}", state.cause_id, state


def case(flow: str, end: str, cause: str | None, **changes: Scalar | None) -> object:
    more = {name.replace("__", "."): x for name, x in changes.items()}
    readings = {k: x for k, x in {**H200, **more}.items() if x is not None}
    return pytest.param(flow, end, cause, readings, id=f"{flow}-{end}-{cause or 'end'}-{len(more)}")


CAP = {"server__max_running_requests_set": 8, "server__max_running_requests": 8, "requests__running": 8}
QUEUE = {"requests__queued": 31, "requests__queued_mean": 31.0}
IDLE = {"gpu__utilization": 35, "gpu__power_w": 245.0}
STOPPED = {"process__stopped_children": 1, "process__stopped_names": ("sglang::scheduler (pid 9)",)}
FROZEN = {
    "metrics__frozen": True,
    "http__health": "unhealthy",
    "http__health_latency_s": 20.0,
    "throughput__output": 0.0,
}
OFF = {"server__cuda_graph_disabled": True, "decode__cuda_graph_share": 0.0}

WALKS = [
    case("requests_wait", "requests_wait.no_queue", None),
    case("requests_wait", "requests_wait.stands_still", "server_hang", **FROZEN, **QUEUE),
    case("requests_wait", "requests_wait.hand_cap", "long_queue", **CAP, **QUEUE),
    case("requests_wait", "requests_wait.pool_full", "kv_cache_exhausted", **QUEUE, kv__usage=0.97),
    case(
        "requests_wait",
        "requests_wait.pool_small",
        "kv_cache_exhausted",
        **QUEUE,
        kv__usage=0.8,
        kv__capacity_tokens=60000,
    ),
    case("requests_wait", "requests_wait.own_limit", None, **QUEUE, server__max_running_requests_set=2048),
    case("tokens_slow", "requests_wait.hand_cap", "long_queue", **CAP, **QUEUE),
    case("tokens_slow", "tokens_slow.no_graphs", "cuda_graph_disabled", **OFF),
    case("tokens_slow", "high_latency.shared", None, itl__p50=60.0, requests__running=240),
    case("tokens_slow", "low_throughput.bandwidth", None),
    # latency
    case("high_latency", "high_latency.fast", None),
    case("high_latency", "high_latency.hangs", "server_hang", **FROZEN),
    case("high_latency", "high_latency.hangs", "server_hang", **STOPPED),
    case(
        "high_latency",
        "requests_wait.hand_cap",
        "long_queue",
        **CAP,
        **QUEUE,
        ttft__p50=6715.0,
        queue__p50=6500.0,
    ),
    case(
        "high_latency", "high_latency.late_first_token", "ttft_high", ttft__p50=9000.0, process__uptime_s=60.0
    ),
    case(
        "high_latency",
        "high_latency.late_first_token",
        "ttft_high",
        ttft__p50=1784.0,
        server__disable_radix_cache=True,
    ),
    case(
        "high_latency",
        "high_latency.late_first_token",
        "ttft_high",
        ttft__p50=9000.0,
        requests__prompt_tokens_mean=60000.0,
    ),
    case(
        "high_latency",
        "high_latency.late_first_token",
        "ttft_high",
        ttft__p50=2000.0,
        requests__prompt_tokens_mean=5000.0,
        cache__hit_ratio=0.6,
    ),
    case(
        "high_latency",
        "high_latency.cpu_bound",
        "cpu_bottleneck",
        ttft__p50=2000.0,
        requests__prompt_tokens_mean=100.0,
        process__tokenizer_percent=99.0,
    ),
    case(
        "high_latency",
        "high_latency.late_first_token",
        "ttft_high",
        ttft__p50=2000.0,
        requests__prompt_tokens_mean=100.0,
    ),
    case("high_latency", "high_latency.no_graphs", "cuda_graph_disabled", **OFF, itl__p50=35.0),
    case("high_latency", "high_latency.slow_tokens", "itl_high", itl__p99=330.0),
    case(
        "high_latency",
        "high_latency.slow_tokens",
        "itl_high",
        itl__p50=40.0,
        server__speculative_algorithm="EAGLE",
        speculation__accept_length=1.04,
    ),
    case(
        "high_latency",
        "high_latency.slow_tokens",
        "itl_high",
        itl__p50=40.0,
        server__speculative_algorithm="EAGLE",
        speculation__accept_length=2.8,
    ),
    case("high_latency", "high_latency.shared", None, itl__p50=31.0, requests__running=240),
    case("high_latency", "high_latency.slow_tokens", "itl_high", itl__p50=40.0, requests__running=4),
    case(
        "high_latency",
        "high_latency.near_limit",
        None,
        itl__p50=40.0,
        requests__running=4,
        weights__memory_gb=120.0,
    ),
    # throughput
    case("low_throughput", "requests_wait.hand_cap", "long_queue", **IDLE, **CAP, **QUEUE),
    case("low_throughput", "low_throughput.no_graphs", "cuda_graph_disabled", **IDLE, **OFF),
    case(
        "low_throughput",
        "low_throughput.cpu_bound",
        "cpu_bottleneck",
        **IDLE,
        process__detokenizer_percent=98.0,
    ),
    case("low_throughput", "low_throughput.clients", None, **IDLE),
    case("low_throughput", "low_throughput.idle_card", "gpu_util_low", **IDLE, requests__running=1000),
    case("low_throughput", "requests_wait.hand_cap", "long_queue", **CAP, **QUEUE, gpu__utilization=100),
    case("low_throughput", "low_throughput.no_graphs", "cuda_graph_disabled", decode__cuda_graph_share=0.1),
    case("low_throughput", "low_throughput.clients", None, requests__running=1),
    case("low_throughput", "low_throughput.low", "throughput_low", server__disable_radix_cache=True),
    case(
        "low_throughput",
        "low_throughput.low",
        "throughput_low",
        cache__hit_ratio=0.5,
        requests__queued=23,
        kv__usage=0.5,
    ),
    case("low_throughput", "low_throughput.bandwidth", None),
    case("low_throughput", "low_throughput.compute", None, itl__p50=18.5, requests__running=200),
    case("low_throughput", "low_throughput.low", "throughput_low", itl__p50=40.0, requests__running=16),
    # the card
    case("gpu_idle", "gpu_idle.busy", None),
    case("gpu_idle", "gpu_idle.waits_for_a_rank", "server_hang", **FROZEN, gpu__power_w=150.0),
    case(
        "gpu_idle",
        "gpu_idle.waits_for_a_rank",
        "server_hang",
        metrics__frozen=None,
        throughput__output=0.0,
        gpu__power_w=150.0,
    ),
    case("gpu_idle", "requests_wait.hand_cap", "long_queue", **IDLE, **CAP, **QUEUE),
    case("gpu_idle", "gpu_idle.no_work", None, **IDLE, requests__running=0),
    case("gpu_idle", "gpu_idle.no_graphs", "cuda_graph_disabled", **IDLE, **OFF),
    case("gpu_idle", "gpu_idle.cpu_bound", "cpu_bottleneck", **IDLE, host__cpu_percent=99.0),
    case("gpu_idle", "gpu_idle.gaps", "gpu_util_low", **IDLE),
    # time-outs
    case(
        "request_timeouts",
        "request_timeouts.killed",
        "process_killed",
        process__alive=False,
        log__signature="process_crashed",
    ),
    case("request_timeouts", "request_timeouts.killed", "process_killed", process__alive=False),
    case(
        "request_timeouts",
        "request_timeouts.own_error",
        None,
        process__alive=False,
        log__signature="gpu_oom_runtime",
        log__error="CUDA out of memory",
    ),
    case(
        "request_timeouts",
        "request_timeouts.slow_start",
        "slow_load",
        http__health="refused",
        process__uptime_s=1900.0,
    ),
    case("request_timeouts", "request_timeouts.wait", None, http__health="starting", process__uptime_s=50.0),
    case("request_timeouts", "request_timeouts.drains", None, http__health="draining"),
    case("request_timeouts", "request_timeouts.hangs", "server_hang", **FROZEN),
    case("request_timeouts", "request_timeouts.hangs", "server_hang", **STOPPED),
    case("request_timeouts", "request_timeouts.hangs", "server_hang", http__health="hung"),
    case(
        "request_timeouts",
        "request_timeouts.probes_fail",
        "health_check_failing",
        http__health="unhealthy",
        http__health_status=502,
        http__health_latency_s=0.1,
    ),
    case(
        "request_timeouts",
        "requests_wait.hand_cap",
        "long_queue",
        **CAP,
        **QUEUE,
        queue__p50=9000.0,
        e2e__p50=12000.0,
    ),
    case("request_timeouts", "request_timeouts.client", "request_timeout", e2e__p50=90000.0),
    case("request_timeouts", "request_timeouts.path", None),
]


@pytest.mark.parametrize(("flow", "end", "cause", "readings"), WALKS)
def test_readings_lead_to_each_end(flow: str, end: str, cause: str | None, readings: Readings) -> None:
    assert walk(flow, readings)[:2] == (end, cause)


def test_every_end_of_these_flows_is_reached() -> None:
    ends = {w.values[1] for w in WALKS}  # type: ignore[attr-defined]
    passed = {w.values[0] for w in WALKS}  # type: ignore[attr-defined]
    mine = {"requests_wait", "tokens_slow", "high_latency", "low_throughput", "gpu_idle", "request_timeouts"}
    assert passed == mine
    missing = [
        f"{flow.id}.{node.id}"
        for flow in BOOK.flows.values()
        if flow.id in mine
        for node in flow.nodes.values()
        if (node.cause or node.end) and f"{flow.id}.{node.id}" not in ends
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        ("server_hang", FROZEN),
        ("server_hang", STOPPED),
        ("server_hang", {"http__health": "hung", "throughput__output": 0.0}),
        (
            "health_check_failing",
            {"http__health": "unhealthy", "http__health_status": 502, "http__health_latency_s": 0.1},
        ),
        ("slow_load", {"http__health": "refused", "process__uptime_s": 1900.0, "log__phase": "loading"}),
        ("cpu_bottleneck", {"process__tokenizer_percent": 99.0}),
        ("gpu_util_low", {**IDLE, **QUEUE}),
        ("cuda_graph_disabled", OFF),
        ("cuda_graph_disabled", {"decode__cuda_graph_share": 0.1}),
        ("long_queue", {**CAP, **QUEUE}),
        ("ttft_high", {"ttft__p50": 9000.0}),
        ("itl_high", {"itl__p50": 40.0, "requests__running": 4}),
        ("request_aborted", {"requests__aborted": 200}),
        (
            "process_killed",
            {
                "process__exit_code": 137,
                "process__alive": False,
                "http__health": "refused",
                "throughput__output": None,
            },
        ),
    ],
)
def test_live_readings_name_the_cause(cause: str, changes: dict[str, Scalar | None]) -> None:
    more = {name.replace("__", "."): x for name, x in changes.items()}
    readings = {k: x for k, x in {**H200, **more}.items() if x is not None}
    found = named(rank(BOOK, snapshot(readings).get))
    assert found[0].cause.id == cause, [h.arithmetic() for h in found]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "requests.running": 209,
            "requests.queued": 90,
            "requests.queued_mean": 22.0,
            "itl.p50": 19.0,
            "itl.p99": 211.0,
            "ttft.p50": 193.0,
        },
        {
            "requests.running": 1,
            "gpu.power_w": 448.0,
            "throughput.output": 205.0,
            "itl.p50": 4.8,
            "itl.p99": 5.4,
        },
        {"requests.running": 0, "throughput.output": 0.0, "gpu.utilization": 0, "gpu.power_w": 76.0},
        {"server.metrics_enabled": False},
    ],
)
def test_a_healthy_server_at_any_load_is_not_accused(changes: Readings) -> None:
    assert named(rank(BOOK, snapshot({**H200, **changes}).get)) == ()
