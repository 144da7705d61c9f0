from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from tests.probes.recordings import shared
from wizard.core.logtext import leading
from wizard.core.reading import Outcome, ProbeResult, Trust
from wizard.core.story import MOST_SAMPLES
from wizard.core.target import Identity, Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import logfile
from wizard.probes.base import ProbeContext, run_probe
from wizard.probes.logfile import read_saved
from wizard.server.identity import identify

SIGNATURES = BOOK.signatures
START = (
    b"[2026-01-02 03:00:00] server_args={'model_path': 'm', 'api_key': 'hunter2', 'mem_fraction_static': 0.5}\n"
)
READY = START + b"[2026-01-02 03:00:09] The server is fired up and ready to roll!\n"


async def look(target: Target) -> ProbeResult:
    result = await run_probe("log", ProbeContext(target, signatures=SIGNATURES))
    assert set(result.values) <= set(VOCABULARY)
    assert "\n" not in (result.reason or "")
    assert "hunter2" not in json.dumps(result.to_json())
    return result


def saved(path: Path) -> Target:
    return Target(port=0, log_path=str(path))


def live(path: Path) -> Target:
    identity = identify(os.getpid())
    assert isinstance(identity, Identity)
    return Target(identity=identity, launch=Launch(("x",), "/"), log_path=str(path))


def batch(stamp: str, running: int, queued: int, usage: float, kind: str = "Decode") -> bytes:
    return (
        f"[{stamp}] {kind} batch, #running-req: {running}, #token: 9, token usage: {usage}, cuda graph: True, "
        f"gen throughput (token/s): 9.0, #queue-req: {queued}\n"
    ).encode()


def now_stamp(ago: float = 0.0) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - ago))


RECORDED = {
    "cpu/fail_bad_flag.log": ("bad_cli_args", "starting"),
    "cpu/fail_port_in_use_by_silent_listener.log": ("port_in_use", "kv_allocation"),
    "cpu/fail_port_in_use_by_sglang.log": ("port_in_use", "ready"),
    "cpu/fail_mem_fraction_negative.log": ("not_enough_memory", "kv_allocation"),
    "cpu/fail_sigkill_scheduler.log": ("process_crashed", "serving"),
    "cpu/fail_scheduler_stopped.log": ("health_failed", "ended"),
    "cpu/fail_model_path_missing.log": ("model_not_found", "starting"),
    "cpu/fail_module_not_found_sglang.log": ("module_missing", "starting"),
    "cpu/fail_kv_retract.log": (None, "ended"),
    "cpu/server_ok.log": (None, "ended"),
    "cpu/server_0.5.10.log": (None, "serving"),
    "cpu/server_0.5.16.log": (None, "serving"),
    "cpu/server_0.5.23.log": (None, "ended"),
    "h200/t_default/server.log": (None, "serving"),
    "h200/mem_8b_0.5/server.log": (None, "ready"),
    "h200/f_oom_side/server.log": ("gpu_oom_load", "loading"),
    "h200/f_frac_0.1/server.log": ("not_enough_memory", "kv_allocation"),
    "h200/f_watchdog/server.log": ("watchdog", "ready"),
    "h200/q_port_in_use_other_app/server.log": ("port_in_use", "kv_allocation"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_logs(name: str) -> None:
    story = read_saved(str(shared(name)), SIGNATURES).story
    hit = leading(story.ordered_hits)
    assert (hit.signature.id if hit else None, story.phase) == RECORDED[name]


async def test_recorded_numbers_of_an_h200_start() -> None:
    x = {k: v.x for k, v in (await look(saved(shared("h200/t_default/server.log")))).values.items()}
    assert x["log.avail_before_load_gb"] == 139.09
    assert x["log.avail_after_load_gb"] == 124.07
    assert x["weights.memory_gb"] == 15.02
    assert x["kv.pool_gb"] == 110.58
    assert x["kv.capacity_tokens"] == 905795
    assert float(str(x["kv.cell_bytes"])) == pytest.approx(131072, rel=0.001)
    assert x["graph.memory_gb"] == pytest.approx(1.78)
    assert x["server.available_memory_gb"] == 9.78
    assert x["decode.cuda_graph_share"] == 1.0
    assert x["requests.retracted"] == 0


async def test_recorded_oom_beside_another_process() -> None:
    x = {k: v.x for k, v in (await look(saved(shared("h200/f_oom_side/server.log")))).values.items()}
    assert (x["log.oom_total_gb"], x["log.oom_other_gb"]) == (139.8, 130.51)


async def test_recorded_retractions_are_counted() -> None:
    result = await look(saved(shared("h200/f_kv_exhaust/server.log")))
    assert result.values["requests.retracted"].x == 9


async def test_a_live_log_counts_its_last_minute(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    old, new = now_stamp(600), now_stamp()
    path.write_bytes(
        READY
        + batch(old, 50, 40, 0.99)
        + f"[{old}] KV cache pool is full. Retract requests. #retracted_reqs: 3\n".encode()
        + batch(new, 2, 1, 0.25)
    )
    x = {k: v.x for k, v in (await look(live(path))).values.items()}
    assert (x["requests.running"], x["requests.queued"], x["kv.usage"]) == (2, 1, 0.25)
    assert (x["requests.retracted"], x["requests.retracted_total"]) == (0, 3)
    whole = {k: v.x for k, v in (await look(saved(path))).values.items()}
    assert (whole["requests.running"], whole["requests.retracted"]) == (50, 3)


async def test_a_live_log_that_went_quiet_says_nothing_of_now(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(READY + batch(now_stamp(600), 50, 40, 0.99))
    os.utime(path, (time.time() - 600,) * 2)
    result = await look(live(path))
    assert "requests.running" not in result.values
    assert result.values["log.phase"].x == "serving"


async def test_pool_usage_is_taken_while_something_waits(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(
        READY + batch("2026-01-02 03:01:00", 5, 3, 0.02) + batch("2026-01-02 03:09:00", 8, 0, 0.93)
    )
    assert (await look(saved(path))).values["kv.usage"].x == 0.02


async def test_the_leading_line_has_its_place_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(START + b"x\n\nRuntimeError: CUDA out of memory. --api-key hunter2 \x1b[31mred\n")
    result = await look(saved(path))
    assert result.values["log.signature"].source == "server.log:4"
    assert result.values["log.error"].x == "RuntimeError: CUDA out of memory. --api-key *** red"
    assert result.values["log.error"].trust is Trust.REPORTED


async def test_progress_bars_binary_bytes_and_very_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    bar = b"\r".join(b" 3%| | 1/36 [00:00<00:30, 1.14it/s]" for _ in range(500))
    path.write_bytes(
        START
        + bar
        + b"\r[2026-01-02 03:00:05] Load weight end. avail mem=5.00 GB, mem usage=1.00 GB\n"
        + bytes(range(256)) * 40
        + b"\n"
        + b"y" * 3_000_000
        + b"\n[2026-01-02 03:00:09] The server is fired up and ready to roll!\n"
    )
    x = {k: v.x for k, v in (await look(saved(path))).values.items()}
    assert (x["log.avail_after_load_gb"], x["log.fired_up"]) == (5.0, True)


def test_a_large_log_is_read_whole_and_lines_stay_numbered(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    filler = b"".join(batch("2026-01-02 03:05:00", 2, 0, 0.1) for _ in range(1000))
    with path.open("wb") as file:
        file.write(READY)
        file.write(filler * 60)
        file.write(b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.\n")
        file.write(filler * 60)
    view = read_saved(str(path), SIGNATURES)
    hit = leading(view.story.ordered_hits)
    assert hit is not None
    assert (hit.signature.id, hit.number) == ("gpu_oom_runtime", 60_003)
    assert (view.passed_over, view.unsearched) == (0, 0)
    assert (view.story.last_line, len(view.story.batches)) == (120_003, MOST_SAMPLES)


def test_out_of_time_the_end_is_read_and_the_rest_is_owned_up_to(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    filler = b"".join(batch("2026-01-02 03:05:00", 2, 0, 0.1) for _ in range(1000))
    path.write_bytes(READY + filler * 60 + b"CUDA out of memory.\n")
    view = read_saved(str(path), SIGNATURES, seconds=0.0)
    assert view.unsearched > 3_000_000
    assert [(h.signature.id, h.number) for h in view.story.ordered_hits] == [("gpu_oom_runtime", 60_003)]


def test_the_last_start_of_a_long_live_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.log"
    filler = b"".join(batch("2026-01-02 03:05:00", 2, 0, 0.1) for _ in range(1000))
    with path.open("wb") as file:
        file.write(START + b"torch.OutOfMemoryError: CUDA out of memory.\n")
        file.write(filler * 20)
        file.write(READY.replace(b"03:00", b"09:00").replace(b"0.5}", b"0.7}"))
        file.write(filler * 40)
    for live_bytes in (logfile.LIVE_BYTES, 2_000_000):
        monkeypatch.setattr(logfile, "LIVE_BYTES", live_bytes)
        view = logfile.read_live(str(path), SIGNATURES)
        assert view.story.settings["mem_fraction_static"] == 0.7
        assert view.story.settings_line == 20_003
        assert view.story.last_line == 60_004
        assert leading(view.story.ordered_hits) is None
        assert (view.passed_over > 0) == (live_bytes == 2_000_000)


async def test_no_log_no_permission_no_file(tmp_path: Path) -> None:
    missing = await look(saved(tmp_path / "nothing.log"))
    assert (missing.outcome, "is not there" in (missing.reason or "")) == (Outcome.UNAVAILABLE, True)
    nowhere = await look(Target(port=1234, launch=Launch(("x",), "/")))
    assert nowhere.outcome is Outcome.NO_DATA
    assert "--log FILE" in (nowhere.remedy or "")
    (tmp_path / "empty.log").touch()
    assert (await look(saved(tmp_path / "empty.log"))).outcome is Outcome.NO_DATA


async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    result = await look(saved(tmp_path / "pipe"))
    assert time.monotonic() - started < 5
    assert result.outcome is Outcome.UNAVAILABLE
    assert "not a regular file" in (result.reason or "")


@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(READY.splitlines())), max_size=20))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_story(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "any.log"
    path.write_bytes(b"\n".join(lines))
    view = read_saved(str(path), SIGNATURES)
    assert view.story.last_line <= path.read_bytes().count(b"\n") + 1


async def test_a_log_of_vllm_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(
        "(APIServer pid=1) INFO 11-20 10:00:07 [api_server.py:1896] vLLM API server version 0.10.2\n"
        "(EngineCore_DP0 pid=72) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.\n"
    )
    result = await look(saved(path))
    assert result.outcome is Outcome.NO_DATA
    assert "server.log is a log of vLLM, not of SGLang" in (result.reason or "")


async def test_services_that_were_left_out_are_named(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    lines = [b"sglang-1  | " + line for line in READY.splitlines()]
    path.write_bytes(b"\n".join((b"web-1     | torch.OutOfMemoryError: CUDA out of memory.", *lines)))
    result = await look(saved(path))
    assert (result.outcome, result.values["log.cause"].x) == (Outcome.OK, "none")
    assert result.reason == "lines of web-1 are not SGLang's and were left out"
