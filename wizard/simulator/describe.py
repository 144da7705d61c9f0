"""What a server says of itself: the documents of /server_info, /model_info and /v1/loads (recordings/cpu,
0.5.20)."""

from __future__ import annotations

import shlex
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wizard.simulator.server import Server


def server_info(server: Server, answer: dict[str, Any]) -> dict[str, Any]:
    """/server_info."""
    engine, seconds = server.engine, server.engine["seconds"]
    graphs = {
        phase: round(engine["graph_gb"].get(phase, 0.0), 3)
        for phase in ("prefill", "decode", "target_verify", "draft_prefill", "draft_decode", "draft_extend")
    }
    startup = {
        "load_weight": seconds["load_weight"],
        "kv_cache_allocation": seconds["kv_cache_allocation"],
        "scheduler_e2e": seconds["scheduler_e2e"],
        "cuda_graph": {phase: seconds.get(phase, 0.0) for phase in graphs},
    }
    internal = {
        **server.args.values,
        "world_size": server.args.tp_size,
        **answer,
        "memory_usage": {
            "weight": round(engine["weights_gb"], 3),
            "kvcache": round(engine["kv_gb"], 3),
            "startup_available": round(engine["available_gb"], 3),
            "token_capacity": engine["pool_tokens"],
            "token_capacity_swa": None,
            "graph": graphs,
        },
        "startup_time": startup,
        "effective_max_running_requests_per_dp": engine["max_running"],
    }
    return {
        **server.args.values,
        "launch_command": launch_command(server.args.argv),
        "status": "ready",
        "max_total_num_tokens": engine["pool_tokens"],
        "max_req_input_len": min(engine["context_len"], engine["pool_tokens"]) - 6,
        "startup_time": {**startup, "tokenizer_e2e": server.tokenizer_s},
        "internal_states": [internal],
        "version": server.version,
        "kv_events": None,
        "simulated": True,
    }


def model_info(server: Server) -> dict[str, Any]:
    """/model_info."""
    args, values = server.args, server.args.values
    prefill = values["cuda_graph_config"]["prefill"]
    names = ("model_path", "served_model_name", "tokenizer_path")
    document: dict[str, Any] = {name: values[name] for name in names[:2]}
    document |= {
        "tokenizer_path": args.tokenizer_path,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": args.weight_version,
        "load_format": args.load_format,
        "reasoning_parser": args.reasoning_parser,
        "tool_call_parser": args.tool_call_parser,
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": "llama",
        "architectures": [server.model.architecture],
        "embedding": {
            "family": "none",
            "enabled": False,
            "bcg": {
                "prefill_backend": prefill["backend"],
                "enabled": prefill["backend"] != "disabled",
                "capture_token_budget": prefill["max_bs"],
                "capture_batch_sizes": prefill["bs"],
            },
            "cache": {
                "kv_cache_disabled": False,
                "radix_cache_disabled": args.disable_radix_cache,
                "chunked_prefill_disabled": args.chunked_prefill_size <= 0,
            },
        },
    }
    return document


def loads(server: Server) -> dict[str, Any]:
    """/v1/loads: the scheduler's last report, so frozen with it."""
    engine, stats = server.engine, server.traffic.stats
    used = stats["num_used_tokens"]
    queue_names = (
        "prefill_bootstrap",
        "prefill_inflight",
        "decode_prealloc",
        "decode_transfer",
        "decode_retracted",
    )
    load = {
        "timestamp": server.traffic.stats_at,
        "dp_rank": 0,
        "num_running_reqs": stats["num_running_reqs"],
        "num_waiting_reqs": stats["num_queue_reqs"],
        "num_waiting_uncached_tokens": stats["pending_tokens"],
        "num_used_tokens": used,
        "num_total_tokens": used,
        "num_active_tokens": used,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": engine["pool_tokens"],
        "max_running_requests": engine["max_running"],
        "token_usage": round(stats["full_token_usage"], 4),
        "gen_throughput": round(stats["gen_throughput"], 2),
        "cache_hit_rate": round(stats["cache_hit_rate"], 4),
        "utilization": 0.0,
        "memory": {
            "weight_gb": round(engine["weights_gb"], 3),
            "kv_cache_gb": round(engine["kv_gb"], 3),
            "graph_gb": round(sum(engine["graph_gb"].values()), 3),
            "token_capacity": engine["pool_tokens"],
        },
        "disaggregation": {
            "mode": "null",
            **{f"{name}_queue_reqs": 0 for name in queue_names},
            "kv_transfer_speed_gb_s": 0.0,
            "kv_transfer_latency_ms": 0.0,
        },
        "queues": {
            "waiting": stats["num_queue_reqs"],
            "grammar": 0,
            "paused": 0,
            "retracted": 0,
            "prealloc_ready": 0,
        },
    }
    return {
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "version": server.version,
        "accelerator": server.card_model.name,
        "num_accelerators": 1,
        "loads": [load],
    }


def launch_command(argv: list[str]) -> str:
    """The arguments with the keys taken out, as /server_info shows them."""
    shown, hide = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide:
            shown.append("***")
            hide = False
        elif name in ("--api-key", "--admin-api-key", "--ssl-keyfile-password"):
            shown.append(f"{name}=***" if equals else word)
            hide = not equals
        else:
            shown.append(word)
    return shlex.join(shown).replace("'***'", "***")
