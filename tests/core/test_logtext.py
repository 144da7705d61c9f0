"""Log lines taken apart, whatever carried them."""

from __future__ import annotations

import pytest

from wizard.core.logtext import read_line

CARRIERS = [
    "sglang-1  | ",
    "2026-11-20T10:00:01.123456789Z ",
    "2026-11-20T10:00:01.123456789Z stderr F ",
    "2026-11-20T10:00:01+0000 gpu-host python3[12345]: ",
    "[pod/sglang-7f9c6d-x2x/sglang] ",
    "Nov 20 10:00:01 gpu-host sglang[12345]: ",
    "(SGLangServer pid=1234, ip=10.0.0.2) ",
    "0: ",
    "[default0]:",
    "[rank0]: ",
]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("line", "text", "ranks"),
    [
        ("[2026-11-20 10:00:01 TP0] Decode batch, #running-req: 1", "Decode batch, #running-req: 1", "TP0"),
        ("[2026-11-20 10:00:01] The server is fired up", "The server is fired up", ""),
        ("IndexError: index out of range in self", "IndexError: index out of range in self", ""),
        ('  File "x.py", line 3, in f', '  File "x.py", line 3, in f', ""),
    ],
)
def test_what_carries_a_log_is_taken_off_its_lines(carrier: str, line: str, text: str, ranks: str) -> None:
    bare, carried = read_line(line, 1), read_line(carrier + line, 1)
    assert (carried.text, carried.ranks, carried.stamp) == (bare.text, bare.ranks, bare.stamp)
    assert (bare.text, bare.ranks) == (text, ranks)


@pytest.mark.parametrize("line", ["[rank0]:[W1120 x.cpp:1] y", "a | b", "Nov 20 is a day", "(see pid=x) no"])
def test_what_only_looks_so_stays(line: str) -> None:
    assert read_line(line, 1).text == line
