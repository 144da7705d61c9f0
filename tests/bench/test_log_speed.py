"""A log of 1 GB against ``rg -c`` over the texts that the signatures need: both in turn, in one run."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.biglog import MB, write
from wizard.core.literals import all_texts
from wizard.flowfile.load import load_book
from wizard.flowfile.resources import flows_dir

pytestmark = pytest.mark.bench

ROUNDS = 3
READ = """
import json, resource, sys
from wizard.core.logtext import leading
from wizard.flowfile.load import load_book
from wizard.flowfile.resources import flows_dir
from wizard.probes.logfile import read_saved
book = load_book(flows_dir(), proven=True)
import time
began = time.perf_counter()
view = read_saved(sys.argv[1], book.signatures)
took = time.perf_counter() - began
lead = leading(view.story.ordered_hits)
print(json.dumps({
    "seconds": took, "lead": lead.signature.id, "line": lead.number, "last_line": view.story.last_line,
    "unread": view.passed_over + view.unsearched,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def test_a_gigabyte_of_log_against_ripgrep(tmp_path: Path) -> None:
    rg = shutil.which("rg")
    if rg is None:
        pytest.skip("rg is not installed: nothing to compare with")
    path, texts = tmp_path / "big.log", tmp_path / "texts"
    write(path, 1024 * MB)
    words = all_texts(s.pattern for s in load_book(flows_dir(), proven=True).signatures)
    texts.write_text("\n".join(words) + "\n")
    try:
        ours, theirs, told = [], [], {}
        for _ in range(ROUNDS):
            done = subprocess.run([sys.executable, "-c", READ, str(path)], check=True, capture_output=True)
            told = json.loads(done.stdout)
            ours.append(told["seconds"])
            began = time.perf_counter()
            subprocess.run([rg, "-c", "-F", "-f", str(texts), str(path)], check=True, capture_output=True)
            theirs.append(time.perf_counter() - began)
        with path.open("rb") as file:
            lines = file.read(64 * MB).count(b"\n") * 16
    finally:
        path.unlink()
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"\n{len(words)} texts; ours {ours} s, rg {theirs} s, ratio {ratio:.2f}, {told['peak_mb']:.0f} MB")
    assert (told["lead"], told["unread"]) == ("gpu_oom_runtime", 0)
    assert told["line"] == pytest.approx(lines / 2, rel=0.05)
    assert ratio <= 2.0
    assert told["peak_mb"] < 200
