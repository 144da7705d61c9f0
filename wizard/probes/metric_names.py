"""Which metric gives which reading, over the versions of SGLang 0.4.0 to 0.5.23.

Read off the collectors of 26 wheels, and checked against recorded pages of 0.5.10, 0.5.16, 0.5.17, 0.5.20
and 0.5.23. Every name that ever gave a reading is tried, the newest first. Left alone because they are
dead or mislead: utilization, is_cuda_graph, fwd_occupancy, cache_hit_rate (of the last batch only).
"""

from __future__ import annotations

from typing import Literal

Fold = Literal["total", "max", "min", "phases"]
"""total: ranks of one request count once, replicas add up. max, min: over all series. phases: the largest
rank of each phase, added up."""

GAUGES: dict[str, tuple[tuple[str, ...], Fold]] = {
    "requests.running": (("sglang:num_running_reqs",), "total"),
    "requests.queued": (("sglang:num_queue_reqs",), "total"),
    "kv.usage": (("sglang:token_usage",), "max"),
    "kv.used_tokens": (("sglang:num_used_tokens", "sglang:kv_used_tokens"), "total"),
    "kv.capacity_tokens": (("sglang:max_total_num_tokens",), "total"),
    "kv.pool_gb": (("sglang:kv_cache_memory_usage_gb",), "max"),
    "weights.memory_gb": (("sglang:weight_memory_usage_gb",), "max"),
    "graph.memory_gb": (("sglang:graph_memory_usage_gb",), "phases"),
    "speculation.accept_length": (("sglang:spec_accept_length",), "min"),
    "server.available_memory_gb": (("sglang:startup_available_gpu_memory_gb",), "min"),
}
"""kv.usage: the largest of the pools of a hybrid model (0.5.2+), rounded to 2 places; evictable prefix cache is
not counted as used."""

Counter = tuple[tuple[str, dict[str, str]], ...]

COUNTERS: dict[str, Counter] = {
    "output": (("sglang:realtime_tokens_total", {"mode": "decode"}),),
    "computed": (("sglang:realtime_tokens_total", {"mode": "prefill_compute"}),),
    "reused": (("sglang:realtime_tokens_total", {"mode": "prefill_cache"}),),
    "finished": (("sglang:num_requests_total", {}),),
    "aborted": (("sglang:num_aborted_requests_total", {}),),
    "retracted": (
        ("sglang:num_retracted_requests_total", {}),
        ("sglang:num_retractions_sum", {}),
        ("sglang:total_retracted_reqs", {}),
    ),
    "prompt": (("sglang:prompt_tokens_total", {}),),
    "generated": (("sglang:generation_tokens_total", {}),),
    "cached": (("sglang:cached_tokens_total", {}),),
    "graph": (("sglang:cuda_graph_passes_total", {"mode": "decode_cuda_graph"}),),
    "eager": (("sglang:cuda_graph_passes_total", {"mode": "decode_none"}),),
}
"""realtime_tokens_total counts each step (0.5.8+); the counters of prompt and generated tokens move only when
a request ends."""

ZERO_WHEN_ABSENT: dict[str, tuple[str, ...]] = {
    "output": ("sglang:realtime_tokens_total",),
    "computed": ("sglang:realtime_tokens_total",),
    "reused": ("sglang:realtime_tokens_total",),
    "finished": ("sglang:num_running_reqs",),
    "prompt": ("sglang:num_running_reqs",),
    "generated": ("sglang:num_running_reqs",),
    "aborted": ("sglang:num_retracted_reqs", "sglang:total_retracted_reqs"),
    "retracted": ("sglang:realtime_tokens_total", "sglang:cuda_graph_passes_total"),
    "graph": ("sglang:cuda_graph_passes_total",),
    "eager": ("sglang:cuda_graph_passes_total",),
    "cached": (),
}
"""A counter appears with its first count. It means 0 only on a page with one of these, which shows that the
version has the counter at all: 0.5.4, for one, cannot tell retractions."""

HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "ttft": ("sglang:time_to_first_token_seconds",),
    "itl": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    "e2e": ("sglang:e2e_request_latency_seconds",),
    "queue": ("sglang:queue_time_seconds", "sglang:queue_time_s"),
}

QUANTILES = (
    ("ttft.p50", "ttft", 0.5),
    ("ttft.p99", "ttft", 0.99),
    ("itl.p50", "itl", 0.5),
    ("itl.p99", "itl", 0.99),
    ("e2e.p50", "e2e", 0.5),
    ("queue.p50", "queue", 0.5),
)

LOADS = (
    ("requests.running", "num_running_reqs", "sum"),
    ("requests.queued", "num_waiting_reqs", "sum"),
    ("kv.used_tokens", "num_used_tokens", "sum"),
    ("kv.capacity_tokens", "max_total_num_tokens", "sum"),
    ("kv.usage", "token_usage", "max"),
)
"""Fields of a row of /v1/loads (0.5.8+), one row a data-parallel rank."""
