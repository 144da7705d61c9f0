"""The endpoints of a running simulator: shapes, errors, metrics, keys, and the command line's errors."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.simulator.conftest import ROOT, Launch
from tests.simulator.load import load


def events(text: str) -> list[str]:
    return [line[6:] for line in text.split("\n\n") if line.startswith("data: ")]


def test_generate_answers_and_streams(launch: Launch) -> None:
    server = launch().wait_ready()
    sampling = {"max_new_tokens": 5, "ignore_eos": True}
    whole = server.json("/generate", {"input_ids": [1, 2, 3], "sampling_params": sampling})
    meta = whole["meta_info"]
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (3, 5, 0)
    assert meta["finish_reason"] == {"type": "length", "length": 5}
    assert len(whole["output_ids"]) == 5
    status, text = server.request("/generate", {"text": "hello", "sampling_params": sampling, "stream": True})
    parts = events(text)
    assert status == 200
    assert parts[-1] == "[DONE]"
    shown = [json.loads(part) for part in parts[:-1]]
    assert [each["meta_info"]["completion_tokens"] for each in shown][-1] == 5
    assert all(len(each["output_ids"]) == each["meta_info"]["completion_tokens"] for each in shown)
    assert shown[-1]["text"] == whole["text"]
    assert shown[-1]["meta_info"]["finish_reason"]["type"] == "length"
    assert all(each["meta_info"]["finish_reason"] is None for each in shown[:-1])


def test_openai_endpoints(launch: Launch) -> None:
    server = launch().wait_ready()
    chat = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "ignore_eos": True}
    whole = server.json("/v1/chat/completions", chat)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4
    streaming = {**chat, "stream": True, "stream_options": {"include_usage": True}}
    parts = events(server.request("/v1/chat/completions", streaming)[1])
    assert parts[-1] == "[DONE]"
    chunks = [json.loads(part) for part in parts[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    done = server.json("/v1/completions", {"model": "x", "prompt": "say", "max_tokens": 3, "ignore_eos": True})
    assert done["object"] == "text_completion"
    assert done["usage"]["completion_tokens"] == 3
    assert server.json("/v1/models")["data"][0]["max_model_len"] == 131072


def test_server_info_shows_what_was_resolved(launch: Launch) -> None:
    server = launch("--max-running-requests", "8", "--decode-log-interval", "10").wait_ready()
    info = server.json("/server_info")
    assert info["simulated"] is True
    assert info["version"] == "0.5.20"
    assert info["mem_fraction_static"] == 0.903
    assert info["max_running_requests"] == 8
    assert info["decode_log_interval"] == 10
    assert info["internal_states"][0]["effective_max_running_requests_per_dp"] == 8
    assert info["internal_states"][0]["memory_usage"]["weight"] == pytest.approx(15.02)
    assert "--max-running-requests 8" in info["launch_command"]
    load_now = server.json("/v1/loads")["loads"][0]
    assert load_now["max_running_requests"] == 8
    assert load_now["num_waiting_reqs"] == 0
    assert server.json("/model_info")["architectures"] == ["LlamaForCausalLM"]
    assert server.request("/metrics")[0] == 404


def test_errors_have_the_two_shapes(launch: Launch) -> None:
    server = launch("--max-total-tokens", "2000", "--context-length", "4000").wait_ready()
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    cases = [
        (
            "/generate",
            {"input_ids": [1] * 4500},
            400,
            "is longer than the model's context length (4000 tokens)",
        ),
        ("/generate", {"input_ids": [1] * 3000}, 400, "exceeds the maximum allowed length (1994 tokens)"),
        (
            "/generate",
            {"text": "x", "sampling_params": {"max_new_tokens": 9999}},
            400,
            "Requested token count exceeds",
        ),
        ("/generate", {"text": "x", "sampling_params": {"max_tokens": 3}}, 500, "Internal Server Error"),
        ("/v1/chat/completions", {**chat, "max_tokens": 9999}, 400, '"code":400'),
        ("/v1/chat/completions", {"model": "m"}, 400, "'type': 'missing'"),
        ("/v1/chat/completions", {**chat, "temperature": -1}, 400, '"object":"error"'),
        ("/generate", b'{"text": ', 400, "json_invalid"),
        ("/v1/chat/completion", {}, 404, '{"detail":"Not Found"}'),
    ]
    for path, body, status, says in cases:
        got = server.request(path, body)
        assert got[0] == status, (path, got)
        assert says in got[1], (path, got)
    long = server.json("/generate", {"input_ids": [1] * 1000, "sampling_params": {"max_new_tokens": 1500}})
    assert long["meta_info"]["finish_reason"]["type"] in ("length", "stop")
    assert long["meta_info"]["completion_tokens"] < 1000


def test_a_token_outside_the_vocabulary_kills_the_server(launch: Launch) -> None:
    server = launch().wait_ready()
    with pytest.raises(OSError):
        server.request("/generate", {"input_ids": [500_000]}, timeout=5)
    assert server.wait_exit() == -9
    assert "device-side assert triggered" in server.log


def test_full_queue_is_503_and_in_a_stream_an_abort(launch: Launch) -> None:
    server = launch(
        "--max-running-requests", "1", "--max-queued-requests", "1", "--enable-metrics"
    ).wait_ready()
    slow = {"text": "x", "sampling_params": {"max_new_tokens": 300, "ignore_eos": True}}
    threads = [threading.Thread(target=server.request, args=("/generate", slow)) for _ in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        while (
            server.json("/server_info")
            and server.metric("http_requests_total", endpoint="/generate") != 2 + number
        ):
            pass
    got = server.request("/generate", slow)
    assert got == (
        503,
        '{"object":"error","message":"The request queue is full.","type":"503","param":null,"code":503}',
    )
    status, text = server.request("/generate", {**slow, "stream": True})
    assert status == 200
    reason = json.loads(events(text)[0])["meta_info"]["finish_reason"]
    assert (reason["type"], reason["status_code"]) == ("abort", 503)
    for thread in threads:
        thread.join()


def test_api_key_opens_only_health_and_metrics(launch: Launch) -> None:
    server = launch("--api-key", "sesame", "--enable-metrics").wait_ready()
    for path in ("/server_info", "/v1/models", "/model_info"):
        assert server.request(path) == (401, '{"error":"Unauthorized"}')
        assert server.request(path, headers={"Authorization": "Bearer sesame"})[0] == 200
    assert server.request("/health")[0] == 200
    assert server.request("/metrics")[0] == 200
    _, info = server.request("/server_info", headers={"Authorization": "Bearer sesame"})
    assert "sesame" not in json.loads(info)["launch_command"]
    assert "'api_key': 'sesame'" in server.log  # as the real log has it: whoever keeps logs must redact


def test_metrics_page_parses_and_counts(launch: Launch) -> None:
    server = launch("--enable-metrics", "--max-running-requests", "8").wait_ready()
    before = server.request("/metrics")[1]
    assert "inter_token_latency_seconds" in before
    assert 'is_streaming="true"' not in before
    figures = asyncio.run(load(f"http://127.0.0.1:{server.port}", 16, 32, prompt=128, output=60))
    assert figures["errors"] == 0
    families = {each.name: each for each in text_string_to_metric_families(server.request("/metrics")[1])}
    assert {"sglang:num_running_reqs", "sglang:token_usage", "sglang:time_to_first_token_seconds"} <= set(
        families
    )
    assert server.metric("num_requests_total", is_streaming="true") == 32
    tokens = server.metric("generation_tokens_total", is_streaming="true")
    assert tokens
    assert server.metric("realtime_tokens_total", mode="decode") >= tokens
    assert server.metric("num_retracted_requests_total") is None
    waiting = [int(found) for found in re.findall(r"#queue-req: (\d+)", server.log)]
    running = [int(found) for found in re.findall(r"Decode batch, #running-req: (\d+)", server.log)]
    assert max(waiting) == 8
    assert max(running) == 8
    assert server.card["utilization"] >= 0
    assert server.card["power_w"] > 100


def test_retraction_shows_in_log_and_counters(launch: Launch) -> None:
    flags = ("--max-total-tokens", "3000", "--schedule-conservativeness", "0.1", "--enable-metrics")
    server = launch(*flags).wait_ready()
    figures = asyncio.run(load(f"http://127.0.0.1:{server.port}", 20, 20, prompt=100, output=250, jitter=0.2))
    assert figures["errors"] == 0
    assert re.search(
        r"KV cache pool is full\. Retract requests\. #retracted_reqs: \d+, #new_tokens_gained: \d+, ",
        server.log,
    )
    assert (server.metric("num_retracted_requests_total") or 0) > 0


def test_a_client_that_leaves_frees_its_place(launch: Launch) -> None:
    server = launch("--max-running-requests", "1", "--enable-metrics").wait_ready()
    body = json.dumps(
        {"text": "x", "sampling_params": {"max_new_tokens": 100_000, "ignore_eos": True}, "stream": True}
    )
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"POST /generate HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert client.recv(100)
    assert (
        server.request("/generate", {"text": "y", "sampling_params": {"max_new_tokens": 2}}, timeout=5)[0]
        == 200
    )


def test_prefixes_are_cached_and_flushed(launch: Launch) -> None:
    server = launch().wait_ready()
    body = {"input_ids": list(range(1000)), "sampling_params": {"max_new_tokens": 2}}
    cached = [server.json("/generate", body)["meta_info"]["cached_tokens"] for _ in range(2)]
    assert cached == [0, 992]
    assert server.request("/flush_cache", {})[0] == 200
    assert server.json("/generate", body)["meta_info"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ("--max-batch-size 8", 2, "sglang serve: error: unrecognized arguments: --max-batch-size 8"),
        ("--cuda-graph-max-bs 8", 2, "sglang serve: error: ambiguous option: --cuda-graph-max-bs"),
        ("--max-running-requests many", 2, "argument --max-running-requests: invalid int value: 'many'"),
        ("--schedule-policy best", 2, "argument --schedule-policy: invalid choice: 'best'"),
        (
            "--model-path /no/such/model",
            1,
            "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
        ),
        ("--context-length 262144", 1, "greater than the derived context_length (131072)"),
    ],
)
def test_command_line_errors(flags: str, code: int, says: str) -> None:
    command = [sys.executable, "-m", "wizard.simulator", "--model-path", "m", *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == code
    assert says in done.stderr


def test_model_path_is_required_and_helped() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wizard.simulator"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--model-path" in done.stderr.splitlines()[-1]
