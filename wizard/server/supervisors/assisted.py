"""Whoever else holds the server: the wizard says what to type, waits until it goes and comes back, verifies.

Nothing is signalled, started or written here. What comes back has to run the very words that were asked for:
a server that its holder brought back with the old command is not taken for the change.
"""

from __future__ import annotations

import asyncio
import time

from wizard.core.argv import shell_join
from wizard.core.held import Held
from wizard.core.redact import HIDDEN, is_secret_variable, redact_argv
from wizard.core.target import Identity, Launch, Target
from wizard.server import network, proc
from wizard.server.identity import identify, is_alive
from wizard.server.ports import port_state
from wizard.server.supervisors.contract import Plain, Say, Steps, SupervisorError, Wish

WAIT_S = 1800.0
"""How long a person may take to edit a file and restart a service."""
POLL_S = 0.5
SETTLED_S = 5.0
"""So long the wrong command has to run before it is judged: a wrapper may exec into the right one."""

_WHERE = {
    "systemd": "systemctl edit --full {name}, then systemctl daemon-reload, then systemctl restart {name}",
    "docker": (
        "docker stop -t 60 {name}; docker rename {name} {name}-old; docker run with the options it had and the "
        "command below (docker inspect {name}-old shows them)"
    ),
    "podman": (
        "podman stop -t 60 {name}; podman rename {name} {name}-old; podman run with the options it had and the "
        "command below (podman inspect {name}-old shows them)"
    ),
    "compose": "change the service's command in its compose file, then docker compose up -d --no-deps SERVICE",
    "kubernetes": (
        "kubectl edit the Deployment or StatefulSet of the pod (spec.template.spec.containers[].args), "
        "then kubectl rollout status; to take it back: kubectl rollout undo"
    ),
    "other": "change its command where {name} has it, and let {name} restart it",
}


class Assisted(Plain):
    """Waits for a person. ``was``: the server before the change."""

    by_hand = True

    def __init__(self, held: Held, old: Launch, was: Target, wait_s: float = WAIT_S) -> None:
        self._held, self._old, self._was, self._wait_s = held, old, was, wait_s
        self.why = f" ({held.why_not})" if held.kind not in ("other", "systemd") and held.why_not else ""

    def steps(self, old: Launch, wish: Wish) -> Steps:
        where = _WHERE[self._held.kind].format(name=self._held.name)
        return Steps(
            (f"# {where}:", _shown(wish, old)),
            (f"# {where}:", _shown(Wish(old.argv), old)),
        )

    async def stop(self, identity: Identity, *, drain_limit_s: float, escalate: bool, say: Say) -> str:
        began = time.monotonic()
        what = "make the change" if identity == self._was.identity else "take the change back"
        while is_alive(identity):
            waited = time.monotonic() - began
            if waited >= self._wait_s:
                raise SupervisorError(f"nobody stopped it within {self._wait_s / 60:.0f} minutes")
            say(f"waiting for you to {what} and restart it ({self._held.says()}): {waited:.0f} s")
            await asyncio.sleep(POLL_S)
        return f"it was stopped after {time.monotonic() - began:.0f} s"

    async def hold_still(self, old: Launch) -> None:
        """What runs is for the person to change."""

    async def start(self, wish: Wish) -> Identity:
        wanted = wish.argv or self._old.argv
        began, wrong_since = time.monotonic(), 0.0
        while time.monotonic() - began < self._wait_s:
            found = await asyncio.to_thread(self._server)
            if found is not None and proc.cmdline(found.pid) == wanted:
                return found
            wrong_since = (wrong_since or time.monotonic()) if found is not None else 0.0
            if found is not None and time.monotonic() - wrong_since >= SETTLED_S:
                same = proc.cmdline(found.pid) == self._old.argv
                which = "its old command" if same else "another command than the one asked for"
                raise SupervisorError(f"it came back with {which} (process {found.pid})")
            await asyncio.sleep(POLL_S)
        raise SupervisorError(f"it did not come back within {self._wait_s / 60:.0f} minutes")

    def _server(self) -> Identity | None:
        """Who listens there now: the topmost process that runs a server's words."""
        if self._was.inside_port is not None:
            return self._inside(self._was.inside_port)
        owner = port_state(self._was.host, self._was.port).owner
        if owner is None:
            return None
        chain = [owner.pid, *proc.ancestors(owner.pid)]
        runs = [pid for pid in chain if proc.cmdline(pid)[:3] == self._old.argv[:3]]
        return identify(runs[-1]) if runs else owner

    def _inside(self, port: int) -> Identity | None:
        """The server that listens on a port of a network of its own: what answers out here only forwards."""
        found = (pid for pid in proc.pids() if proc.cmdline(pid)[:3] == self._old.argv[:3])
        inside = [pid for pid in found if network.is_elsewhere(pid) and network.listens_there(pid, port)]
        tops = [identify(pid) for pid in inside if not set(inside).intersection(proc.ancestors(pid))]
        return max((one for one in tops if one is not None), key=lambda i: i.start_ticks, default=None)


def _shown(wish: Wish, old: Launch) -> str:
    words = shell_join(redact_argv(wish.argv or old.argv))
    changed = sorted((wish.environ or {}).items())
    named = [f"{n}={HIDDEN if is_secret_variable(n) else v}" for n, v in changed if v is not None]
    gone = [f"-u {n}" for n, v in changed if v is None]
    return " ".join(["env", *gone, *named, words]) if changed else words
