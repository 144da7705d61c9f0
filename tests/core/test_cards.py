from __future__ import annotations

import pytest

from wizard.core.cardnames import CARDS
from wizard.core.cards import bandwidth_gbs


@pytest.mark.parametrize(
    ("name", "gbs"),
    [
        ("NVIDIA H200", 4800.0),
        ("NVIDIA H20", 4000.0),
        ("NVIDIA H100 80GB HBM3", 3350.0),
        ("NVIDIA H100 PCIe", 2000.0),
        ("NVIDIA A100-SXM4-40GB", 1555.0),
        ("NVIDIA A100-SXM4-80GB", 2039.0),
        ("NVIDIA L40S", 864.0),
        ("NVIDIA L4", 300.0),
        ("NVIDIA GeForce RTX 4090", 1008.0),
        ("NVIDIA GB200", 8000.0),
        ("GB10", 273.0),
        ("Tesla T4", 320.0),
        ("a card nobody knows", None),
        ("H2000", None),
    ],
)
def test_bandwidth_by_name(name: str, gbs: float | None) -> None:
    assert bandwidth_gbs(name) == gbs


def test_every_card_that_words_can_name_has_a_bandwidth() -> None:
    names = [name for card in CARDS for name in (card.name, *(build for _, build, _ in card.sizes))]
    assert [name for name in names if bandwidth_gbs(name) is None] == []
