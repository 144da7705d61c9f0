"""Cards in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.hardware import read


@pytest.mark.parametrize(
    ("text", "name", "count", "memory_gb", "capability"),
    [
        ("8x NVIDIA L4 24GB", "L4", 8, 22.5, 8.9),
        ("1x NVIDIA L40S 48GB, CUDA 12.8", "L40S", 1, 45.0, 8.9),
        ("2 nodes, 8 x H20 each", "H20", 8, 95.6, 9.0),
        ("8*H200", "H200", 8, 140.4, 9.0),
        ("GB200 NVL72", "B200", None, 179.0, 10.0),
        ("RTX 5090 (sm120)", "RTX 5090", None, 31.8, 12.0),
        ("4 A100 40GB", "A100 40GB", 4, 39.4, 8.0),
        ("A100-SXM4-80GB x8", "A100", 8, 79.2, 8.0),
        ("2x T4 (kaggle)", "T4", 2, 15.0, 7.5),
        ("MI300X", "MI300X", None, 191.0, None),
        ("a100 80gb", "A100", None, 79.2, 8.0),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", None, 39.4, 8.0),
        ("a laptop", None, None, None, None),
        ("", None, None, None, None),
    ],
)
def test_cards(
    text: str, name: str | None, count: int | None, memory_gb: float | None, capability: float | None
) -> None:
    found = read(text)
    assert (found.name, found.count, found.memory_gb, found.capability) == (name, count, memory_gb, capability)


@given(st.text(max_size=300))
def test_no_words_break_it(text: str) -> None:
    read(text)
