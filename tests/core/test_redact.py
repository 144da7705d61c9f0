"""Secrets never survive, and foreign text cannot drive a terminal."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.redact import (
    clean,
    is_secret_flag,
    is_secret_variable,
    redact_argv,
    redact_environ,
    redact_text,
    secrets_of,
)

SECRET = st.text(alphabet="ABCxyz0189_-.+/", min_size=6, max_size=24).map(lambda s: f"Zq{s}Qz")
PLACES = [
    "python -m sglang.launch_server --api-key {} --port 1",
    "server --api-key={} --port 1",
    "server --admin-api-key {}",
    "server --ssl-keyfile-password {} x",
    "server_args=ServerArgs(model_path='m', api_key='{}', port=1)",
    "server_args={{'model_path': 'm', 'api_key': '{}', 'admin_api_key': \"{}\"}}",
    '{{"api_key": "{}", "port": 30000}}',
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "curl -H 'Authorization: Bearer {}' http://127.0.0.1/",
    "headers={{'authorization': 'Bearer {}'}}",
    "HF_TOKEN={} python x",
    "export HUGGING_FACE_HUB_TOKEN='{}'",
    "AWS_SECRET_ACCESS_KEY={}",
    "OPENAI_API_KEY: {}",
    "DB_PASSWORD={}",
    "http://user:{}@127.0.0.1:30000/",
    "argv: ['python', '--api-key', '{}', '--port', '1']",
    "Cookie: session={}; theme=dark",
    "Cookie: theme=dark; session={}",
    "< Set-Cookie: sid={}; Path=/; HttpOnly",
    "curl -H 'Cookie: sid={}' http://127.0.0.1/",
    "Proxy-Authorization: Basic {}",
    'Authorization: Digest username="u", response="{}", nonce="{}"',
    "X-Api-Key: {}",
    "x-auth-token: {}",
    'curl -H "X-API-Key: {}" http://127.0.0.1/',
    "headers={{'cookie': 'a=b; sid={}', 'accept': '*/*'}}",
    "[(b'cookie', b'sid={}'), (b'x-api-key', b'{}'), (b'authorization', b'Basic {}'), (b'host', b'h')]",
    '{{"token": "{}"}}',
    '{{"token":"{}","model":"m"}}',
    "{{'password': '{}', 'user': 'u'}}",
    "{{'password': b'{}', 'user': 'u'}}",
    '{{"db": {{"passwd": "open {}"}}, "auth": "{}"}}',
    'body: "{{\\"token\\": \\"{}\\", \\"password\\": \\"{}\\"}}"',
    "GET /generate?stream=1&token={}&x=1 HTTP/1.1",
    "redis://:{}@cache:6379/0",
]


@pytest.mark.parametrize("place", [*PLACES, *(f"[2026-01-02 03:04:05] {p} {p}" for p in PLACES)])
@given(secret=SECRET)
def test_a_planted_secret_never_survives(place: str, secret: str) -> None:
    text = redact_text(place.format(*[secret] * 8))
    assert secret not in text
    assert secret[2:-2] not in text
    assert "***" in text


@given(secret=SECRET, before=st.sampled_from(["--port", "--tp", "x", "--disable-radix-cache"]))
@pytest.mark.parametrize(
    "flag", ["--api-key", "--admin-api-key", "--api", "--ssl-keyfile-password", "--hf-token"]
)
def test_words_behind_a_secret_flag_are_hidden(flag: str, secret: str, before: str) -> None:
    assert redact_argv([before, flag, secret, "--tp", "2"]) == [before, flag, "***", "--tp", "2"]
    assert redact_argv([before, f"{flag}={secret}", "--tp", "2"]) == [before, f"{flag}=***", "--tp", "2"]
    assert secret not in " ".join(redact_argv(["bash", "-c", f"HF_TOKEN={secret} x {flag} {secret}"]))
    assert redact_argv(["env", f"HF_TOKEN={secret}", "x"]) == ["env", "HF_TOKEN=***", "x"]


@pytest.mark.parametrize(
    "shape", ["hf_" + "aB3" * 11, "sk-proj-abcdEFGH1234", "ghp_" + "a1" * 18, "AKIA" + "A1B2" * 4]
)
def test_tokens_are_known_by_their_shape(shape: str) -> None:
    assert shape not in redact_text(f"cannot use {shape} here")
    assert redact_argv(["--model-path", shape]) == ["--model-path", "***"]


def test_a_password_with_an_at_sign_is_hidden_whole() -> None:
    assert redact_text("see https://user:fir@st@host:1/a@b now") == "see https://user:***@host:1/a@b now"


def test_environ() -> None:
    plain = {"PATH": "/bin", "KEYBOARD": "us"}
    secret = ("HF_TOKEN", "SGLANG_API_KEY", "WANDB_API_KEY")
    shown = redact_environ({**plain, **dict.fromkeys(secret, "hush")})
    assert shown == {**plain, **dict.fromkeys(secret, "***")}


@pytest.mark.parametrize(
    "text",
    [
        "Decode batch. #running-req: 8, #token: 1234, token usage: 0.97, gen throughput (token/s): 285.10",
        "max_total_num_tokens=905795, chunked_prefill_size=8192, max_prefill_tokens=16384",
        "api_key=None, admin_api_key=None, tokenizer_path='m', skip_tokenizer_init=False",
        "--max-total-tokens 600 --tokenizer-path m --tokenizer-worker-num 2",
        "Capture cuda graph begin. avail mem=9.78 GB",
        "{'token_ids': [1, 2], 'eos_token': '</s>', 'token': '', 'tokenizer_path': 'm', 'password': None}",
        '{"token": " the", "logprob": -0.1, "bytes": [32]}, {"type": "token", "id": "x"}',
        "prefill tokens: 5, x-axis: 3, cache_hit_rate: 12.5, author: somebody, http://127.0.0.1:30000/v1?key",
        'INFO:     127.0.0.1:40000 - "GET /v1/models?limit=5&after=x HTTP/1.1" 200 OK',
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_ordinary_flags_are_no_secrets() -> None:
    from wizard.server.catalogue import catalogued_versions, for_version

    hidden = {o for v in catalogued_versions() for o in for_version(v).by_option if is_secret_flag(o)}
    assert hidden == {"--api-key", "--admin-api-key", "--ssl-keyfile-password"}
    assert not is_secret_variable("TOKENIZERS_PARALLELISM")
    assert not is_secret_variable("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION")


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASS",
        "SMTP_PASS",
        "MY_PW",
        "MYSQL_PWD",
        "GITHUB_PAT",
        "JWT",
        "HFTOKEN",
        "S3_ACCESSKEY",
        "SENTRY_DSN",
        "AZURE_SAS",
    ],
)
def test_names_of_secrets_that_are_not_spelled_out(name: str) -> None:
    assert is_secret_variable(name)
    assert "tiger99" not in " ".join(redact_argv(["env", f"{name}=tiger99", "python3"]))


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "PATH", "PYTHONPATH", "NCCL_DEBUG", "SGLANG_BYPASS_X"])
def test_names_that_hold_no_secret(name: str) -> None:
    assert not is_secret_variable(name)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "--api-key ",
        "api_key=",
        "_key",
        "A_",
        "x-",
        "://:",
        "\x1b]",
        "bearer ",
        "'",
        "sk-",
        "cookie:",
        "cookie='",
        '"token": "',
        '"token": "\\',
        "x-a" * 20,
        "://a:@",
        "&key=",
        "('",
        '\\"',
        "authorization: digest ",
    ],
)
def test_hostile_text_costs_no_more_than_its_length(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    start = time.process_time()
    redact_text(text)
    clean(text)
    assert time.process_time() - start < 5  # 0.1 s; a quadratic pattern takes a minute


def test_the_key_in_a_recorded_log_is_hidden() -> None:
    shared = Path(os.environ.get("SGL_WIZARD_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    log = shared / "recordings" / "cpu" / "fail_api_key.log"
    if not log.is_file():
        pytest.skip("needs the recordings: set SGL_WIZARD_SHARED to the folder that holds recordings/cpu")
    text = log.read_text(encoding="utf-8", errors="replace")
    assert "secret-key" in text
    assert "secret-key" not in redact_text(text)


def test_of_recorded_logs_nothing_but_keys_is_hidden() -> None:
    """Words of a log that are no secret are evidence: what is hidden stands behind the name of a key."""
    shared = Path(os.environ.get("SGL_WIZARD_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    logs = sorted((shared / "recordings").rglob("*.log"))
    if not logs:
        pytest.skip("needs the recordings: set SGL_WIZARD_SHARED to the folder that holds recordings/cpu")
    key = re.compile(
        r"(?:(?:api_key['\"]?[=:] ?['\"]?)|(?:--(?:admin-)?api-key |--ssl-keyfile-password ))[^\s'\",]+"
    )
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            shown = redact_text(line)
            if shown != line:
                assert key.sub("", shown) == key.sub("", line), log


def test_known_secrets_are_hidden_anywhere() -> None:
    secrets = secrets_of(["x", "--api-key", "sesame", "--admin-api-key=open"], {"HF_TOKEN": "hush"})
    assert secrets == ("sesame", "open", "hush")
    assert redact_text("said sesame, open and hush", secrets) == "said ***, *** and ***"


@given(st.text(max_size=60) | st.text(alphabet="\x1b\x9b\x07\x9c[]PX^_;0123mHJKa\r\n\tb", max_size=60))
def test_cleaned_text_has_no_control_bytes(text: str) -> None:
    shown = clean(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert clean(shown) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        (" 10%|#\r 20%|##\r\nnext\tcell", " 10%|#\n 20%|##\nnext\tcell"),
        ("a\x00b\x08c", "abc"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_what_cleaning_leaves(raw: str, shown: str) -> None:
    assert clean(raw) == shown
