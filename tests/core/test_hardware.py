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


@pytest.mark.parametrize(
    ("text", "name", "count", "memory_gb", "capability"),
    [
        ("40GB A100", "A100 40GB", None, 39.4, 8.0),
        ("H100 NVL 94GB", "H100 NVL", None, 93.6, 9.0),
        ("MI350X", "MI350X", None, 287.0, None),
        ("4 A100s", "A100", 4, 79.2, 8.0),
        ("8 L4", "L4", 8, 22.5, 8.9),
        ("H100 80GB x 8", "H100", 8, 79.6, 9.0),
        ("8xH100", "H100", 8, 79.6, 9.0),
        ("8xH100-80G", "H100", 8, 79.6, 9.0),
        ("H100x8", "H100", 8, 79.6, 9.0),
        ("H100*8", "H100", 8, 79.6, 9.0),
        ("H100:8", "H100", 8, 79.6, 9.0),
        ("2x8 H100", "H100", 8, 79.6, 9.0),
        ("2 x 8 H100", "H100", 8, 79.6, 9.0),
        ("2 nodes x 8 V100", "V100", 8, 16.0, 7.0),
        ("2 machines 8x4090 on runpod", "RTX 4090", 8, 24.0, 8.9),
        ("2 nodes, 4x A100 40GB each", "A100 40GB", 4, 39.4, 8.0),
        ("2 nodes, 16 GPUs", None, 8, None, None),
        ("16 H100s on 2 nodes", "H100", 8, 79.6, 9.0),
        ("RTX4090 x2", "RTX 4090", 2, 24.0, 8.9),
        ("RTX 4090*2", "RTX 4090", 2, 24.0, 8.9),
        ("dual RTX 3090 Ti", "RTX 3090", 2, 24.0, 8.6),
        ("two 4090s", "RTX 4090", 2, 24.0, 8.9),
        ("a single H100 PCIe", "H100 PCIe", 1, 79.6, 9.0),
        ("DGX H100", "H100", 8, 79.6, 9.0),
        ("HGX A100 4-GPU", "A100", 4, 79.2, 8.0),
        ("8卡H800", "H100", 8, 79.6, 9.0),
        ("H20 8卡", "H20", 8, 95.6, 9.0),
        ("4090双卡", "RTX 4090", 2, 24.0, 8.9),
        ("H100 SXM5 80GB HBM3 x 8", "H100", 8, 79.6, 9.0),
        ("A100-SXM4-80GB (8x)", "A100", 8, 79.2, 8.0),
        ("A100 (8)", "A100", 8, 79.2, 8.0),
        ("8-GPU H100 node", "H100", 8, 79.6, 9.0),
        ("8 GPU H100", "H100", 8, 79.6, 9.0),
        ("4 x 80GB A100", "A100", 4, 79.2, 8.0),
        ("4 40GB A100s", "A100 40GB", 4, 39.4, 8.0),
        ("2x RTX 4090 48GB", "RTX 4090", 2, 24.0, 8.9),
        ("RTX 4090 48GB", "RTX 4090", None, 48.0, 8.9),
        ("H100, 512GB RAM", "H100", None, 79.6, 9.0),
        ("RTX 4090, 24 GB VRAM, 64 GB RAM", "RTX 4090", None, 24.0, 8.9),
        ("CUDA 12.8, H100", "H100", None, 79.6, 9.0),
        ("CUDA 12 H100", "H100", None, 79.6, 9.0),
        ("p5.48xlarge", "H100", 8, 79.6, 9.0),
        ("g5.12xlarge", "A10", 4, 22.5, 8.6),
        ("ND96isr_H100_v5", "H100", 8, 79.6, 9.0),
        ("8 H100 nodes", "H100", None, 79.6, 9.0),
        ("multiple NVIDIA A10 24GB", "A10", None, 22.5, 8.6),
        ("8 GPUs, 2TB RAM", None, 8, None, None),
        ("4 consumer/workstation GPUs with 100KB smem limit", None, 4, None, None),
        ("1 GPU pod, 32Gi RAM", None, 1, None, None),
        ("GB10 / DGX Spark", "GB10", 1, 119.0, 12.1),
        ("2x4090 (48GB)", "RTX 4090", 2, 24.0, 8.9),
        ("V100 32GB x4", "V100 32GB", 4, 32.0, 7.0),
        ("32GB V100", "V100 32GB", None, 32.0, 7.0),
        ("1 * H20-141GB", "H20 141GB", 1, 140.4, 9.0),
        ("eight H200s", "H200", 8, 140.4, 9.0),
        ("4 NVIDIA RTX A6000 48GB", "A6000", 4, 48.0, 8.6),
        ("RTX PRO 6000 Blackwell Max-Q", "RTX PRO 6000", None, 95.6, 12.0),
        ("8x MI300X", "MI300X", 8, 191.0, None),
        ("L40s x 4", "L40S", 4, 45.0, 8.9),
        ("4*L40S", "L40S", 4, 45.0, 8.9),
        ("8 × NVIDIA H200 141GB", "H200", 8, 140.4, 9.0),
        ("A10G x4", "A10", 4, 22.5, 8.6),
        ("NVIDIA GeForce RTX 3080 12GB", "RTX 3080", None, 12.0, 8.6),
        ("tp 8 H100", "H100", None, 79.6, 9.0),
        ("H100 and 2x A100", "H100", None, 79.6, 9.0),
        ("1x T4 16GB", "T4", 1, 15.0, 7.5),
        ("2X A100", "A100", 2, 79.2, 8.0),
        ("A100X8", "A100", 8, 79.2, 8.0),
        ("3x3090", "RTX 3090", 3, 24.0, 8.6),
        ("8x NVIDIA B200 180GB", "B200", 8, 179.0, 10.0),
        ("4A100", "A100", 4, 79.2, 8.0),
        ("a100 x 4, 40gb", "A100", 4, 79.2, 8.0),
        ("Jetson", None, None, None, None),
        ("python 3.10", None, None, None, None),
        ("H100 80GB HBM3, 8 GPUs, CUDA 12.4", "H100", 8, 79.6, 9.0),
        ("4x A100-SXM-80GB NVLink", "A100", 4, 79.2, 8.0),
        ("one RTX A5000 24 GB", "A10", 1, 22.5, 8.6),
        ("8H100", "H100", 8, 79.6, 9.0),
        ("640GB H100 x8", "H100", 8, 79.6, 9.0),
    ],
)
def test_ways_in_which_people_write_it(
    text: str, name: str | None, count: int | None, memory_gb: float | None, capability: float | None
) -> None:
    found = read(text)
    assert (found.name, found.count, found.memory_gb, found.capability) == (name, count, memory_gb, capability)


@given(st.text(max_size=300))
def test_no_words_break_it(text: str) -> None:
    read(text)


SMI = """\
| NVIDIA-SMI 535.54 Driver Version: 535.54 CUDA Version: 12.2 |
| GPU  Name  Persistence-M| Bus-Id  Disp.A | Volatile Uncorr. ECC |
|                               |                      |               MIG M. |
|   0  NVIDIA A100-SXM4-80GB  On | 00000000:07:00.0 Off | On |
| N/A 32C P0 63W / 400W | 2048MiB / 81920MiB | N/A Default | Enabled |
"""
SMI_SLICES = """\
| MIG devices:                                                                |
| GPU  GI  CI  MIG |         Memory-Usage |        Vol|         Shared        |
|  0    1   0   0  |     19MiB / 40192MiB | 42      0 |  3   0    2    0    0 |
"""


@pytest.mark.parametrize(
    ("text", "mig", "count", "memory_gb"),
    [
        ("A100 80GB, MIG 3g.40gb", True, 1, 36.0),
        ("8x H100 with 1g.10gb slices", True, 1, 9.0),
        ("NVIDIA A100-SXM4-80GB MIG 1c.2g.20gb", True, 1, 18.0),
        ("H100 in MIG mode", True, 1, None),
        ("8x H100, MIG enabled", True, 1, None),
        (SMI + SMI_SLICES, True, 1, 39.2),
        ("8x H100 80GB, MIG disabled", False, 8, 79.6),
        ("8x H100 80GB, no MIG", False, 8, 79.6),
        ("8x H100 80GB, MIG mode: off", False, 8, 79.6),
        (SMI.replace("Enabled", "Disabled"), False, None, 79.2),
        ("8x H100 80GB", False, 8, 79.6),
        ("MIGraphX on 8x H100", False, 8, 79.6),
    ],
)
def test_slices_of_a_card(text: str, mig: bool, count: int | None, memory_gb: float | None) -> None:
    found = read(text)
    assert (found.mig, found.count, found.memory_gb) == (mig, count, memory_gb)
