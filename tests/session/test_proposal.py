"""What a person is asked to agree to follows what the server did last time and does now."""

from __future__ import annotations

import pytest

from wizard.core.plan import Consent, Stakes
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Value
from wizard.core.session import SessionState
from wizard.session.proposal import propose_run, ready_limit_s, stakes_of


def state_with(**readings: float) -> SessionState:
    values = {name.replace("__", "."): Value(x) for name, x in readings.items()}
    return SessionState(snapshot=Snapshot({"log": ProbeResult("log", Outcome.OK, values)}))


@pytest.mark.parametrize(
    ("last_start_s", "limit_s"),
    [(None, 900.0), (3.0, 300.0), (75.0, 300.0), (82.0, 328.0), (1200.0, 4800.0)],
)
def test_the_wait_for_ready_follows_the_last_start(last_start_s: float | None, limit_s: float) -> None:
    assert ready_limit_s(last_start_s) == limit_s


def test_a_proposal_takes_the_last_start_from_the_log() -> None:
    consent, _ = propose_run(state_with(log__start_s=600.0))
    assert consent.ready_limit_s == 2400.0
    consent, _ = propose_run(state_with())
    assert consent.ready_limit_s == Consent().ready_limit_s


def test_what_a_restart_meets() -> None:
    stakes = stakes_of(state_with(requests__running=3, requests__queued=5, log__start_s=21.5))
    assert stakes == Stakes(3, 5, 21.5)
    assert stakes.requests() == "3 requests run and 5 wait now"


@pytest.mark.parametrize(
    ("stakes", "words"),
    [
        (Stakes(), ""),
        (Stakes(queued=4), ""),
        (Stakes(1, 0), "1 request runs now"),
        (Stakes(0, 2), "0 requests run and 2 wait now"),
    ],
)
def test_requests_in_words(stakes: Stakes, words: str) -> None:
    assert stakes.requests() == words
