"""Asking a holder's own client: by argv, with a limit in time and in bytes, never through a shell."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence

from wizard.core.redact import clean, redact_text
from wizard.server.supervisors.contract import SupervisorError

ASK_LIMIT_S = 10.0
ACT_LIMIT_S = 60.0
MOST_BYTES = 1 << 20

_ENVIRON = {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "PAGER": "cat"}


def ask(argv: Sequence[str], limit_s: float = ASK_LIMIT_S) -> str:
    """What the client prints. Raises SupervisorError: not there, too slow, or it said no."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            env={**os.environ, **_ENVIRON},
            check=False,
        )
    except FileNotFoundError:
        raise SupervisorError(f"{argv[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise SupervisorError(f"{' '.join(argv[:2])} did not answer within {limit_s:g} s") from None
    except OSError as error:
        raise SupervisorError(f"{argv[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise SupervisorError(
            f"{' '.join(argv[:3])}: {_first_line(done.stderr) or f'exit code {done.returncode}'}"
        )
    return done.stdout[:MOST_BYTES].decode("utf-8", "replace")


async def act(argv: Sequence[str], limit_s: float = ACT_LIMIT_S) -> str:
    """``ask`` beside a running event loop."""
    return await asyncio.to_thread(ask, argv, limit_s)


def _first_line(raw: bytes) -> str:
    lines = raw[:4096].decode("utf-8", "replace").strip().splitlines()
    return redact_text(clean(lines[0]))[:300] if lines else ""
