"""A server that is a Docker container: the new one is made and compared before the old one is stopped.

The old container is stopped, renamed and kept until the new one was verified; it is always spoken of by its
id, the new one by a label that names the old, so that no act can reach somebody else's container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wizard.server.supervisors.inspected import create_options, extra_volumes, restart_word
from wizard.server.supervisors.recipe import (
    NEW_SUFFIX,
    OLD_SUFFIX,
    CannotRecreate,
    Change,
    Check,
    Found,
    Guard,
    Kind,
    Recipe,
    Remove,
    Run,
    Step,
    Undo,
    Write,
)
from wizard.server.supervisors.words import carried_over

LABEL = "sgl-wizard.replaces"
LOG_PATH: Mapping[str, str] = {"docker": "{{.LogPath}}", "podman": "{{.HostConfig.LogConfig.Path}}"}
GRACE_S = 10.0
"""How long ``docker stop`` waits where the container does not say (docker stop --help)."""
_BINDS = "HostConfig.Binds"
"""The client sends them in the order of a Go map, another one each time (seen with 20.10 and 28.2)."""
_UNCOMPARED = (
    frozenset({"HostConfig.ContainerIDFile", "HostConfig.ConsoleSize"})
    | frozenset(
        f"Config.{name}"
        for name in ("Hostname", "Image", "Labels", "AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce")
    )
    | {"Config.Volumes", "Config.OnBuild", "Config.ArgsEscaped"}
)
"""Differ by nature: the client's own, the new short id, our label."""


def recipe(found: Found, change: Change) -> Recipe:
    """Create, compare, stop, rename, start. Raises CannotRecreate with all that would be lost."""
    doc, image = found.facts["doc"], found.facts["image"]
    config: Mapping[str, Any] = doc["Config"]
    entrypoint, words = new_words(config, change)
    environ = new_environ(config.get("Env") or (), change.environ)
    same_tag = found.facts["tag"].get("Id") == doc["Image"]
    path = os.path.join(change.folder, f"{doc['Id'][:12]}.env")
    usual = (image.get("Config") or {}).get("Entrypoint") or []
    entry = [] if list(entrypoint) == usual else [f"--entrypoint={entrypoint[0] if entrypoint else ''}"]
    rest = [*entrypoint[1:], *words] if entry else list(words)
    create = (
        *("docker", "create", "--pull=never", f"--name={found.name}{NEW_SUFFIX}"),
        *create_options(doc, image),
        *(f"--label={LABEL}={doc['Id']}", f"--env-file={path}", *entry),
        *(config["Image"] if same_tag else doc["Image"], *rest),
    )
    expect = _expected(doc, entrypoint[:1] if entry else entrypoint, rest, environ)
    look = Guard(
        ("docker", "inspect", "--type=container", found.name + NEW_SUFFIX), expect=expect, any_order=(_BINDS,)
    )
    return swapped("docker", found, change, create, Write(path, env_file(environ), 0o600), look)


def new_words(config: Mapping[str, Any], change: Change) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entrypoint and command with the change in them."""
    entrypoint, command = tuple(config.get("Entrypoint") or ()), tuple(config.get("Cmd") or ())
    words = carried_over((*entrypoint, *command), change)
    if words[: len(entrypoint)] == entrypoint:
        return entrypoint, words[len(entrypoint) :]
    if not command:
        return words, ()
    if len(words) == len(entrypoint) + len(command):
        return words[: len(entrypoint)], words[len(entrypoint) :]
    raise CannotRecreate("its flags stand half in the entrypoint and half in the command")


def new_environ(pairs: Sequence[str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The container's whole environment, the image's part too: the image stays the same, and so it reads
    exactly as before when inspected."""
    environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    for name, value in changes.items():
        if value is not None:
            environ[name] = value
        elif environ.pop(name, None) is not None:
            raise CannotRecreate(f"{name} may come from the image, which would set it again")
    return environ


def env_file(environ: Mapping[str, str]) -> str:
    """The text of ``--env-file``: NAME=VALUE as it is, no quoting (docker/cli pkg/kvfile)."""
    for name, value in environ.items():
        if not re.fullmatch(r"[^\s#=][^\s=]*", name) or re.search(r"[\n\r\0]", value):
            raise CannotRecreate(f"the variable {name} cannot be written into an --env-file")
    return "".join(f"{name}={value}\n" for name, value in environ.items())


def _expected(
    doc: Mapping[str, Any], entrypoint: Sequence[str], words: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """What inspecting the new container must say: all that the old one says, but for the change."""
    parts = {f"{part}.{name}": x for part in ("HostConfig", "Config") for name, x in doc[part].items()}
    expect = {place: x for place, x in parts.items() if place not in _UNCOMPARED}
    expect["Config.Cmd"], expect["Config.Entrypoint"] = list(words), list(entrypoint)
    expect["Config.Env"] = [f"{name}={value}" for name, value in environ.items()]
    expect[_BINDS] = [*(doc["HostConfig"].get("Binds") or ()), *extra_volumes(doc)]
    expect["Image"] = doc["Image"]
    return expect


def swapped(
    client: Kind, found: Found, change: Change, create: tuple[str, ...], secrets: Write, look: Guard
) -> Recipe:
    """The old container out, the new one in its place; the same for Docker and Podman."""
    doc, name = found.facts["doc"], found.name
    old, aside, new = doc["Id"], name + OLD_SUFFIX, name + NEW_SUFFIX
    policy = restart_word(doc["HostConfig"].get("RestartPolicy") or {})
    grace = int(max(change.drain_limit_s, doc["Config"].get("StopTimeout") or GRACE_S))
    limit = grace + 60.0
    ours = '{{index .Config.Labels "' + LABEL + '"}}'

    def replaces(which: str) -> Guard:
        return Guard((client, "inspect", "--type=container", f"--format={ours}", which), prints=old)

    def named(which: str) -> Guard:
        return Guard((client, "inspect", "--type=container", "--format={{.Name}}", old), prints=which)

    # a stopped container with a policy comes back with the engine, beside the new one on the same card;
    # Podman knows no change of the policy before 5.1, and starts such containers at boot only
    held_back = client == "docker" and policy != "no"
    slash = "/" if client == "docker" else ""
    steps = [
        Step("write environment", secrets),
        Step("create", Run(create, 120.0)),
        Step("compare", Check(look, "the new container would differ from the old one in more than the change")),
        Step("remove environment", Remove(secrets.path, secrets.content)),
        Step("no restart meanwhile", Run((client, "update", "--restart=no", old))),
        Step("stop", Run((client, "stop", "-t", str(grace), old), limit)),
        *_room(client, found.facts.get("older")),
        Step("set aside", Run((client, "rename", old, aside))),
        Step("take the name", Run((client, "rename", new, name))),
        Step("start", Run((client, "start", name), 120.0)),
    ]
    undo = [
        Undo("remove environment", Remove(secrets.path, secrets.content), "write environment"),
        Undo("stop the new", Run((client, "stop", "-t", "10", name), 60.0, replaces(name)), "start"),
        Undo("remove the new", Run((client, "rm", "-f", name), 60.0, replaces(name)), "take the name"),
        Undo("remove the unused", Run((client, "rm", "-f", new), 60.0, replaces(new)), "create"),
        Undo("name back", Run((client, "rename", old, name), 60.0, named(slash + aside)), "set aside"),
        Undo("restart policy", Run((client, "update", f"--restart={policy}", old)), "no restart meanwhile"),
        Undo("start the old", Run((client, "start", old), 120.0), "stop"),
    ]
    return Recipe(
        kind=client,
        name=name,
        blast=f"The container {name} is stopped (running requests may finish, at most {grace} s) and kept as "
        f"{aside}; a new one takes its name. What was written inside the old one stays in the old one.",
        steps=tuple(s for s in steps if held_back or s.name != "no restart meanwhile"),
        wait=(
            Step(
                "running",
                Check(
                    Guard(
                        (client, "inspect", "--type=container", "--format={{.State.Running}}", name),
                        prints="true",
                    ),
                    "the new container does not run",
                ),
            ),
        ),
        undo=tuple(undo),
        main_pid=(client, "inspect", "--type=container", "--format={{.State.Pid}}", name),
        log_path=(client, "inspect", "--type=container", "--format=" + LOG_PATH[client], name),
        keeps=f"the old container stays, stopped, as {aside}: remove it with {client} rm {aside} when you no "
        "longer want to go back",
        stops="stop",
        restarts="start the old",
        quiet_stop=(client, "kill", f"--signal={doc['Config'].get('StopSignal') or 'SIGTERM'}", old),
    )


def _room(client: str, older: str | None) -> tuple[Step, ...]:
    """The container that the old one took the place of, in an earlier session, makes room for it."""
    if older is None:
        return ()
    stopped = Guard(
        (client, "inspect", "--type=container", "--format={{.State.Running}}", older), prints="false"
    )
    return (Step("make room", Run((client, "rm", older), 60.0, stopped)),)
