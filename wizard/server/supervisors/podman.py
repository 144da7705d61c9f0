"""A server that is a Podman container: made anew by the very words that made it (``Config.CreateCommand``).

Podman keeps its own command line, which is truer than what could be told from its inspect document. Only
options that a second container can be given unchanged are taken; any other one is named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wizard.core.commandline import basename
from wizard.core.redact import is_secret_variable
from wizard.server.supervisors.docker import LABEL, env_file, swapped
from wizard.server.supervisors.recipe import (
    NEW_SUFFIX,
    CannotRecreate,
    Change,
    Found,
    Guard,
    Recipe,
    Write,
)
from wizard.server.supervisors.words import carried_over

_ONE = (
    "--add-host --annotation --cap-add --cap-drop --cgroup-parent --cgroupns --cgroups --cpu-shares -c --cpus "
    "--cpuset-cpus --cpuset-mems --device --device-cgroup-rule --dns --dns-option --dns-search --entrypoint "
    "--expose --gpus --group-add --health-cmd --health-interval --health-retries --health-timeout "
    "--health-start-period --hostname -h --hooks-dir --ipc --label -l --log-driver --log-opt --memory -m "
    "--memory-reservation --memory-swap --mount --network --net --network-alias --oom-score-adj --pid "
    "--pids-limit --publish -p --restart --runtime --security-opt --shm-size --stop-signal --stop-timeout "
    "--sysctl --systemd --tmpfs --ulimit --umask --user -u --userns --uts --volume -v --workdir -w --tz"
)
_NONE = "--init --interactive -i --privileged --publish-all -P --read-only --tty -t -it -ti --no-hosts"
_TAKES_ONE, _SWITCHES = frozenset(_ONE.split()), frozenset(_NONE.split())
_DROPPED = frozenset({"--detach", "-d", "-dit", "-itd", "-dt", "-td", "-di", "-id", "--quiet", "-q"})
_DROPPED_WITH_VALUE = frozenset({"--name", "--pull"})
"""Ours instead: another name, nothing pulled, nothing attached."""
_ENV = frozenset({"--env", "-e"})
_OURS = ("--env-file=", f"--label={LABEL}=")
"""What ``recipe`` adds: a container that an earlier session made is told by these too, and its file is gone."""


def recipe(found: Found, change: Change) -> Recipe:
    """As for Docker, with Podman's own words. Raises CannotRecreate."""
    doc = found.facts["doc"]
    if doc.get("Pod"):
        raise CannotRecreate("it is part of a Podman pod")
    if found.facts["tag"].get("Id") != doc["Image"]:
        raise CannotRecreate("its image name means another image by now")
    options, image, words = _taken_apart(doc["Config"].get("CreateCommand") or (), doc)
    options, own = _without_ours(options)
    options, environ = _environ(options)
    environ = {**(_secrets_in(doc) if own else {}), **environ}
    for name, value in change.environ.items():
        if value is None:
            raise CannotRecreate(f"{name} may come from the image, which would set it again")
        environ[name] = value
    path = os.path.join(change.folder, f"{doc['Id'][:12]}.env")
    secrets = {name: x for name, x in environ.items() if is_secret_variable(name)}
    if any(not re.fullmatch(r"[\w.+/=:@-]+", x) for x in secrets.values()):
        raise CannotRecreate("a secret variable that Podman's --env-file may read in another way")
    open_ones = [f"--env={name}={x}" for name, x in environ.items() if name not in secrets]
    new_words = carried_over(words, change)
    create = (
        *("podman", "create", "--pull=never", f"--name={found.name}{NEW_SUFFIX}", *options, *open_ones),
        *(f"--label={LABEL}={doc['Id']}", f"--env-file={path}", image, *new_words),
    )
    expect = {"Image": doc["Image"], "Config.Cmd": list(new_words)}
    new = found.name + NEW_SUFFIX
    look = Guard(("podman", "inspect", "--type=container", new), expect=expect)
    return swapped("podman", found, change, create, Write(path, env_file(secrets), 0o600), look)


def _taken_apart(command: Sequence[str], doc: Mapping[str, Any]) -> tuple[list[str], str, list[str]]:
    """Options, image and words of ``podman run`` or ``podman create``."""
    at = 2
    if command[1:2] == ["container"]:
        at = 3
    if len(command) <= at or basename(command[0]) != "podman" or command[at - 1] not in ("run", "create"):
        raise CannotRecreate("Podman does not tell the command that made it")
    options: list[str] = []
    while at < len(command) and command[at].startswith("-") and command[at] != "-":
        word = command[at]
        name, equals, _ = word.partition("=")
        takes = name in _TAKES_ONE or name in _ENV or name in _DROPPED_WITH_VALUE or _is_ours(word, doc)
        if not takes and word not in _SWITCHES and word not in _DROPPED:
            raise CannotRecreate(f"it was made with {name}, which a second container cannot be given unchanged")
        end = at + (2 if takes and not equals else 1)
        if name not in _DROPPED and name not in _DROPPED_WITH_VALUE:
            options += command[at:end]
        at = end
    if at >= len(command):
        raise CannotRecreate("Podman does not tell the command that made it")
    return options, command[at], list(command[at + 1 :])


def _is_ours(word: str, doc: Mapping[str, Any]) -> bool:
    return word.startswith(_OURS) and LABEL in (doc["Config"].get("Labels") or {})


def _without_ours(options: Sequence[str]) -> tuple[list[str], bool]:
    """Options without those of an earlier session, and whether there was one."""
    kept = [word for word in options if not word.startswith(_OURS)]
    return kept, len(kept) < len(options)


def _secrets_in(doc: Mapping[str, Any]) -> dict[str, str]:
    """The variables that an earlier session gave by a file: the secret ones."""
    pairs = (pair.partition("=") for pair in doc["Config"].get("Env") or ())
    return {name: value for name, _, value in pairs if is_secret_variable(name)}


def _environ(options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Options without ``--env``, and what it said."""
    rest: list[str] = []
    environ: dict[str, str] = {}
    at = 0
    while at < len(options):
        name, equals, given = options[at].partition("=")
        if name not in _ENV:
            rest.append(options[at])
            at += 1
            if name in _TAKES_ONE and not equals:
                rest.append(options[at])
                at += 1
            continue
        pair, at = (given, at + 1) if equals else (options[at + 1], at + 2)
        variable, equals, value = pair.partition("=")
        if not equals:
            raise CannotRecreate(f"its variable {variable} came from the shell that started it")
        environ[variable] = value
    return rest, environ
