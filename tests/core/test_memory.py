"""The memory model against the starts that were recorded on an H200, and its advice."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.memory import (
    INIT_COST_GB,
    default_chunked_prefill_size,
    default_fraction,
    default_graph_max_bs,
    default_max_running_requests,
    fraction_for_pool,
    fraction_for_tokens,
    kv_cell_bytes,
    kv_pool_gb,
    kv_pool_tokens,
    lower_fraction,
    minimum_fraction,
    prefill_graph_sizes,
    raise_fraction,
)

SHARED = Path(os.environ.get("SGL_WIZARD_SHARED") or Path(__file__).resolve().parents[3] / "shared")
H200_MIB = 143_771
CELL_8B = kv_cell_bytes(32, 8, 128)


def recorded_starts() -> list[dict[str, str]]:
    path = SHARED / "recordings" / "h200" / "memory.csv"
    if not path.is_file():
        pytest.skip("needs the recordings: set SGL_WIZARD_SHARED to the folder that holds recordings/h200")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_pool_size_of_every_recorded_start() -> None:
    starts = [r for r in recorded_starts() if "max-total" not in r["flags"]]
    alone = [r for r in starts if r["other_process_on_gpu"] == "False"]
    assert len(alone) >= 10
    for row in alone:
        before, after = float(row["avail_before_load_gb"]), float(row["avail_after_load_gb"])
        fraction = float(row["mem_fraction_static"])
        predicted = kv_pool_gb(before, after, fraction)
        tokens = int(row["kv_tokens"])
        # from two logged values of two decimals each
        assert predicted == pytest.approx(tokens * CELL_8B / 2**30, abs=0.0025), row["run"]
        assert kv_pool_tokens(predicted, CELL_8B) == pytest.approx(tokens, abs=42), row["run"]
        assert fraction_for_tokens(before, after, tokens, CELL_8B) == pytest.approx(fraction, abs=5e-5)


def test_running_cap_and_default_fraction_of_every_recorded_start() -> None:
    seen = 0
    for row in recorded_starts():
        flags = row["flags"]
        if row["model"] == "8b" and "--max-running-requests" not in flags:
            cap = default_max_running_requests(int(row["kv_tokens"]), 131_072)
            assert cap == int(row["max_running"]), row["run"]
            seen += 1
        if row["model"] == "8b" and "--mem-f" not in flags and "--max-r" not in flags:
            graphs = "--disable-cuda-graph" not in flags
            got = default_fraction(
                "0.5.17",
                H200_MIB,
                chunked_prefill_size=int(row["chunked_prefill_size"]),
                decode_graph=graphs,
                prefill_graph=graphs and "--disable-prefill-cuda-graph" not in flags,
            )
            assert got == float(row["mem_fraction_static"]), row["run"]
            seen += 1
    assert seen >= 15


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (kv_cell_bytes(32, 8, 128), 131_072),
        (kv_cell_bytes(80, 8, 128, tp_size=4), 81_920),
        (kv_cell_bytes(28, 4, 128), 57_344),
        (kv_cell_bytes(61, kv_lora_rank=512, qk_rope_head_dim=64, tp_size=8), 70_272),
        (kv_cell_bytes(32, 8, 128, kv_bytes=1), 65_536),
        (kv_cell_bytes(32, 2, 128, tp_size=8), 16_384),
    ],
)
def test_cell(cell: float, expected: int) -> None:
    assert cell == expected


@pytest.mark.parametrize(
    ("version", "gib", "tp", "fraction", "chunk", "graph"),
    [
        ("0.4.0", 80, 1, 0.88, 8192, 160),
        ("0.4.0", 80, 8, 0.81, 8192, 160),
        ("0.4.8", 16, 1, 0.819, 2048, 8),
        ("0.4.8", 80, 1, 0.875, 8192, 160),
        ("0.5.4", 80, 1, 0.836, 8192, 256),
        ("0.5.10", 80, 1, 0.83, 8192, 256),
        ("0.5.20", 80, 1, 0.83, 8192, 256),
        ("0.5.20", 24, 1, 0.704, 4096, 48),
        ("0.5.23", 180, 1, 0.855, 16384, 512),
    ],
)
def test_defaults(version: str, gib: int, tp: int, fraction: float, chunk: int, graph: int) -> None:
    mib = gib * 1024
    assert default_fraction(version, mib, tp_size=tp) == pytest.approx(fraction, abs=0.0025)
    assert default_chunked_prefill_size(version, mib) == chunk
    assert default_graph_max_bs(version, mib, tp) == graph


def test_prefill_graphs_of_the_default_chunk() -> None:
    assert prefill_graph_sizes(8192) == 58


BEFORE, AFTER = 139.09, 124.07


def test_lower_for_an_allocation_that_failed() -> None:
    advice = lower_fraction(
        0.95, tried_gb=4.0, free_gb=1.0, avail_before_gb=BEFORE, avail_after_gb=AFTER, margin_gb=2
    )
    assert advice.certain
    assert advice.fraction == 0.91
    assert (0.95 - advice.fraction) * (BEFORE + INIT_COST_GB) >= 4.0 - 1.0 + 2
    for number in ("4.00", "1.00", "139.19", "0.91"):
        assert number in advice.why


def test_lower_never_takes_the_whole_pool() -> None:
    least = minimum_fraction(80.0, 20.0)
    advice = lower_fraction(0.80, tried_gb=30.0, free_gb=0.1, avail_before_gb=80.0, avail_after_gb=20.0)
    assert advice.fraction is not None
    assert least < advice.fraction < 0.80
    assert kv_pool_gb(80.0, 20.0, advice.fraction) > 0
    stuck = lower_fraction(0.76, tried_gb=3.0, free_gb=0.1, avail_before_gb=80.0, avail_after_gb=20.0)
    assert stuck.fraction is None
    assert "cannot go lower" in stuck.why


def test_lower_without_numbers_is_one_uncertain_step() -> None:
    advice = lower_fraction(0.9)
    assert advice.fraction == 0.85
    assert not advice.certain


def test_raise_for_weights_that_leave_no_pool() -> None:
    advice = raise_fraction(0.1, avail_before_gb=BEFORE, avail_after_gb=AFTER)
    assert advice.fraction is not None
    assert kv_pool_gb(BEFORE, AFTER, advice.fraction) == pytest.approx(AFTER / 2, abs=1.5)
    wanted = raise_fraction(0.1, avail_before_gb=BEFORE, avail_after_gb=AFTER, pool_gb=20)
    assert wanted.fraction is not None
    assert kv_pool_gb(BEFORE, AFTER, wanted.fraction) == pytest.approx(20, abs=1.5)
    most = raise_fraction(0.1, avail_before_gb=BEFORE, avail_after_gb=AFTER, pool_gb=500)
    assert most.fraction is not None
    assert most.fraction <= 0.95
    assert (BEFORE + INIT_COST_GB) * (1 - most.fraction) >= 5


def test_raise_says_when_nothing_fits() -> None:
    advice = raise_fraction(0.94, avail_before_gb=80, avail_after_gb=3)
    assert advice.fraction is None
    assert "3.00 of 80.10" in advice.why
    assert raise_fraction(0.95).fraction is None


def test_raise_from_the_fraction_that_sglang_names() -> None:
    advice = raise_fraction(0.3, needed_fraction=0.42)
    assert advice.fraction == 0.47
    assert not advice.certain


@given(before=st.floats(10, 300), share=st.floats(0.01, 0.99), f=st.floats(0.05, 0.98), tried=st.floats(0, 40))
def test_advice_moves_the_right_way_or_is_none(before: float, share: float, f: float, tried: float) -> None:
    after = before * share
    assert kv_pool_gb(before, after, fraction_for_pool(before, after, 3.0)) == pytest.approx(3.0)
    lower = lower_fraction(f, tried_gb=tried, free_gb=0.1, avail_before_gb=before, avail_after_gb=after)
    assert lower.fraction is None or 0.1 <= lower.fraction < f
    higher = raise_fraction(f, avail_before_gb=before, avail_after_gb=after)
    assert higher.fraction is None or f < higher.fraction <= 0.95
    for advice in (lower, higher):
        if advice.fraction is not None:
            assert kv_pool_gb(before, after, advice.fraction) > 0
        assert advice.why
