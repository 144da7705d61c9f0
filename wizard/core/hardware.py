"""Cards in a person's words: "8x NVIDIA L4 24GB" -> how many, which, how large, which compute capability."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """``memory_gb``: GiB that nvidia-smi shows for one card; None for what was not said."""

    name: str | None = None
    count: int | None = None
    memory_gb: float | None = None
    capability: float | None = None
    """CUDA compute capability (8.9 = sm_89); None for other makers' cards."""


_CARDS: tuple[tuple[str, str, float, float | None], ...] = (
    (r"G?B300", "B300", 268.0, 10.3),
    (r"G?B200", "B200", 179.0, 10.0),
    (r"GB10|DGX Spark", "GB10", 119.0, 12.1),
    (r"GH200", "GH200", 95.6, 9.0),
    (r"H200", "H200", 140.4, 9.0),
    (r"H20(?!0)", "H20", 95.6, 9.0),
    (r"H[18]00", "H100", 79.6, 9.0),
    (r"A[18]00\b.{0,20}\b40 ?G", "A100 40GB", 39.4, 8.0),
    (r"A[18]00", "A100", 79.2, 8.0),
    (r"L40S?", "L40S", 45.0, 8.9),
    (r"RTX ?(?:PRO )?6000.{0,12}Blackwell|PRO 6000", "RTX PRO 6000", 95.6, 12.0),
    (r"RTX ?6000 ?Ada|6000 Ada", "RTX 6000 Ada", 48.0, 8.9),
    (r"A6000|A40", "A6000", 48.0, 8.6),
    (r"5090", "RTX 5090", 31.8, 12.0),
    (r"5080", "RTX 5080", 15.9, 12.0),
    (r"5070 ?Ti", "RTX 5070 Ti", 15.9, 12.0),
    (r"4090(?:D)?", "RTX 4090", 24.0, 8.9),
    (r"4080", "RTX 4080", 16.0, 8.9),
    (r"4060 ?Ti", "RTX 4060 Ti", 16.0, 8.9),
    (r"3090", "RTX 3090", 24.0, 8.6),
    (r"3080", "RTX 3080", 10.0, 8.6),
    (r"3060", "RTX 3060", 12.0, 8.6),
    (r"A10G?|A5000", "A10", 22.5, 8.6),
    (r"A4000", "A4000", 16.0, 8.6),
    (r"L20", "L20", 45.0, 8.9),
    (r"L4", "L4", 22.5, 8.9),
    (r"T4", "T4", 15.0, 7.5),
    (r"2080 ?Ti", "RTX 2080 Ti", 11.0, 7.5),
    (r"V100\b.{0,20}\b32 ?G", "V100 32GB", 32.0, 7.0),
    (r"V100S?", "V100", 16.0, 7.0),
    (r"P100", "P100", 16.0, 6.0),
    (r"P40", "P40", 24.0, 6.1),
    (r"MI3[05]5X?", "MI355X", 287.0, None),
    (r"MI325X?", "MI325X", 255.0, None),
    (r"MI300[XA]?", "MI300X", 191.0, None),
    (r"MI250X?", "MI250", 64.0, None),
)
"""Words for a card -> its name, GiB, compute capability. Makers' data sheets; the first that fits wins."""

_COUNT = re.compile(r"(?<![\w.])(\d{1,3}) ?[x×*] ?(?!\d)|\b[x×](\d{1,2})\b", re.I)
_COUNT_WORDS = re.compile(r"\b(\d{1,2}) (?:NVIDIA |AMD )?(?:GPUs?|cards?|[AHBL]\d{2,3})\b", re.I)


def read(text: str) -> Hardware:
    """What can be told from the words; everything None when no known card is named."""
    text = text[:2000]
    for words, name, memory_gb, capability in _CARDS:
        if re.search(rf"(?<![A-Za-z0-9])(?:{words})(?![0-9])", text, re.I):
            count = _COUNT.search(text) or _COUNT_WORDS.search(text)
            number = int(next(g for g in count.groups() if g)) if count else None
            return Hardware(name, number if number and number <= 512 else None, memory_gb, capability)
    return Hardware()
