"""How SGLang divides a card's memory, and which fraction would make a start succeed.

All sizes are GiB (what SGLang prints as "GB") of one rank, ``gpu_mib`` is the card's size in MiB. Pool
size: ``avail_after - (avail_before + 0.10) * (1 - f)``, within 0.0022 GiB on 11 recorded starts of
0.5.17 on an H200. Defaults: read from the wheels of 0.4.0-0.5.23 (server_args.py; from 0.5.14
arg_groups/memory_hook.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wizard.core.flags import version_key

GIB = 1 << 30

INIT_COST_GB = 0.10
"""What torch.distributed takes after the measure that f is a share of, before weights load (H200, 0.5.17)."""

FREE_AT_READY_GB = (5.0, 8.0)
"""What the maintainers' tuning page wants to stay free when the server is ready."""


def since(version: str, first: str) -> bool:
    return version_key(version) >= version_key(first)


# -- the KV pool ------------------------------------------------------------------------------------


def kv_cell_bytes(
    layers: int,
    kv_heads: int = 0,
    head_dim: int = 0,
    *,
    v_head_dim: int | None = None,
    kv_bytes: float = 2,
    tp_size: int = 1,
    kv_lora_rank: int | None = None,
    qk_rope_head_dim: int = 0,
) -> float:
    """Bytes that one token takes in the pool of one rank.

    With ``kv_lora_rank`` the model uses MLA: the latent is not divided by TP.
    Source: mem_cache/pool_configurator.py:493 (0.5.23). Llama-3.1-8B in bf16: 131072.
    """
    if kv_lora_rank is not None:
        return (kv_lora_rank + qk_rope_head_dim) * layers * kv_bytes
    heads = max(1, kv_heads // max(1, tp_size))
    return heads * (head_dim + (head_dim if v_head_dim is None else v_head_dim)) * layers * kv_bytes


def kv_pool_gb(avail_before_gb: float, avail_after_gb: float, fraction: float) -> float:
    """GiB for the KV pool from the two logged values; negative when the weights leave no room."""
    return avail_after_gb - (avail_before_gb + INIT_COST_GB) * (1 - fraction)


def kv_pool_tokens(
    pool_gb: float, cell_bytes: float, page_size: int = 1, max_total_tokens: int | None = None
) -> int:
    """Tokens that the pool holds, in whole pages."""
    tokens = int(max(0.0, pool_gb) * GIB / cell_bytes)
    if max_total_tokens:
        tokens = min(tokens, max_total_tokens)
    return tokens // page_size * page_size


def fraction_for_pool(avail_before_gb: float, avail_after_gb: float, pool_gb: float) -> float:
    """The fraction that gives a pool of ``pool_gb``: ``kv_pool_gb`` the other way round."""
    return 1 - (avail_after_gb - pool_gb) / (avail_before_gb + INIT_COST_GB)


def fraction_for_tokens(avail_before_gb: float, avail_after_gb: float, tokens: int, cell_bytes: float) -> float:
    """The fraction whose pool holds ``tokens``."""
    return fraction_for_pool(avail_before_gb, avail_after_gb, tokens * cell_bytes / GIB)


def minimum_fraction(avail_before_gb: float, avail_after_gb: float) -> float:
    """Below this the weights leave no pool at all and SGLang says "Not enough memory"."""
    return fraction_for_pool(avail_before_gb, avail_after_gb, 0.0)


# -- what SGLang chooses when nothing is said -------------------------------------------------------


def default_max_running_requests(tokens: int, context_length: int) -> int:
    """The cap that SGLang sets by itself for a pool of ``tokens``.

    ``min(max(tokens / context * 512, 2048), 4096)``, and at most half the tokens.
    Recorded: 905795 tokens, 131072 context -> 3538 (H200, 0.5.17).
    """
    estimate = min(max(int(tokens / context_length * 512), 2048), 4096)
    return min(estimate, tokens // 2)


def default_chunked_prefill_size(version: str, gpu_mib: float) -> int:
    """Tokens of a prefill chunk."""
    if not since(version, "0.4.8"):
        return 2048 if gpu_mib < 25_000 else 8192
    if not since(version, "0.5.4"):
        return 2048 if gpu_mib < 35 * 1024 else 8192 if gpu_mib < 160 * 1024 else 16384
    if gpu_mib < 20 * 1024:
        return 2048
    if gpu_mib < 35 * 1024:
        return 4096 if since(version, "0.5.20") else 2048
    if gpu_mib < 60 * 1024:
        return 4096
    return 8192 if gpu_mib < 160 * 1024 else 16384


def default_graph_max_bs(version: str, gpu_mib: float, tp_size: int = 1, max_running: int | None = None) -> int:
    """The largest batch that gets a decode CUDA graph."""
    wide = tp_size >= 4
    if not since(version, "0.4.1"):
        return 8 if gpu_mib < 25_000 else 160
    if not since(version, "0.4.6"):
        return (80 if wide else 8) if gpu_mib < 25_000 else 160
    if not since(version, "0.5.4"):
        small = 35 * 1024 if since(version, "0.4.8") else 25_000
        if gpu_mib < small:
            return 80 if wide else 8
        return 160 if gpu_mib <= 90 * 1024 else 256 if gpu_mib <= 160_000 else 512
    if gpu_mib < 20 * 1024:
        size = 8
    elif gpu_mib < 35 * 1024:
        narrow = 48 if since(version, "0.5.20") else 24 if since(version, "0.5.6") else 16
        size = (160 if since(version, "0.5.20") else 80) if wide else narrow
    elif gpu_mib < 60 * 1024:
        size = 160 if wide else 32
    else:
        size = 512 if wide or gpu_mib >= 160 * 1024 else 256
    if since(version, "0.5.22") and max_running:
        size = min(size, max_running)
    return size


_PREFILL_STEPS = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256))


def prefill_graph_sizes(chunk: int) -> int:
    """How many token sizes get a prefill CUDA graph for a chunk (0.5.8+): 58 at 8192."""
    fixed = sum(1 for low, high, step in _PREFILL_STEPS for size in range(low, high, step) if size <= chunk)
    return fixed + len(range(4608, chunk + 1, 512))


def default_fraction(
    version: str,
    gpu_mib: float,
    *,
    tp_size: int = 1,
    pp_size: int = 1,
    chunked_prefill_size: int | None = None,
    graph_max_bs: int | None = None,
    speculative: str | None = None,
    dp_attention: int = 0,
    mla: bool = False,
    decode_graph: bool = True,
    prefill_graph: bool | None = None,
) -> float:
    """``mem_fraction_static`` that SGLang chooses without the flag (text models).

    ``dp_attention``: its DP size, 0 = off. ``prefill_graph`` None: as the version has it by default.
    Recorded on an H200 (143771 MiB, 0.5.17): 0.903; chunk 2048 or 512: 0.929; no graphs: 0.910.
    """
    chunk = chunked_prefill_size or default_chunked_prefill_size(version, gpu_mib)
    ranks = tp_size * pp_size
    if not since(version, "0.4.8"):
        return _ladder_fraction(version, gpu_mib, tp_size, ranks, bool(speculative))
    if not since(version, "0.5.4"):
        reserved = _reserve_by_card(version, gpu_mib, ranks, speculative, dp_attention)
    else:
        batch = graph_max_bs or default_graph_max_bs(version, gpu_mib, tp_size)
        reserved = 512 + max(chunk if chunk > 0 else 16384, 2048) * 1.5 + ranks / 8 * 1024
        if decode_graph or not since(version, "0.5.14"):
            reserved += batch * 2
        if dp_attention:
            reserved += batch * dp_attention * (4.5 if batch > 300 else 3)
        captures = since(version, "0.5.10") if prefill_graph is None else prefill_graph
        if captures and since(version, "0.5.8"):
            reserved += 1536 if mla and since(version, "0.5.10") else 8 * prefill_graph_sizes(chunk)
        if gpu_mib > 60 * 1024:
            reserved = max(reserved, 10 * 1024)
        if speculative and speculative != "NGRAM" and not since(version, "0.5.14"):
            small = 4096 if since(version, "0.5.10") else 2048
            reserved += 6144 if speculative == "STANDALONE" else small
    return round((gpu_mib - reserved) / gpu_mib, 3)


def _ladder_fraction(version: str, gpu_mib: float, tp_size: int, ranks: int, speculative: bool) -> float:
    """0.4.0-0.4.7: by the number of ranks, then by the size of the card."""

    def ladder(count: int) -> float:
        return next(f for low, f in ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87), (0, 0.88)) if count >= low)

    if not since(version, "0.4.6"):
        return ladder(tp_size)
    newer = since(version, "0.4.7")
    if newer and gpu_mib > 180_000:
        return 0.79
    fraction = ladder(ranks) if gpu_mib <= 81_920 else 0.88
    if gpu_mib > 96 * 1024:
        keep = 20 if speculative and newer else 18
        return min(fraction + 48 * 1024 * (1 - fraction) / gpu_mib, (gpu_mib - keep * 1024) / gpu_mib)
    return fraction * 0.95 if speculative and newer else fraction


def _reserve_by_card(
    version: str, gpu_mib: float, ranks: int, speculative: str | None, dp_attention: int
) -> float:
    """0.4.8-0.5.2: MiB kept free, by the size of the card."""
    if gpu_mib < 35 * 1024:
        reserved = (2.8 + ranks / 10) * 1024
    elif gpu_mib < 90 * 1024:
        reserved = (9.5 + ranks / 2) * 1024
    elif gpu_mib < 160 * 1024:
        reserved = (12 + ranks / 2) * 1024
    else:
        reserved = 32 * 1024
    if speculative:
        reserved += 6144 if speculative == "STANDALONE" and since(version, "0.5.2") else 2048
    return reserved + (4096 if dp_attention else 0)


# -- a better fraction ------------------------------------------------------------------------------


@dataclass(frozen=True)
class FractionAdvice:
    """A new ``--mem-fraction-static``, or None with the reason in ``why``.

    ``why`` is the arithmetic in words. ``certain`` False: the logged numbers were not enough, and the
    value is the maintainers' usual step.
    """

    fraction: float | None
    why: str
    certain: bool = True


LOWEST_FRACTION = 0.1
HIGHEST_FRACTION = 0.95


def lower_fraction(
    fraction: float,
    *,
    tried_gb: float | None = None,
    free_gb: float | None = None,
    avail_before_gb: float | None = None,
    avail_after_gb: float | None = None,
    margin_gb: float = 2.0,
) -> FractionAdvice:
    """For a CUDA out of memory: give back what was missing, plus a margin for the next allocations.

    ``tried_gb``/``free_gb``: of the OOM text. With ``avail_*`` the advice never goes below the fraction
    at which the weights leave no pool. Without numbers: one step of 0.05 (maintainers' FAQ).
    """
    floor = LOWEST_FRACTION
    if avail_before_gb is not None and avail_after_gb is not None:
        floor = max(floor, minimum_fraction(avail_before_gb, avail_after_gb) + 0.01)
    if tried_gb is None or free_gb is None or avail_before_gb is None:
        new, certain = fraction - 0.05, False
        why = f"{fraction:g} - 0.05: the log does not say how much was missing, so one usual step"
    else:
        base = avail_before_gb + INIT_COST_GB
        missing = max(0.0, tried_gb - free_gb) + margin_gb
        new, certain = fraction - missing / base, True
        why = (
            f"it asked for {tried_gb:.2f} GB and had {free_gb:.2f} GB; with {margin_gb:g} GB to spare that is "
            f"{missing:.2f} GB of the {base:.2f} GB free at start: {fraction:g} - {missing / base:.3f}"
        )
    new = math.floor(new * 100 + 1e-9) / 100
    lowest = math.ceil(floor * 100 - 1e-9) / 100
    if new < lowest:
        if lowest >= fraction:
            why = f"{fraction:g} cannot go lower: below {floor:.3f} the weights leave no KV pool"
            return FractionAdvice(None, why, certain)
        why = f"{why}; not below {lowest:g}, where the weights leave no KV pool"
        return FractionAdvice(lowest, why, certain)
    return FractionAdvice(new, f"{why} = {new:g}", certain)


def raise_fraction(
    fraction: float,
    *,
    avail_before_gb: float | None = None,
    avail_after_gb: float | None = None,
    needed_fraction: float | None = None,
    pool_gb: float | None = None,
    keep_free_gb: float = FREE_AT_READY_GB[0],
) -> FractionAdvice:
    """For "Not enough memory ... increase --mem-fraction-static", or a pool that is too small.

    ``needed_fraction``: the one SGLang says must be exceeded. ``pool_gb``: the pool wanted; without it
    half of what the weights left, as far as ``keep_free_gb`` stay free. None when even that does not fit.
    """
    if avail_before_gb is None or avail_after_gb is None:
        start = max(fraction, needed_fraction or 0.0)
        new = min(HIGHEST_FRACTION, math.ceil((start + 0.05) * 100 - 1e-9) / 100)
        if new <= max(fraction, needed_fraction or 0.0):
            why = f"{start:g} is as high as it can go: the weights need a smaller footprint"
            return FractionAdvice(None, why, certain=False)
        said = f"above the {needed_fraction:g} that SGLang asks for" if needed_fraction else "one usual step"
        return FractionAdvice(new, f"{start:g} + 0.05: {said} = {new:g}", certain=False)
    base = avail_before_gb + INIT_COST_GB
    least = max(minimum_fraction(avail_before_gb, avail_after_gb), needed_fraction or 0.0)
    keep = min(keep_free_gb, avail_after_gb / 2)
    highest = min(HIGHEST_FRACTION, fraction_for_pool(avail_before_gb, avail_after_gb, avail_after_gb - keep))
    wanted = avail_after_gb / 2 if pool_gb is None else pool_gb
    new = min(fraction_for_pool(avail_before_gb, avail_after_gb, wanted), highest)
    new = math.floor(new * 100 + 1e-9) / 100
    if new <= max(least, fraction):
        why = (
            f"the weights leave {avail_after_gb:.2f} of {base:.2f} GB: a fraction must be above "
            f"{max(least, fraction):.3f}, and {keep:.1f} GB must stay free"
        )
        return FractionAdvice(None, why)
    pool = kv_pool_gb(avail_before_gb, avail_after_gb, new)
    why = (
        f"the weights leave {avail_after_gb:.2f} of {base:.2f} GB; at {new:g} the pool gets {pool:.2f} GB "
        f"and {base * (1 - new):.2f} GB stay free (no pool at all up to {least:.3f})"
    )
    return FractionAdvice(new, why)
