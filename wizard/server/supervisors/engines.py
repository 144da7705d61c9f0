"""A server in a Docker or Podman container, seen from the host: asks the engine who really holds it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from wizard.core.commandline import basename
from wizard.server import proc
from wizard.server.supervisors import cgroups, clients, compose
from wizard.server.supervisors.docker import LABEL
from wizard.server.supervisors.recipe import OLD_SUFFIX, Found

_OWNERS = (
    ("com.docker.swarm.service.name", "Docker Swarm service {}: docker service update --args"),
    ("com.hashicorp.nomad.alloc_id", "Nomad allocation {}: change args of the job and run it"),
    ("com.amazonaws.ecs.task-arn", "Amazon ECS task {}: register a new task definition"),
    ("io.podman.compose.project", "podman-compose project {}: change its file, podman-compose up"),
    ("PODMAN_SYSTEMD_UNIT", "systemd unit {}: change its ExecStart= (or its Quadlet file)"),
    ("io.kubernetes.pod.name", "Kubernetes pod {}: change its owner"),
    ("io.balena.supervised", "balena: change its release"),
)
"""Labels of those who make a container anew by themselves, and what to do there."""


def find(engine: Literal["docker", "podman"], id: str) -> Found:
    """What the engine says of a container, or of the Compose service that it belongs to. Only asks."""
    docs, why = clients.ask_json((engine, "inspect", "--type=container", id))
    doc = docs[0] if isinstance(docs, list) and docs and isinstance(docs[0], Mapping) else None
    if doc is None or not isinstance(doc.get("Config"), Mapping):
        why = why or "an answer without the container"
        return Found(engine, id[:12], "", {}, (f"{engine} does not answer: {why}",))
    labels: Mapping[str, str] = doc["Config"].get("Labels") or {}
    name = str(doc.get("Name") or id[:12]).lstrip("/")
    image, _ = clients.ask_json((engine, "image", "inspect", doc.get("Image") or ""))
    tag, _ = clients.ask_json((engine, "image", "inspect", doc["Config"].get("Image") or ""))
    facts: dict[str, Any] = {"doc": doc, "image": _first(image), "tag": _first(tag)}
    if compose.PROJECT in labels and "io.podman.compose.project" not in labels:
        return compose.of_container(engine, facts)
    host: Mapping[str, Any] = doc.get("HostConfig") or {}
    obstacles = [f"it belongs to {says.format(labels[key])}" for key, says in _OWNERS if key in labels]
    keeper = _keeper(name)
    if keeper:
        obstacles.append(f"the unit {keeper} starts it: change its ExecStart=")
    if host.get("AutoRemove"):
        obstacles.append("it was started with --rm: it is gone once it stops, with nothing to go back to")
    if not facts["image"]:
        obstacles.append("its image cannot be inspected")
    older, why = _older(engine, name + OLD_SUFFIX, labels)
    obstacles += [why] if why else []
    policy = (host.get("RestartPolicy") or {}).get("Name") or "no"
    restarts = f"restart policy {policy}" if policy != "no" else ""
    return Found(engine, name, restarts, {**facts, "older": older}, tuple(obstacles))


def _older(engine: str, name: str, labels: Mapping[str, str]) -> tuple[str | None, str]:
    """The stopped container that this one took the place of in an earlier session; or what is in the way."""
    docs, _ = clients.ask_json((engine, "inspect", "--type=container", name))
    doc = _first(docs)
    if not doc:
        return None, ""
    if doc.get("Id") == labels.get(LABEL) and not (doc.get("State") or {}).get("Running"):
        return str(doc["Id"]), ""
    return None, f"there is a {name} already: remove it, or rename it back, first"


def _first(docs: Any) -> Mapping[str, Any]:
    return docs[0] if isinstance(docs, list) and docs and isinstance(docs[0], Mapping) else {}


def _keeper(name: str) -> str:
    """The systemd unit in whose foreground a ``docker run`` of this container stands; "" for none."""
    from wizard.server.supervisors.holders import unit_of

    for pid in proc.pids():
        words = proc.cmdline(pid)
        if not words or basename(words[0]) not in ("docker", "podman"):
            continue
        runs = {"run", "start"}.intersection(words[1:4])
        named = f"--name={name}" in words or ("--name", name) in pairwise(words)
        if runs and (named or ("start" in words[1:4] and name in words)):
            unit = unit_of(cgroups.read(pid))
            if unit is not None:
                return unit
    return ""
