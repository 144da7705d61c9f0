"""The alert rules name only metrics that SGLang exports."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

RULES = Path(__file__).parent.parent / "assets" / "alerts.yml"
EXPORTED = {
    "sglang:num_queue_reqs",
    "sglang:token_usage",
    "sglang:time_to_first_token_seconds_bucket",
    "sglang:time_to_first_token_seconds_count",
    "sglang:gen_throughput",
    "sglang:num_running_reqs",
    "sglang:generation_tokens_total",
}
"""Seen on the /metrics page of real servers, 0.5.10 to 0.5.23."""


def test_every_rule_names_metrics_that_exist() -> None:
    rules = [r for group in yaml.safe_load(RULES.read_text())["groups"] for r in group["rules"]]
    named = set(re.findall(r"sglang:\w+", " ".join(r["expr"] for r in rules)))
    assert named == EXPORTED
    assert {"alert", "expr", "for", "labels", "annotations"} == set().union(*(r.keys() for r in rules))
    assert all("sglang_" not in r["expr"] for r in rules)
