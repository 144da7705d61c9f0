"""Every cause can be told from a person's words alone, and from the line that its programs print.

The sentences are our own; the lines are what SGLang, torch, NCCL and their like print (their sources).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.books import BOOK
from wizard.core.target import Target
from wizard.core.triage import named
from wizard.flowfile.cause_ids import KNOWN_CAUSES
from wizard.session.driver import Driver

SYMPTOMS = {
    "gpu_oom_load": "The model does not fit: CUDA out of memory while the weights are loading on one card.",
    "gpu_oom_runtime": "It starts fine, but after an hour of long prompts it dies: CUDA out of memory.",
    "gpu_oom_cuda_graph": "Out of memory while capturing CUDA graphs; with smaller graph batches it starts.",
    "multimodal_oom": "Our vision model runs out of GPU memory as soon as a few large images are sent.",
    "mem_fraction_too_low": "It refuses to start and tells me to increase --mem-fraction-static.",
    "kv_cache_exhausted": "KV cache pool is full, requests get retracted all the time and token usage is near "
    "1.0.",
    "kv_cache_leak": "The log says token_to_kv_pool memory leak detected and the scheduler crashes when idle.",
    "cpu_oom": "Host RAM grows until the kernel's OOM killer ends the process; dmesg shows it.",
    "shm_size": "In docker it only works with a larger /dev/shm, otherwise a bus error.",
    "gpu_memory_held_by_other_process": "An orphaned process still holds 60 GB on the card, so nothing starts.",
    "unbalanced_gpu_memory": "It says the memory capacity is unbalanced: one GPU has less free memory.",
    "throughput_low": "Throughput is far below the published numbers, only 400 tokens per second in total.",
    "ttft_high": "Time to first token is 20 seconds for long prompts.",
    "itl_high": "After the first token every token takes 90 ms, decode is slow even for one user.",
    "long_queue": "Requests wait in the queue although the KV pool is nearly empty; only 16 run at once.",
    "gpu_util_low": "GPU utilization stays at 20 % even with many requests, the cards idle.",
    "cpu_bottleneck": "One Python process sits at 100 % CPU, the detokenizer is the bottleneck.",
    "cuda_graph_disabled": "Decode got slow since we started with cuda graphs disabled.",
    "model_not_found": "The model path was not found, although the folder is mounted: no such file.",
    "hf_download_failure": "The host has no internet and the download from Hugging Face fails.",
    "gated_repo": "The repo is gated and my token gives 403 although I asked for access.",
    "tokenizer_failure": "It fails to load the tokenizer of our fine-tuned model.",
    "unsupported_architecture": "The new model's architecture is not supported by this version.",
    "quantization_mismatch": "Loading the AWQ checkpoint fails with a shape mismatch in the quantized layers.",
    "slow_load": "Loading the model takes 40 minutes from the network disk.",
    "cuda_device_assert": "It crashes with a device-side assert triggered.",
    "illegal_memory_access": "Under load it dies with an illegal memory access was encountered.",
    "cuda_driver_mismatch": "The NVIDIA driver is too old for this CUDA version.",
    "no_kernel_image": "On a new card: no kernel image is available for execution on the device.",
    "attention_backend_unsupported": "The fa3 attention backend is not supported on this GPU.",
    "cuda_graph_capture_failed": "CUDA graph capture fails with an operation not permitted when stream is "
    "capturing.",
    "jit_compile_failure": "flashinfer JIT compile fails because nvcc is not found.",
    "triton_error": "A Triton kernel fails: out of resource: shared memory.",
    "nccl_error": "NCCL error: unhandled system error during all gather.",
    "custom_all_reduce_failure": "Custom all-reduce fails because peer access is not supported between these "
    "cards.",
    "dependency_mismatch": "After upgrading transformers the import breaks, the versions are incompatible.",
    "module_not_found": "ModuleNotFoundError: No module named orjson right at the start.",
    "python_version": "pip refuses to install because we use Python 3.8.",
    "glibc_mismatch": "On CentOS 7 it says version GLIBC_2.32 not found.",
    "port_in_use": "Address already in use: port 30000 is taken.",
    "dist_port_conflict": "Two servers on one host collide on the NCCL rendezvous port.",
    "permission_denied": "As a non-root user in the container it gets permission denied on the cache folder.",
    "request_timeout": "Clients time out after 60 s, the proxy returns 504 gateway timeout.",
    "server_hang": "The server hangs: no request makes progress any more and the watchdog fires.",
    "process_killed": "The scheduler was killed with SIGKILL by somebody, there is no error in the log.",
    "health_check_failing": "Kubernetes restarts the pod because the liveness probe on /health fails.",
    "request_aborted": "Requests are aborted when the client disconnects.",
    "input_too_long": "The prompt is longer than the model's context length and gets refused.",
    "output_truncated": "The answer is cut off in the middle, finish_reason is length.",
    "output_garbage": "The output is gibberish, it repeats exclamation marks.",
    "sampling_params": "temperature 0 still gives different answers, top_p seems to be ignored.",
    "bad_request": "Every request gets 400 Bad Request, the JSON body seems to be malformed.",
    "structured_output": "The JSON schema is not respected with response_format, the grammar fails.",
    "tool_call_parser": "Tool calls come back as plain text in content instead of tool_calls.",
    "reasoning_parser": "The thinking text is not separated into reasoning_content.",
    "chat_template": "The chat template is wrong: no template found in the tokenizer config.",
    "streaming": "Streaming responses stall, the chunks arrive all at once at the end.",
    "multinode_init": "Two nodes never find each other, --dist-init-addr times out across machines.",
    "topology": "CUDA_VISIBLE_DEVICES is ignored and it picks the wrong GPUs; NUMA affinity is off.",
    "tp_not_divisible": "The number of attention heads is not divisible by the tensor parallel size.",
    "speculative_misconfig": "EAGLE speculative decoding fails, the draft model does not fit.",
    "lora_misconfig": "Loading a LoRA adapter fails because of its rank.",
    "pd_disaggregation": "With PD disaggregation the KV transfer from prefill to decode fails.",
    "router_gateway": "The router sends everything to one worker.",
    "metrics_missing": "Prometheus shows nothing, /metrics gives 404.",
    "bad_cli_args": "The flag from the docs gives unrecognized arguments.",
}  # fmt: skip


async def said(tmp_path: Path, symptom: str = "", log: str = "") -> list[str]:
    path = tmp_path / "server.log"
    path.write_text(log, encoding="utf-8")
    driver = Driver(BOOK, read_only=True, window_s=0.1)
    state = await driver.examine(Target(port=0, log_path=str(path), symptom=symptom))
    return [h.cause.id for h in named(state.hypotheses)]


def test_every_cause_has_a_sentence() -> None:
    assert SYMPTOMS.keys() == KNOWN_CAUSES


@pytest.mark.parametrize("cause", sorted(SYMPTOMS))
async def test_a_cause_is_told_from_words(cause: str, tmp_path: Path) -> None:
    assert (await said(tmp_path, SYMPTOMS[cause]))[:1] == [cause]


@pytest.mark.parametrize(
    "words",
    ["", "Thank you for this project.", "How do I cite you?", "The weather is fine today."],
)
async def test_words_about_no_trouble_accuse_nobody(words: str, tmp_path: Path) -> None:
    assert await said(tmp_path, words) == []


STARTED = """\
[2026-11-20 10:00:01] Disable prefill CUDA graph because cuda_graph_config resolved prefill.backend='disabled'
[2026-11-20 10:00:02] INFO:     Uvicorn running on http://127.0.0.1:30000 (Press CTRL+C to quit)
[2026-11-20 10:00:03] INFO:     127.0.0.1:44404 - "GET /health HTTP/1.1" 503 Service Unavailable
[2026-11-20 10:00:09] The server is fired up and ready to roll!
[2026-11-20 10:00:19] INFO:     127.0.0.1:44404 - "GET /health HTTP/1.1" 200 OK
"""
"""What a server prints that is well (see the healthy recordings); the 503 came before it was ready."""


@pytest.mark.parametrize(
    ("words", "not_this"),
    [
        ("", ""),
        ("Requests are slow today.", "health_check_failing"),
        ("It stops in the middle of long answers.", "health_check_failing"),
        ("I want it to load the model in bfloat16.", "health_check_failing"),
        ("Nothing crashed: no errors, no OOM.", "gpu_oom_runtime"),
    ],
)
async def test_what_a_healthy_server_prints_turns_no_words_into_a_cause(
    words: str, not_this: str, tmp_path: Path
) -> None:
    causes = await said(tmp_path, words, STARTED)
    assert not_this not in causes
    if not words:
        assert causes == []
