from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.probes.badserver import Say, answer, drip, raw, serving, silence
from wizard.core.reading import Outcome, ProbeResult
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import fetch as fetching
from wizard.probes import http
from wizard.probes.base import ProbeContext, run_probe
from wizard.server.identity import identify

MODEL = answer(200, json.dumps({"model_path": "m"}).encode(), "application/json")


async def look(target: Target) -> ProbeResult:
    result = await run_probe("http", ProbeContext(target))
    assert set(result.values) <= set(VOCABULARY)
    assert "\n" not in (result.reason or "")
    return result


def health(result: ProbeResult) -> object:
    return result.values["http.health"].x if "http.health" in result.values else None


@pytest.mark.parametrize(
    ("paths", "word"),
    [
        ({"/health": answer(200, b""), "/model_info": MODEL}, "serving"),
        ({"/health": answer(200, b""), "/get_model_info": MODEL}, "serving"),
        ({"/health": answer(200, b""), "/model_info": answer(401, b"{}")}, "serving"),
        ({"/health": answer(503, b""), "/model_info": MODEL}, "starting"),
        ({"/health": answer(500, b"oops"), "/model_info": MODEL}, "unhealthy"),
        ({"/health": answer(200, b"ok")}, "not_sglang"),
        ({"/health": answer(200, b"<html>hi</html>", "text/html")}, "not_sglang"),
        ({"/health": answer(302, b"", extra="location: http://127.0.0.1:9/\r\n")}, "not_sglang"),
        ({}, "not_sglang"),
        ({"/health": raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")}, "not_sglang"),
        ({"/health": raw(b"")}, "unhealthy"),
        (
            {
                "/health": answer(200, b""),
                "/v1/models": answer(200, b'{"data": [{"owned_by": "vllm"}]}', "application/json"),
            },
            "not_sglang",
        ),
    ],
)
async def test_health_in_one_word(paths: dict[str, Say], word: str) -> None:
    async with serving(paths) as server:
        result = await look(server.target)
    assert result.outcome is Outcome.OK
    assert health(result) == word
    assert result.values["http.reachable"].x is True
    assert (result.reason is None) == (word == "serving")


async def test_nothing_listens(free_port: int) -> None:
    result = await look(Target(port=free_port, remote=True))
    assert health(result) == "refused"
    assert result.values["http.reachable"].x is False
    assert "refused" in (result.reason or "")


@pytest.mark.parametrize("say", [silence, drip])
async def test_a_hung_server_is_told_within_the_limit(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEALTH_LIMIT_S", 0.5)
    async with serving({"/health": say}) as server:
        started = time.monotonic()
        result = await look(server.target)
        assert time.monotonic() - started < 5
    assert health(result) == "hung"


async def test_a_late_503_is_not_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOW_503_S", 0.1)

    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await answer(503, b"")(writer)

    async with serving({"/health": late, "/model_info": MODEL}) as server:
        result = await look(server.target)
    assert health(result) == "unhealthy"


async def test_the_log_tells_draining_from_starting(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    async with serving({"/health": answer(503, b""), "/model_info": MODEL}) as server:
        target = Target(port=server.port, remote=True, log_path=str(log))
        log.write_text("[2026-01-01 00:00:00] server_args={'a': 1}\n[2026-01-01 00:00:09] Load weight begin.\n")
        assert health(await look(target)) == "starting"
        with log.open("a") as file:
            file.write("[..] The server is fired up and ready to roll!\n[..] SIGTERM received. Draining\n")
        assert health(await look(target)) == "draining"


async def test_what_answers_for_a_stopped_server_is_not_asked() -> None:
    async with serving({"/health": answer(200, b""), "/model_info": MODEL}) as server:
        target = Target(port=server.port, launch=Launch(("python", "-m", "sglang.launch_server"), "/"))
        result = await look(target)
        assert server.seen == []
    assert health(result) is None
    assert "another process" in (result.reason or "")


async def test_a_saved_log_has_no_server() -> None:
    result = await look(Target(port=0, log_path="/nowhere.log"))
    assert result.outcome is Outcome.NO_DATA


async def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({"/health": answer(503, b""), "/model_info": MODEL}) as server:
        launch = Launch(("python", "-m", "sglang.launch_server", "--api-key", "hunter2"), "/")
        target = Target(port=server.port, remote=True, launch=launch)
        result = await look(target)
        assert any("Bearer hunter2" in request for request in server.seen)
    assert "hunter2" not in json.dumps(result.to_json())


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({"/health": answer(200, b""), "/model_info": MODEL}) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert health(await look(server.target)) == "serving"


async def test_a_page_is_read_only_so_far() -> None:
    big = {"/big": answer(200, b"x" * 5000)}
    async with serving(big) as server, fetching.client_for(server.target) as client:
        page = await fetching.fetch(client, "/big", seconds=5, most_bytes=1000)
    assert (len(page.body), page.cut) == (1000, True)


@pytest.fixture
def bystander() -> Iterator[int]:
    """The pid of a process that listens nowhere."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield child.pid
    child.communicate()


async def test_what_a_stranger_on_the_port_answers_is_not_the_servers(bystander: int) -> None:
    """A server that lost its port lives on for minutes; a healthy answer there is somebody else's."""
    async with serving({"/health": answer(200, b""), "/model_info": MODEL}) as server:
        mine = await look(replace(server.target, identity=identify(os.getpid())))
        theirs = replace(server.target, identity=identify(bystander))
        result = await look(theirs)
        metrics = await run_probe("metrics", ProbeContext(theirs))
    assert health(mine) == "serving"
    assert health(result) is None
    assert result.values["http.reachable"].x is True
    why = f"another process listens on port {server.target.port}, not this server"
    assert result.reason == why
    assert (metrics.outcome, metrics.reason) == (Outcome.NO_DATA, why)
