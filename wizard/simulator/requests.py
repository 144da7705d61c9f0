"""Requests in flight at the parent: what they asked for, what they got, and the bytes that their clients
receive.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from wizard.simulator.outputs import SPEECH
from wizard.simulator.web import Connection


@dataclass(eq=False)
class Flight:
    """One request from its arrival to its last byte. `style` is generate, chat or completion."""

    connection: Connection
    style: str
    prompt_tokens: int
    max_new: int
    stream: bool
    model: str
    usage_event: bool = False
    interval: int = 1
    incremental: bool = False
    rid: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    began_unix: float = field(default_factory=time.time)
    first: float = 0.0
    last: float = 0.0
    queue_s: float = 0.0
    out: int = 0
    sent: int = 0
    cached: int = 0
    retractions: int = 0
    finish: dict[str, Any] | None = None

    def start(self) -> None:
        """Open the stream; what the first event needs is prepared once."""
        if not self.stream:
            return
        self.connection.start_stream()
        created = int(self.began_unix)
        if self.style == "generate":
            return
        kind = "chat.completion.chunk" if self.style == "chat" else "text_completion"
        head = {"id": self.rid, "object": kind, "created": created, "model": self.model}
        self._head = json.dumps(head, separators=(",", ":"))[:-1].encode()

    def _meta_head(self) -> bytes:
        return (
            f'],"meta_info":{{"id":{json.dumps(self.rid)},"finish_reason":null,"prompt_tokens":{self.prompt_tokens},'
            f'"weight_version":"default","num_retractions":0,"cached_tokens":{self.cached},'
            '"cached_tokens_details":null,"dp_rank":null,"completion_tokens":'
        ).encode()

    def event(self) -> bytes:
        """The next event of a stream that is not at its end; moves `sent`."""
        first, self.sent = self.sent, self.out
        if self.style == "generate":
            if not first:
                self._meta = self._meta_head()
            start = first if self.incremental else 0
            return b'data: {"text":"%b","output_ids":[%b%b%d}}\n\n' % (
                SPEECH.text(start, self.out),
                SPEECH.ids(start, self.out),
                self._meta,
                self.out,
            )
        text = SPEECH.text(first, self.out)
        if self.style == "chat":
            opening = (
                b""
                if first
                else self._chunk(b'"delta":{"reasoning_content":null,"role":"assistant","content":""}')
            )
            return opening + self._chunk(b'"delta":{"reasoning_content":null,"content":"%b"}' % text)
        return self._chunk(b'"text":"%b"' % text)

    def _chunk(self, inside: bytes, reason: str | None = None) -> bytes:
        return (
            b'data: %b,"choices":[{"index":0,%b,"logprobs":null,"finish_reason":%b,"matched_stop":null}]}\n\n'
            % (
                self._head,
                inside,
                json.dumps(reason).encode(),
            )
        )

    def ending(self) -> bytes:
        """The last events of a stream, `[DONE]` with them."""
        assert self.finish is not None
        done = b"data: [DONE]\n\n"
        if self.style == "generate":
            body = json.dumps(self.document(), ensure_ascii=False, separators=(",", ":"))
            return b"data: %b\n\n" % body.encode() + done
        out = self.event() if self.sent < self.out else b""
        if self.finish["type"] == "abort":
            error = {
                "object": "error",
                "message": self.finish["message"],
                "type": "503",
                "param": None,
                "code": 503,
            }
            return b"data: %b\n\n" % json.dumps({"error": error}, separators=(",", ":")).encode() + done
        empty = b'"delta":{"reasoning_content":null}' if self.style == "chat" else b'"text":""'
        out += self._chunk(empty, self.finish["type"])
        if self.usage_event:
            out += b'data: %b,"choices":[],"usage":%b}\n\n' % (self._head, json.dumps(self.usage()).encode())
        return out + done

    def usage(self) -> dict[str, Any]:
        """OpenAI's token counts."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.out,
            "completion_tokens": self.out,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
        }

    def document(self) -> dict[str, Any]:
        """The whole answer of a request that ended, in its endpoint's shape."""
        assert self.finish is not None
        text = SPEECH.text(0, self.out).decode()
        if self.style == "generate":
            now = time.time()
            return {
                "text": text,
                "output_ids": json.loads(b"[%b]" % SPEECH.ids(0, self.out)),
                "meta_info": {
                    "id": self.rid,
                    "finish_reason": self.finish,
                    "prompt_tokens": self.prompt_tokens,
                    "weight_version": "default",
                    "num_retractions": self.retractions,
                    "queue_time": self.queue_s,
                    "reasoning_tokens": 0,
                    "completion_tokens": self.out,
                    "cached_tokens": self.cached,
                    "weight_versions": [{"version": "default", "start": 0, "end": self.out}],
                    "cached_tokens_details": None,
                    "dp_rank": None,
                    "e2e_latency": now - self.began_unix,
                    "request_received_ts": self.began_unix,
                    "request_finished_ts": now,
                    "response_sent_to_client_ts": now,
                },
            }
        choice: dict[str, Any] = {"index": 0}
        if self.style == "chat":
            choice["message"] = {
                "role": "assistant",
                "content": text,
                "reasoning_content": None,
                "tool_calls": None,
            }
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": self.finish["type"], "matched_stop": None}
        return {
            "id": self.rid,
            "object": "chat.completion" if self.style == "chat" else "text_completion",
            "created": int(self.began_unix),
            "model": self.model,
            "choices": [choice],
            "usage": self.usage(),
            "metadata": {
                "weight_version": "default",
                "weight_versions": [{"version": "default", "start": 0, "end": self.out}],
            },
        }
