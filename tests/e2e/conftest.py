"""Fixtures around a real SGLang on the CPU: start it, load it, point the command line at it, clean it up.

Only processes that a fixture started are signalled, each found again by pid and start time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.ports import free_port
from wizard.core.target import Identity, Launch, Target

from . import install

if TYPE_CHECKING:
    from .home import Home

READY_LIMIT_S = 240
STOP_LIMIT_S = 30
REPOSITORY = Path(__file__).resolve().parents[2]

CPU_FLAGS = (
    *("--load-format", "dummy", "--device", "cpu", "--attention-backend", "torch_native"),
    *("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"),
    *("--disable-overlap-schedule", "--sampling-backend", "pytorch", "--grammar-backend", "none"),
    *("--host", "127.0.0.1"),
)
"""What 0.5.20 needs to serve without a GPU. Its --mem-fraction-static means host memory here, so the pool is
always given in tokens."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Plain ``pytest`` stays fast: the real server is started only when these tests are asked for."""
    named = any("e2e" in str(word) for word in config.invocation_params.args)
    if not named and os.environ.get("SGL_WIZARD_E2E") != "1":
        why = "starts a real SGLang: python tests/e2e/install.py && pytest tests/e2e"
        for item in items:
            if item.get_closest_marker("e2e"):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def sglang_folder() -> Path:
    """The installed server. Not there: skip with the command, or fail where SGL_WIZARD_E2E=1 demands it."""
    folder = install.default_folder()
    if not install.is_installed(folder):
        why = f"no SGLang {install.SGLANG_VERSION} for the CPU in {folder}; run: python tests/e2e/install.py"
        if os.environ.get("SGL_WIZARD_E2E") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return folder


def get(url: str, limit_s: float = 30.0) -> tuple[int, str]:
    """Status and text of a GET; the status of an error answer too. Raises OSError when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=limit_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except HTTPException as error:
        raise OSError(str(error)) from error


def pids_listening_on(port: int) -> set[int]:
    return {
        c.pid
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr[1] == port and c.pid is not None
    }


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it, as far as they live. psutil compares start times before it signals."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass
class RealServer:
    """A running SGLang: where it is, what it was started with, and how to end it."""

    argv: list[str]
    environ: dict[str, str]
    port: int
    log: Path
    cwd: Path
    popen: subprocess.Popen[bytes] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get_json(self, path: str) -> dict[str, Any]:
        status, text = get(self.url + path)
        assert status == 200, f"{path}: {status} {text[:200]}"
        document = json.loads(text)
        assert isinstance(document, dict)
        return document

    def target(self) -> Target:
        """The server as the wizard would name it, written down here without the wizard's own discovery."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return Target(
            host="127.0.0.1",
            port=self.port,
            identity=Identity(self.pid, int(stat[19]), boot_id),
            launch=Launch(tuple(self.argv), str(self.cwd), self.environ, str(self.log), str(self.log)),
            log_path=str(self.log),
            version=install.SGLANG_VERSION,
        )

    def is_serving(self) -> bool:
        """Ready in the only way that counts: alive, its own tree owns the port, /health says 200."""
        if self.popen.poll() is not None:
            return False
        tree = {p.pid for p in family(psutil.Process(self.pid))}
        if not tree & pids_listening_on(self.port):
            return False
        try:
            return get(self.url + "/health", limit_s=25)[0] == 200
        except OSError:
            return False

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not self.is_serving():
            if self.popen.poll() is not None:
                tail = self.log_text()[-3000:]
                pytest.fail(f"SGLang ended with {self.popen.returncode} before it served:\n{tail}")
            if time.monotonic() > deadline:
                pytest.fail(f"SGLang did not serve within {READY_LIMIT_S} s:\n{self.log_text()[-3000:]}")
            time.sleep(0.25)

    def stop(self) -> None:
        """SIGTERM to the parent only; what is left after the limit is killed."""
        if self.popen.poll() is None:
            tree = family(psutil.Process(self.pid))
            self.popen.terminate()
            try:
                self.popen.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                tree += [p for p in family(psutil.Process(self.pid)) if p not in tree]
            kill(tree)
        self.popen.wait()


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to those that still are who they were; wait until they are gone."""
    for process in processes:
        try:
            process.send_signal(signal.SIGCONT)
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def left_over(folder: Path) -> list[psutil.Process]:
    """What still runs for a test: processes in its folder (a server that the wizard relaunched) or with its
    state folder in their environment (a detached runner)."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = Path(process.cwd()).is_relative_to(folder)
            if mine or process.environ().get("SGL_WIZARD_STATE_DIR", "").startswith(str(folder)):
                found += family(process)
        except psutil.Error:
            continue
    return [p for p in found if p.pid != os.getpid()]


def command(
    sglang_folder: Path,
    port: int,
    extra_flags: Sequence[str] = (),
    metrics: bool = True,
    max_total_tokens: int | None = 8192,
) -> list[str]:
    """The words that start a server."""
    return [
        *(str(sglang_folder / "venv" / "bin" / "python"), "-m", "sglang.launch_server"),
        *("--model-path", str(sglang_folder / "tiny-llama"), *CPU_FLAGS, "--port", str(port)),
        *(("--enable-metrics",) if metrics else ()),
        *(("--max-total-tokens", str(max_total_tokens)) if max_total_tokens else ()),
        *extra_flags,
    ]


LaunchServer = Callable[..., RealServer]


@contextmanager
def servers_in(folder: Path, sglang_folder: Path) -> Iterator[LaunchServer]:
    """A function that starts servers, as the fixture ``real_server`` says; all are gone at the end."""
    servers: list[RealServer] = []
    cwd = folder / "server"
    cwd.mkdir()

    def launch(
        extra_flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        wait: bool = True,
        metrics: bool = True,
        max_total_tokens: int | None = 8192,
    ) -> RealServer:
        port = port or free_port()
        argv = command(sglang_folder, port, extra_flags, metrics, max_total_tokens)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "SGL_WIZARD_"))}
        environ |= {
            "PYTHONPATH": str(sglang_folder / "shim"),
            "SGLANG_USE_CPU_ENGINE": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **(env or {}),
        }
        log = folder / f"server-{len(servers)}.log"
        with log.open("wb") as sink:
            popen = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = RealServer(argv, environ, port, log, cwd, popen)
        servers.append(server)
        if wait:
            server.wait_until_serving()
        return server

    try:
        yield launch
    finally:
        # First the runner and what it launched, so that nothing is started again behind our back.
        ours = {p.pid for s in servers if s.popen.poll() is None for p in family(psutil.Process(s.pid))}
        kill([p for p in left_over(folder) if p.pid not in ours])
        for server in servers:
            server.stop()


@pytest.fixture
def real_server(sglang_folder: Path, tmp_path: Path) -> Iterator[LaunchServer]:
    """Start a server: ``real_server(["--max-running-requests", "1"], env={...}, port=None, wait=True)``.

    Its working directory is below the test's own folder, so that a server which the wizard relaunched
    from there is known as this test's and is cleaned up too.
    """
    with servers_in(tmp_path, sglang_folder) as launch:
        yield launch


@dataclass
class Load:
    """Clients in a closed loop against one address: how much they got so far."""

    finished: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    tokens: int = 0
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def stop(self) -> None:
        """No client sends another request; those that run are answered."""
        self.ended.set()


StartLoad = Callable[..., Load]


@pytest.fixture
def load() -> Iterator[StartLoad]:
    """Keep a server busy: ``load(url, clients=8, input_tokens=64, output_tokens=64, seconds=120)``.

    Each client sends its next request when the last one ended, also across a restart of the server
    (a refused connection is tried again after a short wait). Ends with the test or after ``seconds``.
    """
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(
        url: str, clients: int = 8, input_tokens: int = 64, output_tokens: int = 64, seconds: float = 120.0
    ) -> Load:
        got = Load()
        guard = threading.Lock()
        deadline = time.monotonic() + seconds

        def run(client: int) -> None:
            sent = 0
            while not stop.is_set() and not got.ended.is_set() and time.monotonic() < deadline:
                # Distinct first tokens, so that the prefix cache cannot answer; ids stay inside the
                # vocabulary of 4096, because one outside it ends this server.
                ids = [100 + (client * 977 + sent * 31 + i * 7) % 3900 for i in range(input_tokens)]
                sent += 1
                sampling = {"max_new_tokens": output_tokens, "ignore_eos": True, "temperature": 0.0}
                body = {"input_ids": ids, "sampling_params": sampling}
                request = urllib.request.Request(
                    url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        meta = json.load(answer)["meta_info"]
                    with guard:
                        got.finished += 1
                        got.tokens += int(meta["completion_tokens"])
                except (OSError, ValueError, HTTPException) as error:
                    with guard:
                        got.failed += 1
                        got.errors.append(str(error))
                    stop.wait(0.2)

        for client in range(clients):
            thread = threading.Thread(target=run, args=(client,), daemon=True)
            thread.start()
            threads.append(thread)
        return got

    yield start
    stop.set()
    for thread in threads:
        thread.join(timeout=60)


@dataclass(frozen=True)
class Answer:
    """What the command line said."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; fails the test with both streams when it is none."""
        try:
            document = json.loads(self.out)
        except ValueError:
            said = f"exit {self.code}\n{self.out}\n{self.err}"
            pytest.fail(f"{self.args}: stdout is not one JSON document: {said}")
        assert isinstance(document, dict)
        return document


RunCli = Callable[..., Answer]


def start_cli(folder: Path, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """``sgl-wizard`` as a process of its own, with its state below ``folder``."""
    environ = {**os.environ, "SGL_WIZARD_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(REPOSITORY)}
    environ.update(env or {})
    return subprocess.Popen(
        [sys.executable, "-m", "wizard", *args],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cli_in(folder: Path) -> RunCli:
    """``cli("check", "--json")`` runs it to its end."""

    def run(*args: str, limit_s: float = 300.0, env: Mapping[str, str] | None = None) -> Answer:
        with start_cli(folder, *args, env=env) as process:
            try:
                out, err = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                pytest.fail(f"{args} did not end within {limit_s:g} s:\n{out}\n{err}")
        return Answer(args, process.returncode, out, err)

    return run


@pytest.fixture
def cli(tmp_path: Path) -> RunCli:
    """Run ``sgl-wizard`` as a person does, with its own state folder: ``cli("check", "--json")``."""
    return cli_in(tmp_path)


@pytest.fixture(scope="session")
def home(sglang_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One server at a time, handed from test to test; all that ever ran there is gone at the end."""
    from .home import Home  # it builds on this module

    folder = tmp_path_factory.mktemp("home")
    with servers_in(folder, sglang_folder) as launch:
        yield Home(folder, sglang_folder, launch)
