"""The demo's stage: a simulated card, a simulated server with a fault, its clients, and how to clear it.

Everything started here is ours, and only that is ended: by identity, found through the private card file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from wizard.cli.output import CliError, Exit
from wizard.core.target import Target

START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Scenario:
    """``flags`` are the simulated server's; ``clients`` is (how many, tokens in, tokens out)."""

    id: str
    title: str
    flags: tuple[str, ...] = ()
    clients: tuple[int, int, int] | None = (32, 512, 128)
    neighbour_gb: float = 0.0
    port_squatter: bool = False
    down: bool = False
    """The fault keeps the server from starting: its log and command are the evidence."""
    forced: tuple[str, ...] = ()
    """``--set`` changes applied instead of a remedy, to show the roll back."""


SCENARIOS: dict[str, Scenario] = {
    s.id: s
    for s in (
        Scenario("queue_cap", "requests queue behind a cap set by hand", ("--max-running-requests", "8")),
        Scenario(
            "kv_pool",
            "the KV pool is too small for the load",
            ("--mem-fraction-static", "0.13"),
            clients=(48, 1024, 256),
        ),
        Scenario(
            "graphs_off", "decode runs without CUDA graphs", ("--disable-cuda-graph",), clients=(8, 512, 128)
        ),
        Scenario(
            "oom",
            "it runs out of GPU memory at start: the fraction is too high",
            ("--mem-fraction-static", "0.99"),
            clients=None,
            down=True,
        ),
        Scenario(
            "fraction_too_low",
            "it does not start: the fraction leaves no room for a KV pool",
            ("--mem-fraction-static", "0.08"),
            clients=None,
            down=True,
        ),
        Scenario(
            "neighbour",
            "it runs out of GPU memory because another process holds the card",
            clients=None,
            neighbour_gb=126.0,
            down=True,
        ),
        Scenario(
            "port_taken", "its port belongs to another process", clients=None, port_squatter=True, down=True
        ),
        Scenario(
            "bad_fix",
            "a change that keeps the server from starting is rolled back",
            forced=("mem_fraction_static=0.99",),
        ),
        Scenario("healthy", "nothing is wrong", clients=(8, 512, 128)),
    )
}


@dataclass
class Stage:
    """A running scenario. Use as a context manager."""

    scenario: Scenario
    start_s: float = 2.0
    folder: Path = field(default_factory=Path)
    port: int = 0
    target: Target | None = None
    _ours: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _clients: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stage:
        self.folder = Path(tempfile.mkdtemp(prefix="sgl-wizard-demo-"))
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    def _environ(self) -> dict[str, str]:
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (package_root, os.environ.get("PYTHONPATH")) if p)
        return {
            **os.environ,
            "PYTHONPATH": path,
            "SGLANG_SIM_CARD": str(self.folder / "card.json"),
            "SGLANG_SIM_START_S": str(self.start_s),
        }

    def _build(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self.scenario.port_squatter:
            self._squat()
        if self.scenario.neighbour_gb:
            self._spawn(
                "wizard.simulator.neighbour", "--gb", str(self.scenario.neighbour_gb), log="neighbour.log"
            )
            self._wait(lambda: (self.folder / "card.json").exists(), "the neighbour did not start")
        server = self._spawn("wizard.simulator", *self._server_flags(), log="server.log")
        if self.scenario.down:
            self._see_it_fail(server)
            self.target = self._down_target()
            return
        self._wait(lambda: self._answers(server), "the simulated server did not start")
        from wizard.server.discovery import target_from_pid

        self.target = target_from_pid(server.pid)
        if self.scenario.clients is not None:
            self._send_clients()

    def _server_flags(self) -> tuple[str, ...]:
        return (
            "--model-path",
            "meta-llama/Llama-3.1-8B-Instruct",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--enable-metrics",
            *self.scenario.flags,
        )

    def _spawn(self, module: str, *args: str, log: str) -> subprocess.Popen[bytes]:
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self._environ(),
                start_new_session=True,
            )
        self._ours.append(process)
        return process

    def _squat(self) -> None:
        """A process that has nothing to do with SGLang takes the port."""
        empty = self.folder / "somebody-elses-files"
        empty.mkdir()
        words = (str(self.port), "--bind", "127.0.0.1", "--directory", str(empty))
        squatter = self._spawn("http.server", *words, log="squatter.log")
        self._wait(lambda: self._listens() or squatter.poll() is not None, "nobody took the port")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _send_clients(self) -> None:
        assert self.scenario.clients is not None
        clients, tokens_in, tokens_out = self.scenario.clients
        words = ["--url", f"http://127.0.0.1:{self.port}", "--clients", str(clients)]
        words += ["--input-tokens", str(tokens_in), "--output-tokens", str(tokens_out)]
        self._clients = self._spawn("wizard.measure.traffic", *words, log="clients.log")
        time.sleep(2.5)  # the queue has to build up before there is something to see

    def stop_clients(self) -> None:
        """The measurement brings its own load: the demo's clients would blur it."""
        if self._clients is not None and self._clients.poll() is None:
            self._clients.terminate()
            self._clients.wait(timeout=10)
        self._clients = None

    def _answers(self, server: subprocess.Popen[bytes]) -> bool:
        if server.poll() is not None:
            tail = self.log_path.read_text(errors="replace").splitlines()[-1:]
            raise CliError(f"the simulated server ended: {' '.join(tail)}", Exit.COULD_NOT_EXAMINE)
        return b"fired up and ready to roll" in self.log_path.read_bytes()

    def _see_it_fail(self, server: subprocess.Popen[bytes]) -> None:
        """Until it ended, or its log shows the bind error of a taken port (it may hang after that)."""

        def failed() -> bool:
            return server.poll() is not None or b"Errno 98" in self.log_path.read_bytes()

        self._wait(failed, "the simulated server did not fail as it should")
        if server.poll() is None:
            time.sleep(0.5)
            self._end(server)

    def _down_target(self) -> Target:
        from wizard.server.discovery import target_from_command

        argv = (sys.executable, "-m", "wizard.simulator", *self._server_flags())
        return target_from_command(argv, str(self.folder), self._environ(), str(self.log_path))

    def _wait(self, done: object, why: str) -> None:
        assert callable(done)
        deadline = time.monotonic() + START_LIMIT_S
        while not done():
            if time.monotonic() > deadline:
                raise CliError(why, Exit.COULD_NOT_EXAMINE)
            time.sleep(0.1)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    def hang_up(self) -> None:
        """The terminal went away: end our own children at once, without waiting for anything."""
        for process in self._ours:
            if process.poll() is None:
                process.kill()

    def __exit__(self, *_: object) -> None:
        """End what runs on our private card, then what we started; nothing else."""
        self.stop_clients()
        from wizard.server.discovery import find_servers
        from wizard.server.stop import stop_tree

        card = str(self.folder / "card.json")
        for target in find_servers():
            if target.card_path == card and target.identity is not None:
                asyncio.run(
                    stop_tree(
                        target.identity,
                        drain_limit_s=1.0,
                        escalate=True,
                        on_progress=lambda *_: None,
                        cancelled=lambda: False,
                    )
                )
        for process in self._ours:
            self._end(process)
