"""What is offered for faults of loading, packages, ports, kernels, ranks and requests: by what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.test_remedies import BOOK, offered, ways

ROOM = {"<FOLDER_WITH_ROOM>"}
FAULTS = ("illegal_memory_access", "nccl_error", "module_not_found", "permission_denied", "port_in_use")


@pytest.mark.parametrize(
    ("cause", "words", "flags", "flag", "wanted"),
    [
        # the model and its parts
        ("model_not_found", "The revision asked for does not exist.", "", "--revision", {"main"}),
        ("model_not_found", "The folder does not exist.", "", "--revision", set()),
        ("hf_download_failure", "No space left in the cache folder.", "", "--download-dir", ROOM),
        ("gated_repo", "401 for the tokenizer of a gated repo", "", "--tokenizer-path", {"<FOLDER>"}),
        ("gated_repo", "401 for a gated repo", "", "--tokenizer-path", set()),
        ("tokenizer_failure", "We send token ids anyway.", "", "--skip-tokenizer-init", {""}),
        ("unsupported_architecture", "The draft model is not supported.", "", "--speculative-algorithm", {"-"}),
        ("quantization_mismatch", "NVFP4 weights are refused.", "", "--quantization", {"-", "modelopt_fp4"}),
        ("quantization_mismatch", "Shapes differ.", "--tp 8", "--pp-size", {"2"}),
        # packages
        ("module_not_found", "No module named deep_ep", "", "--moe-a2a-backend", {"none"}),
        ("module_not_found", "No module named orjson", "", "--moe-a2a-backend", set()),
        ("module_not_found", "float32 wants vllm", "", "--dtype", {"bfloat16"}),
        ("dependency_mismatch", "An undefined symbol in flashinfer", "", "--attention-backend", {"triton"}),
        ("dependency_mismatch", "The transformers version does not fit.", "", "--attention-backend", set()),
        # ports and rights
        ("port_in_use", "Several servers on a host: bind error", "", "--nccl-port", {"28765"}),
        ("port_in_use", "The port is taken.", "", "--nccl-port", set()),
        ("port_in_use", "An old one is there.", "--tokenizer-worker-num 2", "--tokenizer-worker-num", {"1"}),
        ("permission_denied", "set_mempolicy is not permitted", "--numa-node 0", "--numa-node", {"-"}),
        # kernels
        ("cuda_device_assert", "NaN in the logits", "", "--dtype", {"bfloat16"}),
        ("cuda_device_assert", "NaN in the logits on a V100", "", "--dtype", set()),
        ("cuda_device_assert", "An assert", "--enable-dp-attention --dp 2", "--enable-dp-attention", {"-"}),
        ("illegal_memory_access", "It crashes with DeepEP.", "", "--moe-a2a-backend", {"none"}),
        ("no_kernel_image", "A 2080 Ti has no kernel.", "", "--dtype", {"half"}),
        ("no_kernel_image", "A new card has no kernel.", "", "--dtype", set()),
        ("attention_backend_unsupported", "16 heads per rank are too few", "", "--enable-dp-attention", {""}),
        ("attention_backend_unsupported", "topk > 1 needs pages of 1", "", "--speculative-eagle-topk", {"1"}),
        ("cuda_device_assert", "Fails at 64k tokens", "--context-length 65536", "--context-length", {"-"}),
        ("jit_compile_failure", "xgrammar's json schema kernel", "", "--grammar-backend", {"llguidance"}),
        ("triton_error", "triton_kernels fails", "", "--moe-runner-backend", {"triton", "flashinfer_cutlass"}),
        ("nccl_error", "NCCL is out of memory.", "", "--mem-fraction-static", {"0.8"}),
        ("nccl_error", "NCCL fails.", "", "--mem-fraction-static", set()),
        # ranks, drafts, adapters, sides
        ("multinode_init", "Two nodes, node rank 1 waits.", "", "--node-rank", {"<0_ON_THE_FIRST_NODE>"}),
        ("tp_not_divisible", "16 heads of the vision encoder", "", "--mm-enable-dp-encoder", {""}),
        ("speculative_misconfig", "max_running_requests reset to 48", "", "--max-running-requests", {"128"}),
        ("speculative_misconfig", "Nothing is accepted.", "", "--max-running-requests", set()),
        ("lora_misconfig", "Many adapters, slow", "", "--lora-backend", {"csgmv"}),
        ("lora_misconfig", "An adapter fails.", "", "--lora-backend", {"triton"}),
        ("lora_misconfig", "More adapters than fit", "", "--max-loras-per-batch", {"16"}),
        ("pd_disaggregation", "Mooncake fails.", "", "--disaggregation-transfer-backend", {"nixl"}),
        ("router_gateway", "The worker on 127.0.0.1 is unreachable.", "", "--host", {"0.0.0.0"}),
        ("metrics_missing", "Gauges are stale.", "", "--decode-log-interval", {"10"}),
        # a server with a key keeps it
        ("metrics_missing", "401 on /metrics", "--api-key KEY", "--api-key", set()),
        ("bad_cli_args", "--tool-call-parser has no llama4", "", "--tool-call-parser", {"pythonic"}),
        # requests
        ("output_garbage", "A GPTQ model writes nonsense.", "", "--quantization", {"gptq_marlin"}),
        ("output_garbage", "gptq with marlin kernels is wrong", "", "--quantization", {"gptq"}),
        ("output_garbage", "It writes nonsense.", "", "--quantization", set()),
        ("bad_request", "Tool choice auto is refused.", "", "--tool-call-parser", {"<PARSER>"}),
        ("bad_request", "input_embeds is refused", "", "--disable-radix-cache", {""}),
        ("structured_output", "It thinks inside the JSON.", "", "--reasoning-parser", {"<PARSER>"}),
        ("structured_output", "The schema is refused.", "", "--reasoning-parser", set()),
        ("tool_call_parser", "Kimi K2 calls stay text.", "", "--tool-call-parser", {"auto", "kimi_k2"}),
        ("tool_call_parser", "Calls stay text.", "", "--tool-call-parser", {"auto", "qwen25"}),
        ("reasoning_parser", "An instruct model: content is empty.", "--reasoning-parser qwen3",
         "--reasoning-parser", {"-", "auto"}),
        ("streaming", "Streams stall.", "", "--stream-interval", {"1"}),
        ("streaming", "Too many events, the CPU is busy.", "", "--stream-interval", {"8"}),
        ("streaming", "gpt-oss sends empty deltas.", "", "--reasoning-parser", {"gpt-oss"}),
    ],
)  # fmt: skip
async def test_what_is_said_chooses_what_is_offered(
    cause: str, words: str, flags: str, flag: str, wanted: set[str], tmp_path: Path
) -> None:
    assert ways(await offered(tmp_path, cause, words, flags), flag) == wanted


async def test_default_settings_in_a_log_are_no_evidence_of_features(tmp_path: Path) -> None:
    log = (
        "server_args=ServerArgs(model_path='m', dtype='auto', quantization=None, kv_cache_dtype='auto', "
        "revision=None, load_format='auto', moe_a2a_backend='none', deepep_mode='auto', enable_lora=None, "
        "disaggregation_mode='null', disaggregation_bootstrap_port=8998, numa_node=None, enable_eplb=False, "
        "disaggregation_transfer_backend='mooncake', tool_call_parser=None, reasoning_parser=None, "
        "enable_memory_saver=False, hicache_storage_backend=None, enable_two_batch_overlap=False, "
        "engine_info_bootstrap_port=6789, tokenizer_worker_num=1, skip_server_warmup=False)\n"
    )
    never = {"--moe-a2a-backend", "--deepep-mode", "--enable-memory-saver", "--hicache-storage-backend"}
    never |= {"--disaggregation-bootstrap-port", "--reasoning-parser", "--kv-cache-dtype", "--load-format"}
    never |= {"--numa-node", "--revision"}
    for cause in FAULTS:
        found = {text.split()[0] for text in await offered(tmp_path, cause, "It fails.", "", log)}
        assert not never & found, (cause, never & found)


def test_a_key_is_never_taken_away() -> None:
    """A remedy that opens a server to everybody is no remedy."""
    for remedy in BOOK.remedies.values():
        assert not any("api_key" in c.name and c.action == "unset" for c in remedy.changes), remedy.id
