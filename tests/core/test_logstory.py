from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.logstory import LogReader
from wizard.core.logtext import LINE_CAP, Hit, Signature, in_order_of_weight, leading, read_line
from wizard.core.serverargs import decode_graph_disabled, parse_server_args
from wizard.core.story import PHASES, Story

SIGNATURES = BOOK.signatures
STAMP = "[2026-01-02 03:04:05]"


def told(*lines: str) -> Story:
    reader = LogReader(SIGNATURES)
    for number, line in enumerate(lines, 1):
        reader.feed(line, number)
    return reader.story


def lead_of(*lines: str) -> str | None:
    hit = leading(told(*lines).ordered_hits)
    return hit.signature.id if hit else None


@pytest.mark.parametrize(
    ("line", "text", "ranks", "stamped"),
    [
        (f"{STAMP} Load weight begin.", "Load weight begin.", "", True),
        ("[2026-01-02 03:04:05.123] x", "x", "", True),
        ("[2026-01-02 03:04:05 TP0] x", "x", "TP0", True),
        ("[2026-01-02 03:04:05 DP1 TP3 EP2] x", "x", "DP1 TP3 EP2", True),
        ("[2026-01-02 03:04:05 DisaggregationMode.PREFILL TP1] x", "x", "DisaggregationMode.PREFILL TP1", True),
        ("(pod-7) stdout F [2026-01-02 03:04:05 TP0] x", "x", "TP0", True),
        ("[TP0] Decode batch. #running-req: 1", "Decode batch. #running-req: 1", "TP0", False),
        ("Traceback (most recent call last):", "Traceback (most recent call last):", "", False),
        ("[1, 2, 3] is a list", "[1, 2, 3] is a list", "", False),
    ],
)
def test_prefixes(line: str, text: str, ranks: str, stamped: bool) -> None:
    read = read_line(line, 1)
    assert (read.text, read.ranks, read.stamp is not None) == (text, ranks, stamped)


@pytest.mark.parametrize(
    ("line", "running", "queued", "usage", "graph"),
    [
        ("Decode batch, #running-req: 8, #token: 90, token usage: 0.31, cuda graph: True, "
         "gen throughput (token/s): 1.0, #queue-req: 5", 8, 5, 0.31, True),
        ("Decode batch. #running-req: 36, #token: 958017, token usage: 0.96", 36, None, 0.96, None),
        ("Decode batch, #running-req: 4, #full token: 26, full token usage: 1.00, #swa token: 14, "
         "swa token usage: 0.06, cuda graph: False, #queue-req: 3", 4, 3, 1.0, False),
        ("Prefill batch, #new-seq: 1, #new-token: 11, #cached-token: 0, token usage: 0.02, #running-req: 7, "
         "#queue-req: 9, #pending-token: 0, cuda graph: True", 7, 9, 0.02, None),
    ],
)  # fmt: skip
def test_batch_lines_of_several_versions(
    line: str, running: int, queued: int | None, usage: float, graph: bool | None
) -> None:
    story = told(f"{STAMP} {line}")
    batch = story.batches[-1]
    assert (batch.running, batch.queued, batch.usage, batch.graph) == (running, queued, usage, graph)
    assert story.phase == "serving"


STARTED = (
    f"{STAMP} server_args=ServerArgs(model_path='m', tp_size=1, mem_fraction_static=0.88)",
    f"{STAMP} Load weight begin. avail mem=78.50 GB",
)
LOADED = (*STARTED, f"{STAMP} Load weight end. type=L, dtype=b, avail mem=63.10 GB, mem usage=15.02 GB.")
CAPTURING = (
    *LOADED,
    f"{STAMP} KV Cache is allocated. #tokens: 1000, K size: 2.00 GB, V size: 2.00 GB",
    f"{STAMP} Memory pool end. avail mem=9.20 GB",
    f"{STAMP} Capture cuda graph begin. This can take up to several minutes. avail mem=9.1 GB",
)
READY = (*CAPTURING, f"{STAMP} The server is fired up and ready to roll!")
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of "
    "139.80 GiB of which 154.31 MiB is free. Including non-PyTorch memory, this process has 9.13 GiB memory in "
    "use. Process 4560 has 130.51 GiB memory in use."
)
SIGQUIT = f"{STAMP} Received sigquit from a child process. It usually means the child failed."


@pytest.mark.parametrize(
    ("before", "signature", "phase"),
    [
        (STARTED, "gpu_oom_load", "loading"),
        (LOADED, "gpu_oom_kv", "kv_allocation"),
        (CAPTURING, "gpu_oom_capture", "capture"),
        (READY, "gpu_oom_runtime", "ready"),
        ((), "gpu_oom", "starting"),
    ],
)
def test_out_of_memory_is_told_apart_by_phase(before: tuple[str, ...], signature: str, phase: str) -> None:
    wrapper = f"{STAMP} Scheduler hit an exception: Traceback (most recent call last):"
    story = told(*before, wrapper, OOM, SIGQUIT)
    hit = leading(story.ordered_hits)
    assert hit is not None
    assert (hit.signature.id, hit.phase, story.phase) == (signature, phase, phase)


@pytest.mark.parametrize(
    ("frame", "signature"),
    [
        ("capture", "gpu_oom_capture"),
        ("init_memory_pool", "gpu_oom_kv"),
        ("load_model", "gpu_oom_load"),
        ("forward_extend", "gpu_oom_runtime"),
    ],
)
def test_an_excerpt_without_a_start_is_placed_by_its_traceback(frame: str, signature: str) -> None:
    lines = ("Traceback (most recent call last):", f'  File "x.py", line 1, in {frame}', "    y()", OOM)
    assert lead_of(*lines) == signature


def test_numbers_of_the_out_of_memory_text() -> None:
    numbers = {k: v[0] for k, v in told(*STARTED, OOM).numbers.items()}
    assert numbers["log.oom_tried_gb"] == pytest.approx(224 / 1024, abs=1e-3)
    assert numbers["log.oom_total_gb"] == 139.8
    assert numbers["log.oom_free_gb"] == pytest.approx(0.1507, abs=1e-3)
    assert numbers["log.oom_other_gb"] == 130.51


def test_start_up_numbers() -> None:
    numbers = {k: v[0] for k, v in told(*READY).numbers.items()}
    assert numbers["log.avail_before_load_gb"] == 78.5
    assert numbers["log.avail_after_load_gb"] == 63.1
    assert numbers["weights.memory_gb"] == 15.02
    assert numbers["kv.pool_gb"] == 4.0


def test_the_two_memory_texts_stay_apart() -> None:
    text = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."
    assert lead_of(*LOADED, text, SIGQUIT) == "not_enough_memory"
    newer = (
        "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.1. "
        "Raise --mem-fraction-static above 0.109 (minimum viable = 0.1086)."
    )
    story = told(*LOADED, newer)
    assert lead_of(*LOADED, newer) == "not_enough_memory"
    assert story.numbers["log.needed_fraction"][0] == 0.109


def test_bind_error_names_the_port_and_leads_even_after_a_false_ready() -> None:
    bind = f"{STAMP} ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 30182): x"
    story = told(*CAPTURING, bind, READY[-1], SIGQUIT)
    assert story.numbers["log.port_taken"][0] == 30182
    assert lead_of(*CAPTURING, bind, READY[-1], SIGQUIT) == "port_in_use"


def test_victims_never_lead_over_a_lead_and_noise_never_at_all() -> None:
    noise = f"{STAMP} Ignore import error when loading sglang.srt.models.x: No module named 'vllm'"
    assert lead_of(noise) is None
    assert lead_of(noise, SIGQUIT) is None
    crash = f"{STAMP} Subprocess scheduler_0 (pid=1) crashed with exit code -9. Triggering SIGQUIT"
    assert lead_of(*READY, crash, SIGQUIT) == "process_crashed"
    assert lead_of(*READY, crash, OOM) == "gpu_oom_runtime"


def test_a_known_cause_leads_over_an_unknown_exception_before_it() -> None:
    known = "ValueError: The checkpoint has type `f` but Transformers does not recognize this architecture."
    assert lead_of("OddError: fancy", known) in (
        "model_type_unknown",
        "architecture_unknown",
        "unknown_architecture",
    )
    assert lead_of("OddError: fancy") == "exception"


def test_order_of_signatures() -> None:
    def hit(name: str, role: str, number: int, cause: str = "") -> Hit:
        return Hit(Signature(name, "x", role, cause=cause), number, "", "")  # type: ignore[arg-type]

    hits = [hit("v", "victim", 1), hit("n", "noise", 2), hit("e", "lead", 3), hit("f", "info", 4, "c"),
            hit("l", "lead", 5, "c")]  # fmt: skip
    assert in_order_of_weight(hits) == ("l", "e", "f", "v")


def test_a_second_start_in_the_same_file_is_a_new_story() -> None:
    later = [line.replace("03:04:05", "03:14:05") for line in READY]
    story = told(*LOADED, OOM, SIGQUIT, *later)
    assert story.phase == "ready"
    assert leading(story.ordered_hits) is None
    assert story.settings_line == len(LOADED) + 3


def test_the_tail_of_an_earlier_start_is_not_this_one() -> None:
    """A live log is read from a little before its last start: what failed there is over."""
    start = f"{STAMP} server_args={{'model_path': 'm', 'mem_fraction_static': 0.9}}"
    story = told(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.98 GiB.",
        f"{STAMP} Received sigquit from a child process. It usually means the child failed.",
        start,
        f"{STAMP} The server is fired up and ready to roll!",
    )
    assert leading(story.ordered_hits) is None
    assert "log.oom_tried_gb" not in story.numbers
    assert (story.phase, story.settings_line) == ("ready", 3)


def test_how_long_the_last_start_took() -> None:
    settings = "server_args={'model_path': 'm'}"
    ready = "The server is fired up and ready to roll!"
    story = told(f"[2026-01-02 03:04:05] {settings}", f"[2026-01-02 03:05:27] {ready}")
    assert story.start_s == 82.0
    assert told(f"[2026-01-02 03:04:05] {settings}").start_s is None
    assert told(f"[2026-01-02 03:05:27] {ready}").start_s is None
    assert told(f"[2026-01-02 03:05:27] {settings}", f"[2026-01-02 03:04:05] {ready}").start_s is None


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CUDA out of memory while autotuning, retrying with smaller workspace",
        "Out of memory: Killed process 9999 (chrome) total-vm:100kB",
    ],
)
def test_what_was_survived_accuses_nobody(line: str) -> None:
    assert lead_of(*STARTED, f"{STAMP} {line}") is None


@pytest.mark.parametrize("name", ["sglang::schedul", "python3", "pt_main_thread"])
def test_the_kernel_ending_a_server_does(name: str) -> None:
    assert (
        lead_of(*STARTED, f"Out of memory: Killed process 9999 ({name}) total-vm:100kB") == "host_memory_short"
    )


def test_another_node_that_starts_at_the_same_time_is_the_same_story() -> None:
    assert lead_of(*STARTED, STARTED[0], OOM) == "gpu_oom_load"


def test_the_argparse_error_of_a_next_start_counts() -> None:
    usage = ("usage: sglang serve [-h]", "                    [--watchdog-timeout WATCHDOG_TIMEOUT]")
    error = "sglang serve: error: unrecognized arguments: --cuda-graph-max-bs 8"
    story = told(*READY, *usage, error)
    assert [h.signature.id for h in story.ordered_hits] == ["bad_cli_args"]
    assert story.phase == "starting"


def test_retractions_said_by_every_rank_count_once() -> None:
    def line(rank: int, second: int) -> str:
        return (
            f"[2026-01-02 03:04:{second:02d} TP{rank}] KV cache pool is full. Retract requests. "
            "#retracted_reqs: 2, #new_tokens_gained: 9"
        )

    story = told(*READY, line(0, 6), line(1, 6), line(2, 6), line(0, 7))
    assert story.retracted == 4
    assert "kv_retract" in story.hits


@pytest.mark.parametrize(
    "line",
    [
        "server_args=ServerArgs(model_path='a, b', tp_size=2, disable_cuda_graph=True, api_key='k', x=[1, 2], "
        "cuda_graph_config=CudaGraphConfig(decode=PhaseConfig(backend='disabled', bs=[1, 2])), last=None)",
        "server_args={'model_path': 'a, b', 'tp_size': 2, 'disable_cuda_graph': True, 'api_key': 'k', "
        "'x': [1, 2], 'cuda_graph_config': {'decode': {'backend': 'disabled'}}, 'last': None}",
    ],
)
def test_both_shapes_of_server_args(line: str) -> None:
    found = parse_server_args(f"{STAMP} {line}")
    assert (found["model_path"], found["tp_size"], found["last"]) == ("a, b", 2, None)
    assert decode_graph_disabled(found) is True
    cut = parse_server_args(f"{STAMP} {line[:60]}")
    assert cut["model_path"] == "a, b"


def test_graphs_of_older_versions() -> None:
    assert decode_graph_disabled({"disable_cuda_graph": False}) is False
    assert decode_graph_disabled({}) is None


def test_signatures_are_well_formed() -> None:
    assert len({s.id for s in SIGNATURES}) == len(SIGNATURES)
    for signature in SIGNATURES:
        assert signature.phases <= set(PHASES), signature.id
        # a group that repeats and holds a repeat of its own can take exponential time
        assert not re.search(r"\([^()]*[^\\][*+][^()]*\)[*+]", signature.pattern), signature.id
        assert "CUDA out of memory" not in signature.pattern or signature.role == "lead"


@pytest.mark.parametrize(
    "line",
    ["a" * LINE_CAP, "error: argument " + "a" * LINE_CAP, "Capture " + "a " * 2000, "Traceback " + "x.y" * 1300,
     "(" * LINE_CAP, "[" * LINE_CAP, "Model architectures " * 200, "a." * 2000 + "Error", "image" * 800],
)  # fmt: skip
def test_no_line_takes_long(line: str) -> None:
    started = time.thread_time()  # its own work: a busy machine is no slow pattern
    told(line)
    assert time.thread_time() - started < 1.0


@given(st.lists(st.text(max_size=200), max_size=30))
@settings(max_examples=80, deadline=None)
def test_any_text_gives_a_story(lines: list[str]) -> None:
    assert told(*lines).phase in PHASES


WORDS = st.sampled_from(
    [*READY, OOM, SIGQUIT, "server_args=", "server_args={", "Decode batch, #running-req: 99999999999999999999",
     "Load weight begin. avail mem=-. GB", "[2026-99-99 99:99:99] x", "[0000-00-00 00:00:00] x",
     "max_total_num_tokens=", "Tried to allocate 9 GiB", "usage: ", "token usage: 9.99"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.tuples(WORDS, st.text(max_size=9)).map("".join)), max_size=40))
@settings(max_examples=80, deadline=None)
def test_half_known_lines_give_a_story(lines: list[str]) -> None:
    story = told(*lines)
    assert story.phase in PHASES
    assert all(h.number <= story.last_line for h in story.ordered_hits)
