"""Who starts and ends a server in the place of a person, and so decides how it is relaunched. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HolderKind = Literal["systemd", "docker", "podman", "compose", "kubernetes", "other"]


@dataclass(frozen=True)
class Held:
    """A server's holder. ``name``: unit, container, service, pod or program. ``restarts``: the policy by which
    it starts the server again, "" for none. ``why_not``: why the wizard cannot act through it here; "" if it
    can. ``is_assisted``: it cannot, yet it can tell a person what to do, see the server go and come back, and
    verify. ``details``: what its module needs (unit folder, compose files ...), never a secret.
    """

    kind: HolderKind
    name: str
    restarts: str = ""
    why_not: str = ""
    is_assisted: bool = False
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_managed(self) -> bool:
        """The wizard can stop and start the server through its holder."""
        return not self.why_not

    def says(self) -> str:
        """ "systemd runs it (vllm.service, Restart=always)"."""
        if self.kind == "other":
            does = "starts it again when it ends" if self.restarts else "started it, and its job ends with it"
            return f"{self.name} {does}"
        policy = f", {self.restarts}" if self.restarts else ""
        return f"{_RUNS[self.kind]} ({self.name}{policy})"

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "details": dict(self.details)}

    @staticmethod
    def from_json(doc: Mapping[str, Any]) -> Held:
        return Held(**doc)


_RUNS: dict[HolderKind, str] = {
    "systemd": "systemd runs it",
    "docker": "it runs in a Docker container",
    "podman": "it runs in a Podman container",
    "compose": "Docker Compose runs it",
    "kubernetes": "it runs in a Kubernetes pod",
    "other": "",
}
