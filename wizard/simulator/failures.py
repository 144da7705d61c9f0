"""Tracebacks of the failures that the simulator can play: only their frames' outline, the last line is the real
one.

Shapes: recordings/h200 f_frac_0.1, f_oom_side, f_oom_side120_load; recordings/cpu fail_model_path_missing and
fail_context_length_too_large.
"""

from __future__ import annotations

_SITE = "/usr/local/lib/python3.12/site-packages/sglang"

_INIT = (
    ("srt/managers/scheduler.py", 4931, "run_scheduler_process", "scheduler = Scheduler("),
    ("srt/managers/scheduler.py", 498, "__init__", "self.init_model_worker()"),
)
_STAGES = {
    "load": (
        ("srt/managers/scheduler.py", 976, "init_model_worker", "self.init_tp_model_worker()"),
        ("srt/model_executor/model_runner.py", 597, "initialize", "self.load_model()"),
        ("srt/model_loader/loader.py", 1448, "load_model", "model = _initialize_model("),
        ("srt/layers/quantization/unquant.py", 190, "create_weights", "torch.empty("),
    ),
    "kv": (
        ("srt/managers/scheduler.py", 981, "init_model_worker", "self.init_memory_pools()"),
        (
            "srt/managers/tp_worker.py",
            399,
            "alloc_memory_pool",
            "self.model_runner.alloc_memory_pool(memory_pool_config)",
        ),
        (
            "srt/mem_cache/kv_cache_configurator.py",
            247,
            "configure",
            "config = self._resolve_memory_pool_config(pre_model_load_memory)",
        ),
    ),
    "capture": (
        ("srt/managers/scheduler.py", 985, "init_model_worker", "self.tp_worker.init_device_graphs()"),
        (
            "srt/model_executor/model_runner.py",
            1871,
            "init_device_graphs",
            "self.graph_runner = CudaGraphRunner(self)",
        ),
        ("srt/model_executor/cuda_graph_runner.py", 742, "capture", "self.capture_one_batch_size(bs, forward)"),
    ),
}
_SERVING = (
    ("srt/managers/scheduler.py", 4981, "run_scheduler_process", "scheduler.run_event_loop()"),
    (
        "srt/managers/scheduler.py",
        3220,
        "run_batch",
        "batch_result = self.model_worker.forward_batch_generation(",
    ),
    (
        "srt/layers/activation.py",
        74,
        "forward_cuda",
        "out = torch.empty(output_shape, dtype=x.dtype, device=x.device)",
    ),
)


def traceback_text(stage: str, last: str) -> str:
    """A traceback whose last line is `last`. Stages: load, kv, capture, serving."""
    frames = _SERVING if stage == "serving" else _INIT + _STAGES[stage]
    lines = ["Traceback (most recent call last):"]
    for file, line, function, code in frames:
        lines += [f'  File "{_SITE}/{file}", line {line}, in {function}', f"    {code}"]
    return "\n".join([*lines, last, ""])


def capture_traceback(error: str, label: str) -> str:
    """A failed graph capture: the allocator's error, then the exception that SGLang raises around it."""
    advice = (
        f"Exception: Capture {label} graph failed: {error}\n"
        "Possible solutions:\n"
        "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n"
        "2. set --cuda-graph-max-bs-decode to a smaller value (e.g., 16)\n"
        "3. disable CUDA graph by --cuda-graph-backend-decode=disabled (slow)\n"
    )
    cause = traceback_text("capture", f"torch.OutOfMemoryError: {error}")
    outer = traceback_text("capture", advice)
    return f"{cause}\nDuring handling of the above exception, another exception occurred:\n\n{outer}"


def launch_traceback(last: str) -> str:
    """A traceback of the launcher itself (before any child is started)."""
    return (
        "Traceback (most recent call last):\n"
        '  File "<frozen runpy>", line 198, in _run_module_as_main\n'
        '  File "<frozen runpy>", line 88, in _run_code\n'
        f'  File "{_SITE}/launch_server.py", line 84, in <module>\n'
        "    run_server(server_args)\n"
        f'  File "{_SITE}/srt/server_args.py", line 281, in resolve_once\n'
        "    run_resolution_pipeline(self)\n"
        f"{last}\n"
    )
