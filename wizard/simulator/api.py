"""The endpoints. Error shapes are those of recordings/cpu/fail_req_*.json: /generate and /v1 differ."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from wizard.simulator import describe, log
from wizard.simulator.outputs import chat_tokens, rough_tokens
from wizard.simulator.prefix_cache import block_keys
from wizard.simulator.requests import Flight
from wizard.simulator.web import Connection, HttpRequest

if TYPE_CHECKING:
    from wizard.simulator.server import Server

HEALTH_TIMEOUT_S = 20
OPEN_PATHS = ("/health", "/health_generate", "/metrics", "/ping", "/ready")
_SAMPLING = frozenset(
    [
        "max_new_tokens",
        "ignore_eos",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "min_new_tokens",
        "stop",
        "stop_token_ids",
        "stop_regex",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "n",
        "json_schema",
        "regex",
        "ebnf",
        "structural_tag",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "no_stop_trim",
        "custom_params",
        "stream_interval",
        "logit_bias",
        "sampling_seed",
    ]
)


class Refusal(Exception):
    """A request that is answered with an error. `style` picks the shape of the body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Api:
    """Routes requests of one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.args = server.args
        self.routes: dict[tuple[str, str], Any] = {
            ("GET", "/health"): self.health,
            ("GET", "/health_generate"): self.health,
            ("GET", "/ping"): self.health,
            ("GET", "/ready"): self.ready,
            ("GET", "/metrics"): self.metrics,
            ("GET", "/server_info"): self.server_info,
            ("GET", "/get_server_info"): self.server_info,
            ("GET", "/model_info"): self.model_info,
            ("GET", "/get_model_info"): self.model_info,
            ("GET", "/v1/models"): self.models,
            ("GET", "/v1/loads"): self.loads,
            ("GET", "/get_load"): self.get_load,
            ("POST", "/generate"): self.generate,
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/completions"): self.completion,
            ("POST", "/flush_cache"): self.flush_cache,
            ("GET", "/flush_cache"): self.flush_cache,
            ("POST", "/freeze_gc"): lambda connection, request: connection.respond(200, b"", "text/plain"),
        }
        if not self.args.enable_metrics:
            del self.routes["GET", "/metrics"]

    def handle(self, connection: Connection, request: HttpRequest) -> None:
        """Answer one request, now or later."""
        server = self.server
        if server.dead:
            return  # a crashed server accepts and never answers
        route = self.routes.get((request.method, request.path.rstrip("/") or "/"))
        server.traffic.count_http(connection, request)
        key = self.args.api_key
        if (
            key
            and request.path.rstrip("/") not in OPEN_PATHS
            and request.headers.get("authorization") != f"Bearer {key}"
        ):
            connection.respond_json(401, {"error": "Unauthorized"})
        elif route is None:
            known = any(path == request.path.rstrip("/") for _, path in self.routes)
            detail = "Method Not Allowed" if known else "Not Found"
            connection.respond_json(405 if known else 404, {"detail": detail})
        else:
            try:
                route(connection, request)
            except Refusal as refusal:
                self._refuse(connection, request, refusal)

    def _refuse(self, connection: Connection, request: HttpRequest, refusal: Refusal) -> None:
        if refusal.status == 500:
            connection.respond(500, b"Internal Server Error", "text/plain; charset=utf-8")
        elif request.path == "/generate" and "validation error" not in refusal.message:
            connection.respond_json(refusal.status, {"error": {"message": refusal.message}})
        else:
            kind = "Bad Request" if "validation error" in refusal.message else "BadRequestError"
            error = {
                "object": "error",
                "message": refusal.message,
                "type": kind,
                "param": None,
                "code": refusal.status,
            }
            connection.respond_json(refusal.status, error)

    def health(self, connection: Connection, request: HttpRequest) -> None:
        server = self.server
        if server.draining:
            log.say("Health check request received during shutdown. Returning 503.")
            connection.respond(503, b"", "text/plain")
        elif server.status == "starting":
            connection.respond(503, b"", "text/plain")
        else:
            server.spawn(self._health(connection))

    async def _health(self, connection: Connection) -> None:
        """200 as soon as anything came from the scheduler after now; looked at each second, up to 20 times."""
        server, began, started = self.server, time.monotonic(), time.strftime("%H:%M:%S")
        rid = f"HEALTH_CHECK_{uuid.uuid4().hex}"
        server.tell(("h", rid))
        for _ in range(HEALTH_TIMEOUT_S):
            await asyncio.sleep(1.0)
            if server.dead:
                return
            if server.heard > began:
                server.status = "ready"
                connection.respond(200, b"", "text/plain")
                return
        beat = time.strftime("%H:%M:%S", time.localtime(time.time() - (time.monotonic() - server.heard)))
        log.say(
            f"Health check failed. Server couldn't get a response from detokenizer for last "
            f"{HEALTH_TIMEOUT_S} seconds. "
            f"tic start time: {started}. last_heartbeat time: {beat}"
        )
        server.status = "unhealthy"
        connection.respond(503, b"", "text/plain")

    def ready(self, connection: Connection, request: HttpRequest) -> None:
        good = self.server.status == "ready" and not self.server.draining
        connection.respond(200 if good else 503, b"", "text/plain")

    def metrics(self, connection: Connection, request: HttpRequest) -> None:
        self.server.traffic.refresh_http_gauges()
        page = self.server.traffic.metrics.render().encode()
        connection.respond(200, page, "text/plain; version=0.0.4; charset=utf-8")

    def server_info(self, connection: Connection, request: HttpRequest) -> None:
        if request.path.startswith("/get_"):
            log.say("Endpoint '/get_server_info' is deprecated and will be removed in a future version.")
        self.server.spawn(self._server_info(connection))

    async def _server_info(self, connection: Connection) -> None:
        answer = await self.server.ask("i")  # a stopped scheduler makes this hang, as the real one does
        connection.respond_json(200, describe.server_info(self.server, answer))

    def model_info(self, connection: Connection, request: HttpRequest) -> None:
        connection.respond_json(200, describe.model_info(self.server))

    def models(self, connection: Connection, request: HttpRequest) -> None:
        name = self.args.served_model_name
        card = {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "sglang",
            "root": name,
            "parent": None,
            "max_model_len": self.server.engine["context_len"],
        }
        connection.respond_json(200, {"object": "list", "data": [card]})

    def loads(self, connection: Connection, request: HttpRequest) -> None:
        began = time.perf_counter()
        connection.respond_json(200, describe.loads(self.server))
        metrics = self.server.traffic.metrics
        metrics.histogram("get_loads_duration_seconds", **metrics.model).observe(time.perf_counter() - began)

    def get_load(self, connection: Connection, request: HttpRequest) -> None:
        stats = self.server.traffic.stats
        load = {
            "dp_rank": 0,
            "num_reqs": stats["num_running_reqs"] + stats["num_queue_reqs"],
            "num_waiting_reqs": stats["num_queue_reqs"],
            "num_tokens": stats["num_used_tokens"],
            "num_pending_tokens": stats["pending_tokens"],
            "ts_tic": time.perf_counter(),
        }
        connection.respond_json(200, [load])

    def flush_cache(self, connection: Connection, request: HttpRequest) -> None:
        self.server.spawn(self._flush(connection))

    async def _flush(self, connection: Connection) -> None:
        if (await self.server.ask("f"))["idle"]:
            text = "Cache flushed.\nPlease check backend logs for more details.\n"
            connection.respond(200, text.encode(), "text/plain; charset=utf-8")
        else:
            text = "Flush cache failed: requests are running or waiting.\n"
            connection.respond(400, text.encode(), "text/plain; charset=utf-8")

    def generate(self, connection: Connection, request: HttpRequest) -> None:
        body = _body(request)
        params = body.get("sampling_params") or {}
        if not isinstance(params, dict) or not _SAMPLING.issuperset(params):
            log.say(
                f"TypeError: SamplingParams got an unexpected keyword argument: "
                f"{sorted(set(params) - _SAMPLING)}"
            )
            raise Refusal(500, "")
        ids, text = body.get("input_ids"), body.get("text")
        if isinstance(ids, list) and ids and all(type(each) is int for each in ids):
            tokens = ids
            if max(ids) >= self.server.model.vocab or min(ids) < 0:
                self.server.tell(("k",))  # one token outside the vocabulary takes the whole server down
        elif isinstance(text, str):
            tokens = rough_tokens(text)
        else:
            raise Refusal(400, "Either text or input_ids should be provided (one prompt a request here).")
        limit = params.get("max_new_tokens")
        self._fly(
            connection,
            "generate",
            tokens,
            128 if limit is None else int(limit),
            bool(body.get("stream")),
            ignore_eos=bool(params.get("ignore_eos")),
            explicit=limit is not None,
            rid=body.get("rid"),
        )

    def chat(self, connection: Connection, request: HttpRequest) -> None:
        body = _body(request)
        if "messages" not in body:
            raise Refusal(400, _missing("messages", body, "openai_v1_chat_completions", request.path))
        messages = body["messages"]
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "Messages cannot be empty.")
        try:
            tokens = chat_tokens(messages)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        self._openai(
            connection, "chat", body, tokens, body.get("max_completion_tokens", body.get("max_tokens"))
        )

    def completion(self, connection: Connection, request: HttpRequest) -> None:
        body = _body(request)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and all(type(each) is int for each in prompt):
            tokens = prompt
        elif isinstance(prompt, str):
            tokens = rough_tokens(prompt)
        else:
            raise Refusal(400, _missing("prompt", body, "openai_v1_completions", request.path))
        self._openai(connection, "completion", body, tokens, body.get("max_tokens", 16))

    def _openai(
        self, connection: Connection, style: str, body: dict[str, Any], tokens: list[int], limit: Any
    ) -> None:
        if isinstance(body.get("temperature"), (int, float)) and body["temperature"] < 0:
            raise Refusal(400, f"temperature must be non-negative, got {body['temperature']}.")
        room = self.server.engine["context_len"] - len(tokens) - 1
        self._fly(
            connection,
            style,
            tokens,
            max(room, 1) if limit is None else int(limit),
            bool(body.get("stream")),
            ignore_eos=bool(body.get("ignore_eos")),
            explicit=limit is not None,
            model=str(body.get("model") or self.args.served_model_name),
            usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    def _fly(
        self,
        connection: Connection,
        style: str,
        tokens: list[int],
        limit: int,
        stream: bool,
        *,
        ignore_eos: bool,
        explicit: bool,
        model: str = "",
        usage: bool = False,
        rid: Any = None,
    ) -> None:
        engine, count = self.server.engine, len(tokens)
        context, longest = engine["context_len"], min(engine["context_len"], engine["pool_tokens"]) - 6
        if count >= context:
            raise Refusal(
                400, f"The input ({count} tokens) is longer than the model's context length ({context} tokens)."
            )
        if explicit and count + limit > context:
            raise Refusal(
                400,
                f"Requested token count exceeds the model's maximum context length of {context} tokens. You "
                f"requested a "
                f"total of {count + limit} tokens: {count} tokens from the input messages and {limit} tokens "
                f"for the "
                "completion. Please reduce the number of tokens in the input messages or the completion to "
                "fit within "
                "the limit.",
            )
        if count > longest:
            raise Refusal(
                400,
                f"Input length ({count} tokens) exceeds the maximum allowed length ({longest} tokens). Use a "
                f"shorter "
                "input or enable --allow-auto-truncate.",
            )
        # longest + 5 is SGLang's max_req_len; an output that does not fit the pool is cut, reason "length"
        limit = max(min(limit, longest + 5 - count - 1), 1)
        flight = Flight(
            connection,
            style,
            count,
            limit,
            stream,
            model,
            usage,
            max(self.args.stream_interval, 1),
            self.args.incremental_streaming_output,
        )
        if isinstance(rid, str) and rid:
            flight.rid = rid
        stop_after = None if ignore_eos else 120 + hash((count, tokens[-1])) % 400
        keys = [] if self.args.disable_radix_cache else block_keys(tokens)
        self.server.traffic.launch(flight, keys, stop_after)


def _body(request: HttpRequest) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except ValueError as error:
        at = getattr(error, "pos", 0)
        what = f"{{'type': 'json_invalid', 'loc': ('body', {at}), 'msg': 'JSON decode error', 'input': {{}}}}"
        raise Refusal(400, f"1 validation error:\n  {what}\n\n    POST {request.path} [{what}]") from None
    if not isinstance(body, dict):
        raise Refusal(400, "1 validation error:\n  the body is not an object")
    return body


def _missing(name: str, body: dict[str, Any], function: str, path: str) -> str:
    what = f"{{'type': 'missing', 'loc': ('body', '{name}'), 'msg': 'Field required'}}"
    return f'1 validation error:\n  {what}\n\n  File "http_server.py", in {function}\n    POST {path} [{what}]'
