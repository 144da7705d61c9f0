"""One home for servers that come and go: a folder, a port, a state folder, and the commands typed there."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.world import MARKER
from wizard.core.progress import RunState, Stage
from wizard.runner import client
from wizard.runner.journal import JournalError
from wizard.runner.locks import holder
from wizard.runner.operations import MARK
from wizard.runner.state_dir import lock_path

from .conftest import (
    READY_LIMIT_S,
    Answer,
    LaunchServer,
    RealServer,
    cli_in,
    command,
    family,
    free_port,
    get,
    kill,
    pids_listening_on,
    start_cli,
)

LIMIT_S = 600.0
"""For one ``fix``: two measurements, two starts, on a machine that does other things too."""
QUICK = ("--drain", "5", "--windows", "4", "--window-s", "2")


class Home:
    """One folder, one port, one server at a time: whoever launched it, the tests or the wizard."""

    def __init__(self, folder: Path, sglang_folder: Path, launch: LaunchServer) -> None:
        self.folder = folder
        self.sglang_folder = sglang_folder
        self.launch = launch
        self.port = free_port()
        self.cli = cli_in(folder)
        self.server: RealServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cwd(self) -> Path:
        return self.folder / "server"

    def owner(self) -> psutil.Process | None:
        """Who listens on the port; a test of ours has to have started it."""
        pids = pids_listening_on(self.port)
        assert len(pids) <= 1, pids
        process = psutil.Process(pids.pop()) if pids else None
        assert process is None or Path(process.cwd()) == self.cwd
        return process

    def serving(self, *flags: str, metrics: bool = True, max_total_tokens: int = 8192) -> psutil.Process:
        """A server that runs with these flags and answers."""
        argv = command(self.sglang_folder, self.port, flags, metrics, max_total_tokens)
        found = self.owner()
        if found is not None:
            if sorted(found.cmdline()) == sorted(argv) and get(self.url + "/health")[0] == 200:
                return found
            kill(family(found))
        self.server = self.launch(
            flags, env={MARKER: "kept"}, port=self.port, metrics=metrics, max_total_tokens=max_total_tokens
        )
        return psutil.Process(self.server.pid)

    def started(self, *flags: str) -> RealServer:
        """As ``serving``, yet by the tests' own hand and not the wizard's."""
        if self.server is None or self.serving(*flags).pid != self.server.pid:
            found = self.owner()
            if found is not None:
                kill(family(found))
            self.serving(*flags)
        assert self.server is not None
        return self.server

    def must_serve(self) -> psutil.Process:
        """The server that owns the port and answers now."""
        found = self.owner()
        assert found is not None, "nobody listens on the port"
        assert get(self.url + "/health")[0] == 200
        body = {"input_ids": [300, 301, 302], "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}}
        request = urllib.request.Request(
            self.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["meta_info"]["completion_tokens"] == 4
        return found

    def sessions(self) -> list[Path]:
        return sorted((self.folder / "state").glob("session-*.db"), key=lambda p: p.stat().st_mtime_ns)


def wait_for(what: str, look: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s:g} s: {what}")
        time.sleep(0.1)


def queue_is_there(home: Home) -> bool:
    """As /v1/loads tells it, which needs no --enable-metrics."""
    status, text = get(home.url + "/v1/loads")
    if status != 200:
        return False
    return sum(int(one.get("num_waiting_reqs", 0)) for one in json.loads(text)["loads"]) >= 2


def queue_stands(home: Home) -> bool:
    """A queue at each of some looks in a row: one that came and went between two requests is none."""
    for _ in range(5):
        if not queue_is_there(home):
            return False
        time.sleep(0.4)
    return True


def causes(answer: Answer) -> list[str]:
    return [cause["id"] for cause in answer.document["causes"]]


def evidence(document: dict[str, Any], cause: int = 0) -> dict[str, Any]:
    return {one["reading"]: one["value"] for one in document["causes"][cause]["evidence"]}


def without(argv: list[str], *flags: str) -> list[str]:
    """The words without these flags and their values."""
    words, kept = list(argv), []
    while words:
        word = words.pop(0)
        if word in flags:
            words.pop(0)
        else:
            kept.append(word)
    return kept


def environment(process: psutil.Process) -> dict[str, str]:
    """Without the mark by which a runner knows its own child again."""
    return {name: value for name, value in process.environ().items() if name != MARK}


def lives(process: psutil.Process) -> bool:
    """It runs; one that ended and was not reaped yet (the tests are its parent) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def log_of(process: psutil.Process) -> Path:
    return Path(f"/proc/{process.pid}/fd/1").resolve()


def show(answer: Answer) -> None:
    """What a person would look at first when a test fails."""
    document = answer.document
    print(f"exit {answer.code}, verdict {document['verdict']}: {document.get('sentence', '')}")
    for stage in document.get("stages", ()):
        print(f"  {stage['stage']:9} {stage['status']:8} {stage['seconds'] or 0:6.1f} s  {stage['detail']}")
    print(answer.err)


class Change:
    """A ``fix`` under way, its face and its runner each a process that can be killed."""

    def __init__(self, home: Home, *args: str) -> None:
        self.home = home
        known = set(home.sessions())
        self.face = start_cli(home.folder, "fix", "--json", "--yes", *args)
        wait_for("a session", lambda: bool(set(home.sessions()) - known) or self.face.poll() is not None)
        fresh = set(home.sessions()) - known
        assert fresh, self.face.communicate()
        self.session = fresh.pop()

    def state(self) -> RunState | None:
        try:
            return client.read(self.session)
        except JournalError:
            return None  # being written

    def runner(self) -> psutil.Process:
        identity = holder(lock_path(self.session))
        assert identity is not None, "no runner holds the session"
        process = psutil.Process(identity.pid)
        assert process.environ()["SGL_WIZARD_STATE_DIR"] == str(self.home.folder / "state")
        assert "wizard.runner" in process.cmdline()
        return process

    def wait_until_active(self, stage: Stage) -> None:
        def active() -> bool:
            state = self.state()
            assert self.face.poll() is None, self.face.communicate()
            return state is not None and state.stage(stage).status == "active"

        wait_for(f"stage {stage.value}", active, READY_LIMIT_S)

    def kill_runner(self) -> None:
        runner = self.runner()
        runner.send_signal(signal.SIGKILL)
        psutil.wait_procs([runner], timeout=10)

    def end_of_face(self, limit_s: float = 60.0) -> Answer:
        out, err = self.face.communicate(timeout=limit_s)
        return Answer(("fix",), self.face.returncode, out, err)
