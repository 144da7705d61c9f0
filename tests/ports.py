"""Ports for what a test starts: none is given to two tests at a time, nor by two test runs on one machine."""

from __future__ import annotations

import random
import socket
from collections import deque

RANGE = range(10_000, 30_000)
"""Below those that the kernel hands out by itself: no client's connection sits on one of these by chance."""

_KEPT = 128
_claims: deque[socket.socket] = deque()
_draw = random.SystemRandom()
"""Of its own: hypothesis seeds the one that everybody shares, and then all workers would draw the same."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, on any address of the host's family.

    It stays claimed on this machine until this process ends or has asked for many more, also while nobody is
    bound to it: a server that is relaunched finds its port again. Raises OSError when none is left.
    """
    family, everywhere = (socket.AF_INET6, "::") if ":" in host else (socket.AF_INET, "0.0.0.0")
    for _ in range(1000):
        port = _draw.choice(RANGE)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sgl-wizard-test-port-{port}")  # an abstract name: gone with its process
            with socket.socket(family) as probe:
                probe.bind((everywhere, port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        if len(_claims) > _KEPT:
            _claims.popleft().close()
        return port
    raise OSError(f"no free port between {RANGE.start} and {RANGE.stop}")
