"""Which servers run here, and everything needed to start one again. Looks only.

A server is the parent process: python running ``sglang.launch_server``, ``sglang serve`` or the
simulator. Shells, wrappers, editors and greps with "sglang" in their words are not; neither are the
``sglang::`` children, whose command line and environment setproctitle wipes (recordings/cpu).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from wizard.core.commandline import find_entry, parse
from wizard.core.flags import Catalogue
from wizard.core.target import Launch, Target
from wizard.server import proc
from wizard.server.catalogue import for_version, installed_version
from wizard.server.identity import identify

DEFAULT_PORT = 30000
_SIMULATOR = "wizard.simulator"
_SUPERVISED = (
    ("docker", "a Docker container"),
    ("libpod", "a Podman container"),
    ("kubepods", "a Kubernetes pod"),
    ("containerd", "a container"),
)


class TargetError(Exception):
    """There is no such server; the text says what to do, in one line."""


def runs_server(argv: Sequence[str]) -> bool:
    """Whether these words are a server process itself, not a wrapper around one."""
    entry = find_entry(argv)
    if entry is None or entry.program_at != 0:
        return False
    if entry.kind == "script" and not entry.module.endswith("sglang/launch_server.py"):
        return False
    return os.path.basename(argv[0]).startswith(("python", "pypy", "sglang"))


def find_servers() -> list[Target]:
    """Every server of this host that can be seen, by port. Children and wrappers are left out."""
    found: list[Target] = []
    me = os.getpid()
    servers = {pid for pid in proc.pids() if pid != me and runs_server(proc.cmdline(pid))}
    for pid in sorted(servers):
        above = proc.parent(pid)
        if above in servers:
            continue
        target = _target(pid)
        if target is not None:
            found.append(target)
    return sorted(found, key=lambda t: (t.port, t.identity.pid if t.identity else 0))


def target_from_pid(pid: int) -> Target:
    """The server that a process belongs to: it, or the nearest one above or below it.

    Raises TargetError.
    """
    if proc.state(pid) in ("", "Z", "X"):
        raise TargetError(f"there is no process {pid}")
    one: int | None = pid
    best: int | None = None
    while one is not None and one > 1:
        if runs_server(proc.cmdline(one)):
            best = one
        one = proc.parent(one)
    if best is None:
        below = [i.pid for i in proc.descendants(pid) if runs_server(proc.cmdline(i.pid))]
        best = below[0] if below else None
    target = _target(best) if best is not None else None
    if target is None:
        raise TargetError(
            f"process {pid} is no SGLang server: neither it nor its parents or children run "
            "sglang.launch_server or sglang serve"
        )
    return target


def target_from_url(url: str) -> Target:
    """The server behind an address: with its process when it runs on this host, else remote.

    Raises TargetError for what is no http address.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise TargetError(f"{url} is not an address; write http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not host:
        raise TargetError(f"{url} is not an address; write http://HOST:PORT")
    port = port or (443 if parts.scheme == "https" else DEFAULT_PORT)
    bare = Target(host=host, port=port, scheme=parts.scheme, remote=True)
    if not _is_local(host):
        return replace(
            bare, note="the server runs on another host: it can be examined, not relaunched, from here"
        )
    for one in proc.listeners(port):
        if one.pid is None:
            continue
        try:
            found = target_from_pid(one.pid)
        except TargetError:
            continue
        return replace(found, host=host, port=port, scheme=parts.scheme)
    return replace(bare, note="its process could not be found on this host, so it cannot be relaunched")


def target_from_command(
    argv: Sequence[str], cwd: str, environ: Mapping[str, str], log_path: str | None = None
) -> Target:
    """A server that should run but is down: it can be started, there is nothing to signal.

    Raises TargetError when the words start no server.
    """
    words = tuple(argv)
    if find_entry(words) is None:
        raise TargetError("the command starts no SGLang server (python -m sglang.launch_server, sglang serve)")
    launch = Launch(words, cwd, dict(environ), log_path, log_path, os.geteuid(), os.getegid())
    return _described(Target(launch=launch, log_path=log_path), words, environ)


def _target(pid: int) -> Target | None:
    identity = identify(pid)
    argv = proc.cmdline(pid)
    if identity is None or not argv:
        return None
    environ = proc.environ(pid)
    owner = proc.uids(pid) or (-1, -1)
    cwd = proc.cwd(pid)
    out, err = proc.fd_file(pid, 1), proc.fd_file(pid, 2)
    launch = Launch(argv, cwd or "/", environ, out or err, err or out, owner[0], owner[1])
    target = Target(identity=identity, launch=launch, log_path=out or err, note=_note(pid, owner[0], cwd))
    return _described(target, argv, environ)


def _described(target: Target, argv: Sequence[str], environ: Mapping[str, str]) -> Target:
    """With address, version, name and card filled in from the command line."""
    version = installed_version(argv, environ)
    catalogue = for_version(version)
    command = parse(argv, catalogue)
    host, port = command.value("host") or "127.0.0.1", _port(argv, catalogue)
    if host in ("0.0.0.0", "", "localhost"):
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    name = command.value("served_model_name") or command.value("model_path") or ""
    simulated = _SIMULATOR in command.module
    return replace(
        target,
        host=host,
        port=port,
        version=version,
        name=os.path.basename(name.rstrip("/")),
        simulated=simulated,
        card_path=_card(environ, target) if simulated else None,
    )


def _port(argv: Sequence[str], catalogue: Catalogue) -> int:
    text = parse(argv, catalogue).value("port")
    return int(text) if text is not None and text.isdigit() else DEFAULT_PORT


def _card(environ: Mapping[str, str], target: Target) -> str:
    """The simulated card's file: SGLANG_SIM_CARD, or the simulator's default for that user."""
    uid = target.launch.uid if target.launch is not None else os.geteuid()
    folder = environ.get("TMPDIR", "/tmp")
    return environ.get("SGLANG_SIM_CARD") or f"{folder}/sglang-sim-card-{uid}.json"


def _note(pid: int, uid: int, cwd: str | None) -> str:
    """What stands in the way of a relaunch, or nothing."""
    if os.geteuid() not in (0, uid):
        return f"it runs as user id {uid}: run the wizard as that user or as root to relaunch it"
    if cwd is None or not proc.environ(pid):
        return "its environment cannot be read: run the wizard as its user or as root to relaunch it"
    if os.geteuid() == 0 and not _same_namespaces(pid):
        return "it runs in a container: relaunch it with the container's own tool (assisted only)"
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
        mine = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    if groups == mine:
        return ""
    for word, name in _SUPERVISED:
        if word in groups and word not in mine:
            return f"it runs in {name}: relaunch it with that tool (assisted only)"
    unit = next((p for p in groups.strip().split("/") if p.endswith(".service")), None)
    if unit and "/system.slice/" in groups and unit not in mine:
        return f"systemd runs it ({unit}): change its ExecStart and restart the unit (assisted only)"
    return ""


def _same_namespaces(pid: int) -> bool:
    for kind in ("pid", "mnt", "net"):
        try:
            if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"):
                return False
        except OSError:
            return True
    return True


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.gethostbyname(host))
        except OSError:
            return False
    if address.is_loopback:
        return True
    try:
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with socket.socket(family) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True
