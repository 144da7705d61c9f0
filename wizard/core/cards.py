"""Memory bandwidth of cards by name: what bounds decode, which reads all weights once a step.

Numbers are the makers' data sheets (SXM where a card comes in several forms and the name does not tell),
in GB/s of 10**9 bytes.
"""

from __future__ import annotations

import re

_BANDWIDTH_GBS: tuple[tuple[str, float], ...] = (
    (r"G?B300", 8000.0),
    (r"G?B200", 8000.0),
    (r"GB10|DGX Spark", 273.0),
    (r"GH200", 4000.0),
    (r"H200", 4800.0),
    (r"H20", 4000.0),
    (r"H100 NVL", 3900.0),
    (r"H100 PCIe", 2000.0),
    (r"H[18]00", 3350.0),
    (r"A[18]00\b.{0,20}\b40 ?G", 1555.0),
    (r"A[18]00\b.{0,10}PCIe", 1935.0),
    (r"A[18]00", 2039.0),
    (r"L40S?", 864.0),
    (r"(?:RTX )?PRO 6000", 1792.0),
    (r"RTX 6000 Ada|RTX 5880 Ada", 960.0),
    (r"RTX A6000", 768.0),
    (r"A6000|A5000", 768.0),
    (r"A40", 696.0),
    (r"(?:RTX )?5090(?: D)?", 1792.0),
    (r"(?:RTX )?5080", 960.0),
    (r"(?:RTX )?5070 Ti", 896.0),
    (r"(?:RTX )?4090(?: D)?", 1008.0),
    (r"(?:RTX )?4080", 717.0),
    (r"(?:RTX )?4060 Ti", 288.0),
    (r"(?:RTX )?3090", 936.0),
    (r"(?:RTX )?3080", 760.0),
    (r"(?:RTX )?3060", 360.0),
    (r"(?:RTX )?5000 Ada", 576.0),
    (r"(?:RTX )?4070 Ti Super", 672.0),
    (r"A30", 933.0),
    (r"A10G?", 600.0),
    (r"A2", 200.0),
    (r"A4000", 448.0),
    (r"L20", 864.0),
    (r"L4", 300.0),
    (r"T4", 320.0),
    (r"(?:RTX )?2080 Ti", 616.0),
    (r"V100", 900.0),
    (r"P100", 732.0),
    (r"P40", 346.0),
    (r"MI35[05]X?", 8000.0),
    (r"MI325X?", 6000.0),
    (r"MI30[08][XA]?", 5300.0),
    (r"MI250X?", 3277.0),
    (r"MI210X?", 1638.0),
)
"""The first that fits wins: special names stand before general ones."""


def bandwidth_gbs(name: str) -> float | None:
    """GB/s of the card's own memory; None for a card that is not in the table."""
    for words, gbs in _BANDWIDTH_GBS:
        if re.search(rf"(?<![A-Za-z0-9])(?:{words})(?![0-9])", name[:200], re.I):
            return gbs
    return None
