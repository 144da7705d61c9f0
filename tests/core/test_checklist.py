"""Checklists and reference configurations: every state of every box, and no flag that a version has not."""

from __future__ import annotations

import pytest

from tests.books import BOOK
from wizard.core.checklist import tick
from wizard.core.expr import parse_template
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Value
from wizard.core.reference import argv_of, work_out
from wizard.probes.told import of_hardware
from wizard.server.catalogue import catalogued_versions, for_version
from wizard.session.checklist import reference_lines

COMMAND: dict[str, object] = {"command__checked_version": "0.5.20"}
"""A launch command is known, and no server."""


def env_of(**values: object) -> Snapshot:
    readings = {k.replace("__", "."): Value(v) for k, v in values.items()}  # type: ignore[arg-type]
    return Snapshot().with_result(ProbeResult("x", Outcome.OK, readings))


@pytest.mark.parametrize(
    ("goal", "box", "status", "remedy", "readings"),
    [
        (
            "memory",
            "mem_fraction",
            "harmful",
            "tune_fraction_down",
            {"server__available_memory_gb": 1.0, "server__device": "cuda"},
        ),
        (
            "memory",
            "mem_fraction",
            "not_done",
            "tune_fraction",
            {"server__available_memory_gb": 18.0, "kv__usage": 0.95, "server__device": "cuda"},
        ),
        (
            "memory",
            "mem_fraction",
            "done",
            "",
            {"server__available_memory_gb": 6.0, "kv__usage": 0.95, "server__device": "cuda"},
        ),
        ("memory", "mem_fraction", "unknown", "", {"server__device": "cuda"}),
        ("memory", "mem_fraction", "harmful", "tune_fraction_down", {"server__available_memory_gb": 2.5}),
        ("stability", "headroom", "not_done", "tune_fraction_down", {"server__available_memory_gb": 2.5}),
        ("memory", "mem_fraction", "done", "", {"server__available_memory_gb": 3.5, "kv__usage": 0.5}),
        ("stability", "headroom", "done", "", {"server__available_memory_gb": 3.5}),
        ("memory", "mem_fraction", "harmful", "tune_fraction_down", {"server__mem_fraction_static_set": 0.97}),
        ("throughput", "running_cap", "done", "", COMMAND),
        (
            "throughput",
            "running_cap",
            "harmful",
            "tune_lift_cap",
            {**COMMAND, "server__max_running_requests_set": 64},
        ),
        ("throughput", "chunked_prefill", "done", "", COMMAND),
        (
            "throughput",
            "cuda_graphs",
            "not_done",
            "tune_graphs_larger",
            {"server__cuda_graph_disabled": False, "decode__cuda_graph_share": 0.1, "requests__running": 300},
        ),
        (
            "latency",
            "cuda_graphs",
            "not_done",
            "tune_graphs_larger",
            {"server__cuda_graph_disabled": False, "decode__cuda_graph_share": 0.1, "requests__running": 300},
        ),
        (
            "throughput",
            "cuda_graphs",
            "harmful",
            "tune_graphs_free",
            {**COMMAND, "server__cuda_graph_disabled": False, "server__cuda_graph_max_bs_set": 4},
        ),
        (
            "latency",
            "cuda_graphs",
            "unknown",
            "",
            {
                **COMMAND,
                "server__cuda_graph_disabled": False,
                "server__cuda_graph_max_bs_set": 16,
                "server__max_running_requests_set": 16,
            },
        ),
        ("stability", "queue_limit", "not_done", "tune_queue_limit", COMMAND),
        ("stability", "queue_limit", "done", "", {**COMMAND, "server__max_queued_requests": 64}),
        ("stability", "watchdog", "done", "", COMMAND),
        ("stability", "log_level", "done", "", COMMAND),
        ("memory", "mem_fraction", "does_not_apply", "", {"server__device": "cpu"}),
        (
            "memory",
            "running_cap",
            "harmful",
            "tune_lift_cap",
            {"requests__queued": 31, "requests__running": 8, "server__max_running_requests_set": 8},
        ),
        ("memory", "unused_kv", "does_not_apply", "", {}),
        ("throughput", "continuous_batching", "done", "", {}),
        (
            "throughput",
            "full_batches",
            "not_done",
            "",
            {"requests__queued": 0, "requests__running": 2, "server__max_running_requests": 2048},
        ),
        ("throughput", "chunked_prefill", "harmful", "tune_chunk_on", {"server__chunked_prefill_size": -1}),
        ("throughput", "radix_cache", "not_done", "tune_radix_on", {"server__disable_radix_cache": True}),
        (
            "throughput",
            "lpm",
            "not_done",
            "tune_lpm",
            {
                "server__schedule_policy": "fcfs",
                "server__disable_radix_cache": False,
                "requests__queued": 20,
                "cache__hit_ratio": 0.6,
            },
        ),
        (
            "throughput",
            "lpm",
            "does_not_apply",
            "",
            {
                "server__schedule_policy": "fcfs",
                "server__disable_radix_cache": False,
                "requests__queued": 200,
                "cache__hit_ratio": 0.6,
            },
        ),
        (
            "throughput",
            "lpm",
            "does_not_apply",
            "",
            {
                "server__schedule_policy": "fcfs",
                "server__disable_radix_cache": False,
                "requests__queued": 20,
                "cache__hit_ratio": 0.0,
            },
        ),
        (
            "throughput",
            "conservativeness",
            "harmful",
            "tune_conservativeness_up",
            {"requests__retracted": 9, "requests__queued": 9, "kv__usage": 0.99},
        ),
        (
            "throughput",
            "torch_compile",
            "harmful",
            "tune_compile_off",
            {"server__enable_torch_compile": True, "requests__running": 64},
        ),
        (
            "latency",
            "speculation",
            "harmful",
            "",
            {"server__speculative_algorithm": "EAGLE", "requests__running": 64},
        ),
        (
            "latency",
            "cuda_graphs",
            "not_done",
            "tune_graphs_on",
            {"server__cuda_graph_disabled": True, "server__device": "cuda"},
        ),
        ("stability", "metrics", "not_done", "tune_metrics_on", {"server__metrics_enabled": False}),
        ("stability", "restart", "unknown", "", {}),
    ],
)
def test_each_box_reads_the_server(
    goal: str, box: str, status: str, remedy: str, readings: dict[str, object]
) -> None:
    ticked = {t.box.id: t for t in tick(BOOK.goals[goal], env_of(**readings).get)}
    assert (ticked[box].status, ticked[box].remedy) == (status, remedy)
    assert ticked[box].says
    assert bool(ticked[box].missing) == (status == "unknown" and box not in ("restart",))


def test_shares_are_said_in_per_cent() -> None:
    env = env_of(
        server__disable_radix_cache=False,
        cache__hit_ratio=0.456,
        server__available_memory_gb=18.0,
        kv__usage=0.953,
        server__cuda_graph_disabled=False,
        decode__cuda_graph_share=0.004,
        requests__running=300,
        server__mem_fraction_static=0.85,
    ).get
    says = {f"{g}.{t.box.id}": t.says for g, goal in BOOK.goals.items() for t in tick(goal, env)}
    assert says["throughput.radix_cache"] == "It is on; 46 % of the prompt tokens came from it."
    assert says["memory.mem_fraction"] == "18 GiB stay unused while the pool is 95 % full."
    assert says["throughput.cuda_graphs"].startswith("Only 0.4 % of the decode passes")
    assert parse_template("{server.mem_fraction_static}").render(env) == "0.85", "as the flag takes it"


def test_nothing_that_is_said_has_a_hole() -> None:
    """With a command alone, and with nothing known."""
    for values in (
        {},
        COMMAND,
        {**COMMAND, "server__context_length": 8192, "server__disable_radix_cache": False},
    ):
        for goal in BOOK.goals.values():
            for item in tick(goal, env_of(**values).get):
                assert "?" not in item.says or item.missing, (goal.id, item.box.id, item.says)


def test_one_type_of_kv_cache_is_advised() -> None:
    values = {
        c.value for r in BOOK.remedies.values() for c in r.changes if c.name == "kv_cache_dtype" and c.value
    }
    assert {str(v) for v in values} - {"auto"} == {"fp8_e4m3"}


def test_the_goal_offers_the_remedies_of_its_open_boxes_only() -> None:
    snapshot = env_of(server__disable_radix_cache=True, server__chunked_prefill_size=2048)
    cause = BOOK.cause("tune_throughput", snapshot.get)
    assert cause is not None
    assert cause.remedies == ("tune_radix_on",)


@pytest.mark.parametrize("version", catalogued_versions())
@pytest.mark.parametrize("name", sorted(BOOK.references))
def test_a_reference_uses_only_flags_of_the_version(name: str, version: str) -> None:
    catalogue = for_version(version)
    lines = work_out(BOOK.references[name], env_of(gpu__memory_total_gb=79.6).get, catalogue)
    argv = argv_of(BOOK.references[name], lines, "/models/x")
    for word in argv:
        if word.startswith("--"):
            assert word in catalogue, (version, word)
    assert all(line.why for line in lines)
    assert not any("?" in line.why for line in lines), [line.why for line in lines]


def test_a_value_that_a_version_does_not_take_is_left_out_and_said() -> None:
    reference = BOOK.references["high_throughput"]
    lines = work_out(reference, env_of(cache__hit_ratio=0.5).get, for_version("0.5.20"))
    assert "--schedule-policy lpm" in " ".join(argv_of(reference, lines))
    lines = work_out(reference, env_of().get, for_version("0.5.20"))
    assert "--schedule-policy" not in argv_of(reference, lines)


@pytest.mark.parametrize(
    ("hardware", "model", "tp"),
    [
        ("2x RTX 4090", "8B", None),
        ("1x T4", "8B", None),
        ("4x RTX 4090", "AWQ", "4"),
        ("8x RTX 4090", "FP8", "8"),
        ("1x H100", "AWQ", "1"),
        ("2x H100", "FP8", "2"),
        ("3x A100", "FP8", "2"),
        ("4x H100", "70B-Instruct", "4"),
        ("8x H100", "70B-Instruct", "4"),
        ("H100", "70B-Instruct", "4"),
        ("2x H200", "70B-Instruct", "2"),
        ("1x B200", "70B-Instruct", "1"),
        ("4x L40S", "70B-Instruct", "4"),
        ("8x V100 32GB", "70B-Instruct", "8"),
        ("8x V100", "AWQ", "8"),
        ("2 GPUs", "70B-Instruct", "2"),
        ("1 GPU", "70B-Instruct", "1"),
        ("", "70B-Instruct", "4"),
    ],
)
def test_the_reference_for_large_models_fits_the_cards(hardware: str, model: str, tp: str | None) -> None:
    env = Snapshot().with_result(ProbeResult("told", Outcome.OK, of_hardware(hardware))).get
    reference = BOOK.references["medium"]
    argv = argv_of(reference, work_out(reference, env, for_version("0.5.20")))
    assert argv[argv.index("--model-path") + 1].endswith((model, f"{model}-INT4", f"{model}-Instruct"))
    assert (argv[argv.index("--tp-size") + 1] if "--tp-size" in argv else None) == tp
    mine = work_out(reference, env, for_version("0.5.20"), "/models/x")
    assert argv_of(reference, mine, "/models/x")[3:5] == ("--model-path", "/models/x")
    assert "model_path" not in [line.name for line in mine]


def test_a_flag_that_a_version_has_not_is_not_left_to_it() -> None:
    lines = {
        line.name: line for line in work_out(BOOK.references["low_latency"], env_of().get, for_version("0.4.0"))
    }
    assert lines["speculative_algorithm"].kind == "absent"
    assert lines["cuda_graph_max_bs"].kind == "leave"
    text = reference_lines(BOOK.references["low_latency"], tuple(lines.values()), for_version("0.4.0"), "")
    assert "  --speculative-algorithm: this version has no such flag (tutorial: EAGLE)" in text
