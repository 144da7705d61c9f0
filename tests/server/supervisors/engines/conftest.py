"""One server held by each kind of holder, in a world of stand-ins that can be compared before and after."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.server.supervisors.engines.standin import HOST_USUAL
from wizard.core.target import Launch
from wizard.server.supervisors import recreated
from wizard.server.supervisors.recipe import CannotRecreate, Change, Found, Recipe

SECRET = "sk-verysecret99"
OLD = (
    *("python3", "-m", "sglang.launch_server", "--model-path", "/models/m", "--port", "30000"),
    *("--mem-fraction-static", "0.9", "--api-key", SECRET, "--json-model-override-args", '{"a": "$x 100%"}'),
)
NEW = tuple("0.8" if word == "0.9" else word for word in OLD)
CONTAINER_ID, POD_UID, IMAGE_ID = "ab" * 32, "01234567-89ab-cdef-0123-456789abcdef", f"sha256:{'cd' * 32}"
TOOLS = ("docker", "podman", "kubectl")
KINDS = ("docker", "podman", "compose", "kubernetes")


@dataclass
class World:
    """The stand-ins' state: ``doc`` as it is now, ``calls`` so far, ``tree``: every file they could touch."""

    folder: Path
    files: Path
    details: dict[str, str] = field(default_factory=dict)

    @property
    def doc(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "world.json").read_text()))

    def write(self, doc: dict[str, Any]) -> None:
        (self.folder / "world.json").write_text(json.dumps(doc))

    def edit(self, how: Callable[[dict[str, Any]], object]) -> None:
        doc = self.doc
        how(doc)
        self.write(doc)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def tree(self) -> dict[str, str]:
        found = sorted(self.files.rglob("*"))
        return {str(p.relative_to(self.files)): p.read_text() if p.is_file() else "" for p in found}

    @property
    def serving(self) -> Any:
        """What a caller of the server would notice: which words run, under which name, and how held."""
        doc = self.doc
        for one in doc.get("containers", []):
            one["State"].pop("Pid")
        for one in doc.get("cluster", {}).get("objects", {}).values():
            one.pop("undone", None)
            one["history"] = one["history"][-1:]
        doc.pop("made", None)
        return doc

    def found(self) -> Found:
        return recreated.find(self.details)

    def change(self, **more: Any) -> Change:
        environ = {"HF_TOKEN": SECRET, "PATH": "/usr/bin"}
        private = self.files / "private"
        made = {"new_argv": NEW, "folder": str(private), "version": "0.5.20", **more}
        return Change(old=Launch(OLD, "/", environ), **made)

    def refusal(self, **more: Any) -> tuple[str, ...]:
        """Why there is no recipe."""
        with pytest.raises(CannotRecreate) as caught:
            self.recipe(**more)
        assert self.calls  # it asked before it said no
        return caught.value.reasons

    def recipe(self, **more: Any) -> Recipe:
        return recreated.recipe_of(self.found(), self.change(**more))


def image() -> dict[str, Any]:
    config = {"Env": ["PATH=/usr/bin"], "Labels": {"maintainer": "x"}, "WorkingDir": "/sgl-workspace"}
    config |= {"Entrypoint": ["/opt/entry.sh"], "Cmd": ["bash"]}
    return {"Id": IMAGE_ID, "RepoTags": ["lmsysorg/sglang:v0.5.6"], "Config": config}


def container(slash: str = "/", **labels: str) -> dict[str, Any]:
    gpus = {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    host = {
        **HOST_USUAL,
        "Binds": ["/models:/models:ro"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
        "PortBindings": {"30000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30000"}]},
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "IpcMode": "host",
        "ShmSize": 34359738368,
        "Ulimits": [{"Name": "memlock", "Hard": -1, "Soft": -1}],
        "DeviceRequests": [gpus],
    }
    config: dict[str, Any] = {"Hostname": CONTAINER_ID[:12], "Tty": False, "User": "", "Cmd": list(OLD)}
    config |= {"Env": [f"HF_TOKEN={SECRET}", "PATH=/usr/bin"], "WorkingDir": "/sgl-workspace"}
    config |= {"Image": "lmsysorg/sglang:v0.5.6", "Entrypoint": ["/opt/entry.sh"]}
    config |= {"Labels": {"maintainer": "x", **labels}, "ExposedPorts": {"30000/tcp": {}}}
    state = {"Running": True, "Pid": 4000}
    doc = {"Id": CONTAINER_ID, "Name": f"{slash}sglang", "Image": IMAGE_ID, "State": state}
    networks = {"bridge": {"IPAMConfig": None, "Links": None, "Aliases": None, "DriverOpts": None}}
    return {**doc, "HostConfig": host, "Config": config, "NetworkSettings": {"Networks": networks}}


def _docker(world: World) -> dict[str, Any]:
    world.details = {"engine": "docker", "id": CONTAINER_ID}
    return {"containers": [container()], "images": [image()]}


def _podman(world: World) -> dict[str, Any]:
    one = container("")
    options = (
        "-d --name sglang --gpus all --ipc=host --shm-size 32g -v /models:/models:ro --restart=unless-stopped"
    )
    made = ["podman", "run", *shlex.split(options), "-e", f"HF_TOKEN={SECRET}", "-e", "A=b c"]
    one["Config"]["CreateCommand"] = [*made, "lmsysorg/sglang:v0.5.6", *OLD]
    world.details = {"engine": "podman", "id": CONTAINER_ID}
    return {"containers": [one], "images": [image()]}


def _compose(world: World) -> dict[str, Any]:
    folder = world.files / "project"
    folder.mkdir()
    file = folder / "compose.yaml"
    file.write_text("services: {llm: {image: lmsysorg/sglang:v0.5.6}}\n")
    labels = {
        "project": "stack",
        "service": "llm",
        "config-hash": "h1",
        "container-number": "1",
        "oneoff": "False",
    }
    labels |= {"project.working_dir": str(folder), "project.config_files": str(file)}
    one = container(**{f"com.docker.compose.{name}": value for name, value in labels.items()})
    project: dict[str, Any] = {"name": "stack", "service_name": "llm", "files": [str(file)], "hash": "h1"}
    project |= {"label": "com.docker.compose.service", "env": one["Config"]["Env"]}
    project["service"] = {"command": [word.replace("$", "$$") for word in OLD]}
    world.details = {"engine": "docker", "id": CONTAINER_ID}
    return {"containers": [one], "images": [image()], "compose": project}


def _kubernetes(world: World) -> dict[str, Any]:
    def meta(name: str, kind: str = "", owner: str = "") -> dict[str, Any]:
        above = [{"kind": kind, "name": owner, "controller": True, "apiVersion": "apps/v1"}] if kind else []
        return {"name": name, "namespace": "llm", "ownerReferences": above}

    words = [*OLD[:-1], '{"a": "$x 100%"}', "--served-model-name", "$(NAME)"]
    one: dict[str, Any] = {
        "name": "sglang",
        "image": "lmsysorg/sglang:v0.5.6",
        "command": words[:3],
        "args": words[3:],
    }
    one["env"] = [{"name": "NAME", "value": "m"}]
    template = {"spec": {"containers": [{"name": "sidecar", "image": "x"}, one]}}
    statuses = [{"name": "sglang", "containerID": f"containerd://{CONTAINER_ID}"}]
    pod: dict[str, Any] = {"metadata": {**meta("sglang-6f-x", "ReplicaSet", "sglang-6f"), "uid": POD_UID}}
    pod["status"] = {"containerStatuses": statuses}
    objects: dict[str, dict[str, Any]] = {
        "replicaset.apps/sglang-6f": {"doc": {"metadata": meta("sglang-6f", "Deployment", "sglang")}},
        "deployment.apps/sglang": {"doc": {"kind": "Deployment", "metadata": meta("sglang")}},
    }
    for found in objects.values():
        found["history"] = [{"replicas": 2, "template": template}]
    world.details = {"engine": "kubernetes", "id": CONTAINER_ID, "pod": POD_UID, "hostname": "sglang-6f-x"}
    return {"cluster": {"may": True, "namespace": "llm", "pods": [pod], "objects": objects}}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], World]:
    """The world of one kind, its tools first on PATH."""
    folder, files, tools = tmp_path / "world", tmp_path / "files", tmp_path / "bin"
    for one in (folder, files, tools, files / "private"):
        one.mkdir()
    source = Path(__file__).with_name("standin.py").read_text()
    for name in TOOLS:
        (tools / name).write_text(f"#!{sys.executable} -IS\n{source}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))  # nothing real can be reached
    monkeypatch.setenv("STANDIN_WORLD", str(folder))

    def made(kind: str) -> World:
        world = World(folder, files)
        world.write(_WORLDS[kind](world))
        return world

    return made


_WORLDS: dict[str, Callable[[World], dict[str, Any]]] = {
    "docker": _docker,
    "podman": _podman,
    "compose": _compose,
    "kubernetes": _kubernetes,
}
