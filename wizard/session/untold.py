"""What could not be told, why, and how far a server is that has only begun to start."""

from __future__ import annotations

from wizard.core.reading import ProbeResult
from wizard.core.session import SessionState
from wizard.session.layout import wrapped

_ELSEWHERE = ("the target is a saved log", "the server runs on another machine", "0 is not a port")
"""Reasons that say nothing new: there is no live server to look at, or it is not on this host."""


def missing(state: SessionState) -> list[ProbeResult]:
    """The probes that had nothing to say, or less than they could have had (metrics that are switched off)."""
    found = []
    for result in state.snapshot.results.values():
        all_there = result.outcome.value == "ok" and not result.remedy
        if is_saved(state) and result.probe in ("log", "metrics"):
            all_there = False  # its reason says what of the saved file is missing
        if all_there or not result.reason or result.reason.startswith(_ELSEWHERE):
            continue
        if is_saved(state) and result.probe not in ("log", "metrics", "sglang"):
            continue
        if is_saved(state) and not _was_given(state, result.probe):
            continue
        found.append(result)
    return sorted(found, key=lambda r: r.probe)


def is_saved(state: SessionState) -> bool:
    target = state.target
    return target is not None and not target.is_live and target.launch is None


def _was_given(state: SessionState, probe: str) -> bool:
    """Of what is saved, a file that nobody named is not missing: the words alone were given."""
    target = state.target
    paths = {"log": target.log_path, "metrics": target.metrics_path} if target is not None else {}
    return bool(paths.get(probe, True))


def is_no_launch(state: SessionState) -> bool:
    """A command was given, and it starts no server of SGLang."""
    target = state.target
    given = target is not None and bool(target.command_text) and target.launch is None
    return given and state.snapshot.get("command.checked_version") is None


NO_LAUNCH = "the command given starts no SGLang server (python -m sglang.launch_server, sglang serve)"


def missing_lines(state: SessionState) -> list[str]:
    """The probes that had nothing, each with why and how to enable it."""
    lines = wrapped(f"{NO_LAUNCH}: nothing in it was judged", "  command: ") if is_no_launch(state) else []
    for result in missing(state):
        remedy = f" ({result.remedy})" if result.remedy else ""
        lines += wrapped(f"{result.reason}{remedy}", f"  {result.probe + ':':<9}")
    return lines


_STARTS = {
    "starting": "setting up",
    "loading": "loading weights",
    "kv_allocation": "allocating the KV cache",
    "capture": "capturing CUDA graphs",
    "ready": "warming up",
}
"""Phases of a log before a server answers."""


def still_starting(state: SessionState) -> str:
    """How far a server is that runs, does not listen yet, and whose log shows no failure; "" for any other."""
    health, phase = state.snapshot.get("http.health"), state.snapshot.get("log.phase")
    alive = state.target is not None and state.target.identity is not None
    if not alive or health is None or health.x != "refused" or phase is None or phase.x not in _STARTS:
        return ""
    up, before = state.snapshot.get("process.uptime_s"), state.snapshot.get("log.start_s")
    ran = (
        f", {up.x:,.0f} s after its process began" if up is not None and isinstance(up.x, (int, float)) else ""
    )
    last = f" An earlier start in this log took {before.x:,.0f} s." if before is not None and before.x else ""
    return f"{_STARTS[str(phase.x)]}{ran}. Its log shows no failure; it listens only once that is done.{last}"


_COLLECT = {
    "hung": "run: curl -m 30 {url}/health_generate (it makes one token); without an answer, py-spy dump --pid "
    "of the sglang::scheduler shows where it stands",
    "locked": "give the key: --command with the launch line, or --pid",
    "": "ask where /server_info and /metrics can be reached: the server itself, not a proxy before it",
}
"""What to collect where /health alone is good, by the reading ``server.info``."""


def cannot_tell_line(state: SessionState) -> str:
    """The one line for stderr when nothing could be told: the nearest reason, and what to do."""
    target, results = state.target, state.snapshot.results
    health = state.snapshot.get("http.health")
    word = str(health.x) if health is not None else ""
    asked = results.get("http")
    starting = still_starting(state)
    if starting and target is not None:
        return (
            f"{target.base_url} is still starting ({starting.partition(',')[0].rstrip('.')}): ask again later"
        )
    if target is not None and word == "refused":
        return (
            f"nothing listens at {target.base_url}: is it still starting, or down? "
            "If it is down give --log FILE and --command"
        )
    if asked is not None and word not in ("", "serving"):
        return asked.reason or f"{target.base_url if target else 'the server'} is {word}"
    said = results.get("sglang")
    if word == "serving" and said is not None and said.reason and target is not None:
        info = state.snapshot.get("server.info")
        collect = _COLLECT.get(str(info.x) if info is not None else "", _COLLECT[""])
        log = "" if target.log_path else "give --log FILE, and "
        return (
            f"{target.base_url} answers /health, as any web server may, and nothing shows that its scheduler "
            f"works: {said.reason}. To tell, {log}{collect.format(url=target.base_url)}"
        )
    if is_no_launch(state) and target is not None and not target.log_path and not target.metrics_path:
        return NO_LAUNCH
    for name in ("log", "metrics", "http"):
        result = results.get(name)
        given = name != "log" or (target is not None and bool(target.log_path))
        given = given and (name != "metrics" or (target is not None and bool(target.metrics_path)))
        if result is not None and given and result.reason and not result.reason.startswith(_ELSEWHERE):
            path = target.metrics_path if target is not None and name == "metrics" else None
            return result.reason if not path or path in result.reason else f"{path}: {result.reason}"
    if target is not None and target.log_path:
        return f"{target.log_path} shows no failure and no server that serves: is it a whole log of SGLang?"
    return "the readings at hand cannot tell"
