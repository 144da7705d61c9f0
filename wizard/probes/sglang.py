"""What the server says of itself, and what its command line says: version, limits, model, memory.

/server_info (0.5.6+; /get_server_info before) hangs when the scheduler hangs, so it has a short
time-out of its own; the log's server_args and the command line stand in for it. Values given on the
command line are told apart from those SGLang chose: only the former are somebody's decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wizard.core import hardware
from wizard.core.argv import CommandLine, parse, split
from wizard.core.memory import default_fraction, default_max_running_requests
from wizard.core.reading import Outcome, ProbeResult, Scalar, Trust, Value
from wizard.core.serverargs import decode_graph_disabled
from wizard.core.story import Story
from wizard.core.target import Target
from wizard.probes import launchline
from wizard.probes.base import ProbeContext, ProbeSpec, in_thread
from wizard.probes.fetch import FetchError, client_for, fetch
from wizard.probes.log import log_path_of
from wizard.probes.logfile import read_start
from wizard.probes.reach import why_not_ask, why_somebody_else
from wizard.server.catalogue import for_version

INFO_S = 3.0
GIB = 2**30

_PLAIN = {
    "server.mem_fraction_static": "mem_fraction_static",
    "server.chunked_prefill_size": "chunked_prefill_size",
    "server.schedule_policy": "schedule_policy",
    "server.schedule_conservativeness": "schedule_conservativeness",
    "server.disable_radix_cache": "disable_radix_cache",
    "server.max_queued_requests": "max_queued_requests",
    "server.tp_size": "tp_size",
    "server.device": "device",
    "server.host": "host",
    "server.port": "port",
    "server.status": "status",
    "server.version": "version",
    "server.kv_cache_dtype": "kv_cache_dtype",
    "server.enable_torch_compile": "enable_torch_compile",
    "server.enable_mixed_chunk": "enable_mixed_chunk",
    "server.watchdog_timeout": "watchdog_timeout",
    "server.log_level": "log_level",
    "server.dp_size": "dp_size",
    "server.tokenizer_worker_num": "tokenizer_worker_num",
}
_OR_NONE = {
    "server.quantization": "quantization",
    "server.attention_backend": "attention_backend",
    "server.speculative_algorithm": "speculative_algorithm",
    "server.tool_call_parser": "tool_call_parser",
    "server.reasoning_parser": "reasoning_parser",
    "server.grammar_backend": "grammar_backend",
}
"""Settings whose absence is an answer of its own: the word "none"."""

_SET = {
    "server.max_running_requests_set": "max_running_requests",
    "server.max_total_tokens_set": "max_total_tokens",
    "server.mem_fraction_static_set": "mem_fraction_static",
    "server.cuda_graph_max_bs_set": "cuda_graph_max_bs",
}
_SWITCHES = {
    "server.disable_radix_cache": ("disable_radix_cache",),
    "server.cuda_graph_disabled": ("disable_decode_cuda_graph", "disable_cuda_graph"),
    "server.metrics_enabled": ("enable_metrics",),
    "server.enable_torch_compile": ("enable_torch_compile",),
    "server.enable_mixed_chunk": ("enable_mixed_chunk",),
}
_FROM_COMMAND: dict[str, tuple[str, type]] = {
    "server.mem_fraction_static": ("mem_fraction_static", float),
    "server.chunked_prefill_size": ("chunked_prefill_size", int),
    "server.context_length": ("context_length", int),
    "server.max_queued_requests": ("max_queued_requests", int),
    "server.schedule_policy": ("schedule_policy", str),
    "server.schedule_conservativeness": ("schedule_conservativeness", float),
    "server.device": ("device", str),
    "server.tp_size": ("tp_size", int),
    "server.port": ("port", int),
    "server.host": ("host", str),
    "server.kv_cache_dtype": ("kv_cache_dtype", str),
    "server.watchdog_timeout": ("watchdog_timeout", float),
    "server.log_level": ("log_level", str),
    "server.dp_size": ("dp_size", int),
    "server.tokenizer_worker_num": ("tokenizer_worker_num", int),
}


class SglangProbe:
    """Readings server.*, kv.capacity_tokens and memory of the target."""

    spec = ProbeSpec("sglang", "SGLang", timeout_s=2 * INFO_S + 3, cost="GET /server_info")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        target = ctx.target
        values: dict[str, Value] = {
            "server.command_known": Value(target.launch is not None, Trust.MEASURED, "process")
        }
        info, reason, word = await info_of(target)
        command = await in_thread(launchline.command_of, target)
        path = log_path_of(target)
        if path is not None and (not info or "server.max_running_requests" not in from_info(info)):
            values.update(await in_thread(from_log, path))
        if command is not None:
            for name, value in from_command(command, target).items():
                if value.x is not False or name not in values:  # a switch not typed may be on all the same
                    values[name] = value
        if info:
            values.update(from_info(info))
            # what was typed stays what was typed: /server_info cannot tell it from a default
            if command is None:
                values.update(_set_by_launch_command(info))
        if target.version is not None:
            values.setdefault("server.version", Value(target.version, Trust.REPORTED, "installed package"))
        if target.simulated:
            values["server.simulated"] = Value(True, Trust.REPORTED, "command line")
        values.update(_defaults(values, ctx))
        if command is not None:
            values.update(await in_thread(_checked, target, values, ctx))
        heard = {"server.info": Value(word, Trust.MEASURED, "/server_info")} if word else {}
        if len(values) == 1:
            nothing = reason or "neither the server, nor its log, nor its command line can be seen"
            return ProbeResult("sglang", Outcome.NO_DATA, heard, nothing)
        values.update(heard)
        return ProbeResult("sglang", Outcome.OK, values, reason)


def _checked(target: Target, values: Mapping[str, Value], ctx: ProbeContext) -> dict[str, Value]:
    """What is to be said of the launch command by itself."""
    reported = values.get("server.version")
    version = target.version or (str(reported.x) if reported is not None else None)

    def known(name: str) -> Value | None:
        return values.get(name) or ctx.previous.get(name)

    checked = launchline.check(target, ctx.rules, version, known)
    return {} if checked is None else launchline.readings(checked, target, version)


def _typed(text: str, kind: type) -> Scalar | None:
    try:
        return kind(text)  # type: ignore[no-any-return]
    except ValueError:
        return None


def from_command(command: CommandLine, target: Target) -> dict[str, Value]:
    """What the command line alone says."""
    source = "command line"
    values = {"server.command_known": Value(target.launch is not None, Trust.MEASURED, source)}
    for reading, (name, kind) in _FROM_COMMAND.items():
        text = command.value(name)
        x = _typed(text, kind) if text else None
        if x is not None:
            values[reading] = Value(x, Trust.REPORTED, source)
    values.update(_set_values(command, source))
    for reading, name in _OR_NONE.items():
        values[reading] = Value(command.value(name) or "none", Trust.REPORTED, source)
    model = command.value("served_model_name") or command.value("model_path")
    if model:
        values["server.model"] = Value(model, Trust.REPORTED, source)
    for reading, names in _SWITCHES.items():
        given = any(command.value(name) is not None for name in names)
        values[reading] = Value(given, Trust.REPORTED, source)
    return values


def from_log(path: str) -> dict[str, Value]:
    """What the last start in the log says: its server_args and its pool; empty when it cannot be read."""
    try:
        story = read_start(path)
    except OSError:
        return {}  # the log probe says why
    return from_story(story, path.rpartition("/")[2])


def from_story(story: Story, name: str) -> dict[str, Value]:
    source = f"{name}:{story.settings_line}"
    values: dict[str, Value] = {}
    settings = {k: v for k, v in story.settings.items() if k != "version"}
    for reading, key in _PLAIN.items():
        x = settings.get(key)
        if isinstance(x, (bool, int, float, str)) and x != "":
            values[reading] = Value(x, Trust.REPORTED, source)
    values.update(_or_none(settings, source))
    model = settings.get("served_model_name") or settings.get("model_path")
    if isinstance(model, str):
        values["server.model"] = Value(model, Trust.REPORTED, source)
    for reading, key in (("server.metrics_enabled", "enable_metrics"),):
        if isinstance(settings.get(key), bool):
            values[reading] = Value(settings[key], Trust.REPORTED, source)
    # their default is None, so a number was typed (but speculative decoding fills the first in by itself)
    for reading, key in (
        ("server.max_running_requests_set", "max_running_requests"),
        ("server.max_total_tokens_set", "max_total_tokens"),
    ):
        x = settings.get(key)
        guessed = key == "max_running_requests" and settings.get("speculative_algorithm")
        if isinstance(x, int) and not isinstance(x, bool) and not guessed:
            values[reading] = Value(x, Trust.REPORTED, source)
    disabled = decode_graph_disabled(settings)
    if disabled is not None:
        values["server.cuda_graph_disabled"] = Value(disabled, Trust.REPORTED, source)
    for reading, key in (
        ("server.max_running_requests", "max_running_requests"),
        ("server.context_length", "context_len"),
        ("kv.capacity_tokens", "max_total_num_tokens"),
    ):
        if key in story.numbers:
            x, line = story.numbers[key]
            values[reading] = Value(int(x), Trust.REPORTED, f"{name}:{line}")
    return values


def _or_none(settings: Mapping[str, Any], source: str) -> dict[str, Value]:
    return {
        reading: Value(str(settings[key] or "none"), Trust.REPORTED, source)
        for reading, key in _OR_NONE.items()
        if key in settings and isinstance(settings[key], (str, type(None)))
    }


def _set_values(command: CommandLine, source: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for reading, name in _SET.items():
        text = command.value(name)
        x = _typed(text, float if "fraction" in name else int) if text else None
        if x is not None:
            values[reading] = Value(x, Trust.REPORTED, source)
    return values


def _set_by_launch_command(info: Mapping[str, Any]) -> dict[str, Value]:
    """0.5.20+ tells its own arguments, for a server whose process cannot be seen."""
    text = info.get("launch_command")
    if not isinstance(text, str) or not text:
        return {}
    command = parse(split(text).argv or (), for_version(str(info.get("version") or "") or None))
    return _set_values(command, "/server_info launch_command")


async def info_of(target: Target) -> tuple[dict[str, Any], str | None, str]:
    """/server_info, or nothing and why; and how it went, in the word of the reading ``server.info``."""
    why = why_not_ask(target)
    why = why or await in_thread(why_somebody_else, target)
    if why is not None:
        return {}, why if target.port > 0 else None, ""
    try:
        async with client_for(target) as client:
            for path in ("/server_info", "/get_server_info"):
                try:
                    page = await fetch(client, path, seconds=INFO_S, most_bytes=1 << 20)
                except FetchError as error:
                    if error.status == 404:
                        continue
                    hangs = ": the scheduler may hang" if error.kind == "timeout" else ""
                    return {}, f"{error}{hangs}", _TROUBLES.get(error.kind, "failed")
                document = page.json()
                if isinstance(document, dict):
                    return document, None, _heard_of(document)
                what = "a web page" if page.is_html else "no JSON object"
                return {}, f"{target.base_url}{path} is {what}: is this an SGLang server?", "missing"
    except FetchError as error:
        return {}, str(error), "failed"
    return {}, f"{target.base_url} has no /server_info: is this an SGLang server?", "missing"


_TROUBLES = {"timeout": "hung", "unauthorized": "locked"}


def _heard_of(info: Mapping[str, Any]) -> str:
    """Since 0.4.4 the scheduler itself is asked; older versions tell the settings alone."""
    if info.get("internal_states") or "last_gen_throughput" in info:
        return "answered"
    return "static" if "model_path" in info else "missing"


def from_info(info: Mapping[str, Any]) -> dict[str, Value]:
    """/server_info as readings. Odd or missing fields are left out."""
    source = "/server_info"
    values: dict[str, Value] = {}

    def put(name: str, x: object) -> None:
        if isinstance(x, (bool, int, float, str)) and x != "":
            values[name] = Value(x, Trust.REPORTED, source)

    for reading, key in _PLAIN.items():
        put(reading, info.get(key))
    values.update(_or_none(info, source))
    put("server.model", info.get("served_model_name") or info.get("model_path"))
    put("server.simulated", info.get("simulated"))
    put("server.metrics_enabled", info.get("enable_metrics"))
    put("kv.capacity_tokens", info.get("max_total_num_tokens"))
    put("server.context_length", _context_length(info))
    disabled = _graphs_disabled(info)
    if disabled is not None:
        put("server.cuda_graph_disabled", disabled)
    states = info.get("internal_states")
    state = states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {}
    each, replicas = state.get("effective_max_running_requests_per_dp"), info.get("dp_size")
    if isinstance(each, int) and isinstance(replicas, int) and replicas > 1:
        each *= replicas
    put("server.max_running_requests", each or info.get("max_running_requests"))
    memory = state.get("memory_usage")
    if isinstance(memory, dict):
        put("weights.memory_gb", memory.get("weight"))
        put("kv.pool_gb", memory.get("kvcache"))
        put("server.available_memory_gb", memory.get("startup_available"))
        graph = memory.get("graph")
        if isinstance(graph, dict):
            graph = round(sum(x for x in graph.values() if isinstance(x, (int, float))), 3)
        put("graph.memory_gb", graph)
        tokens, pool = info.get("max_total_num_tokens"), memory.get("kvcache")
        if isinstance(tokens, int) and tokens > 0 and isinstance(pool, (int, float)) and pool > 0.05:
            cell = round(pool * GIB / tokens)  # the pool is told to 0.001 GB: useless for a tiny one
            values["kv.cell_bytes"] = Value(cell, Trust.ESTIMATED, source)
    return values


def _context_length(info: Mapping[str, Any]) -> object:
    """The context in force: given, or the longest input plus the few tokens SGLang keeps back (0.5.20: 6)."""
    given = info.get("context_length")
    if isinstance(given, int):
        return given
    longest, pool = info.get("max_req_input_len"), info.get("max_total_num_tokens")
    if not isinstance(longest, int):
        return None
    return longest + 6 if not isinstance(pool, int) or longest + 6 <= pool else None


def _graphs_disabled(info: Mapping[str, Any]) -> bool | None:
    config = info.get("cuda_graph_config")
    if isinstance(config, dict) and isinstance(config.get("decode"), dict):
        return bool(config["decode"].get("backend") == "disabled")
    backend = info.get("cuda_graph_backend_decode")
    if isinstance(backend, str):
        return backend == "disabled"
    flag = info.get("disable_cuda_graph")
    return flag if isinstance(flag, bool) else None


def _defaults(values: Mapping[str, Value], ctx: ProbeContext) -> dict[str, Value]:
    """What SGLang would choose by itself on this pool and card (core.memory has the sources)."""

    def number(name: str) -> float | None:
        value = values.get(name) or ctx.previous.get(name)
        return float(value.x) if value is not None and isinstance(value.x, (int, float)) else None

    found: dict[str, Value] = {}
    tokens = number("kv.capacity_tokens")
    context = number("server.context_length")
    if tokens and context:
        x = default_max_running_requests(int(tokens), int(context))
        found["server.default_max_running_requests"] = Value(
            x, Trust.ESTIMATED, "pool / context, SGLang's rule"
        )
    total = number("gpu.memory_total_gb") or hardware.read(ctx.target.hardware).memory_gb
    version = values.get("server.version")
    device = values.get("server.device")
    if total and version is not None and (device is None or device.x != "cpu"):
        fraction = default_fraction(str(version.x), total * 1024, tp_size=int(number("server.tp_size") or 1))
        found["server.default_mem_fraction_static"] = Value(
            fraction, Trust.ESTIMATED, "SGLang's rule for this card"
        )
    return found
