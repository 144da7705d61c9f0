"""Stand-ins for docker, podman and kubectl: a world in one JSON file, every call recorded.

Run as a program under one of these names. Knows only what the wizard calls, answers in the shape of the real
tools, and ends with code 64 for what it does not know: a misspelled command cannot pass.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("STANDIN_WORLD", "/nonexistent"))
World = dict[str, Any]


def fail(text: str, code: int = 1) -> int:
    print(text, file=sys.stderr)
    return code


# -- docker and podman

HOST_USUAL = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "IpcMode": "private",
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "ShmSize": 67108864,
    "Runtime": "runc",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "Ulimits": None,
    "DeviceRequests": None,
    "MaskedPaths": ["/proc/kcore"],
    "ReadonlyPaths": ["/proc/bus"],
}


def restart_policy(text: str) -> World:
    name, _, most = text.partition(":")
    return {"Name": name, "MaximumRetryCount": int(most or 0)}


def ulimit(text: str) -> World:
    name, _, pair = text.partition("=")
    soft, _, hard = pair.partition(":")
    return {"Name": name, "Hard": int(hard or soft), "Soft": int(soft)}


def option(host: World, config: World, name: str, value: str) -> bool:
    """One option of ``create``, as the client would send it."""
    inside = value.rpartition(":")
    simple = {"ipc": "IpcMode", "network": "NetworkMode", "runtime": "Runtime"}
    lists = {"volume": "Binds", "cap-add": "CapAdd"}
    if name in simple:
        host[simple[name]] = value
    elif name in lists:
        host[lists[name]] = [*(host[lists[name]] or []), value]
    elif name == "shm-size":
        host["ShmSize"] = int(value.removesuffix("g")) * (1 << 30 if value.endswith("g") else 1)
    elif name == "restart":
        host["RestartPolicy"] = restart_policy(value)
    elif name == "ulimit":
        host["Ulimits"] = [*(host["Ulimits"] or []), ulimit(value)]
    elif name == "publish":
        ip, _, port = inside[0].rpartition(":")
        host["PortBindings"][inside[2]] = [{"HostIp": ip, "HostPort": port}]
        config.setdefault("ExposedPorts", {})[inside[2]] = {}
    elif name == "expose":
        config.setdefault("ExposedPorts", {})[value] = {}
    elif name == "log-driver":
        host["LogConfig"] = {"Type": value, "Config": {}}
    elif name == "log-opt":
        host["LogConfig"]["Config"].update([value.split("=", 1)])
    elif name == "gpus":
        count = -1 if value == "all" else int(value.removeprefix("count="))
        request = {"Driver": "", "Count": count, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
        host["DeviceRequests"] = [request]
    elif name == "label":
        config["Labels"].update([value.split("=", 1)])
    elif name == "env-file":
        config["Env"] += [line for line in Path(value).read_text().splitlines() if line]
    elif name == "env":
        config["Env"].append(value)
    else:
        return False
    return True


def create(world: World, client: str, words: list[str]) -> int:
    host: World = json.loads(json.dumps(HOST_USUAL))
    config: World = {"Labels": {}, "Env": [], "Tty": False, "User": ""}
    name, entrypoint = "", None
    said = [client, "create", *words]
    while words and words[0].startswith("-"):
        words[0] = {"-v": "--volume"}.get(words[0], words[0])
        key, equals, value = words.pop(0)[2:].partition("=")
        value = value if equals else words.pop(0)
        if key == "name":
            name = value
        elif key == "entrypoint":
            entrypoint = [value] if value else []
        elif key != "pull" and not option(host, config, key, value):
            return fail(f"unknown flag: --{key}", 64)
    image = find_image(world, words[0])
    if image is None:
        return fail(f"No such image: {words[0]}")
    if find(world, name) is not None:
        return fail(f"The container name {name} is already in use")
    given = {pair.split("=", 1)[0] for pair in config["Env"]}
    config["Env"] += [pair for pair in image["Config"]["Env"] if pair.split("=", 1)[0] not in given]
    config["Labels"] = {**image["Config"]["Labels"], **config["Labels"]}
    config.update(Image=words[0], Cmd=words[1:], WorkingDir=image["Config"]["WorkingDir"])
    config["Entrypoint"] = image["Config"]["Entrypoint"] if entrypoint is None else entrypoint
    world["made"] = world.get("made", 0) + 1
    doc = {"Id": f"{world['made']:064x}", "Image": image["Id"], "HostConfig": host, "Config": config}
    config["Hostname"] = doc["Id"][:12]
    config.update({"CreateCommand": said} if client == "podman" else {})
    slash = "/" if client == "docker" else ""
    world["containers"].append({**doc, "Name": slash + name, "State": {"Running": False, "Pid": 0}})
    print(doc["Id"])
    return 0


def find(world: World, name: str) -> World | None:
    ones = world["containers"]
    return next((c for c in ones if c["Name"].lstrip("/") == name or c["Id"] == name), None)


def find_image(world: World, name: str) -> World | None:
    return next((i for i in world["images"] if name == i["Id"] or name in i["RepoTags"]), None)


def docker(words: list[str], world: World, client: str = "docker") -> int:
    if words[:2] == ["image", "inspect"]:
        image = find_image(world, words[2])
        print(json.dumps([image] if image else []))
        return 0 if image else fail(f"No such image: {words[2]}")
    if words[0] == "compose":
        return compose(words[1:], world)
    if words[0] == "create":
        return create(world, client, words[1:])
    names = words[-2:-1] if words[0] == "rename" else words[-1:]
    one = find(world, names[0])
    if one is None:
        return fail(f"Error: No such container: {names[0]}")
    match words:
        case ["inspect", "--type=container", _]:
            print(json.dumps([one]))
        case ["inspect", "--type=container", template, _]:
            print(templated(one, template.removeprefix("--format=")))
        case ["stop", "-t", seconds, _] if seconds.isdigit():
            one["State"] = {"Running": False, "Pid": 0}
        case ["start", _]:
            one["State"] = {"Running": True, "Pid": 4242}
        case ["rm", "-f", _]:
            world["containers"].remove(one)
        case ["rm", _]:
            if one["State"]["Running"]:
                return fail("container is running")
            world["containers"].remove(one)
        case ["rename", _, new]:
            if find(world, new) is not None:
                return fail(f"The container name {new} is already in use")
            one["Name"] = ("/" if client == "docker" else "") + new
        case ["update", policy, _] if policy.startswith("--restart="):
            one["HostConfig"]["RestartPolicy"] = restart_policy(policy.removeprefix("--restart="))
        case _:
            return fail(f"unknown command: {words[0]}", 64)
    return 0


def templated(doc: World, template: str) -> str:
    if template.startswith("{{index .Config.Labels "):
        return str(doc["Config"]["Labels"].get(template.split('"')[1], ""))
    found: Any = doc
    for key in template.strip("{}").strip(".").split("."):
        found = found[key]
    return json.dumps(found) if isinstance(found, bool) else str(found)


def podman(words: list[str], world: World) -> int:
    return docker(words, world, "podman")


def compose(words: list[str], world: World) -> int:
    project = world["compose"]
    files = [w.removeprefix("--file=") for w in words if w.startswith("--file=")]
    while words and words[0].startswith("--"):
        words = words[1:]
    if not set(project["files"]) <= set(files) or f"--project-name={project['name']}" not in sys.argv:
        return fail("no configuration file provided: not found", 14)
    service = dict(project["service"])
    for path in files:
        if path not in project["files"]:
            service.update(json.loads(Path(path).read_text())["services"][project["service_name"]])
    if words[:2] == ["config", "--hash"]:
        print(words[2], project["hash"])
        return 0
    if words[:2] == ["config", "--quiet"]:
        return 0
    if words[0] != "up" or words[-1] != project["service_name"] or "--no-deps" not in words:
        return fail(f"unknown docker command: {words}", 64)
    one = next(c for c in world["containers"] if c["Config"]["Labels"].get(project["label"]))
    one["Config"]["Cmd"] = [word.replace("$$", "$") for word in service["command"]]
    one["Config"]["Env"] = [*project["env"], *(f"{k}={v}" for k, v in service.get("environment", {}).items())]
    one["State"] = {"Running": True, "Pid": 4243}
    return 0


# -- kubernetes


def kubectl(words: list[str], world: World) -> int:
    cluster = world["cluster"]
    if words[0] == "auth":
        print("yes" if cluster["may"] else "no")
        return 0 if cluster["may"] else 1
    if words[:2] == ["get", "pods"]:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": cluster["pods"]}))
        return 0
    plain = [w for w in words if not w.startswith("--")]
    at = 2 if plain[0] == "rollout" else 1
    target = plain[at] if "/" in plain[at] else "/".join(plain[at : at + 2])
    one = cluster["objects"].get(target)
    if one is None or f"--namespace={cluster['namespace']}" not in words:
        return fail(f'Error from server (NotFound): "{target}" not found')
    history = one["history"]
    if plain[0] == "get":
        print(json.dumps({**one["doc"], "spec": history[-1]}))
    elif plain[0] == "patch":
        path = next(w.removeprefix("--patch-file=") for w in words if w.startswith("--patch-file="))
        history.append(merged(history[-1], json.loads(Path(path).read_text())["spec"]))
    elif plain[:2] == ["rollout", "undo"]:
        history.append(history[-2])
        one["undone"] = one.get("undone", 0) + 1
    elif plain[:2] != ["rollout", "status"]:
        return fail(f"unknown command {plain[0]}", 64)
    return 0


def merged(spec: World, patch: World) -> World:
    new: World = json.loads(json.dumps(spec))
    for wanted in patch["template"]["spec"]["containers"]:
        one = next(c for c in new["template"]["spec"]["containers"] if c["name"] == wanted["name"])
        for env in wanted.pop("env", []):
            one["env"] = [e for e in one.get("env", []) if e["name"] != env["name"]]
            one["env"] += [] if "$patch" in env else [env]
        one.update(wanted)
    return new


def main() -> int:
    name = os.path.basename(sys.argv[0])
    path = FOLDER / "world.json"
    world = json.loads(path.read_text())
    with open(FOLDER / "calls.jsonl", "a", encoding="utf-8") as calls:
        calls.write(json.dumps([name, *sys.argv[1:]]) + "\n")
    if " ".join([name, *sys.argv[1:]]).startswith(world.get("fails") or "\0"):
        return fail("told to fail", 1)
    code = {"docker": docker, "podman": podman, "kubectl": kubectl}[name](sys.argv[1:], world)
    path.write_text(json.dumps(world))
    return code


if __name__ == "__main__":
    sys.exit(main())
