"""The cards and models that the simulator can play: sizes in MiB or GiB, speeds in milliseconds.

H200 and Llama numbers: recordings/h200 (README.md, memory.csv, tuning.csv). The H100 is scaled from the H200 by
memory bandwidth (3.35 against 4.8 TB/s); its decode speed is an estimate, the H200's is measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class CardModel:
    """One kind of card. `memory_mib` is what NVML shows, `usable_gb` (GiB) what processes can take of it."""

    name: str
    memory_mib: int
    usable_gb: float
    bandwidth_tb_s: float

    @property
    def usable_bytes(self) -> int:
        return int(self.usable_gb * GIB)


H200 = CardModel("NVIDIA H200 (simulated)", 143771, 139.81, 4.8)
H100 = CardModel("NVIDIA H100 80GB HBM3 (simulated)", 81559, 79.11, 3.35)

CONTEXT_GB = 0.62  # CUDA context: 139.81 usable, 139.19 left before "Init torch distributed" (t_default)
DISTRIBUTED_GB = 0.10  # what "Init torch distributed" takes; logged as 0.09


def card_from_env() -> CardModel:
    """The card that SGLANG_SIM_CARD_GB asks for (default 141). Raises ValueError when it is not a number."""
    text = os.environ.get("SGLANG_SIM_CARD_GB", "141")
    try:
        size = float(text)
    except ValueError:
        raise ValueError(f"SGLANG_SIM_CARD_GB={text!r} is not a number of gigabytes") from None
    if size == 141:
        return H200
    if size == 80:
        return H100
    return CardModel(f"NVIDIA GPU {size:g}GB (simulated)", int(size * 1024), size * 0.99, 4.8)


@dataclass(frozen=True)
class ModelSpec:
    """One model in bf16. `decode_ms` is the step time of a batch of one on an H200 without its KV part."""

    label: str
    architecture: str
    weights_gb: float
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_len: int
    decode_ms: float
    prefill_tokens_s: float
    mlp_mib_per_token: float  # gate_up activation of one layer, the largest single allocation of a prefill

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * self.kv_heads * self.head_dim * 2 * 2


_LLAMA = "LlamaForCausalLM"
MODELS = {
    "1b": ModelSpec("1b", _LLAMA, 2.46, 16, 8, 64, 128256, 131072, 1.9, 220_000, 0.032),
    "8b": ModelSpec("8b", _LLAMA, 15.02, 32, 8, 128, 128256, 131072, 4.75, 44_400, 0.0547),
    "70b": ModelSpec("70b", _LLAMA, 131.4, 80, 8, 128, 128256, 131072, 29.5, 5_400, 0.109),
}


def model_for(path: str) -> ModelSpec:
    """The model whose size stands in the path's name; Llama-3.1-8B when none does."""
    name = path.lower()
    for label in ("70b", "8b", "1b"):
        if label in name:
            return MODELS[label]
    return MODELS["8b"]


def decode_ms(model: ModelSpec, card: CardModel, batch: int, kv_tokens: int, graphed: bool) -> float:
    """One decode step. Fitted to the gen throughput of t_default: 4.79 ms at batch 1, 5.25 at 8, 7.7 at 64."""
    slower = H200.bandwidth_tb_s / card.bandwidth_tb_s
    kv_ms = kv_tokens * model.kv_bytes_per_token / 3.74e12 * 1e3
    step = (model.decode_ms + kv_ms) * slower + 0.0085 * batch * (model.decode_ms / 4.75)
    if not graphed:
        step = max(step, 15.1 * model.layers / 32)  # kernel launches bound it (t_no_cuda_graph)
    return step


def prefill_ms(model: ModelSpec, tokens: int, context_tokens: int, graphed: bool) -> float:
    """One prefill batch: 1.73 ms and 44,400 tokens/s for 8B (t_default against t_chunk_512), attention a
    little."""
    step = 1.73 + tokens / model.prefill_tokens_s * 1e3
    step += tokens * context_tokens * model.layers / 32 * 5e-7
    return step if graphed else max(step, 16.0 * model.layers / 32)
