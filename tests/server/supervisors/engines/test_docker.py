"""Docker: what inspect tells becomes options that the real client turns into the same request again."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.server.supervisors.engines.conftest import CONTAINER_ID, IMAGE_ID, SECRET, World, container, image
from wizard.server.supervisors import execute
from wizard.server.supervisors.docker import env_file, new_environ
from wizard.server.supervisors.execute import _same
from wizard.server.supervisors.inspected import HOST as TABLE
from wizard.server.supervisors.inspected import create_options, restart_word
from wizard.server.supervisors.recipe import CannotRecreate, Run

DOCKER = shutil.which("docker")
Make = Callable[[str], World]

HOST: dict[str, Any] = {
    "Binds": ["/models:/models:ro", "cache:/root/.cache"],
    "Mounts": [
        {"Type": "bind", "Source": "/a b", "Target": "/b", "ReadOnly": True},
        {"Type": "bind", "Source": "/p", "Target": "/p", "BindOptions": {"Propagation": "rshared"}},
        {"Type": "volume", "Source": "v", "Target": "/v"},
    ],
    "Tmpfs": {"/t": "", "/u": "size=64m,exec"},
    "VolumesFrom": ["other:ro"],
    "VolumeDriver": "local",
    "PortBindings": {
        "30000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30000"}, {"HostIp": "", "HostPort": "30001"}],
        "9000/udp": [{"HostIp": "::1", "HostPort": "9000"}],
    },
    "PublishAllPorts": True,
    "DeviceRequests": [
        {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}},
    ],
    "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "rw"}],
    "DeviceCgroupRules": ["c 1:3 mr"],
    "ShmSize": 34359738368,
    "IpcMode": "host",
    "PidMode": "host",
    "UTSMode": "host",
    "UsernsMode": "host",
    "CgroupnsMode": "private",
    "CgroupParent": "/llm",
    "NetworkMode": "host",
    "Dns": ["1.1.1.1"],
    "DnsOptions": ["ndots:1"],
    "DnsSearch": ["x.y"],
    "ExtraHosts": ["a:10.0.0.1"],
    "Ulimits": [{"Name": "memlock", "Hard": -1, "Soft": -1}, {"Name": "nofile", "Hard": 9, "Soft": 8}],
    "CapAdd": ["CAP_SYS_PTRACE"],
    "CapDrop": ["CAP_MKNOD"],
    "Privileged": True,
    "SecurityOpt": ["seccomp=unconfined", "label=disable"],
    "GroupAdd": ["video"],
    "Sysctls": {"net.core.somaxconn": "9"},
    "StorageOpt": {"size": "120G"},
    "Annotations": {"a": "b=c"},
    "ReadonlyRootfs": True,
    "Init": True,
    "Runtime": "nvidia",
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5},
    "OomScoreAdj": -500,
    "OomKillDisable": True,
    "PidsLimit": 4096,
    "Memory": 1 << 36,
    "MemorySwap": -1,
    "MemoryReservation": 1 << 35,
    "MemorySwappiness": 0,
    "NanoCpus": 1_500_000_000,
    "CpuShares": 512,
    "CpuPeriod": 100000,
    "CpuQuota": 50000,
    "CpuRealtimePeriod": 1000,
    "CpuRealtimeRuntime": 900,
    "CpusetCpus": "0-3",
    "CpusetMems": "0",
    "BlkioWeight": 300,
}
"""Every field that the table writes, with a value that is not the usual one."""
GPUS = [
    {"Driver": "", "Count": 2, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}},
    {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0", "GPU-1a"], "Capabilities": [["gpu"]], "Options": {}},
    {
        "Driver": "",
        "Count": 0,
        "DeviceIDs": ["1"],
        "Capabilities": [["compute", "utility", "gpu"]],
        "Options": {},
    },
]
CONFIG: dict[str, Any] = {
    "User": "1000:1000",
    "WorkingDir": "/w",
    "Domainname": "d",
    "Tty": True,
    "OpenStdin": True,
    "StopSignal": "SIGINT",
    "StopTimeout": 30,
    "Labels": {"a": "b", "c": "d=e f"},
    "ExposedPorts": {"7/tcp": {}},
    "Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 30_000_000_000, "Retries": 3},
}


class Engine(BaseHTTPRequestHandler):
    """As much of the Docker Engine API as ``docker create`` asks for; keeps the request."""

    asked: dict[str, Any]
    protocol_version = "HTTP/1.1"

    def _answer(self, doc: object, code: int = 200) -> None:
        body = json.dumps(doc).encode()
        self.send_response(code)
        self.send_header("Api-Version", "1.50")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer("OK")

    def do_GET(self) -> None:
        self._answer({"ID": "x", "OSType": "linux", "ApiVersion": "1.50"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked = {"path": self.path, **json.loads(body)}
        self._answer({"Id": "f" * 64, "Warnings": []}, 201)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Callable[[list[str]], dict[str, Any]]]:
    """What the real docker client sends to its engine for some words of ``docker create``."""
    if DOCKER is None:
        pytest.skip("no docker client here")
    path = tmp_path / "s"
    with socketserver.ThreadingUnixStreamServer(str(path), Engine) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def send(words: list[str]) -> dict[str, Any]:
            env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{path}"}
            argv = [str(DOCKER), "create", "--pull=never", *words]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return Engine.asked

        yield send
        server.shutdown()


def inspected(host: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    doc = container()
    return {**doc, "HostConfig": {**doc["HostConfig"], **host}, "Config": {**doc["Config"], **config}}


def differing(doc: dict[str, Any], request: dict[str, Any]) -> list[str]:
    """Fields that the client would send with another value than inspect told. It sends the binds in the order
    of a Go map, another one each time."""
    host = {
        k: v for k, v in doc["HostConfig"].items() if k not in ("ConsoleSize", "MaskedPaths", "ReadonlyPaths")
    }
    found = [k for k, v in host.items() if not _same(v, request["HostConfig"].get(k), k == "Binds")]
    names = ("User", "WorkingDir", "Domainname", "Tty", "OpenStdin", "StopSignal", "StopTimeout", "Labels")
    config = doc["Config"]
    zero = host.get("MemorySwappiness"), request["HostConfig"].get("MemorySwappiness")
    found += ["MemorySwappiness"] if zero[0] == 0 and zero[1] != 0 else []
    return found + [k for k in names if k in config and not _same(config[k], request.get(k), False)]


def test_the_real_client_sends_every_field_again(sent: Callable[[list[str]], dict[str, Any]]) -> None:
    doc = inspected(HOST, CONFIG)
    request = sent([*create_options(doc, {"Config": {}}), "image", "a", "--b"])
    assert differing(doc, request) == []
    assert request["Cmd"] == ["a", "--b"]
    assert request["Healthcheck"] == CONFIG["Healthcheck"]
    assert set(CONFIG["ExposedPorts"]) <= set(request["ExposedPorts"])
    # and it is the options that do it
    assert set(HOST) | set(CONFIG) - {"Healthcheck", "ExposedPorts"} <= set(differing(doc, sent(["image"])))
    assert set(HOST) == set(TABLE)


@pytest.mark.parametrize("gpus", GPUS)
def test_the_real_client_asks_for_the_same_gpus(
    sent: Callable[[list[str]], dict[str, Any]], gpus: dict[str, Any]
) -> None:
    found = sent([*create_options(inspected({"DeviceRequests": [gpus]}, {}), image()), "image"])
    (request,) = found["HostConfig"]["DeviceRequests"]
    assert {k: v for k, v in request.items() if v} == {k: v for k, v in gpus.items() if v}


def test_the_real_client_takes_the_whole_recipe(
    make: Make, sent: Callable[[list[str]], dict[str, Any]]
) -> None:
    world = make("docker")
    found = world.recipe()
    create = next(step.act for step in found.steps if step.name == "create")
    write = found.steps[0]
    assert execute.apply((write,), lambda *_: None).ok
    assert isinstance(create, Run)
    request = sent([word for word in create.argv[2:] if word != "--pull=never"])
    doc = container()
    assert request["path"].endswith("name=sglang-sgl-wizard-new")
    assert request["Env"] == doc["Config"]["Env"]
    assert request["Cmd"] == [{"0.9": "0.8"}.get(word, word) for word in doc["Config"]["Cmd"]]
    assert request["Labels"]["sgl-wizard.replaces"] == CONTAINER_ID
    assert not any(SECRET in word for word in create.argv if word.startswith("--env"))


@pytest.mark.parametrize(
    ("host", "config", "why"),
    [
        ({"Links": ["/a:/b"]}, {}, "Links"),
        ({"BrandNew": {"x": 1}}, {}, "BrandNew"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}, {}, "BlkioDeviceReadBps"),
        ({"SecurityOpt": ['seccomp={"defaultAction": "x"}']}, {}, "seccomp profile"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}}, {}, "engine chose"),
        ({"Mounts": [{"Type": "bind", "Source": "/a,b", "Target": "/b"}]}, {}, "comma"),
        (
            {"Mounts": [{"Type": "volume", "Target": "/b", "VolumeOptions": {"NoCopy": True}}]},
            {},
            "VolumeOptions",
        ),
        ({"DeviceRequests": [{"Capabilities": [["gpu"], ["x"]]}]}, {}, "several sets"),
        ({"Devices": [{"PathOnHost": "/dev/a"}]}, {}, "Devices"),
        ({}, {"NetworkDisabled": True}, "NetworkDisabled"),
        ({}, {"Healthcheck": {"Test": ["CMD", "a"]}}, "health check"),
    ],
)
def test_what_cannot_be_made_again_is_named(host: dict[str, Any], config: dict[str, Any], why: str) -> None:
    with pytest.raises(CannotRecreate, match=why):
        create_options(inspected(host, config), image())


def test_networks_volumes_and_names_of_their_own() -> None:
    doc = inspected({"NetworkMode": "llm"}, {"Hostname": "box"})
    fixed = {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["llm", CONTAINER_ID[:12], "sglang"]}
    doc["NetworkSettings"] = {"Networks": {"llm": fixed}}
    doc["Mounts"] = [
        {"Type": "bind", "Destination": "/models"},
        {"Type": "volume", "Name": "anon", "Destination": "/cache"},
    ]
    words = create_options(doc, image())
    assert {"--network=llm", "--ip=10.0.0.9", "--network-alias=llm", "--hostname=box"} <= set(words)
    assert "--volume=anon:/cache" in words
    assert not any("sglang" in word for word in words if word.startswith("--network-alias"))
    doc["NetworkSettings"]["Networks"]["two"] = {}
    with pytest.raises(CannotRecreate, match="2 networks"):
        create_options(doc, image())


def test_restart_words() -> None:
    assert restart_word({}) == "no"
    assert restart_word({"Name": "on-failure", "MaximumRetryCount": 5}) == "on-failure:5"


def test_environment_files() -> None:
    assert env_file({"A": "b c", "X": ""}) == "A=b c\nX=\n"
    for name, value in (("A", "b\nc"), ("#A", "b"), ("A B", "c"), ("", "x")):
        with pytest.raises(CannotRecreate):
            env_file({name: value})
    assert new_environ(["A=1", "B=2=3"], {"A": "9", "C": None}) == {"A": "9", "B": "2=3"}
    with pytest.raises(CannotRecreate, match="image"):
        new_environ(["A=1"], {"A": None})


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda c: c["HostConfig"].update(AutoRemove=True), "--rm"),
        (
            lambda c: c["Config"]["Labels"].update({"com.docker.swarm.service.name": "llm"}),
            "docker service update",
        ),
        (lambda c: c["Config"]["Labels"].update({"com.hashicorp.nomad.alloc_id": "1"}), "Nomad"),
        (lambda c: c["HostConfig"].update(Links=["/a:/b"]), "Links"),
        (lambda c: c["Config"].update(Cmd=["/run.sh"]), "do not start SGLang themselves"),
        (lambda c: c.update(Image="sha256:gone"), "image cannot be inspected"),
    ],
)
def test_a_container_that_is_not_replaced(make: Make, how: Callable[[Any], object], why: str) -> None:
    world = make("docker")
    world.edit(lambda doc: how(doc["containers"][0]))
    before = world.doc
    reasons = world.refusal()
    assert any(why in reason for reason in reasons), reasons
    assert world.doc == before


def test_an_image_name_that_moved_on_is_not_used(make: Make) -> None:
    world = make("docker")
    world.edit(lambda doc: doc["images"][0].update(RepoTags=[]))
    found = world.recipe()
    create = next(step.act for step in found.steps if step.name == "create")
    assert isinstance(create, Run)
    assert IMAGE_ID in create.argv
    assert "lmsysorg/sglang:v0.5.6" not in create.argv


def test_a_lossy_copy_is_found_before_the_old_one_is_stopped(make: Make) -> None:
    world = make("docker")
    before = world.serving
    found = world.recipe()
    # an engine that makes something else of the options than it says of the old container
    world.edit(lambda doc: doc["images"][0]["Config"].update(WorkingDir="/elsewhere"))
    done = execute.apply(found.steps, lambda *_: None)
    assert not done.ok
    assert "Config.WorkingDir" in done.detail
    assert "stop" not in done.begun
    assert execute.undo(found, done.begun, lambda *_: None).ok
    world.edit(lambda doc: doc["images"][0]["Config"].update(WorkingDir="/sgl-workspace"))
    assert world.serving == before


def test_somebody_elses_container_under_our_names_is_left_alone(make: Make) -> None:
    world = make("docker")
    found = world.recipe()
    theirs = {**container(), "Id": "9" * 64, "Name": "/sglang-sgl-wizard-new"}
    world.edit(lambda doc: doc["containers"].append(theirs))
    done = execute.apply(found.steps, lambda *_: None)
    assert not done.ok
    everything = [step.name for step in found.steps]
    execute.undo(found, everything, lambda *_: None)
    assert theirs in world.doc["containers"]
