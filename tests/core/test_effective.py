"""What a server says it runs with, beside what was asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from wizard.core.commandline import parse
from wizard.core.effective import agreement
from wizard.core.plan import FlagChange
from wizard.server.catalogue import for_version

BASE = ("python", "-m", "sglang.launch_server", "--model-path", "m")


@pytest.mark.parametrize(
    ("flag", "old", "new", "says", "against", "notes"),
    [
        ("--max-running-requests", "8", "64", {"max_running_requests": 64}, "", ""),
        ("--max-running-requests", "8", "64", {"max_running_requests": 8}, "requests is still 8", ""),
        ("--max-running-requests", "8", "64", {"max_running_requests": 41}, "", "SGLang runs with 41"),
        ("--max-running-requests", "8", "64", {}, "", ""),
        ("--max-running-requests", "8", "64", {"max_running_requests": None}, "", ""),
        ("--max-running-requests", None, "64", {"max_running_requests": 8}, "", ""),
        ("--max-running-requests", "8", None, {"max_running_requests": 8}, "", ""),
        ("--mem-fraction-static", "0.90", "0.8", {"mem_fraction_static": 0.9}, "is still 0.90", ""),
        ("--mem-fraction-static", "0.9", "0.80", {"mem_fraction_static": 0.8}, "", ""),
        ("--tp", "1", "2", {"tp_size": 1}, "is still 1", ""),
        ("--schedule-policy", "fcfs", "lpm", {"schedule_policy": "fcfs"}, "is still fcfs", ""),
        ("--schedule-policy", "fcfs", "lpm", {"schedule_policy": ["odd"]}, "", ""),
        ("--cuda-graph-bs", "1 2", "1 2 4", {"cuda_graph_bs": [1, 2]}, "is still 1 2", ""),
        ("--api-key", "old-key", "new-key", {"api_key": "old-key"}, "--api-key is still ***", ""),
        ("--nonsense", "1", "2", {"nonsense": 1}, "", ""),
    ],
)
def test_changed_value(
    flag: str, old: str | None, new: str | None, says: dict[str, Any], against: str, notes: str
) -> None:
    argv = (*BASE, *((flag, *new.split()) if new else ()))
    found = agreement([FlagChange(flag, old, new)], parse(argv, for_version("0.5.9")), {}, says)
    assert against in "; ".join(found.against)
    assert bool(found.against) is bool(against)
    assert notes in "; ".join(found.notes)
    assert bool(found.notes) is bool(notes)
    assert "old-key" not in str(found)


@pytest.mark.parametrize(
    ("flag", "before", "after", "against"),
    [
        ("--tp", "m", "m", False),
        ("--tp", "m", "other", True),
        ("--tp", None, "other", False),
        ("--tp", "m", None, False),
        ("--model-path", "m", "other", False),
        ("--model", "m", "other", False),
    ],
)
def test_model(flag: str, before: str | None, after: str | None, against: bool) -> None:
    command = parse((*BASE, flag, "2"), for_version("0.5.9"))
    found = agreement([FlagChange(flag, "1", "2")], command, {"model_path": before}, {"model_path": after})
    assert bool(found.against) is against
