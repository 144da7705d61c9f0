"""What /proc says about processes and listening sockets. Reads only; never raises for what is gone."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wizard.core.target import Identity

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (kernel: include/net/tcp_states.h)
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO (kernel: include/linux/proc_ns.h)


def boot_id() -> str:
    """The id of this boot, so that an identity from before a reboot matches nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Stat:
    """What one read of /proc/PID/stat says: these belong to one process even if the pid is given again."""

    state: str
    parent: int
    start_ticks: int
    threads: int = 1

    @property
    def ended(self) -> bool:
        """Nothing of it runs. A zombie with threads still does, and holds its ports and card memory.

        Seen on SGLang 0.5.20 at each stop: the main thread is gone some 100 ms before the others.
        """
        return self.state in ("Z", "X", "x") and self.threads <= 1


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    if len(fields) <= 19:
        return None
    return Stat(fields[0], int(fields[1]), int(fields[19]), int(fields[17]))


def state(pid: int) -> str:
    """One letter (R S D T Z ...), or "" when there is no such process."""
    found = stat(pid)
    return found.state if found else ""


def parent(pid: int) -> int | None:
    found = stat(pid)
    return found.parent if found else None


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: clock ticks after boot."""
    found = stat(pid)
    return found.start_ticks if found else None


def process_of(pid: int) -> int | None:
    """The process that a number from ``top -H`` or ``htop`` (a thread's) belongs to; a process is its own."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = next((line.split()[1] for line in text.splitlines() if line.startswith("Tgid:")), None)
    return int(found) if found is not None and found.isdigit() else None


def name(pid: int) -> str:
    """The short name (at most 15 characters), "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""


def exists(pid: int) -> bool:
    """Whether the pid is in use, also by a process that /proc hides from this user (hidepid)."""
    if os.path.exists(f"/proc/{pid}"):
        return True
    try:
        os.close(os.pidfd_open(pid))
    except (AttributeError, OSError):
        return False
    return True


def in_first_pid_namespace() -> bool:
    """False in most containers: there the driver's pids are those of the host and mean nothing in /proc."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def uptime_s(pid: int) -> float | None:
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))


def _words(path: str) -> tuple[str, ...]:
    try:
        raw = Path(path).read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0")) if raw.strip(b"\0") else ()


def cmdline(pid: int) -> tuple[str, ...]:
    """The argv, empty words included (``--flag ""`` at the end is a word that a relaunch needs).

    Of SGLang's children only a title is left: setproctitle fills the rest with NULs.
    """
    words = _words(f"/proc/{pid}/cmdline")
    return words[:1] if len(words) > 1 and not any(words[1:]) else words


def environ(pid: int) -> dict[str, str]:
    """The environment at start; empty for another user's process and for SGLang's children."""
    pairs = (word.partition("=") for word in _words(f"/proc/{pid}/environ"))
    return {name: value for name, separator, value in pairs if separator and name}


def cwd(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def fd_target(pid: int, fd: int) -> str | None:
    """What a file descriptor points to: a path, ``pipe:[...]``, ``/dev/null``..."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return None


def fd_file(pid: int, fd: int) -> str | None:
    """The path of a descriptor that is a regular file, and still that very file.

    None when the path leads to another file from here: deleted, made anew by a log rotation, or a path
    of another mount namespace.
    """
    path = fd_target(pid, fd)
    if path is None or not path.startswith("/") or not os.path.isfile(path):
        return None
    try:
        return path if os.path.samefile(path, f"/proc/{pid}/fd/{fd}") else None
    except OSError:
        return None


LIMITS = (
    "AS",
    "CORE",
    "CPU",
    "DATA",
    "FSIZE",
    "MEMLOCK",
    "MSGQUEUE",
    "NICE",
    "NOFILE",
    "NPROC",
    "RTPRIO",
    "RTTIME",
    "SIGPENDING",
    "STACK",
)
"""What a server lives under: open files for its connections, locked memory for pinned and RDMA buffers."""


def limits(pid: int) -> dict[str, tuple[int, int]]:
    """Soft and hard by name; empty for another user's process."""
    import resource

    try:
        return {name: resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}")) for name in LIMITS}
    except OSError:
        return {}


def umask(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = next((line.split()[1] for line in text.splitlines() if line.startswith("Umask:")), None)
    return int(found, 8) if found else None


def uids(pid: int) -> tuple[int, int] | None:
    """(uid, gid) in force, or None when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    try:
        return int(found["Uid"][1]), int(found["Gid"][1])
    except (KeyError, IndexError, ValueError):
        return None


def pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def descendants(pid: int) -> list[Identity]:
    """Every process below ``pid``, parents first. What was re-parented before is not seen.

    A pid that is given again during the look cannot smuggle a stranger in: parent and start time of a
    process come from one read, and nobody is older than the process above it.
    """
    table = {one: found for one in pids() if (found := stat(one)) is not None}
    children: dict[int, list[int]] = {}
    for one, about in table.items():
        above = table.get(about.parent)
        if above is not None and about.start_ticks >= above.start_ticks:
            children.setdefault(about.parent, []).append(one)
    found_ones: list[Identity] = []
    waiting = list(children.get(pid, ()))
    boot = boot_id()
    while waiting:
        one = waiting.pop(0)
        if not table[one].ended:
            found_ones.append(Identity(one, table[one].start_ticks, boot))
        waiting.extend(children.get(one, ()))
    return found_ones


def descendants_of(identity: Identity) -> list[Identity]:
    """Like ``descendants``, but empty unless the pid was this very process all the time."""
    found = descendants(identity.pid)
    same = start_ticks(identity.pid) == identity.start_ticks and boot_id() == identity.boot_id
    return found if same else []


def ancestors(pid: int) -> list[int]:
    """The pids above a process, nearest first."""
    found: list[int] = []
    above = parent(pid)
    while above and above not in found:
        found.append(above)
        above = parent(above)
    return found


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket; ``pid`` None when its owner cannot be seen."""

    host: str
    port: int
    pid: int | None
    inode: str


def listeners(
    port: int | None = None, among: Collection[int] | None = None, network_of: int | None = None
) -> list[Listener]:
    """Listening TCP sockets of this network namespace (or of the one that ``network_of`` lives in), of one port
    or of all.

    ``among``: look for owners only in these processes (cheap; every other owner reads None).
    """
    found = _sockets(port, listening=True, network_of=network_of)
    owners = _owners({inode for _, _, inode in found}, among) if found else {}
    return [Listener(host, number, owners.get(inode), inode) for host, number, inode in found]


def holders(port: int) -> list[Listener]:
    """Whoever has a connected or listening socket on this local port (a client's outgoing one can block it)."""
    found = [(host, number, inode) for host, number, inode in _sockets(port) if inode != "0"]
    owners = _owners({inode for _, _, inode in found}) if found else {}
    return [Listener(host, number, owners.get(inode), inode) for host, number, inode in found]


def answering(host: str, found: Iterable[Listener]) -> list[Listener]:
    """Those of the listeners (of one port) that a connection to ``host`` reaches.

    The kernel prefers the exact address to the wildcard of its family; ``[::]`` takes IPv4 too unless
    it is bound for IPv6 alone. All when the name cannot be resolved.
    """
    ones = list(found)
    wanted = addresses(host)
    if not wanted:
        return ones
    for address in wanted:
        exact = [one for one in ones if one.host == address]
        wild = [one for one in ones if one.host == ("::" if ":" in address else "0.0.0.0")]
        both = [one for one in ones if one.host == "::"]
        if exact or wild or both:
            return exact or wild or both
    return []


def addresses(host: str) -> list[str]:
    """The numeric addresses behind a host name; a wildcard is reached over loopback."""
    if host in ("", "0.0.0.0", "*"):
        return ["127.0.0.1"]
    if host == "::":
        return ["::1"]
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _sockets(
    port: int | None, listening: bool = False, network_of: int | None = None
) -> list[tuple[str, int, str]]:
    """(local address, local port, inode) of TCP sockets."""
    found: list[tuple[str, int, str]] = []
    whose = "self" if network_of is None else str(network_of)
    for table in (f"/proc/{whose}/net/tcp", f"/proc/{whose}/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or (listening and fields[3] != _LISTEN):
                continue
            address, _, hex_port = fields[1].rpartition(":")
            number = int(hex_port, 16)
            if port is None or number == port:
                found.append((_address(address), number, fields[9]))
    return found


def _address(text: str) -> str:
    """The kernel writes addresses as 32-bit words in host order."""
    words = [text[i : i + 8] for i in range(0, len(text), 8)]
    raw = b"".join(int(w, 16).to_bytes(4, sys.byteorder) for w in words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _owners(inodes: set[str], among: Collection[int] | None = None) -> dict[str, int]:
    """Inode to pid. A socket that a tree shares goes to its oldest holder."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, tuple[int, int]] = {}
    for pid in pids() if among is None else among:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                inode = wanted.get(os.readlink(f"{folder}/{name}"))
            except OSError:
                continue
            if inode is not None:
                age = (start_ticks(pid) or 0, pid)
                found[inode] = min(found.get(inode, age), age)
    return {inode: pid for inode, (_, pid) in found.items()}
