"""/metrics: names, labels, help texts and buckets of a real 0.5.20 (data/metrics-0.5.20.json).

A series is absent until its first observation, as with prometheus_client's multiprocess mode.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any

from wizard.simulator.argv import DATA

_PREFIX = "sglang:"


def label_text(**labels: str) -> str:
    """`{a="1",b="2"}` in name order, or nothing."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(labels[name])}"' for name in sorted(labels)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number_text(value: float) -> str:
    """A float as prometheus_client writes it (1.47456e+06 from a million on)."""
    if value != value:
        return "NaN"
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6 and "e" not in text:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+0{dot - 1}"
    return text


class Histogram:
    """One labelled histogram."""

    def __init__(self, bounds: list[float]) -> None:
        self.bounds, self.counts, self.total, self.sum = bounds, [0] * (len(bounds) + 1), 0, 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += times
        self.sum += value * times


class Metrics:
    """All families of one server. Names are given without the `sglang:` prefix."""

    def __init__(self, model_name: str) -> None:
        document = json.loads((DATA / "metrics-0.5.20.json").read_text(encoding="utf-8"))
        self._families: dict[str, list[Any]] = document
        self._values: dict[str, dict[str, float]] = {}
        self._histograms: dict[str, dict[str, tuple[dict[str, str], Histogram]]] = {}
        self.model = {"engine_type": "unified", "model_name": model_name}
        self.rank = {**self.model, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
        self.rank_text = label_text(**self.rank)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a sample with exactly these labels."""
        self._values.setdefault(_PREFIX + name, {})[label_text(**labels)] = value

    def gauge(self, name: str, value: float) -> None:
        """Set a scheduler's gauge."""
        self._values.setdefault(_PREFIX + name, {})[self.rank_text] = value

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Raise a counter."""
        series = self._values.setdefault(_PREFIX + name, {})
        key = label_text(**labels)
        series[key] = series.get(key, 0.0) + amount

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram with exactly these labels; it shows once it has an observation."""
        series = self._histograms.setdefault(_PREFIX + name, {})
        key = label_text(**labels)
        if key not in series:
            bounds = [float(edge) for edge in self._families[_PREFIX + name][2] if edge != "+Inf"]
            series[key] = (labels, Histogram(bounds))
        return series[key][1]

    def render(self) -> str:
        """The whole page."""
        out: list[str] = []
        for name, (kind, help_text, edges) in self._families.items():
            values = self._values.get(name)
            shown = [each for each in self._histograms.get(name, {}).values() if each[1].total]
            if not values and not shown:
                continue
            out.append(f"# HELP {name} {help_text}")
            out.append(f"# TYPE {name} {kind}")
            if values:
                out += [f"{name}{key} {number_text(value)}" for key, value in values.items()]
            for labels, data in shown:
                key, running = label_text(**labels), 0
                out.append(f"{name}_sum{key} {number_text(data.sum)}")
                for edge, count in zip(edges, data.counts, strict=True):
                    running += count
                    out.append(f"{name}_bucket{label_text(**labels, le=edge)} {number_text(running)}")
                out.append(f"{name}_count{key} {number_text(data.total)}")
        return "\n".join(out) + "\n"


_CONSTANT_ZERO = [
    "num_grammar_queue_reqs",
    "swa_token_usage",
    "mamba_usage",
    "swa_available_tokens",
    "swa_evictable_tokens",
    "swa_used_tokens",
    "mamba_available_tokens",
    "mamba_evictable_tokens",
    "mamba_used_tokens",
    "spec_accept_length",
    "spec_accept_rate",
    "spec_cap_length",
    "spec_block_accept_length",
    "spec_num_steps",
    "spec_num_draft_tokens",
    "num_prefill_bootstrap_queue_reqs",
    "num_prefill_inflight_queue_reqs",
    "num_decode_prealloc_queue_reqs",
    "num_decode_transfer_queue_reqs",
    "pending_prealloc_token_usage",
    "utilization",
    "num_unique_running_routing_keys",
]
_GAUGES = [
    "num_running_reqs",
    "num_queue_reqs",
    "gen_throughput",
    "cache_hit_rate",
    "decode_sum_seq_lens",
    "token_usage",
    "full_token_usage",
    "num_used_tokens",
    "kv_available_tokens",
    "kv_evictable_tokens",
    "kv_used_tokens",
    "new_token_ratio",
    "is_cuda_graph",
]
_PHASES = ("prefill", "decode", "target_verify", "draft_prefill", "draft_decode", "draft_extend")


def show_engine(metrics: Metrics, engine: dict[str, Any], page_size: int, tokenizer_s: float) -> None:
    """The constants of a start."""
    seconds, graphs = engine["seconds"], engine["graph_gb"]
    for phase in ("load_weight", "kv_cache_allocation", "scheduler_e2e"):
        metrics.set("startup_time_seconds", seconds.get(phase, 0.0), phase=phase, **metrics.model)
    metrics.set("startup_time_seconds", tokenizer_s, phase="tokenizer_e2e", **metrics.model)
    for phase in _PHASES:
        metrics.set("startup_cuda_graph_time_seconds", seconds.get(phase, 0.0), phase=phase, **metrics.model)
        metrics.set("graph_memory_usage_gb", graphs.get(phase, 0.0), phase=phase, **metrics.rank)
    metrics.gauge("max_total_num_tokens", engine["pool_tokens"])
    metrics.gauge("weight_memory_usage_gb", engine["weights_gb"])
    metrics.gauge("kv_cache_memory_usage_gb", engine["kv_gb"])
    metrics.gauge("page_size", page_size)
    metrics.gauge("num_pages", engine["pool_tokens"] // max(page_size, 1))
    metrics.gauge("context_len", engine["context_len"])
    metrics.gauge("startup_available_gpu_memory_gb", engine["available_gb"])
    metrics.gauge("fwd_occupancy", float("nan"))
    for name in _CONSTANT_ZERO:
        metrics.gauge(name, 0.0)
    metrics.set("routing_keys_active", 0.0)


def show_stats(metrics: Metrics, stats: dict[str, Any], scheduler_pid: int) -> None:
    """What the scheduler reports at a prefill, each 40th decode step, and each 30 s when idle."""
    for name in _GAUGES:
        metrics.gauge(name, stats[name])
    pid = str(scheduler_pid)
    metrics.set("num_retracted_reqs", stats["num_retracted_reqs"], pid=pid, **metrics.rank)
    metrics.set("num_paused_reqs", 0.0, pid=pid, **metrics.rank)
    metrics.gauge("scheduler_idle_seconds_total", stats["idle_s"])
    metrics.gauge("scheduler_process_cpu_seconds_total", stats["cpu_s"])
    requests, inputs, outputs = stats["retracted"]
    if requests:
        metrics.gauge("num_retracted_requests_total", requests)
        metrics.gauge("num_retracted_input_tokens_total", inputs)
        metrics.gauge("num_retracted_output_tokens_total", outputs)
    if stats["evicted"]:
        metrics.set("evicted_tokens_total", stats["evicted"], cache_type="UnifiedRadixCache")
