"""Asking a holder's own client, where anything but an answer is an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wizard.core.redact import clean, redact_text
from wizard.server.supervisors import clients
from wizard.server.supervisors.contract import SupervisorError

ASK_LIMIT_S = 10.0
ACT_LIMIT_S = 60.0


def ask(argv: Sequence[str], limit_s: float = ASK_LIMIT_S) -> str:
    """What the client prints. Raises SupervisorError: not there, too slow, or it said no."""
    answer = clients.ask(argv, limit_s=limit_s)
    if answer.ok:
        return answer.out
    said = answer.said if answer.code is None else f"{' '.join(argv[:3])}: {answer.said}"
    raise SupervisorError(redact_text(clean(said))[:300])


async def act(argv: Sequence[str], limit_s: float = ACT_LIMIT_S) -> str:
    """``ask`` beside a running event loop."""
    return await asyncio.to_thread(ask, argv, limit_s)
