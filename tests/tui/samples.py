"""Session states built by hand: what the screens are functions of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from wizard.core.expr import parse, parse_template
from wizard.core.flow import Branch, Cause, Flow, FlowBook, Node, Remedy, Sign
from wizard.core.measurement import Comparison, Judgement, Measurement, Verdict, Workload
from wizard.core.plan import Consent, FlagChange, Plan, VerifyGoal
from wizard.core.progress import Outcome as RunOutcome
from wizard.core.progress import RunState, Stage, StageState
from wizard.core.reading import Outcome, ProbeResult, Snapshot, Trust, Value
from wizard.core.session import Offer, PathStep, SessionState, Step
from wizard.core.target import Identity, Target
from wizard.core.triage import rank
from wizard.runner.client import SessionSummary

HOSTILE = "[rank0]: CUDA OOM [/x] \x1b[31mred\x1b[0m [bold]not bold[/bold] \x07"
HOSTILE_SHOWN = "[rank0]: CUDA OOM [/x] red [bold]not bold[/bold]"

OLD = ("python", "-m", "sglang.launch_server", "--model-path", "/m/llama-8b", "--max-running-requests", "8")
NEW = OLD[:5]


def summary(session_id: str, outcome: RunOutcome | None, *, alive: bool = False) -> SessionSummary:
    path = Path(f"/nowhere/session-{session_id}.db")
    serving = "unknown"
    return SessionSummary(
        session_id, path, 0.0, "llama-8b :30000 [/x]", "long_queue", outcome, serving, "", alive
    )


def sign(when: str, weight: float, says: str) -> Sign:
    return Sign(parse(when), weight, parse_template(says))


def question(*branches: Branch, **more: Any) -> Node:
    return Node("what_limits", branches=branches, **more)


BOOK = FlowBook(
    flows={
        "requests_wait": Flow(
            "requests_wait",
            "Requests wait too long",
            "Requests queue before they run. Something limits how many run at once.",
            "performance",
            "what_limits",
            {
                "what_limits": question(
                    Branch("pool", "The KV pool is full", parse("kv.usage >= 0.9")),
                    Branch(
                        "cap",
                        "A cap on running requests",
                        parse("requests.running >= server.max_running_requests"),
                    ),
                    Branch("none", "Nothing waits", otherwise=True),
                    ask="What keeps more requests from running at once?",
                    help="A request waits until there is room for it in the running batch.",
                    probes=("metrics",),
                    show=("requests.queued", "requests.running", "kv.usage"),
                    unknown="Look at the last Decode batch line of the log.",
                ),
                "pool": Node("pool", end="The pool is full."),
                "cap": Node("cap", cause="long_queue"),
                "none": Node("none", end="Nothing waits: there is nothing to mend here."),
            },
            parse("requests.queued > 0"),
            parse_template("{requests.queued} requests wait while {requests.running} run"),
            order=1,
        ),
        "out_of_memory": Flow(
            "out_of_memory",
            "Out of memory [rank0] [/x]",
            "The card or the host runs out of memory.",
            "memory",
            "q",
            {"q": Node("q", end="There is nothing more to ask.")},
            order=2,
        ),
    },
    causes={
        "long_queue": Cause(
            "long_queue",
            "Requests queue behind a hand-set cap",
            "performance",
            "The scheduler lets at most so many requests run at once.",
            "grep running-req LOG",
            (
                sign(
                    "requests.running >= server.max_running_requests", 5, "running {requests.running} = the cap"
                ),
                sign("kv.usage < 0.5", 1, "the KV pool is nearly empty"),
            ),
            ("lift_cap", "by_hand"),
        ),
        "kv_cache_exhausted": Cause(
            "kv_cache_exhausted",
            "The KV pool is too small",
            "memory",
            "why",
            "see",
            (sign("kv.usage < 0.5", -4, "token usage {kv.usage}"),),
            (),
        ),
        "slow_host": Cause(
            "slow_host", "The host is slow", "host", "why", "see", (sign("host.load_1m > 64", 4, "load"),), ()
        ),
    },
)

TARGET = Target(
    port=30000,
    identity=Identity(4711, 1, "boot"),
    version="0.5.20",
    name="llama-8b",
    log_path="/tmp/server.log",
)

METRICS = {
    "requests.queued": 31,
    "requests.running": 8,
    "kv.usage": 0.01,
    "throughput.output": 1264.0,
    "ttft.p50": 6720.0,
    "itl.p50": 5.3,
}


def result(probe: str, values: dict[str, Any], outcome: Outcome = Outcome.OK, **more: Any) -> ProbeResult:
    return ProbeResult(
        probe, outcome, {k: Value(v, Trust.MEASURED, f"/{probe}") for k, v in values.items()}, **more
    )


def snapshot(at: float = 1.0, **metrics: Any) -> Snapshot:
    values = {**METRICS, **{k.replace("__", "."): v for k, v in metrics.items()}}
    return Snapshot().with_results(
        [
            result("metrics", values, at=at),
            result("sglang", {"server.max_running_requests": 8, "server.version": "0.5.20"}),
            result("http", {"http.health": "serving"}),
            result("process", {"process.uptime_s": 11520.0}),
            result(
                "gpu",
                {},
                Outcome.UNAVAILABLE,
                reason=f"NVML is not there {HOSTILE}",
                remedy="install the NVIDIA driver",
            ),
        ]
    )


def classify(seen: Snapshot | None = None, **more: Any) -> SessionState:
    seen = snapshot() if seen is None else seen
    return replace(SessionState(target=TARGET, snapshot=seen, hypotheses=rank(BOOK, seen.get)), **more)


def diagnose(**more: Any) -> SessionState:
    start = {"step": Step.DIAGNOSE, "flow_id": "requests_wait", "node_id": "what_limits"}
    return replace(classify(), **{**start, **more})


PLAN = Plan(
    cause_id="long_queue",
    cause_title="Requests queue behind a hand-set cap",
    remedy_id="lift_cap",
    remedy_title="Let SGLang choose how many requests run",
    old_argv=OLD,
    new_argv=NEW,
    changes=(FlagChange("--max-running-requests", "8", None, "the cap"),),
    goal=VerifyGoal("throughput.output"),
    why="905,795 KV tokens / 1,152 tokens a request = 786 at once; the cap is 8",
    cost="restart: about 26 s down",
    expect="2.9x to 3.6x tokens/s",
    checks=(("flags", True, "valid for 0.5.20"), ("port", True, "30000 is the server's own")),
)


def remedy(id: str, title: str) -> Remedy:
    text = parse_template("")
    return Remedy(id, title, (), None, text, text, None, None, "the old command is started again by itself")


OFFERS = (
    Offer(remedy("lift_cap", "Let SGLang choose how many requests run"), PLAN),
    Offer(
        remedy("by_hand", "Send fewer requests at once"),
        None,
        "this is for a person to do",
        (("--max-running-requests", "higher"),),
        actions=("Lower the concurrency of the clients",),
    ),
)


def solve(**more: Any) -> SessionState:
    path = (PathStep("requests_wait", "what_limits", "A cap on running requests", "person"),)
    start = {"step": Step.SOLVE, "cause_id": "long_queue", "offers": OFFERS, "path": path}
    return replace(diagnose(), **{**start, **more})


WORKLOAD = Workload(64, 1024, 256)
CONSENT = Consent(load_test=True)


def running(now: float = 1000.0) -> RunState:
    run = RunState("7", runner_alive=True, log_tail=(f"[03:14:22] Load weight begin {HOSTILE}",))
    for stage in (
        StageState(Stage.SNAPSHOT, "done", "3 files", now - 40, now - 40),
        StageState(Stage.BASELINE, "done", "1,264 tok/s", now - 39, now - 18.6),
        StageState(Stage.STOP, "done", "drained 39 requests", now - 18, now - 10),
        StageState(Stage.RELEASE, "skipped", "nothing to wait for"),
        StageState(Stage.LAUNCH, "active", "loading weights", now - 9),
    ):
        run = run.with_stage(stage)
    return run


COMPARISONS = (
    Comparison("throughput.output", 1264.0, 4138.0, 3.27, 3.1, 3.4, Judgement.FIXED),
    Comparison("ttft.p50", 6720.0, 60.0, 0.009, 0.008, 0.01, Judgement.BETTER),
    Comparison("itl.p50", 5.3, 7.8, 1.47, 1.4, 1.5, Judgement.WORSE),
    Comparison("kv.usage", 0.01, None, None, None, None, Judgement.CANNOT_TELL),
)


def judged(**more: Any) -> RunState:
    measurement = Measurement(WORKLOAD, ())
    verdict = Verdict(Judgement.FIXED, "3.3 times the tokens, and the queue is gone.", COMPARISONS)
    start = {"before": measurement, "after": measurement, "verdict": verdict, "runner_alive": False}
    return replace(running(), **{**start, **more})


def kept() -> RunState:
    return judged(
        outcome=RunOutcome.KEPT, serving="new", sentence="Fixed and kept.", new_pid=99, new_port=30000
    )


def rollback_failed() -> RunState:
    run = judged(
        verdict=None,
        outcome=RunOutcome.ROLLBACK_FAILED,
        serving="none",
        sentence="Neither command starts.",
        help="cd /srv\npython -m sglang.launch_server " + "--very-long-flag value " * 8 + "\n[/x] \x1b[31mlast",
    )
    return run


def verify(run: RunState, **more: Any) -> SessionState:
    return solve(step=Step.VERIFY, run=run, session_id=run.session_id, **more)
