"""From a cause and readings to numbers and command lines: tables, and what must hold for any readings."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.argv import validate
from wizard.core.reading import Outcome, ProbeResult, Scalar, Snapshot, Value
from wizard.core.session import Offer
from wizard.core.target import Identity, Launch, Target
from wizard.server.catalogue import for_version
from wizard.session.planner import forced_offer, make_offers

BASE = "python -m sglang.launch_server --model-path /srv/m --port 30000"


def target(flags: str = "", **more: Any) -> Target:
    launch = Launch(tuple(shlex.split(f"{BASE} {flags}")), "/", {"HOME": "/root"})
    return Target(identity=Identity(4711, 1, "boot"), launch=launch, **more)


def offers(
    cause: str,
    readings: dict[str, Scalar],
    flags: str = "",
    version: str = "0.5.20",
    where: Target | None = None,
) -> dict[str, Offer]:
    snapshot = Snapshot().with_result(
        ProbeResult("sglang", Outcome.OK, {name: Value(x) for name, x in readings.items()})
    )
    catalogue = for_version(version)
    found = make_offers(BOOK.causes[cause], BOOK, where or target(flags), snapshot, catalogue)
    return {o.remedy.id: o for o in found}


def changes(offer: Offer) -> dict[str, tuple[str | None, str | None]]:
    assert offer.plan is not None, offer.why_not
    return {c.flag: (c.old, c.new) for c in offer.plan.changes}


CAPPED: dict[str, Scalar] = {
    "requests.running": 8,
    "requests.queued": 24,
    "requests.tokens_mean": 640.0,
    "kv.capacity_tokens": 905777,
    "server.max_running_requests_set": 8,
    "server.default_max_running_requests": 3538,
}
FULL_CPU: dict[str, Scalar] = {
    "server.device": "cpu",
    "server.max_total_tokens_set": 600,
    "kv.capacity_tokens": 600,
    "requests.running": 3,
    "requests.queued": 13,
    "requests.tokens_mean": 192.0,
}
FULL_CARD: dict[str, Scalar] = {
    "server.device": "cuda",
    "server.mem_fraction_static": 0.5,
    "server.mem_fraction_static_set": 0.5,
    "server.default_mem_fraction_static": 0.88,
    "server.available_memory_gb": 40.0,
    "gpu.memory_total_gb": 80.0,
}
OOM: dict[str, Scalar] = {
    "server.mem_fraction_static": 0.95,
    "server.mem_fraction_static_set": 0.95,
    "server.default_mem_fraction_static": 0.9,
    "log.oom_tried_gb": 2.0,
    "log.oom_free_gb": 1.0,
    "log.avail_before_load_gb": 79.0,
    "log.avail_after_load_gb": 64.0,
}
TOO_LOW: dict[str, Scalar] = {
    "server.mem_fraction_static": 0.1,
    "server.mem_fraction_static_set": 0.1,
    "server.default_mem_fraction_static": 0.88,
    "log.needed_fraction": 0.191,
    "log.avail_before_load_gb": 79.0,
    "log.avail_after_load_gb": 64.0,
}


@pytest.mark.parametrize(
    ("cause", "remedy", "readings", "flags", "expected"),
    [
        # dropped
        (
            "long_queue",
            "lift_running_cap",
            CAPPED,
            "--max-running-requests 8",
            {"--max-running-requests": ("8", None)},
        ),
        (
            "cuda_graph_disabled",
            "enable_cuda_graphs",
            {"server.cuda_graph_disabled": True},
            "--disable-cuda-graph",
            {"--disable-cuda-graph": ("", None)},
        ),
        # computed: 8 running + 24 waiting, 2 x 8 is less
        (
            "long_queue",
            "widen_running_cap",
            CAPPED,
            "--max-running-requests 8",
            {"--max-running-requests": ("8", "32")},
        ),
        # clamped from above: the pool holds 9,000 / 640 = 14 of them
        (
            "long_queue",
            "widen_running_cap",
            {**CAPPED, "kv.capacity_tokens": 9000},
            "--max-running-requests 8",
            {"--max-running-requests": ("8", "14")},
        ),
        # (3 + 13) x 192 x 1.5 = 4,608
        (
            "kv_cache_exhausted",
            "raise_pool_size",
            FULL_CPU,
            "--max-total-tokens 600",
            {"--max-total-tokens": ("600", "4608")},
        ),
        # clamped from below: never less than twice as much
        (
            "kv_cache_exhausted",
            "raise_pool_size",
            {**FULL_CPU, "requests.queued": 1, "requests.running": 1},
            "--max-total-tokens 600",
            {"--max-total-tokens": ("600", "1216")},
        ),
        (
            "kv_cache_exhausted",
            "restore_default_fraction",
            FULL_CARD,
            "--mem-fraction-static 0.5",
            {"--mem-fraction-static": ("0.5", None)},
        ),
        # 0.95 - (2 - 1 + 3) / 79 = 0.899, and SGLang would choose 0.9
        (
            "gpu_oom_load",
            "lower_fraction",
            OOM,
            "--mem-fraction-static 0.95",
            {"--mem-fraction-static": ("0.95", "0.90")},
        ),
        # nothing said what was missing: one usual step
        (
            "gpu_oom_load",
            "lower_fraction",
            {"server.mem_fraction_static": 0.85, "server.default_mem_fraction_static": 0.9},
            "--mem-fraction-static 0.85",
            {"--mem-fraction-static": ("0.85", "0.77")},
        ),
        # the weights themselves need 1 - 20 / 79.1 = 0.747: not below it
        (
            "gpu_oom_load",
            "lower_fraction",
            {**OOM, "log.oom_tried_gb": 20.0, "log.avail_after_load_gb": 20.0},
            "--mem-fraction-static 0.95",
            {"--mem-fraction-static": ("0.95", "0.77")},
        ),
        # 0.191 + 0.15 = 0.341
        (
            "mem_fraction_too_low",
            "raise_fraction_to_fit",
            TOO_LOW,
            "--mem-fraction-static 0.1",
            {"--mem-fraction-static": ("0.1", "0.34")},
        ),
        # the default of the card is the stop
        (
            "mem_fraction_too_low",
            "raise_fraction_to_fit",
            {**TOO_LOW, "log.needed_fraction": 0.8},
            "--mem-fraction-static 0.1",
            {"--mem-fraction-static": ("0.1", "0.88")},
        ),
        # joined spelling is kept
        (
            "mem_fraction_too_low",
            "raise_fraction_to_fit",
            TOO_LOW,
            "--mem-fraction-static=0.1",
            {"--mem-fraction-static": ("0.1", "0.34")},
        ),
        ("port_in_use", "use_free_port", {"port.suggested_free": 30007}, "", {"--port": ("30000", "30007")}),
        # waits, changes nothing
        ("port_in_use", "wait_for_port", {}, "", {}),
        (
            "gpu_oom_runtime",
            "smaller_chunk",
            {"server.chunked_prefill_size": 8192},
            "",
            {"--chunked-prefill-size": (None, "4096")},
        ),
    ],
)
def test_values(
    cause: str, remedy: str, readings: dict[str, Scalar], flags: str, expected: dict[str, Any]
) -> None:
    offer = offers(cause, readings, flags)[remedy]
    assert changes(offer) == expected
    assert offer.plan is not None
    assert all(passed for _, passed, _ in offer.plan.checks), offer.plan.checks
    assert "?" not in offer.why + "".join(c.why for c in offer.plan.changes)


@pytest.mark.parametrize(
    ("cause", "remedy", "readings", "flags", "why"),
    [
        # not moved the wrong way: it is as low as 64 already
        ("gpu_oom_cuda_graph", "smaller_graphs", {}, "--cuda-graph-max-bs-decode 32", "32 already"),
        # the flag is not on the line: nothing to drop
        (
            "cuda_graph_disabled",
            "enable_cuda_graphs",
            {"server.cuda_graph_disabled": True},
            "",
            "not on the command line",
        ),
        # its condition is false
        (
            "long_queue",
            "lift_running_cap",
            {**CAPPED, "server.max_running_requests_set": 4096},
            "--max-running-requests 4096",
            "does not apply",
        ),
        # its condition cannot be told
        ("long_queue", "lift_running_cap", {}, "--max-running-requests 8", "cannot tell whether it applies"),
        # the stops leave no room
        (
            "gpu_oom_load",
            "lower_fraction",
            {**OOM, "log.avail_after_load_gb": 3.0},
            "--mem-fraction-static 0.95",
            "at its limit",
        ),
        # for people
        ("gpu_memory_held_by_other_process", "free_the_card", {}, "", "for a person"),
    ],
)
def test_refusals(cause: str, remedy: str, readings: dict[str, Scalar], flags: str, why: str) -> None:
    offer = offers(cause, readings, flags)[remedy]
    assert offer.plan is None
    assert why in offer.why_not


def test_without_numbers_the_way_is_known_all_the_same() -> None:
    """A saved log that says neither the fraction nor what was missing: lower, but not to what."""
    offer = offers("gpu_oom_load", {}, where=Target(port=0, log_path="x.log"))["lower_fraction"]
    assert offer.plan is None
    assert offer.intents == (("--mem-fraction-static", "lower"),)
    raised = offers("mem_fraction_too_low", {}, where=Target(port=0, log_path="x.log"))
    assert raised["raise_fraction_to_fit"].intents == (("--mem-fraction-static", "higher"),)


@pytest.mark.parametrize(
    ("version", "flag"),
    [
        ("0.4.6", "--cuda-graph-max-bs"),
        ("0.5.13", "--cuda-graph-max-bs"),
        ("0.5.20", "--cuda-graph-max-bs-decode"),
    ],
)
def test_each_version_gets_its_own_spelling(version: str, flag: str) -> None:
    offer = offers("gpu_oom_cuda_graph", {}, version=version)["smaller_graphs"]
    assert changes(offer) == {flag: (None, "64")}
    assert offer.plan is not None
    assert [p for p in validate(offer.plan.new_argv, for_version(version)) if p.fatal] == []


def test_what_stands_on_the_line_keeps_its_spelling() -> None:
    offer = offers("cuda_graph_disabled", {"server.cuda_graph_disabled": True}, "--disable-cuda-graph")
    assert offer["enable_cuda_graphs"].intents == (("--disable-cuda-graph", None),)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (Target(port=0, log_path="x.log", command_text=f"{BASE} --max-running-requests 8"), "launch command"),
        (target("--max-running-requests 8", note="it runs as user id 7"), "user id 7"),
    ],
)
def test_what_cannot_be_relaunched_keeps_its_advice(where: Target, why: str) -> None:
    offer = offers("long_queue", CAPPED, where=where)["lift_running_cap"]
    assert offer.plan is None
    assert why in offer.why_not
    assert offer.intents == (("--max-running-requests", None),)


def test_applicable_offers_come_first_and_a_plan_keeps_the_rest_of_the_line() -> None:
    flags = "--max-running-requests 8 --api-key secret --log-level info"
    found = list(offers("long_queue", CAPPED, flags).values())
    assert [o.plan is not None for o in found] == sorted((o.plan is not None for o in found), reverse=True)
    plan = found[0].plan
    assert plan is not None
    assert list(plan.new_argv) == shlex.split(f"{BASE} --api-key secret --log-level info")
    assert plan.goal.reading == "throughput.output"
    assert all("secret" not in str(c.to_json()) for c in plan.changes)


def test_a_server_that_is_down_is_verified_by_being_ready() -> None:
    down = target("--max-running-requests 8")
    down = Target(launch=down.launch)
    plan = offers("long_queue", CAPPED, where=down)["lift_running_cap"].plan
    assert plan is not None
    assert plan.goal.reading == "ready"


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (target(), ("no_such_flag", "1"), "no flag no_such_flag"),
        (Target(port=0, log_path="x.log"), ("no_such_flag", "1"), "no flag no_such_flag"),
        (Target(port=0, log_path="x.log"), ("max_running_requests", "1"), "launch command"),
        (target(note="it runs as user id 7"), ("max_running_requests", "1"), "user id 7"),
        (target(), ("disable_cuda_graph", "7"), "takes no value"),
        (target(), ("max_running_requests", ""), "needs a value"),
    ],
)
def test_a_wrong_change_of_ones_own_is_one_line(
    where: Target, change: tuple[str, str | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        forced_offer(where, for_version("0.5.20"), [change])
    assert "\n" not in str(error.value)


def test_a_change_of_ones_own() -> None:
    offer = forced_offer(
        target("--max-running-requests 8"),
        for_version("0.5.20"),
        [("--chunked-prefill-size", "2048"), ("max-running-requests", None), ("disable_radix_cache", "")],
    )
    assert changes(offer) == {
        "--max-running-requests": ("8", None),
        "--chunked-prefill-size": (None, "2048"),
        "--disable-radix-cache": (None, ""),
    }


def test_a_sentence_whose_numbers_are_missing_is_left_out() -> None:
    offer = offers("gpu_oom_load", {"server.mem_fraction_static": 0.85}, "--mem-fraction-static 0.85")
    assert offer["lower_fraction"].why.startswith("A lower fraction takes memory")
    (freed,) = offers("gpu_memory_held_by_other_process", {})["free_the_card"].actions
    assert freed.startswith("Find who holds the card")


_SIZES = st.floats(0.5, 400.0)
_FRACTIONS = st.floats(0.05, 0.99)


@settings(max_examples=150, deadline=None)
@given(
    fraction=_FRACTIONS,
    default=st.none() | st.floats(0.5, 0.93),
    tried=st.none() | _SIZES,
    free=st.none() | _SIZES,
    before=st.none() | _SIZES,
    share=st.floats(0.0, 1.0),
)
def test_a_fraction_never_moves_the_wrong_way(
    fraction: float,
    default: float | None,
    tried: float | None,
    free: float | None,
    before: float | None,
    share: float,
) -> None:
    fraction = round(fraction, 3)
    known = {
        "server.mem_fraction_static": fraction,
        "server.mem_fraction_static_set": fraction,
        "server.default_mem_fraction_static": default,
        "log.oom_tried_gb": tried,
        "log.oom_free_gb": free,
        "log.avail_before_load_gb": before,
        "log.avail_after_load_gb": before * share if before is not None else None,
    }
    readings: dict[str, Scalar] = {k: v for k, v in known.items() if v is not None}
    flags = f"--mem-fraction-static {fraction}"
    lower = offers("gpu_oom_load", readings, flags)["lower_fraction"].plan
    if lower is not None:
        (change,) = lower.changes
        assert 0.0 < float(change.new or 0) < fraction
        if before is not None:
            assert float(change.new or 0) > 1 - before * share / (before + 0.1)
    higher = offers("mem_fraction_too_low", readings, flags)["raise_fraction_to_fit"].plan
    if higher is not None:
        (change,) = higher.changes
        assert fraction < float(change.new or 0) <= 0.93
