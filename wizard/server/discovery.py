"""Which servers run here, and everything needed to start one again. Looks only.

A server is the parent process: python running ``sglang.launch_server``, ``sglang serve`` or the
simulator. Shells, wrappers, editors and greps with "sglang" in their words are not; neither are the
``sglang::`` children, whose command line and environment setproctitle wipes (recordings/cpu).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from wizard.core.commandline import find_entry, parse
from wizard.core.held import Held
from wizard.core.target import Launch, Target
from wizard.server import network, placement, proc
from wizard.server.catalogue import for_version
from wizard.server.configfile import ConfigError, merged
from wizard.server.identity import identify, is_alive
from wizard.server.installed import version_of
from wizard.server.supervisors.holders import holder_of

DEFAULT_PORT = 30000
_SIMULATOR = "wizard.simulator"
_PYTHON_SWITCHES = re.compile(r"^-[bBdEiIOPqsSuvVxR]+$|^-[XW].+$")


class TargetError(Exception):
    """There is no such server; the text says what to do, in one line."""


def runs_server(argv: Sequence[str]) -> bool:
    """Whether these words are a server process itself, not a wrapper around one."""
    entry = find_entry(argv)
    if entry is None or entry.program_at != 0:
        return False
    if entry.kind in ("router", "none", "flags"):
        return False
    if entry.kind == "script" and not entry.module.endswith("sglang/launch_server.py"):
        return False
    if not os.path.basename(argv[0]).startswith(("python", "pypy", "sglang")):
        return False
    return _runs_first(argv, entry.args_at)


def _runs_first(argv: Sequence[str], args_at: int) -> bool:
    """Between the interpreter and the program stand only switches: no other script, no ``-c`` code."""
    at = 1
    while at < args_at:
        word = argv[at]
        if word in ("-X", "-W", "--check-hash-based-pycs"):
            at += 2
        elif _PYTHON_SWITCHES.match(word):
            at += 1
        else:
            break
    words = argv[at:args_at]
    if not words:
        return os.path.basename(argv[0]) == "sglang"
    return bool(re.match(r"^-[bBdEiIOPqsSuvxR]*m", words[0])) or not words[0].startswith("-")


def find_servers() -> list[Target]:
    """Every server of this host that can be seen, by port. Children and wrappers are left out."""
    found: list[Target] = []
    me = os.getpid()
    servers = {pid for pid in proc.pids() if pid != me and runs_server(proc.cmdline(pid))}
    sockets = proc.listeners() if servers else []
    for pid in sorted(servers):
        if servers.intersection(proc.ancestors(pid)):
            continue  # a forked worker still carries its parent's command line
        target = _target(pid, sockets)
        if target is not None:
            found.append(target)
    return sorted(found, key=lambda t: (t.port, t.identity.pid if t.identity else 0))


def target_from_pid(pid: int) -> Target:
    """The server that a process belongs to: it, or the one above it; for a wrapper the one below it.

    Raises TargetError, also for a wrapper with several servers below: none of them is guessed.
    """
    about = proc.stat(pid)
    if about is None or about.ended:
        raise TargetError(f"there is no process {pid}")
    pid = proc.process_of(pid) or pid
    best = _server_above(pid)
    if best is None:
        below = [i.pid for i in proc.descendants(pid) if runs_server(proc.cmdline(i.pid))]
        roots = [one for one in below if not set(below).intersection(proc.ancestors(one))]
        if len(roots) > 1:
            listed = ", ".join(str(one) for one in sorted(roots))
            raise TargetError(f"process {pid} has {len(roots)} servers below it: give --pid of one ({listed})")
        best = roots[0] if roots else None
    target = _target(best, proc.listeners()) if best is not None else None
    if target is None:
        raise TargetError(
            f"process {pid} is no SGLang server: neither it nor its parents or children run "
            "sglang.launch_server or sglang serve"
        )
    return target


def _server_above(pid: int) -> int | None:
    """The topmost server among a process and those above it (its forked workers look the same)."""
    chain = [pid, *proc.ancestors(pid)]
    return next((one for one in reversed(chain) if runs_server(proc.cmdline(one))), None)


def target_from_url(url: str) -> Target:
    """The server behind an address: with its process when it runs on this host, else ``remote`` (and ``local``
    where the address is this host's).

    Only the process that answers at this very address counts, and the servers above it: what is below
    it (a router's workers) is not what the address names. Raises TargetError for what is no http address.
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
    host = proc.addresses(host)[0] if host in ("0.0.0.0", "::") else host
    bare = Target(host=host, port=port, scheme=parts.scheme, remote=True)
    if not _is_local(host):
        return replace(
            bare, note="the server runs on another host: it can be examined, not relaunched, from here"
        )
    bare = replace(bare, local=True)
    sockets = proc.listeners()
    owners = proc.answering(host, [one for one in sockets if one.port == port])
    for one in owners:
        pid = _server_above(one.pid) if one.pid is not None else None
        found = _target(pid, sockets) if pid is not None else None
        # A child's socket is the server's address only where the server says so: its other ports are internal.
        if found is not None and (one.pid == pid or found.port == port):
            return replace(found, host=host, port=port, scheme=parts.scheme)
    inside = next((t for t in find_servers() if t.inside_port and _is_at(t, host, port)), None)
    if inside is not None:
        return replace(inside, host=host, scheme=parts.scheme)
    named = next((one.pid for one in owners if one.pid is not None), None)
    if named is not None:
        return replace(
            bare, note=f"process {named} answers there, which is no SGLang server: it cannot be relaunched"
        )
    if not owners:
        return replace(bare, note=f"no process here listens on {host}:{port}, so it cannot be relaunched")
    return replace(bare, note="whose process it is cannot be seen: run as its user or as root to relaunch it")


def _is_at(target: Target, host: str, port: int) -> bool:
    """Whether an address leads to a server in a network of its own."""
    mine = (target.host, "127.0.0.1", "localhost") if target.port != target.inside_port else (target.host,)
    return target.port == port and host in mine


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


def _target(pid: int, sockets: Iterable[proc.Listener]) -> Target | None:
    identity = identify(pid)
    argv = proc.cmdline(pid)
    if identity is None or not argv:
        return None
    environ = proc.environ(pid)
    owner = proc.uids(pid) or (-1, -1)
    cwd = proc.cwd(pid)
    out, err = proc.fd_file(pid, 1), proc.fd_file(pid, 2)
    limits, umask = proc.limits(pid), proc.umask(pid)
    launch = Launch(argv, cwd or "/", environ, out or err, err or out, owner[0], owner[1], limits, umask)
    launch = replace(launch, placement=placement.read(pid))
    # Where the two differ SGLang's own lines are in stderr: logging.basicConfig writes there.
    held = holder_of(pid)
    if held is not None and not held.is_managed:
        held = replace(held, is_assisted=True)
    note = _note(pid, owner[0], cwd, held)
    log = held.details.get("log") if held is not None else None
    log = log if log is not None and os.access(log, os.R_OK) else None
    target = Target(identity=identity, launch=launch, log_path=err or out or log, note=note, held=held)
    inside = network.is_elsewhere(pid)
    mine = [one for one in (proc.listeners(None, {pid}, pid) if inside else sockets) if one.pid == pid]
    target = _described(
        target, argv, environ, mine, "" if _same_namespaces(pid, ("mnt",)) else f"/proc/{pid}/root"
    )
    target = _reached(target, pid) if inside else target
    return target if is_alive(identity) else None


def _reached(target: Target, pid: int) -> Target:
    """How a server in a network of its own is reached from here: at its published port, else at its address."""
    published = target.held.details.get(f"{target.port}/tcp", "") if target.held is not None else ""
    host, _, port = published.partition(" ")
    if port.isdigit():
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return replace(target, host=host, port=int(port), inside_port=target.port)
    return replace(target, host=network.address_of(pid) or target.host, inside_port=target.port)


def _described(
    target: Target,
    argv: Sequence[str],
    environ: Mapping[str, str],
    sockets: Sequence[proc.Listener] = (),
    root: str = "",
) -> Target:
    """With address, version, name and card filled in from the command line.

    ``root``: where its files are seen from here, when it has a root of its own. ``sockets``: what the parent
    listens on. It has the last word where the command line leaves the
    address to a file (``--config``) or to a default.
    """
    version = version_of(argv, environ, root)
    command = parse(argv, for_version(version))
    if command.config_path is not None and target.launch is not None:
        with contextlib.suppress(ConfigError):
            command = merged(command, target.launch.cwd)
    host, text = command.value("host") or "127.0.0.1", command.value("port") or ""
    port = int(text) if text.isdigit() else DEFAULT_PORT
    open_ports = {one.port for one in sockets}
    if not text.isdigit() and port not in open_ports and len(open_ports) == 1:
        port = open_ports.pop()
    if command.config_path is not None and command.value("host") is None:
        host = next((one.host for one in sockets if one.port == port), host)
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
        scheme="https" if command.value("--ssl-certfile") else "http",
        version=version,
        name=os.path.basename(name.rstrip("/")),
        simulated=simulated,
        card_path=_card(environ, target) if simulated else None,
    )


def _card(environ: Mapping[str, str], target: Target) -> str:
    """The simulated card's file: SGLANG_SIM_CARD, or the simulator's default for that user."""
    uid = target.launch.uid if target.launch is not None else os.geteuid()
    folder = environ.get("TMPDIR", "/tmp")
    return environ.get("SGLANG_SIM_CARD") or f"{folder}/sglang-sim-card-{uid}.json"


def _note(pid: int, uid: int, cwd: str | None, held: Held | None) -> str:
    """What stands in the way of a relaunch, or nothing."""
    if os.geteuid() not in (0, uid):
        return f"it runs as user id {uid}: run the wizard as that user or as root to relaunch it"
    if cwd is None or not proc.environ(pid):
        return "its environment cannot be read: run the wizard as its user or as root to relaunch it"
    if pid in proc.ancestors(os.getpid()):
        return "the wizard itself runs below it and would end with it (assisted only)"
    if _is_main_of_container(pid):
        return "it is the main process of this container, which would end with it (assisted only)"
    if held is not None and (held.is_managed or held.is_assisted):
        return ""
    if held is not None:
        return f"{held.says()}: {held.why_not} (assisted only)"
    if not _same_namespaces(pid):
        return "it runs in a container: relaunch it with the container's own tool (assisted only)"
    return ""


def _is_main_of_container(pid: int) -> bool:
    """Whether this is process 1, or process 1 is a wrapper (tini, a shell) that runs it and ends with it."""
    if pid == 1:
        return True
    if proc.in_first_pid_namespace() or 1 not in proc.ancestors(pid):
        return False
    return parse(proc.cmdline(1), for_version(None)).kind in ("module", "serve", "script")


def _same_namespaces(pid: int, kinds: Sequence[str] = ("pid", "mnt", "net")) -> bool:
    for kind in kinds:
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
