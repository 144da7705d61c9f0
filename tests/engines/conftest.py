"""A server in a container of a real engine, published at a port of this host as people do with ``-p``.

Its image is empty folders: the host's own Python and this project are mounted into it. Run with
``SGL_WIZARD_ENGINES=docker,podman pytest tests/engines`` as a user who may ask them for containers.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from wizard.core.target import Target
from wizard.server.discovery import target_from_url

ASKED = tuple(word for word in os.environ.get("SGL_WIZARD_ENGINES", "").split(",") if word)
REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "localhost/sgl-wizard-test:1"
READY_LIMIT_S = 60
_FOLDERS = ("usr", "lib", "lib64", "bin", "etc", "tmp", "proc", "sys", "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        engine = getattr(item, "callspec", None) and item.callspec.params.get("engine")  # type: ignore[attr-defined]
        if "tests/engines" in item.nodeid and engine not in ASKED:
            why = f"starts containers: SGL_WIZARD_ENGINES={engine} pytest tests/engines"
            item.add_marker(pytest.mark.skip(reason=why))


def run(*words: str, limit_s: float = 60.0, stdin: bytes | None = None) -> str:
    """What a client prints; fails the test with what it complains of."""
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=limit_s)
    assert done.returncode == 0, f"{' '.join(words[:4])}: {done.stderr.decode(errors='replace')[-500:]}"
    return done.stdout.decode().strip()


class Box:
    """One container with the simulator in it. ``more``: flags beside those that every one has."""

    def __init__(self, engine: str, folder: Path, policy: str) -> None:
        self.engine, self.folder = engine, folder
        self.port = free_port()
        self.name = f"sgl-wizard-test-{self.port}"
        self.policy = policy
        self.argv = [sys.executable, "-m", "wizard.simulator", "--model-path", "m", "--host", "0.0.0.0"]
        self.argv += ["--port", "30000", "--api-key", "sk-inside99"]

    def start(self, *more: str, env: Sequence[str] = (), network: str = "bridge") -> None:
        """``-p`` to another port than it listens on, so that the two cannot be taken for each other."""
        reached = [f"--publish=127.0.0.1:{self.port}:30000"]
        if network == "host":
            self.argv[-3] = str(self.port)
            reached = ["--network=host"]
        roots = {"/usr", "/lib", "/lib64", "/bin", sys.base_prefix, sys.prefix, str(REPOSITORY)}
        mounts = [f"--volume={one}:{one}:ro" for one in sorted(roots) if os.path.exists(one)]
        mounts.append(f"--volume={self.folder}:{self.folder}")
        own = [f"SGLANG_SIM_CARD={self.folder}/card.json", f"PYTHONPATH={REPOSITORY}", "HF_TOKEN=hf_insecret99"]
        own += ["SGLANG_SIM_START_S=1", "PYTHONDONTWRITEBYTECODE=1"]
        words = [self.engine, "run", "--detach", f"--name={self.name}", f"--restart={self.policy}"]
        words += [*reached, "--shm-size=1g", "--ulimit=nofile=4096:4096"]
        words += ["--ulimit=nproc=4096:4096"] if self.engine == "podman" else []
        run(*words, *mounts, *(f"--env={one}" for one in (*own, *env)), f"--workdir={REPOSITORY}", IMAGE,
            *self.argv, *more)  # fmt: skip
        self.wait_until_ready()

    def health(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return int(answer.status)
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        end = time.monotonic() + READY_LIMIT_S
        while self.health() != 200:
            assert time.monotonic() < end, f"not ready: {self.all()}"
            time.sleep(0.2)

    def target(self) -> Target:
        return target_from_url(f"http://127.0.0.1:{self.port}")

    def doc(self, name: str = "") -> dict[str, Any]:
        docs = json.loads(run(self.engine, "inspect", "--type=container", name or self.name))
        assert isinstance(docs[0], dict)
        return docs[0]

    @property
    def words(self) -> list[str]:
        return list(self.doc()["Config"]["Cmd"])

    def settled(self) -> dict[str, Any]:
        """What a person configured: all that inspect says but ids, times, states and the order of mounts."""
        doc = self.doc()
        host, config = dict(doc["HostConfig"]), dict(doc["Config"])
        host["Binds"] = sorted(host["Binds"])
        for name in ("Hostname", "Labels", "CreateCommand", "AttachStdout", "AttachStderr", "Annotations"):
            config.pop(name, None)
        config["Env"] = sorted(one for one in config["Env"] if not one.startswith("HOSTNAME="))  # podman's own
        host.pop("LogConfig", None)
        host.pop("ContainerIDFile", None)
        return {"host": host, "config": config, "image": {"id": doc["Image"]}}

    def all(self) -> dict[str, bool]:
        """Our containers by name without the common part, and whether each runs."""
        listed = run(self.engine, "ps", "--all", "--format={{.Names}}", f"--filter=name={self.name}").split()
        return {
            name.removeprefix(self.name): bool(self.doc(name)["State"]["Running"]) for name in sorted(listed)
        }

    def clear(self) -> None:
        for ending in self.all():
            subprocess.run([self.engine, "rm", "--force", self.name + ending], capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The image of each engine that was asked for."""
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for name, line in (("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(line)
            archive.addfile(entry, io.BytesIO(line.encode()))
    return {engine: run(engine, "import", "-", IMAGE, stdin=text.getvalue()) for engine in ASKED}


@pytest.fixture
def box(engine: str, images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    made = Box(engine, tmp_path, "unless-stopped" if engine == "docker" else "no")
    try:
        yield made
    finally:
        made.clear()
