"""What /proc says about processes and listening sockets. Reads only; never raises for what is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wizard.core.target import Identity

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (kernel: include/net/tcp_states.h)


def boot_id() -> str:
    """The id of this boot, so that an identity from before a reboot matches nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name in parentheses may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def state(pid: int) -> str:
    """One letter (R S D T Z ...), or "" when there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else None


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: clock ticks after boot."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None


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
    return tuple(os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0")) if raw.strip(b"\0") else ()


def cmdline(pid: int) -> tuple[str, ...]:
    """The argv; of SGLang's children only a title is left (setproctitle)."""
    return _words(f"/proc/{pid}/cmdline")


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
    """The path of a descriptor that is a regular file which still exists."""
    path = fd_target(pid, fd)
    return path if path is not None and path.startswith("/") and os.path.isfile(path) else None


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
    """Every process below ``pid``, parents first. What was re-parented before is not seen."""
    children: dict[int, list[int]] = {}
    for one in pids():
        above = parent(one)
        if above is not None:
            children.setdefault(above, []).append(one)
    found: list[Identity] = []
    waiting = list(children.get(pid, ()))
    boot = boot_id()
    while waiting:
        one = waiting.pop(0)
        ticks = start_ticks(one)
        if ticks is not None and state(one) not in ("Z", "X", ""):
            found.append(Identity(one, ticks, boot))
        waiting.extend(children.get(one, ()))
    return found


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket; ``pid`` None when its owner cannot be seen."""

    host: str
    port: int
    pid: int | None
    inode: str


def listeners(port: int | None = None) -> list[Listener]:
    """Listening TCP sockets of this network namespace, of one port or of all."""
    found: list[tuple[str, int, str]] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTEN:
                continue
            address, _, hex_port = fields[1].rpartition(":")
            number = int(hex_port, 16)
            if port is None or number == port:
                found.append((_address(address), number, fields[9]))
    owners = _owners({inode for _, _, inode in found}) if found else {}
    return [Listener(host, number, owners.get(inode), inode) for host, number, inode in found]


def _address(text: str) -> str:
    """The kernel writes addresses as 32-bit words in host order."""
    import ipaddress
    import sys

    words = [text[i : i + 8] for i in range(0, len(text), 8)]
    raw = b"".join(int(w, 16).to_bytes(4, sys.byteorder) for w in words)
    return str(ipaddress.ip_address(raw))


def _owners(inodes: set[str]) -> dict[str, int]:
    """Inode to pid. A socket that a tree shares goes to its oldest holder."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, tuple[int, int]] = {}
    for pid in pids():
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
