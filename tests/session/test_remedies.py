"""What is offered for a cause depends on the person's words and the command: which way a flag goes, if at all.

Offers that nothing speaks against count, whether or not a number can be worked out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.books import BOOK
from wizard.cli import targets
from wizard.core.target import Target
from wizard.core.triage import named
from wizard.session.driver import Driver
from wizard.session.planner import make_offers

SGLANG = "python -m sglang.launch_server --model-path m "


async def offered(tmp_path: Path, cause: str, words: str, flags: str = "", log: str = "") -> dict[str, str]:
    """Remedy by remedy: the flags that are offered, with their new value; "-" = taken away."""
    from types import SimpleNamespace

    path = tmp_path / "server.log"
    path.write_text(log)
    told = SimpleNamespace(
        url=None,
        pid=None,
        log=str(path),
        metrics=None,
        command_text=SGLANG + flags if flags else None,
        symptom=words,
        hardware="",
        sglang_version="0.5.13",
        local=False,
    )
    target = targets._saved(told, False)  # type: ignore[arg-type]
    driver = Driver(BOOK, read_only=True, window_s=0.1, version="0.5.13")
    state = await driver.examine(target)
    found: dict[str, str] = {}
    for offer in make_offers(BOOK.causes[cause], BOOK, target, state.snapshot, driver.catalogue()):
        for flag, value in offer.intents:
            found.setdefault(f"{flag} {value or '-'}" if value != "" else flag, offer.remedy.id)
    return found


def ways(found: dict[str, str], flag: str) -> set[str]:
    return {text.partition(" ")[2] for text in found if text.split()[0] == flag}


@pytest.mark.parametrize(
    ("cause", "words", "flags", "flag", "wanted"),
    [
        # a chunk goes down where long prompts hold up short ones, up where many come at once
        ("ttft_high", "A long prompt blocks the short ones behind it.", "", "--chunked-prefill-size", {"2048"}),
        ("ttft_high", "With 128 concurrent users it is late.", "", "--chunked-prefill-size", {"16384"}),
        ("ttft_high", "The first token is late.", "", "--chunked-prefill-size", set()),
        ("ttft_high", "Big prompts make small prompts wait, 64 users", "", "--chunked-prefill-size", {"2048"}),
        # cards: more for one long request on one host, fewer ranks in a group over several
        ("ttft_high", "Long context prompts take 15 s.", "", "--tp-size", {"higher"}),
        ("itl_high", "One user, slow.", "--tp 16 --nnodes 2", "--tp-size", {"8"}),
        ("itl_high", "One user, slow.", "--tp 2", "--tp-size", {"4"}),
        ("throughput_low", "A small 8B model does not get faster with tp 4.", "--tp 4", "--tp-size", {"2"}),
        ("throughput_low", "It is slow.", "", "--tp-size", set()),
        # the running cap: bounded for latency, never raised beside it
        ("itl_high", "All prompts at once, and each token is late.", "", "--max-running-requests", {"64"}),
        ("itl_high", "A single request is slow per token.", "", "--max-running-requests", set()),
        ("kv_cache_exhausted", "It dies in alloc_req_slots.", "", "--max-running-requests", {"256"}),
        ("kv_cache_exhausted", "Requests are retracted.", "", "--max-running-requests", {"lower"}),
        # the fraction: never lowered where the pool comes out negative
        ("gpu_oom_load", "Out of memory at start.", "", "--mem-fraction-static", {"lower", "-"}),
        ("gpu_oom_load", "max_total_num_tokens is negative", "", "--mem-fraction-static", {"-"}),
        ("mem_fraction_too_low", "The KV pool is negative", "", "--mem-fraction-static", {"higher", "-"}),
        ("long_queue", "Requests wait.", "", "--mem-fraction-static", {"higher"}),
        # features are taken away where they are in evidence only
        ("gpu_oom_runtime", "Out of memory with EAGLE.", "", "--speculative-algorithm", {"-"}),
        ("gpu_oom_runtime", "Out of memory.", "", "--speculative-algorithm", set()),
        ("server_hang", "It hangs with hicache.", "", "--enable-hierarchical-cache", {"-"}),
        ("server_hang", "It hangs.", "--enable-dp-attention --dp 8", "--enable-dp-attention", {"-"}),
        ("server_hang", "It hangs.", "", "--enable-dp-attention", set()),
        ("server_hang", "The launch hangs.", "", "--cuda-graph-max-bs", {"32"}),
        ("server_hang", "After hours it hangs.", "", "--cuda-graph-max-bs", set()),
        ("health_check_failing", "With --disable-cuda-graph it works.", "", "--disable-cuda-graph", {""}),
        ("health_check_failing", "Probes fail.", "", "--disable-cuda-graph", set()),
        ("process_killed", "A segmentation fault.", "", "--disable-overlap-schedule", {""}),
        ("process_killed", "The pod was evicted.", "", "--disable-overlap-schedule", set()),
        ("cuda_graph_disabled", "Batches above the captured sizes.", "", "--max-running-requests", {"lower"}),
        ("cuda_graph_disabled", "Graphs were switched off.", "", "--max-running-requests", set()),
        ("gpu_memory_held_by_other_process", "A trainer is on it.", "", "--enable-memory-saver", {""}),
        ("gpu_memory_held_by_other_process", "A zombie is on it.", "", "--enable-memory-saver", set()),
        ("throughput_low", "It is slow.", "--quantization awq", "--quantization", {"awq_marlin"}),
        ("throughput_low", "Slower than vLLM.", "", "--quantization", {"fp8"}),
        ("cpu_bottleneck", "The detokenizer is slow.", "", "--skip-tokenizer-init", {""}),
        ("long_queue", "max_running_requests was reduced to 50", "", "--context-length", {"lower"}),
        ("long_queue", "Requests wait.", "", "--context-length", set()),
    ],
)
async def test_which_way_a_flag_goes(
    cause: str, words: str, flags: str, flag: str, wanted: set[str], tmp_path: Path
) -> None:
    assert ways(await offered(tmp_path, cause, words, flags), flag) == wanted


@pytest.mark.parametrize(
    ("cause", "words", "log"),
    [
        ("slow_load", "The prefill nodes need 20 minutes to start because of the DeepGEMM warm-up.", ""),
        ("long_queue", "One request stays in the waiting queue forever, and health checks fail later.", ""),
        ("input_too_long", "With stream=true an oversized prompt gives an error inside the stream.", ""),
        ("health_check_failing", "After a minute it is killed.", "AssertionError: res=<Response [502]>\n"),
    ],
)
async def test_the_words_that_decide_between_neighbours(
    cause: str, words: str, log: str, tmp_path: Path
) -> None:
    path = tmp_path / "server.log"
    path.write_text(log)
    driver = Driver(BOOK, read_only=True, window_s=0.1)
    state = await driver.examine(Target(port=0, log_path=str(path), symptom=words))
    assert [h.cause.id for h in named(state.hypotheses)][:1] == [cause]


async def test_a_default_server_args_line_is_no_evidence_of_features(tmp_path: Path) -> None:
    log = (
        "server_args=ServerArgs(model_path='m', speculative_algorithm=None, enable_hierarchical_cache=False, "
        "disaggregation_mode='null', grammar_backend='xgrammar', enable_dp_attention=False, "
        "disable_overlap_schedule=False, num_reserved_decode_tokens=512)\n"
    )
    for cause in ("server_hang", "gpu_oom_runtime", "kv_cache_exhausted", "cpu_oom"):
        found = await offered(tmp_path, cause, "It hangs.", "", log)
        features = {"--speculative-algorithm -", "--enable-dp-attention -", "--num-reserved-decode-tokens 1024"}
        features |= {"--disable-outlines-disk-cache", "--grammar-backend llguidance"}
        assert not features & found.keys(), cause
