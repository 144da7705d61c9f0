"""Does the target answer, and what does its health mean.

A healthy /health takes 1.0 s (it sleeps first); a frozen scheduler shows as 503 after 20.0 s; a server that
starts or drains answers 503 at once (recordings of 0.5.20 and 0.5.17). So the limit is above 20 s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wizard.core.reading import Outcome, ProbeResult, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, in_thread
from wizard.probes.fetch import FetchError, Page, client_for, fetch
from wizard.probes.log import log_path_of
from wizard.probes.logfile import tail_text
from wizard.probes.reach import why_not_ask, why_somebody_else

if TYPE_CHECKING:
    import httpx

HEALTH_LIMIT_S = 22.0
SLOW_503_S = 10.0
"""A 503 that took longer is the 20 s health check that gave up, not a server that starts or drains."""
IDENTITY_LIMIT_S = 3.0

_IDENTITY = (("/model_info", "model_path"), ("/get_model_info", "model_path"), ("/v1/models", "data"))


class HttpProbe:
    """Reachability and health of the target's HTTP address."""

    spec = ProbeSpec(
        "http", "HTTP and health", timeout_s=HEALTH_LIMIT_S + 4, cost="one /health, one /model_info"
    )

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        target = ctx.target
        why = why_not_ask(target)
        if why is not None and target.port <= 0:
            raise NoData(why)
        why = why or await in_thread(why_somebody_else, target)
        if why is not None:
            return await _of_somebody_else(target, why)
        try:
            async with client_for(target) as client:
                return await _examine(client, target)
        except FetchError as error:
            raise NoData(str(error), "check the address") from None


async def _of_somebody_else(target: Target, why: str) -> ProbeResult:
    """Only whether something accepts connections there: it would not be the target."""
    values = {"http.reachable": Value(False, source=target.base_url)}
    if await _accepts(target):
        values["http.reachable"] = Value(True, source=target.base_url)
        also = "" if "another process" in why else f", and another process answers on port {target.port}"
        return ProbeResult("http", Outcome.OK, values, why + also)
    values["http.health"] = Value("refused", source=target.base_url)
    return ProbeResult("http", Outcome.OK, values, why)


async def _accepts(target: Target) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(target.host, target.port), 2.0)
    except (OSError, asyncio.TimeoutError, UnicodeError):
        return False
    writer.close()
    return True


async def _examine(client: httpx.AsyncClient, target: Target) -> ProbeResult:
    asked = asyncio.ensure_future(_is_sglang(client))
    try:
        page = await fetch(client, "/health", seconds=HEALTH_LIMIT_S, any_status=True)
        sglang = await asked
    except FetchError as error:
        return _no_answer(error, target)
    finally:
        await _end(asked)
    health, reason = await in_thread(_judge, page, sglang, target)
    source = f"{target.base_url}/health"
    values = {
        "http.reachable": Value(True, source=source),
        "http.health": Value(health, source=source),
        "http.health_status": Value(page.status, source=source),
        "http.health_latency_s": Value(round(page.elapsed_s, 3), source=source),
    }
    return ProbeResult("http", Outcome.OK, values, reason)


async def _end(task: asyncio.Future[bool | None]) -> None:
    """No request outlives its client: a cancellation that a connect time-out swallowed is sent again."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)
    if not task.cancelled():
        task.exception()


def _no_answer(error: FetchError, target: Target) -> ProbeResult:
    source = f"{target.base_url}/health"
    reachable = error.kind not in ("refused", "address", "tls")
    if error.kind == "timeout" and "no connection" in str(error):
        reachable = False
    health = {"refused": "refused", "timeout": "hung", "closed": "unhealthy", "garbled": "not_sglang"}.get(
        error.kind
    )
    values = {"http.reachable": Value(reachable, source=source)}
    if health is not None and (reachable or health == "refused"):
        values["http.health"] = Value(health, source=source)
    remedy = None
    if error.kind == "refused":
        remedy = "SGLang opens its port only after the model is loaded: see the log for how far it is"
    return ProbeResult("http", Outcome.OK, values, str(error), remedy)


def _judge(page: Page, sglang: bool | None, target: Target) -> tuple[str, str | None]:
    """One word for the health, and why where it is not plain. ``sglang`` None = it could not be asked."""
    if page.is_html or page.status == 404 or 300 <= page.status < 400:
        said = f"HTTP {page.status}" + (" and a web page" if page.is_html else "")
        return "not_sglang", f"{target.base_url}/health gives {said}: this is no SGLang server"
    if page.status == 200:
        if sglang is False:
            return "not_sglang", f"{target.base_url} answers /health but has no SGLang endpoint"
        return "serving", None
    if page.status == 503 and page.elapsed_s < SLOW_503_S:
        return _starting_or_draining(target)
    if page.status == 503:
        return (
            "unhealthy",
            f"/health gave up after {page.elapsed_s:.0f} s: the scheduler or detokenizer is silent",
        )
    return "unhealthy", f"/health answered HTTP {page.status}"


def _starting_or_draining(target: Target) -> tuple[str, str]:
    """Both answer 503 at once; the log tells which, else the more common one is named."""
    path = log_path_of(target)
    text = tail_text(path) if path is not None else ""
    start = text.rfind("server_args=")
    text = text[max(0, start) :]
    if "SIGTERM received" in text or "during shutdown" in text or "Gracefully exiting" in text:
        return "draining", "it was asked to stop and lets running requests finish"
    if text and "fired up and ready to roll" not in text:
        return "starting", "its warm-up has not ended"
    return "starting", "/health is 503 at once: it starts (or drains: there is no log to tell)"


async def _is_sglang(client: httpx.AsyncClient) -> bool | None:
    """Any of SGLang's endpoints answers as SGLang's does; None when none could be asked."""
    silent = False
    for path, key in _IDENTITY:
        try:
            page = await fetch(client, path, seconds=IDENTITY_LIMIT_S, most_bytes=256 * 1024, any_status=True)
        except FetchError:
            silent = True
            continue
        if page.status in (401, 403):
            return None
        document = page.json()
        if page.status != 200 or not isinstance(document, dict) or key not in document:
            continue
        if key == "data":
            models = document["data"] if isinstance(document["data"], list) else []
            if not any(isinstance(m, dict) and m.get("owned_by") == "sglang" for m in models):
                continue
        return True
    return None if silent else False
