"""``check`` on saved evidence: shape of the document, words, exit codes; nothing secret, no long lines."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli import shapes
from wizard.cli import output
from wizard.cli.main import run
from wizard.core.target import Target
from wizard.session import layout
from wizard.session.layout import WIDTH, wrapped
from wizard.session.text import brief, command_lines

STAMP = "[2026-01-02 03:04:05]"
LOADED = [
    f"{STAMP} Load weight begin. avail mem=79.00 GB",
    f"{STAMP} Load weight end. elapsed=1.0 s, type=LlamaForCausalLM, avail mem=64.00 GB, mem usage=15.00 GB.",
]
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    "79.10 GiB of which 1.00 GiB is free. Including non-PyTorch memory, this process has 78.10 GiB "
    "memory in use."
)
TOO_LOW = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."
NO_FLAG = "launch_server.py: error: unrecognized arguments: --cuda-graph-max-bs 8"
HEALTHY = [*LOADED, f"{STAMP} The server is fired up and ready to roll!"]
COMMAND = "python -m sglang.launch_server --model-path m --api-key s3cret-key --mem-fraction-static {fraction}"


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_documents", 0)


@pytest.mark.parametrize(
    ("lines", "fraction", "code", "cause", "change"),
    [
        ([*LOADED, OOM], "0.95", 1, "gpu_oom_load", "less"),
        ([*LOADED, TOO_LOW], "0.1", 1, "mem_fraction_too_low", "more"),
        ([NO_FLAG], "0.9", 1, "bad_cli_args", ""),
        (HEALTHY, "0.9", 0, None, ""),
        (["nothing that is known"], "0.9", 3, None, ""),
    ],
)
def test_documents_of_saved_logs(
    lines: list[str],
    fraction: str,
    code: int,
    cause: str | None,
    change: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("check", "--log", str(log), "--command", COMMAND.format(fraction=fraction))
    assert run((*words, "--json")) == code
    out, err = capsys.readouterr()
    doc = shapes.document(out, shapes.CHECK)
    assert [c["id"] for c in doc["causes"][:1]] == ([cause] if cause else [])
    assert doc["verdict"] == {0: "healthy", 1: "problem", 3: "unknown"}[code]
    if change:
        new = float(doc["causes"][0]["remedies"][0]["set"]["--mem-fraction-static"])
        assert new < float(fraction) if change == "less" else new > float(fraction)
    assert run(words) == code
    text, told = capsys.readouterr()
    for each in (out, err, text, told):
        assert "s3cret" not in each
        assert "Traceback" not in each
    assert all(len(line) <= WIDTH or " " not in line.strip() for line in text.splitlines()), text


def test_a_fix_of_a_saved_log_alone_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join([*LOADED, TOO_LOW]) + "\n", encoding="utf-8")
    assert run(("fix", "--log", str(log), "--yes", "--json")) == 1
    doc = shapes.document(capsys.readouterr().out, shapes.FIX)
    assert doc["cause"]["id"] == "mem_fraction_too_low"
    assert doc["plan"]["changes"] == []
    assert run(("fix", "--log", str(log), "--yes")) == 1
    assert "command of this server is not known" in " ".join(capsys.readouterr().out.split())


def test_a_secret_flag_in_a_change_of_ones_own_is_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join(HEALTHY), encoding="utf-8")
    words = ("fix", "--log", str(log), "--command", COMMAND.format(fraction="0.9"), "--dry-run")
    for change in ("--unset", "--set"):
        name = "api_key" if change == "--unset" else "api_key=n3w-secret"
        assert run((*words, change, name, "--json")) == 1
        out, err = capsys.readouterr()
        assert "s3cret" not in out + err
        assert "n3w-secret" not in out + err
        assert run((*words, change, name)) == 1
        out, err = capsys.readouterr()
        assert "s3cret" not in out + err
        assert "n3w-secret" not in out + err


@pytest.mark.parametrize("verb", [("flows", "list"), ("flows", "schema"), ("demo", "--list")])
def test_lists_are_documents_too(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run((*verb, "--json")) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_a_command_can_be_copied_from_its_lines() -> None:
    argv = ["python", "-m", "sglang.launch_server", *(f"--flag-{i} 'a b'" for i in range(20)), "x" * 150]
    lines = command_lines(argv)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert all(len(line) <= WIDTH for line in lines if "xxx" not in line)
    text = "\n".join(lines).removeprefix("  command  ")
    assert shlex.split(text.replace("\\\n", "")) == argv  # a shell joins such lines


def test_wrapping() -> None:
    assert wrapped("", "  why ") == ["  why"]
    assert wrapped("a b", "> ") == ["> a b"]
    text = "One sentence. " * 40
    assert brief(text).endswith(".")
    assert len(brief(text)) <= 240
    assert len(brief("x" * 1000)) == 240


@pytest.mark.parametrize(
    ("body", "endpoint", "cause"),
    [
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -3}, "", "sampling_params"),
        ({"messages": [{"role": "user", "content": "x"}]}, "/v1/completions", "bad_request"),
        ({"messages": [{"role": "user", "content": "x"}]}, "", None),
    ],
)
def test_a_body_is_judged_without_a_server(
    body: object,
    endpoint: str,
    cause: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("wizard.server.discovery.find_servers", lambda: [])
    path = tmp_path / "body.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    words = ("check", "--request", str(path), "--endpoint", endpoint)
    assert run((*words, "--json")) == (1 if cause else 3)
    doc = shapes.document(capsys.readouterr().out, shapes.CHECK)
    assert [c["id"] for c in doc["causes"]] == ([cause] if cause else [])
    for remedy in (r for c in doc["causes"] for r in c["remedies"]):
        assert not remedy.get("set"), "a fault of the body is not mended by a flag of the server"
    assert run(words) == (1 if cause else 3)
    out, err = capsys.readouterr()
    assert "sgl-wizard fix" not in err
    assert ("nothing was found in it" in out) == (cause is None)


@pytest.mark.parametrize(
    ("end", "note"),
    [(None, "as of the last line"), ("INFO:     Finished server process [7]", "orderly stop")],
)
def test_a_healthy_log_says_as_of_when(
    end: str | None, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join([*HEALTHY, *([end] if end else [])]), encoding="utf-8")
    assert run(("check", "--log", str(log))) == 0
    assert note in capsys.readouterr().out


def test_words_alone_are_answered_shortly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few remedies, none that takes out a flag which nobody saw before those that help without it."""
    monkeypatch.setattr("wizard.server.discovery.find_servers", lambda: [])
    words = ("check", "--symptom", "it hangs, nothing happens any more")
    assert run((*words, "--json")) == 1
    remedies = shapes.document(capsys.readouterr().out, shapes.CHECK)["causes"][0]["remedies"]
    assert run(words) == 1
    out, err = capsys.readouterr()
    first = out.partition("\n\n")[0]
    assert 0 < first.count("\n  remedy ") <= 7 < len(remedies)
    assert "more remedies: --json" in first
    assert "flags are those of the newest here" in out
    assert "goes to no file" not in err
    takes_out = [bool(r["unset"]) and not r["set"] for r in remedies]
    assert takes_out == sorted(takes_out)


def test_a_command_of_something_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wizard.server.discovery.find_servers", lambda: [])
    assert run(("check", "--command", "vllm serve m --tp 2")) == 3
    assert "starts no SGLang server" in capsys.readouterr().err


def test_lines_fit_a_narrow_terminal() -> None:
    layout.fit(60)
    try:
        assert max(map(len, layout.row("why", "a word and another one " * 20))) <= 60
        assert max(map(len, command_lines(["python", *(["--flag-of-some-length", "x"] * 9)]))) <= 60
    finally:
        layout.fit(1000)
    assert 60 < max(map(len, layout.row("why", "a word and another one " * 20))) <= layout.WIDTH


@pytest.fixture(params=["hangs", "is missing", "is JSON of somebody else"])
def good_health_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers /health, and nothing of SGLang's beside."""
    over = threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/health"
            if not good and request.param == "hangs":
                over.wait(30)
            found = good or request.param == "is JSON of somebody else"
            self.send_response(200 if found else 404)
            body = b"{}" if found else b""
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http.IDENTITY_LIMIT_S", "sglang.INFO_S", "metrics.SCRAPE_S"):
        monkeypatch.setattr(f"wizard.probes.{name}", 0.2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("with_log", [False, True])
def test_one_good_health_check_is_no_health(
    with_log: bool,
    good_health_alone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even beside a log that served: it may be of before the scheduler hung."""
    log = tmp_path / "server.log"
    log.write_text("\n".join(HEALTHY) + "\n", encoding="utf-8")
    target = Target(port=int(good_health_alone.rpartition(":")[2]), remote=True, local=True)
    target = replace(target, log_path=str(log) if with_log else None)
    monkeypatch.setattr("wizard.cli.check.resolve", lambda _: target)
    assert run(("check", "--window", "0.1", "--json")) == 3
    out, err = capsys.readouterr()
    doc = shapes.document(out, shapes.CHECK)
    assert (doc["verdict"], doc["causes"]) == ("unknown", [])
    assert good_health_alone in err
    assert run(("check", "--window", "0.1")) == 3
    out, err = capsys.readouterr()
    assert "CANNOT TELL" in out
    assert "HEALTHY" not in out
