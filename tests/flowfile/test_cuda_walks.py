"""Kernels, cards and nodes: what they print names its cause; healthy servers are accused of nothing.

The lines are of the kinds that torch, SGLang, Triton, NCCL, gloo and the router print; paths and numbers are
made up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.books import BOOK
from wizard.cli import targets
from wizard.core.logstory import fitting_ranks
from wizard.core.triage import named
from wizard.session.driver import Driver
from wizard.session.planner import make_offers

FAILS: list[tuple[str, str]] = [
    ("/x/IndexKernel.cu:93: operator(): block: [1,0,0], thread: [3,0,0] Assertion `i < n` failed.",
     "cuda_device_assert"),
    ("RuntimeError: CUDA error: device-side assert triggered", "cuda_device_assert"),
    ("RuntimeError: probability tensor contains either `inf`, `nan` or element < 0", "cuda_device_assert"),
    ("RuntimeError: CUDA error: an illegal memory access was encountered", "illegal_memory_access"),
    ("RuntimeError: CUDA error: misaligned address", "illegal_memory_access"),
    ("RuntimeError: CUDA error: unspecified launch failure", "illegal_memory_access"),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040)", "cuda_driver_mismatch"),
    ("RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.",
     "cuda_driver_mismatch"),
    ("RuntimeError: No CUDA GPUs are available", "cuda_driver_mismatch"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "no_kernel_image"),
    ("RuntimeError: CUDA error: invalid device function", "no_kernel_image"),
    ("AssertionError: FlashAttention v3 Backend requires SM>=80 and SM<=90.", "attention_backend_unsupported"),
    ("ValueError: Invalid attention backend: fa9", "attention_backend_unsupported"),
    ("RuntimeError: CUDA error: operation not permitted when stream is capturing", "cuda_graph_capture_failed"),
    ("torch._dynamo.exc.Unsupported: call_method on a tensor", "cuda_graph_capture_failed"),
    ("OSError: CUDA_HOME environment variable is not set.", "jit_compile_failure"),
    ("/x/a.cu:3:10: fatal error: cuda_fp8.h: No such file or directory", "jit_compile_failure"),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_121a'", "jit_compile_failure"),
    ("RuntimeError: Ninja build failed. Ninja output:", "jit_compile_failure"),
    ("RuntimeError: Ninja is required to load C++ extensions", "jit_compile_failure"),
    ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 9, Hardware limit: 8.",
     "triton_error"),
    ("RuntimeError: PassManager::run failed", "triton_error"),
    ("torch.distributed.DistBackendError: NCCL error in: /x/NCCL.hpp:9, unhandled cuda error", "nccl_error"),
    ("RuntimeError: Runtime check failed at /x/custom_all_reduce.cuh:9: CUDA error: invalid argument",
     "custom_all_reduce_failure"),
    ("RuntimeError: CUDA error: peer access is not supported between these two devices",
     "custom_all_reduce_failure"),
    ("RuntimeError: [enforce fail at /x/gloo/tcp/device.cc] Gloo connectFullMesh failed with timeout",
     "multinode_init"),
    ("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
     "multinode_init"),
    ("RuntimeError: CUDA error: invalid device ordinal", "topology"),
    ("AssertionError: 151936 is not divisible by 3", "tp_not_divisible"),
    ("ValueError: Cannot find target module name for base_model.model.a.lora_A.weight in {'qkv_proj'}",
     "lora_misconfig"),
    ("ValueError: LoRA rank 64 is greater than max_lora_rank 16.", "lora_misconfig"),
    ("Decode transfer failed for request rank=1 with exception KVTransferError(bootstrap_room=1): lost",
     "pd_disaggregation"),
    ("RuntimeError: Failed to create router: Timeout 300s waiting for workers to become healthy",
     "router_gateway"),
    ("AttributeError: 'Qwen2ForCausalLM' object has no attribute 'set_embed'", "speculative_misconfig"),
]  # fmt: skip

BEFORE = """\
[2026-01-02 03:04:05] server_args=ServerArgs(model_path='m', tp_size=4, attention_backend=None, \
lora_paths=None, speculative_algorithm=None, disaggregation_mode='null', load_balance_method='auto')
[2026-01-02 03:04:09 TP0] Init torch distributed begin.
[2026-01-02 03:04:10 TP0] sglang is using nccl==2.27.5
"""
AFTER = """\
[2026-01-02 03:04:40 TP0] Load weight end. type=A, dtype=torch.bfloat16, avail mem=60.00 GB, mem usage=15.00 GB.
[2026-01-02 03:04:41 TP0] KV Cache is allocated. #tokens: 400000, K size: 20.00 GB, V size: 20.00 GB
[2026-01-02 03:04:42 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=7.50 GB
[2026-01-02 03:04:50 TP0] Registering 4000 cuda graph addresses
[2026-01-02 03:04:51 TP0] Capture cuda graph end. Time elapsed: 8.00 s. mem usage=1.00 GB. avail mem=6.50 GB.
[2026-01-02 03:04:55] The server is fired up and ready to roll!
[2026-01-02 03:05:00 TP0] Decode batch, #running-req: 8, #token: 9535, token usage: 0.01, accept len: 3.10, \
cuda graph: True, gen throughput (token/s): 1508.19, #queue-req: 0
"""
HEALTHY = [
    "Custom allreduce is disabled because your platform lacks GPU P2P capability or P2P test failed.",
    "FlashAttention3 only supports fp8_e4m3 if using FP8; Setting attention backend to triton.",
    "Attention backend not explicitly specified. Use fa3 backend by default.",
    "Try DeepGEMM JIT Compiling for <gemm> N=24576, K=1536, num_groups=1 with all Ms.",
    "Using triton as backend of LoRA kernels.",
    "LoRA manager ready. Loaded LoRA adapters: a",
    "Max running requests is reset to 48 for speculative decoding.",
    "Overlap scheduler is disabled because of using eagle speculative decoding.",
    "Mooncake Transfer Engine initialized; bootstrap server started on 0.0.0.0:8998",
    "sglang_router_rs::server: src/server.rs:830: Starting router on 0.0.0.0:30000 | policy: CacheAware",
    "Using default MoE kernel config. Config file not found at /x/fused_moe_triton/configs/E=128.json",
    "TORCH_CUDA_ARCH_LIST is not set, all archs for visible cards are included for compilation.",
    "[Gloo] Rank 0 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3",
    "[c10d] The hostname of the client socket cannot be retrieved. err=-3",
    "SymmMem all-reduce communicator: Device capability 8.0 not supported, communicator is not available.",
    "NUMA node 0 is used for GPU 0",
    "generating GPU P2P access cache in /x/gpu_p2p_access_cache_for_0,1.json",
]


async def triage(folder: Path, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The causes named for a log, and the remedies of the first that somebody could follow."""
    path = folder / "server.log"
    path.write_text(text)
    options = argparse.Namespace(
        url=None, pid=None, log=str(path), metrics=None, command_text=None, symptom="", hardware="",
        sglang_version=None, local=False,
    )  # fmt: skip
    target = targets._saved(options, False)
    driver = Driver(BOOK, read_only=True, window_s=0.1, version=None)
    state = await driver.examine(target)
    causes = named(state.hypotheses)
    if not causes:
        return (), ()
    offers = make_offers(causes[0].cause, BOOK, target, state.snapshot, driver.catalogue())
    ways = tuple(o.remedy.id for o in offers if o.intents or o.actions or o.remedy.environ)
    return tuple(c.cause.id for c in causes), ways


@pytest.mark.parametrize(("line", "cause"), FAILS, ids=range(len(FAILS)))
async def test_one_line_names_its_cause_and_brings_a_way_out(tmp_path: Path, line: str, cause: str) -> None:
    causes, ways = await triage(tmp_path, f"Traceback (most recent call last):\n{line}\n")
    assert causes[:1] == (cause,)
    assert ways


@pytest.mark.parametrize("line", HEALTHY, ids=range(len(HEALTHY)))
async def test_a_healthy_server_is_accused_of_nothing(tmp_path: Path, line: str) -> None:
    causes, _ = await triage(tmp_path, f"{BEFORE}[2026-01-02 03:04:11 TP0] {line}\n{AFTER}")
    assert causes == ()


WRAPPED = [
    ("subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1.",
     "jit_compile_failure"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "gpu_oom_cuda_graph"),
    ("triton.runtime.errors.OutOfResources: out of resource: shared memory", "triton_error"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "no_kernel_image"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "cause"), WRAPPED, ids=[c for _, c in WRAPPED])
async def test_a_failed_capture_is_judged_by_its_reason(tmp_path: Path, reason: str, cause: str) -> None:
    text = (
        f"{BEFORE}[2026-01-02 03:04:42 TP0] Capture cuda graph begin. avail mem=7.50 GB\n"
        "[2026-01-02 03:04:43 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
        f"{reason}\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"Exception: Capture cuda graph failed: {reason.partition(': ')[2]}\n"
        "[2026-01-02 03:04:44] Received sigquit from a child process. It usually means the child failed.\n"
    )
    causes, _ = await triage(tmp_path, text)
    assert causes[:1] == (cause,)


async def test_a_peer_that_lost_its_connection_is_a_victim(tmp_path: Path) -> None:
    text = (
        f"{BEFORE}[2026-01-02 03:04:43 TP1] Scheduler hit an exception: Traceback (most recent call last):\n"
        "RuntimeError: CUDA error: an illegal memory access was encountered\n"
        "[2026-01-02 03:04:44 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection closed by peer [::1]:9\n"
    )
    causes, _ = await triage(tmp_path, text)
    assert causes[0] == "illegal_memory_access"


def test_blocking_launches_are_a_diagnosis_that_is_taken_back() -> None:
    """Left on, each launch waits: no remedy may set it without another that takes it away."""
    setting = {r.id for r in BOOK.remedies.values() if r.environ.get("CUDA_LAUNCH_BLOCKING") == "1"}
    ending = {r.id for r in BOOK.remedies.values() if r.environ.get("CUDA_LAUNCH_BLOCKING", "") is None}
    assert setting
    assert ending
    for cause in BOOK.causes.values():
        if setting & set(cause.remedies):
            assert ending & set(cause.remedies), cause.id


@pytest.mark.parametrize(
    ("size", "ranks", "fits"), [(151936, 3, 2), (28, 8, 4), (40, 16, 8), (25, 2, 1), (64, 1, 1), (0, 4, 2)]
)
def test_a_tensor_parallel_size_that_divides_is_counted(size: int, ranks: int, fits: int) -> None:
    assert fitting_ranks(size, ranks) == fits


async def test_the_size_that_divides_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("Traceback (most recent call last):\nAssertionError: 151936 is not divisible by 3\n")
    options = argparse.Namespace(
        url=None, pid=None, log=str(path), metrics=None, symptom="", hardware="", sglang_version="0.5.20",
        command_text="python -m sglang.launch_server --model-path m --tp 3", local=False,
    )  # fmt: skip
    target = targets._saved(options, False)
    driver = Driver(BOOK, read_only=True, window_s=0.1, version="0.5.20")
    state = await driver.examine(target)
    offers = make_offers(BOOK.causes["tp_not_divisible"], BOOK, target, state.snapshot, driver.catalogue())
    intents = {o.remedy.id: dict(o.intents) for o in offers}
    assert list(intents["ranks_counted"].values()) == ["2"]
    assert not intents["ranks_that_divide"]
