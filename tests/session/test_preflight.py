"""What would go wrong is said before the old server is stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wizard.core.held import Held
from wizard.core.placement import Placement
from wizard.core.plan import Consent, Plan, Stakes, VerifyGoal
from wizard.core.reading import Value
from wizard.core.target import Launch, Target
from wizard.session.preflight import check_plan
from wizard.session.text import plan_lines
from wizard.tui.screens.confirm import radius_lines

OLD = ("python", "-m", "sglang.launch_server", "--model-path", "m", "--mem-fraction-static", "0.88")
H200 = {"log.avail_before_load_gb": 138.6, "log.avail_after_load_gb": 123.5, "kv.cell_bytes": 131072}
"""A start recorded on an H200 with an 8B model in bf16."""


def memory_check(change: str, readings: dict[str, float]) -> tuple[str, bool, str] | None:
    new = (*OLD[:-1], *change.split())
    plan = Plan("c", "c", "r", "r", OLD, new, (), VerifyGoal("ready"), "", "", "")
    target = Target(host="127.0.0.1", port=1, version="0.5.20")
    env = {name: Value(x) for name, x in readings.items()}.get
    return next((c for c in check_plan(plan, target, env).checks if c[0] == "memory"), None)


def test_a_fraction_without_room_for_a_pool_is_refused_before_the_stop() -> None:
    check = memory_check("0.08", H200)
    assert check is not None
    assert not check[1]
    assert "must be above 0.11" in check[2]


def test_a_fraction_that_fits_says_what_it_gives() -> None:
    check = memory_check("0.80", H200)
    assert check is not None
    assert check[1]
    assert "95." in check[2]
    assert "tokens" in check[2]


def test_another_kv_dtype_makes_the_tokens_unknown() -> None:
    check = memory_check("0.80 --kv-cache-dtype fp8_e4m3", H200)
    assert check is not None
    assert check[1]
    assert "tokens" not in check[2]


@pytest.mark.parametrize(
    ("change", "readings"),
    [
        ("0.08 --tp-size 2", H200),
        ("0.08 --quantization fp8", H200),
        ("0.08", {}),
        ("1.5", H200),
        ("much", H200),
    ],
)
def test_what_cannot_be_known_is_not_checked(change: str, readings: dict[str, float]) -> None:
    assert memory_check(change, readings) is None


def test_what_cannot_be_restored_is_a_note_that_refuses_nothing() -> None:
    plan = Plan("c", "c", "r", "r", OLD, OLD, (), VerifyGoal("ready"), "", "", "")
    launch = Launch(OLD, "/", placement=Placement(cpus=(0, 1000)))  # a processor of another cpuset
    target = Target(host="127.0.0.1", port=1, launch=launch)
    found = check_plan(plan, target)
    (note,) = found.notes
    assert "instead of 0,1000" in note
    assert Plan.from_json(found.to_json()) == found
    consent = Consent()
    assert note in " ".join(" ".join(plan_lines(found, None, consent, "nothing")).split())
    rows = radius_lines(found, consent, None, target, Stakes(), 200)
    assert note in "".join(text for row in rows for text, _ in row)
    assert check_plan(plan, replace(target, launch=replace(launch, placement=Placement()))).notes == ()
    held = replace(target, held=Held("other", "supervisord", why_not="no tool", is_assisted=True))
    assert check_plan(plan, held).notes == (), "its holder starts it, from where it always does"


@pytest.mark.parametrize(("escalate", "then"), [(True, "they are cut"), (False, "nothing is killed")])
@pytest.mark.parametrize(
    ("last_s", "limit"), [(31.0, "the last start took 31 s, and 900 s are the limit"), (None, "900 s at")]
)
def test_the_plain_consent_tells_of_the_drain_and_the_limits(
    escalate: bool, then: str, last_s: float | None, limit: str
) -> None:
    plan = Plan("c", "c", "r", "r", OLD, OLD, (), VerifyGoal("ready"), "", "", "")
    consent = Consent(escalate=escalate)
    lines = plan_lines(plan, None, consent, "nothing", stakes=Stakes(3, 5, last_s))
    text = " ".join(" ".join(lines).split())
    assert "running requests get 60 s to end (new ones are still taken)" in text
    assert then in text
    assert limit in text
