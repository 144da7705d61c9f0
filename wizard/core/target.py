"""Which server is this: identity, launch command, address. Data only; ``wizard.server`` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wizard.core.held import Held
from wizard.core.placement import Placement

MARK = "SGL_WIZARD_SESSION"
"""Environment variable of a server that a transaction launched: ``<session>:<random>``. By it a later
runner finds a child whose birth the dead one could not record."""


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for another one, not even after pid reuse or a reboot.

    ``start_ticks`` is field 22 of ``/proc/PID/stat``: clock ticks after boot.
    """

    pid: int
    start_ticks: int
    boot_id: str

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_ticks": self.start_ticks, "boot_id": self.boot_id}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Identity:
        return Identity(int(doc["pid"]), int(doc["start_ticks"]), str(doc["boot_id"]))


@dataclass(frozen=True)
class Launch:
    """Everything needed to start the same server again.

    ``argv`` and ``environ`` come from the parent process (the children's are wiped by setproctitle)
    and hold secrets: redact before showing. ``log_path`` is the file that stdout went to, or None
    when that was a terminal, a pipe or gone; ``stderr_path`` likewise (often the same file).
    ``limits``: soft and hard of setrlimit(2) by name ("NOFILE"), -1 for none; empty when unknown.
    ``placement``: processors, NUMA policy, ranks and control groups; of an older session's file, unknown.
    """

    argv: tuple[str, ...]
    cwd: str
    environ: Mapping[str, str] = field(default_factory=dict)
    log_path: str | None = None
    stderr_path: str | None = None
    uid: int = 0
    gid: int = 0
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    umask: int | None = None
    placement: Placement = field(default_factory=Placement)

    def with_argv(self, argv: tuple[str, ...]) -> Launch:
        return replace(self, argv=argv)

    def to_json(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "cwd": self.cwd,
            "environ": dict(self.environ),
            "log_path": self.log_path,
            "stderr_path": self.stderr_path,
            "uid": self.uid,
            "gid": self.gid,
            "limits": {name: list(pair) for name, pair in self.limits.items()},
            "umask": self.umask,
            "placement": self.placement.to_json(),
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Launch:
        return Launch(
            argv=tuple(doc["argv"]),
            cwd=str(doc["cwd"]),
            environ=dict(doc["environ"]),
            log_path=doc.get("log_path"),
            stderr_path=doc.get("stderr_path"),
            uid=int(doc.get("uid", 0)),
            gid=int(doc.get("gid", 0)),
            limits={str(name): (int(low), int(high)) for name, (low, high) in doc.get("limits", {}).items()},
            umask=doc.get("umask"),
            placement=Placement.from_json(doc.get("placement") or {}),
        )


@dataclass(frozen=True)
class Target:
    """The server that a session is about.

    Live: ``identity`` is set. Down (a command that should run): ``launch`` without ``identity``.
    A saved log: only ``log_path`` (and perhaps ``command_text``, ``symptom``, ``hardware``).
    ``host`` is the address to talk to (a wildcard bind is reached over loopback).
    """

    host: str = "127.0.0.1"
    port: int = 30000
    scheme: str = "http"
    identity: Identity | None = None
    launch: Launch | None = None
    log_path: str | None = None
    metrics_path: str | None = None
    version: str | None = None
    name: str = ""
    simulated: bool = False
    card_path: str | None = None
    command_text: str = ""
    symptom: str = ""
    hardware: str = ""
    request_path: str | None = None
    """A request body that fails, in a file."""
    request_endpoint: str = ""
    """Where it was sent; empty for where its fields belong."""
    remote: bool = False
    """Known by its address alone: its process cannot be seen from here."""
    local: bool = False
    """With ``remote``: the address is this host's own, so its port and its memory are those seen here."""
    held: Held | None = None
    """Who starts it again or ends it in a person's place; None for a bare process."""
    inside_port: int | None = None
    """What it listens on in a network of its own (a container's), where ``host`` and ``port`` are the address
    under which that is published here; None where it listens on ``port`` itself."""
    note: str = ""
    """What cannot be done with this target and why ("runs as another user: ..."); empty if all can."""

    @property
    def base_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_live(self) -> bool:
        return self.identity is not None or self.remote

    @property
    def is_elsewhere(self) -> bool:
        """On another machine, of which nothing here tells."""
        return self.remote and not self.local

    def to_json(self) -> dict[str, Any]:
        """Whole, secrets included: for 0600 session files. What people see goes through redaction."""
        return {
            "host": self.host,
            "port": self.port,
            "scheme": self.scheme,
            "identity": self.identity.to_json() if self.identity else None,
            "launch": self.launch.to_json() if self.launch else None,
            "log_path": self.log_path,
            "metrics_path": self.metrics_path,
            "version": self.version,
            "name": self.name,
            "simulated": self.simulated,
            "card_path": self.card_path,
            "command_text": self.command_text,
            "symptom": self.symptom,
            "hardware": self.hardware,
            "request_path": self.request_path,
            "request_endpoint": self.request_endpoint,
            "remote": self.remote,
            "local": self.local,
            "held": self.held.to_json() if self.held else None,
            "inside_port": self.inside_port,
            "note": self.note,
        }

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Target:
        rest = {k: v for k, v in doc.items() if k not in ("identity", "launch", "held")}
        return Target(
            **rest,
            identity=Identity.from_json(doc["identity"]) if doc.get("identity") else None,
            launch=Launch.from_json(doc["launch"]) if doc.get("launch") else None,
            held=Held.from_json(doc["held"]) if doc.get("held") else None,
        )
