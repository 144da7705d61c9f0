"""The command: draws the runs from the seed, plays them, prints one line each and the totals at the end."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import judge as judging
from tests.faults.ground import Change, Late, Scene, Wrapper
from tests.faults.judge import KINDS, Broken
from tests.faults.table import FAULTS, NAMES, Fault
from tests.faults.watch import NotReached


@dataclass(frozen=True)
class Run:
    """One run, drawn: the same seed, fault and ``nth`` give the same one, alone or among others."""

    seed: int
    fault: Fault
    nth: int
    moment: Any
    change: Change
    wrapper: Wrapper

    @property
    def id(self) -> str:
        return f"{self.seed}/{self.fault.name}/{self.nth}"


@dataclass
class Result:
    run: Run
    moment: str
    end: str = ""
    said: str = ""
    seconds: float = 0.0
    recovered_s: float | None = None
    missed: str = ""
    broken: list[Broken] = field(default_factory=list)

    @property
    def line(self) -> str:
        word = "missed: " + self.missed if self.missed else self.moment
        text = f"{self.run.id:36} {self.run.change.name:6} {self.run.wrapper:10} {word:58} {self.end:34}"
        text += f" {self.seconds:5.1f} s"
        return "\n".join([text, *(f"    BROKEN {b.kind}: {b.what}" for b in self.broken)])

    def to_json(self) -> dict[str, Any]:
        run = self.run
        return {
            "id": run.id,
            "fault": run.fault.name,
            "change": run.change.name,
            "wrapper": run.wrapper,
            "moment": self.moment,
            "missed": self.missed,
            "end": self.end,
            "seconds": round(self.seconds, 2),
            "recovered_s": None if self.recovered_s is None else round(self.recovered_s, 2),
            "broken": [{"kind": b.kind, "what": b.what} for b in self.broken],
        }


def draw(seed: int, fault: Fault, nth: int) -> Run:
    """The ``nth`` run of a fault: its moments come in a shuffled order, all of them before any comes twice."""
    order = list(fault.moments)
    random.Random(f"{seed}/{fault.name}").shuffle(order)
    rng = random.Random(f"{seed}/{fault.name}/{nth}")
    return Run(seed, fault, nth, order[nth % len(order)], rng.choice(fault.changes), rng.choice(fault.wrappers))


def draws(seed: int, only: Sequence[str]) -> Iterator[Run]:
    """Round after round of all faults (a heavy one more often in each), in a shuffled order. Endless."""
    pool = [f for f in FAULTS for _ in range(f.weight) if (f.name in only if only else not f.slow)]
    done: Counter[str] = Counter()
    turn = 0
    while True:
        order = list(pool)
        random.Random(f"{seed}/{turn}").shuffle(order)
        turn += 1
        for fault in order:
            yield draw(seed, fault, done[fault.name])
            done[fault.name] += 1


def play(run: Run, keep: Path | None = None) -> Result:
    """Set the scene, break it, do what a user would do, judge; leaves nothing running."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=os.environ.get("FAULTS_DIR")))
    fault, began = run.fault, time.monotonic()
    scene = Scene(folder, run.change, run.wrapper, random.Random(run.id), run.moment, fault.env(run.moment))
    result = Result(run, str(run.moment))
    try:
        if fault.prepare is not None:
            fault.prepare(scene)
        scene.set_up()
        try:
            result.moment = fault.play(scene)
        except NotReached as moment:
            result.missed = str(moment)
        scene.settle()
        judged = judging.judge(scene, fault.ends, at_rest=not fault.cure)
        result.end, result.recovered_s, result.broken = judged.end, judged.recovered_s, judged.broken
        if fault.cure:
            _cure(scene, result, judged)
    except (Late, NotReached) as error:
        result.end = f"HARNESS: {error}"
        result.broken.append(Broken("harness", str(error)))
    finally:
        result.seconds, result.said = time.monotonic() - began, _said(scene)
        if keep is not None and result.broken:
            _save(scene, result, keep)
        scene.clear()
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _cure(scene: Scene, result: Result, judged: judging.Judged) -> None:
    """The obstacle goes, and the user types what the wizard told them to."""
    if judged.serving.who in ("old", "new") and judged.serving.healthy:
        result.broken += [
            b for b in judging.judge(scene, frozenset({"old", "new"})).broken if b not in result.broken
        ]
        return
    for process in scene.own:
        words = Path(f"/proc/{process.pid}/cmdline")
        if process.poll() is None and any(w in words.read_bytes() for w in (b"squatter.py", b"neighbour")):
            process.kill()
            process.wait()
    scene.user("sessions", "rollback", "1", "--yes")
    scene.settled_at = time.monotonic()
    again = judging.judge(scene, frozenset({"old"}))
    result.end += f"; then {again.end}"
    result.recovered_s = again.recovered_s
    result.broken += [b for b in again.broken if b not in result.broken]


def _said(scene: Scene) -> str:
    return "".join(f"$ {' '.join(r.words)}  [exit {r.code}]\n{r.said}\n" for r in scene.ran)


def _save(scene: Scene, result: Result, keep: Path) -> None:
    """What is needed to understand a broken promise: state folder, logs, all that was said."""
    to = keep / result.run.id.replace("/", "-")
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(scene.folder, to, ignore_dangling_symlinks=True, ignore=shutil.ignore_patterns("filler"))
    (to / "said.txt").write_text(f"{result.line}\n\n{_said(scene)}", encoding="utf-8")


def totals(results: Sequence[Result]) -> list[str]:
    """The last lines. A run counts once in a total, however often it broke that promise."""
    lines = [f"runs                                {len(results)}"]
    for kind in (*KINDS, "harness"):
        bad = [r for r in results if any(b.kind == kind for b in r.broken)]
        ids = "  " + " ".join(r.run.id for r in bad) if bad else ""
        lines.append(f"{kind:35} {len(bad)}{ids}")
    lines.append(f"{'faults that came too late':35} {sum(bool(r.missed) for r in results)}")
    times = [r.recovered_s for r in results if r.recovered_s is not None]
    if times:
        lines.append(
            f"{'median time, fault to recovered':35} {statistics.median(times):.1f} s (of {len(times)})"
        )
    return lines


def main(words: Sequence[str]) -> int:
    """Exit 0 when every total that must be 0 is 0, else 1; 2 for a bad command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=30, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--only", action="append", default=[], choices=NAMES, metavar="FAULT")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="with --only: skip the first K runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all runs as a JSON document")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the folders of runs that broke a promise"
    )
    parser.add_argument("--talk", action="store_true", help="print what was said to the user in each run")
    parser.add_argument("--list", action="store_true", help="list the faults")
    args = parser.parse_args(words)
    if args.list:
        for fault in FAULTS:
            print(f"{fault.name:28} {len(fault.moments):3} moments  {fault.says}")
        return 0
    if os.name != "posix" or not Path("/proc/self/stat").exists():
        print("the fault matrix needs Linux", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run's processes are ended all the same
    results = []
    drawn = draws(args.seed, args.only)
    for _ in range(args.first):
        next(drawn)
    for _ in range(args.runs):
        results.append(play(next(drawn), args.keep))
        print(results[-1].line, *([results[-1].said] if args.talk else []), sep="\n", flush=True)
    summary = totals(results)
    print("\n".join(["", *summary]))
    broken = any(r.broken for r in results)
    if args.json is not None:
        doc = {"seed": args.seed, "runs": [r.to_json() for r in results], "totals": summary, "broken": broken}
        args.json.write_text(json.dumps(doc, indent=1), encoding="utf-8")
    return 1 if broken else 0
