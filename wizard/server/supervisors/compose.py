"""A server that is a Compose service: an override file beside the project's own, and ``up`` of this service.

The project's own files are never written. Before anything, ``config --hash`` must say that they still are what
the container was made from: ``up`` would bring in anybody's later change too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from wizard.server.supervisors import clients
from wizard.server.supervisors.docker import GRACE_S, new_words
from wizard.server.supervisors.recipe import (
    CannotRecreate,
    Change,
    Found,
    Recipe,
    Remove,
    Run,
    Step,
    Undo,
    Write,
)

PROJECT = "com.docker.compose.project"
_SERVICE, _NUMBER = "com.docker.compose.service", "com.docker.compose.container-number"
_HASH, _ONEOFF = "com.docker.compose.config-hash", "com.docker.compose.oneoff"


def of_container(engine: str, container: Mapping[str, Any]) -> Found:
    """The service that a container says it is, and whether its files still say the same."""
    doc = container["doc"]
    labels: Mapping[str, str] = doc["Config"]["Labels"]
    service = labels.get(_SERVICE, "")
    facts = {**container, "base": list(_base(labels)), "override": _override(labels)}
    obstacles = []
    hashed = clients.ask((*_base(labels), "config", "--hash", service), limit_s=10.0)
    if engine != "docker":
        obstacles.append(f"it was made by Compose on {engine}")
    elif not hashed.ok:
        obstacles.append(f"docker compose does not answer: {hashed.said}")
    elif hashed.out.split()[-1:] != [labels.get(_HASH)]:
        obstacles.append("its Compose files were changed since it was started: up would bring that in too")
    if labels.get(_ONEOFF, "False").lower() == "true":
        obstacles.append("it is a one-off (docker compose run)")
    if labels.get(_NUMBER, "1") != "1":
        obstacles.append("the service has several containers")
    if container["tag"].get("Id") != doc.get("Image"):
        obstacles.append("its image name means another image by now")
    if not os.path.isdir(os.path.dirname(facts["override"])):
        obstacles.append("its project folder is not on this host")
    if os.path.exists(facts["override"]):
        obstacles.append(f"there is a {facts['override']} already: take it over into the project's files first")
    policy = (doc["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no"
    restarts = f"restart policy {policy}" if policy != "no" else ""
    return Found("compose", f"{labels[PROJECT]}/{service}", restarts, facts, tuple(obstacles))


def _base(labels: Mapping[str, str]) -> tuple[str, ...]:
    """``docker compose`` with the project's own name, folder and files."""
    words = ["docker", "compose", f"--project-name={labels.get(PROJECT, '')}"]
    folder = labels.get("com.docker.compose.project.working_dir")
    words += [f"--project-directory={folder}"] if folder else []
    for option, label in (("--env-file", "environment_file"), ("--file", "config_files")):
        listed = labels.get(f"com.docker.compose.project.{label}", "")
        words += [f"{option}={one}" for one in listed.split(",") if one]
    return tuple(words)


def _override(labels: Mapping[str, str]) -> str:
    folder = labels.get("com.docker.compose.project.working_dir") or "/"
    return os.path.join(folder, f"sgl-wizard.{labels.get(_SERVICE, '')}.override.yaml")


def recipe(found: Found, change: Change) -> Recipe:
    """Override file and ``up``. Raises CannotRecreate."""
    doc, base, path = found.facts["doc"], tuple(found.facts["base"]), found.facts["override"]
    config: Mapping[str, Any] = doc["Config"]
    service = config["Labels"][_SERVICE]
    grace = int(max(change.drain_limit_s, config.get("StopTimeout") or GRACE_S))
    entrypoint, words = new_words(config, change)
    wanted: dict[str, Any] = {"command": [literal(word) for word in words]}
    if list(entrypoint) != (config.get("Entrypoint") or []):
        wanted["entrypoint"] = [literal(word) for word in entrypoint]
    environ = {}
    for name, value in change.environ.items():
        if value is None:
            raise CannotRecreate(f"an override cannot take the variable {name} away in every Compose")
        environ[name] = literal(value)
    if environ:
        wanted["environment"] = environ
    # JSON is YAML, and is read back as these very words by every YAML reader
    text = json.dumps({"services": {service: wanted}}, indent=2, ensure_ascii=False) + "\n"
    up = ("up", "--detach", "--no-deps", "--no-build", "--pull=never", f"--timeout={grace}", service)
    with_it, without = (*base, f"--file={path}", *up), (*base, *up)
    inspect = ("docker", "inspect", "--type=container")
    name = str(doc["Name"]).lstrip("/")
    return Recipe(
        kind="compose",
        name=found.name,
        blast=f"The container of service {service} is made anew (running requests may finish, at most "
        f"{grace} s). Services that depend on it are left running.",
        steps=(
            Step("write override", Write(path, text, 0o600)),
            Step("check override", Run((*base, f"--file={path}", "config", "--quiet"))),
            Step("up", Run(with_it, grace + 180.0)),
        ),
        wait=(Step("running", Run((*inspect, "--format={{.State.Running}}", name))),),
        undo=(
            # where the old container still runs, up finds nothing to do: Compose compares the hashes
            Undo("up without override", Run(without, grace + 180.0), "up"),
            Undo("remove override", Remove(path, text), "write override"),
        ),
        main_pid=(*inspect, "--format={{.State.Pid}}", name),
        log_path=(*inspect, "--format={{.LogPath}}", name),
        keeps=f"a plain docker compose up takes the change back until {path} is taken over into its files",
    )


def literal(text: str) -> str:
    """A text in which Compose fills in nothing (Compose specification, interpolation)."""
    return text.replace("$", "$$")
