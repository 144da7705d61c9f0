"""What a log alone cannot tell, live probes can: which process hangs, and why a request got a bare 400."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from .conftest import RunCli, StartLoad, family, get
from .home import Home, wait_for

pytestmark = pytest.mark.e2e


def child(server: psutil.Process, word: str) -> psutil.Process:
    """The child that calls itself so."""
    (found,) = [p for p in family(server) if word in " ".join(p.cmdline())]
    return found


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def post(url: str, body: bytes) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_hangs_and_bad_requests(home: Home, load: StartLoad, cli: RunCli, tmp_path: Path) -> None:
    """One server for all of it: a start takes long. As many clients as it runs at once: nobody waits."""
    server = home.serving("--max-running-requests", "1")
    load(home.url, clients=1, output_tokens=32, seconds=240)
    for word in ("scheduler", "detokenizer"):
        with stopped(child(server, word)):
            answer = cli("check", "--pid", str(server.pid), "--json", limit_s=120)
        causes = [c["id"] for c in answer.document["causes"]]
        assert causes[:1] == ["server_hang"], (word, causes, answer.err)
        assert answer.code == 1
        said = json.dumps(answer.document["causes"][0]["evidence"])
        assert word in said, said
    wait_for("it serves again", lambda: get(home.url + "/health")[0] == 200)

    bodies = {
        "bad_request": b'{"model": "x", "messages": [{"role": "user", "content": "Hi"}',
        "input_too_long": json.dumps({"input_ids": [300] * 9000, "sampling_params": {}}).encode(),
    }
    for cause, body in bodies.items():
        path = tmp_path / f"{cause}.json"
        path.write_bytes(body)
        endpoint = "/v1/chat/completions" if cause == "bad_request" else "/generate"
        assert post(home.url + endpoint, body) == 400
        answer = cli("check", "--pid", str(server.pid), "--request", str(path), "--json", limit_s=120)
        assert [c["id"] for c in answer.document["causes"]][:1] == [cause], answer.out
