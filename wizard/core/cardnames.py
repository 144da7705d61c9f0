"""Names of cards, and of rented hosts that come with a known set of cards. Makers' and clouds' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Card:
    """``memory_gb``: GiB that the driver shows. ``sizes``: other builds, by the GB in their name."""

    words: str
    name: str
    memory_gb: float
    capability: float | None = None
    sizes: tuple[tuple[int, str, float], ...] = ()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds the card with its maker's words; ``8xH100`` and ``RTX4090`` are written without a gap."""
        maker = r"(?:(?:NVIDIA|GeForce|Tesla|Quadro|AMD|Instinct|RTX|GTX|nv)[ -]?){0,3}"
        start = r"(?:(?<![A-Za-z0-9])|(?<=\d[xX])|(?<=[^\w.]\d)(?=[AHL]\d)|(?<=^\d)(?=[AHL]\d))"
        return re.compile(rf"{start}{maker}(?:{self.words})(?![0-9])", re.I)


CARDS: tuple[Card, ...] = (
    Card(r"G?B300", "B300", 268.0, 10.3),
    Card(r"G?B200", "B200", 179.0, 10.0),
    Card(r"GB10|DGX[ -]?Spark", "GB10", 119.0, 12.1),
    Card(r"GH200", "GH200", 95.6, 9.0),
    Card(r"H200", "H200", 140.4, 9.0),
    Card(r"H20(?!0)", "H20", 95.6, 9.0, ((141, "H20 141GB", 140.4), (144, "H20 141GB", 140.4))),
    Card(r"H100[ -]?NVL", "H100 NVL", 93.6, 9.0),
    Card(r"H[18]00[ -]?PCI-?e", "H100 PCIe", 79.6, 9.0),
    Card(r"H[18]00", "H100", 79.6, 9.0, ((94, "H100 NVL", 93.6), (96, "H100 96GB", 95.6))),
    Card(r"A[18]00X?", "A100", 79.2, 8.0, ((40, "A100 40GB", 39.4),)),
    Card(r"L40S?", "L40S", 45.0, 8.9),
    Card(r"(?:PRO ?)?6000.{0,12}Blackwell|PRO[ -]?6000", "RTX PRO 6000", 95.6, 12.0),
    Card(r"6000[ -]?Ada", "RTX 6000 Ada", 48.0, 8.9),
    Card(r"5000[ -]?Ada", "RTX 5000 Ada", 32.0, 8.9),
    Card(r"A6000|A40", "A6000", 48.0, 8.6),
    Card(r"5090(?:[ -]?D)?", "RTX 5090", 31.8, 12.0),
    Card(r"5080", "RTX 5080", 15.9, 12.0),
    Card(r"5070[ -]?Ti", "RTX 5070 Ti", 15.9, 12.0),
    Card(r"4090(?:[ -]?D)?", "RTX 4090", 24.0, 8.9),
    Card(r"4080", "RTX 4080", 16.0, 8.9),
    Card(r"4070[ -]?Ti[ -]?Super", "RTX 4070 Ti Super", 16.0, 8.9),
    Card(r"4060[ -]?Ti", "RTX 4060 Ti", 16.0, 8.9),
    Card(r"3090", "RTX 3090", 24.0, 8.6),
    Card(r"3080", "RTX 3080", 10.0, 8.6),
    Card(r"3060", "RTX 3060", 12.0, 8.6),
    Card(r"A30", "A30", 24.0, 8.0),
    Card(r"A10G?|A5000", "A10", 22.5, 8.6),
    Card(r"A4000", "A4000", 16.0, 8.6),
    Card(r"A2", "A2", 15.0, 8.6),
    Card(r"L20", "L20", 45.0, 8.9),
    Card(r"L4", "L4", 22.5, 8.9),
    Card(r"T4", "T4", 15.0, 7.5),
    Card(r"2080[ -]?Ti", "RTX 2080 Ti", 11.0, 7.5),
    Card(r"V100S?", "V100", 16.0, 7.0, ((32, "V100 32GB", 32.0),)),
    Card(r"P100", "P100", 16.0, 6.0),
    Card(r"P40", "P40", 24.0, 6.1),
    Card(r"MI355X?", "MI355X", 287.0),
    Card(r"MI350X?", "MI350X", 287.0),
    Card(r"MI325X?", "MI325X", 255.0),
    Card(r"MI300A", "MI300A", 127.0),
    Card(r"MI30[08]X?", "MI300X", 191.0),
    Card(r"MI250X?", "MI250", 64.0),
    Card(r"MI210X?", "MI210", 64.0),
)
"""What two names share stands under the special one first; of two cards in a text the first named counts."""

_BY_SIZE = {"xlarge": 1, "2xlarge": 1, "4xlarge": 1, "8xlarge": 1, "16xlarge": 1, "12xlarge": 4, "24xlarge": 4}
_BY_SIZE["48xlarge"] = 8

HOSTS: tuple[tuple[str, str, int | None], ...] = (
    (r"p5\.48xlarge", "H100", 8),
    (r"p5en?\.48xlarge", "H200", 8),
    (r"p4de\.24xlarge", "A100", 8),
    (r"p4d\.24xlarge", "A100 40GB", 8),
    (r"g6e\.(\d*xlarge)", "L40S", None),
    (r"g6\.(\d*xlarge)", "L4", None),
    (r"g5\.(\d*xlarge)", "A10", None),
    (r"a3-(?:high|mega|edge)gpu-(\d)g", "H100", None),
    (r"a3-ultragpu-(\d)g", "H200", None),
    (r"a2-highgpu-(\d)g", "A100 40GB", None),
    (r"a2-ultragpu-(\d)g", "A100", None),
    (r"ND96isr?_?H100_?v5", "H100", 8),
    (r"ND96isr?_?H200_?v5", "H200", 8),
    (r"ND96amsr_A100_v4", "A100", 8),
)
"""Rented hosts: pattern, card, how many; None: the group tells (a size of xlarge, or a number)."""


def host_cards(text: str) -> tuple[str, int | None] | None:
    """The card and how many of them a rented host has that the text names."""
    for words, card, number in HOSTS:
        match = re.search(rf"(?<![\w.]){words}(?!\w)", text, re.I)
        if match is not None:
            told = match[1].lower() if number is None else ""
            return card, number if number is not None else _BY_SIZE.get(told) or _digit(told)
    return None


def _digit(text: str) -> int | None:
    return int(text) if text.isdigit() else None
