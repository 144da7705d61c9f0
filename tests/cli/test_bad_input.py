"""What people really type: one clear line on stderr, the right exit code, never a traceback."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli import shapes
from wizard.cli import output
from wizard.cli.main import run
from wizard.core.target import Identity, Launch, Target
from wizard.flowfile.resources import flows_dir
from wizard.server import discovery

PAGE = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m",tp_rank="0"} 3.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 0.0
# TYPE sglang:token_usage gauge
sglang:token_usage{model_na"""


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "_documents", 0)


class Html(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><html><body>It works!</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def html() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Html)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def refused() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Html)
    port = server.server_port
    server.server_close()
    return f"http://127.0.0.1:{port}"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int, shape: object = None) -> str:
    """The one line on stderr that begins with the program's name; with --json also the one document."""
    found = run(words)
    out, err = capsys.readouterr()
    assert found == code, (found, out, err)
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.startswith("sgl-wizard: ")]
    assert len(lines) == 1, err
    if shape is not None:
        assert isinstance(shape, dict)
        shapes.document(out, shape)
    return lines[0].removeprefix("sgl-wizard: ")


def test_a_flow_with_a_wrong_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "flows"
    shutil.copytree(flows_dir(), folder)
    file = folder / "kv_cache.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("kv.usage", "kv.usge", 1), encoding="utf-8")
    for words in (("check", "--log", "x"), ("fix", "--log", "x"), ("probe",), ("flows", "list")):
        line = said(capsys, *words, "--flows", str(folder), code=2)
        place, _, message = line.partition(" ")
        path, at, column = place.rsplit(":", 2)
        assert Path(path).resolve() == file
        assert int(at) > 0
        assert int(column) > 0
        assert 'did you mean "kv.usage"?' in message
    assert run(("flows", "lint", str(folder))) == 2
    assert "kv.usge" in capsys.readouterr().out
    assert "not a folder" in said(capsys, "check", "--flows", "nowhere", "--log", "x", code=2)


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_logs_that_tell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], json: tuple[str, ...]
) -> None:
    shape = shapes.CHECK if json else None
    binary, empty, page = tmp_path / "b.log", tmp_path / "e.log", tmp_path / "p.log"
    binary.write_bytes(bytes(range(256)) * 40)
    empty.write_bytes(b"")
    page.write_text("<html><body>404 Not Found</body></html>", encoding="utf-8")
    assert "whole log of SGLang?" in said(capsys, "check", "--log", str(binary), *json, code=3, shape=shape)
    output._documents = 0
    assert "is empty" in said(capsys, "check", "--log", str(empty), *json, code=3, shape=shape)
    output._documents = 0
    assert str(page) in said(capsys, "check", "--log", str(page), *json, code=3, shape=shape)


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], json: tuple[str, ...]
) -> None:
    shape = shapes.ERROR if json else None
    for flag in ("--log", "--metrics"):
        for name, words in ((str(tmp_path), "is a folder"), ("gone.txt", "No such file")):
            output._documents = 0
            line = said(capsys, "check", flag, name, *json, code=3, shape=shape)
            assert words in line
            assert name in line
    if os.geteuid() != 0:
        shut = tmp_path / "shut.log"
        shut.touch(mode=0o000)
        assert "Permission denied" in said(capsys, "check", "--log", str(shut), code=3)


def test_a_log_with_binary_bytes_among_its_lines_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    lines = [
        b"\x00\xff\x1b[31m junk \x80\x81",
        b"[2026-01-02 03:04:05] Load weight begin. avail mem=79.00 GB",
        b"\xfe\xfe RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
    ]
    log.write_bytes(b"\n".join(lines))
    assert run(("check", "--log", str(log))) == 1
    out, err = capsys.readouterr()
    assert "mem_fraction_too_low" in out
    assert "\x1b" not in out + err


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_metrics_pages_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], json: tuple[str, ...]
) -> None:
    shape = shapes.CHECK if json else None
    half, page = tmp_path / "half.txt", tmp_path / "page.txt"
    half.write_text(PAGE, encoding="utf-8")
    page.write_text("<!doctype html><html></html>", encoding="utf-8")
    line = said(capsys, "check", "--metrics", str(half), *json, code=3, shape=shape)
    assert str(half) in line
    assert "cut" in line
    output._documents = 0
    assert "web page" in said(capsys, "check", "--metrics", str(page), *json, code=3, shape=shape)


def test_a_server_that_answers_html(html: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "check", "--url", html, "--window", "0.2", code=3)
    assert "web page" in line
    assert "no SGLang" in line
    said(capsys, "check", "--url", html, "--window", "0.2", "--json", code=3, shape=shapes.CHECK)
    output._documents = 0
    said(capsys, "fix", "--url", html, "--window", "0.2", "--json", "--yes", code=3, shape=shapes.FIX)


def test_an_address_where_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    url = refused()
    assert f"nothing listens at {url}" in said(capsys, "check", "--url", url, "--window", "0.2", code=3)
    said(capsys, "check", "--url", url, "--window", "0.2", "--json", code=3, shape=shapes.CHECK)


@pytest.mark.parametrize("url", ["http://[bad", "ftp://x/", "foo bar", "", "http://127.0.0.1:99999", "http://"])
def test_garbage_for_an_address(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(("check", "--url", url))
    out, err = capsys.readouterr()
    assert code in (2, 3)
    assert out == ""
    assert len(err.splitlines()) == 1


def test_a_process_that_is_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no SGLang server" in said(capsys, "check", "--pid", str(os.getpid()), code=3)
    for command in ("check", "fix", "probe"):
        output._documents = 0
        line = said(capsys, command, "--pid", "999999999", "--json", code=3, shape=shapes.ERROR)
        assert "there is no process" in line


def server(port: int) -> Target:
    launch = Launch(("python", "-m", "sglang.launch_server", "--port", str(port)), "/")
    return Target(port=port, identity=Identity(port, 1, "boot"), launch=launch, name="llama")


@pytest.mark.parametrize("command", ["check", "fix", "probe"])
def test_no_server_and_two_servers(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discovery, "find_servers", list)
    assert "sgl-wizard demo" in said(capsys, command, code=3)
    monkeypatch.setattr(discovery, "find_servers", lambda: [server(30000), server(30001)])
    assert run((command,)) == 2
    err = capsys.readouterr().err
    assert "2 servers run on this host" in err
    assert "--pid 30000" in err
    assert "--pid 30001" in err
    assert run((command, "--json")) == 2
    shapes.document(capsys.readouterr().out, shapes.ERROR)


COMMAND = "python -m sglang.launch_server --model-path m --port 30000 --max-running-requests 8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fix", "--cause", "long_que"), 'did you mean "long_queue"?'),
        (("fix", "--cause", "long_queue", "--remedy", "magic"), "lift_running_cap"),
        (("fix", "--set", "no_such_flag=1"), "no flag no_such_flag"),
        (("fix", "--unset", "no_such_flag"), "no flag no_such_flag"),
        (("fix", "--set", "max_running_requests"), "needs a value"),
        (("fix", "--set", "disable_cuda_graph=3"), "takes no value"),
        (("check", "--url", "http://127.0.0.1:1", "--pid", "1"), "give one"),
        (("probe", "nvlink"), "there is no probe nvlink"),
        (("flows", "graph", "kv_cash"), 'did you mean "kv_cache"?'),
        (("demo", "no_such", "--headless"), "queue_cap"),
    ],
)
def test_unknown_names(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "x.log"
    log.write_text("[2026-01-02 03:04:05] nothing\n", encoding="utf-8")
    if words[0] == "fix":
        words = (*words, "--log", str(log), "--command", COMMAND)
    assert message in said(capsys, *words, code=2)
    output._documents = 0
    if words[0] not in ("flows", "demo"):
        said(capsys, *words, "--json", code=2, shape=shapes.ERROR)


@pytest.mark.parametrize("words", [("fix", "--drain", "x"), ("nonsense",), ("check", "--pid", "abc")])
def test_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run(words)
    assert error.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["show", "resume", "abort", "rollback", "report"])
def test_sessions_that_are_not_there(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if verb not in ("abort", "rollback"):  # these need a number
        assert "no sessions yet" in said(capsys, "sessions", verb, code=3)
    assert "no session 7" in said(capsys, "sessions", verb, "7", code=3)
    assert "no session ../../x" in said(capsys, "sessions", verb, "../../x", code=3)
    damaged = tmp_path / "state" / "session-3.db"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"not a database at all" * 100)
    said(capsys, "sessions", verb, "3", "--json", code=3, shape=shapes.ERROR)
    assert run(("sessions", "list")) == 0
    assert "damaged" in capsys.readouterr().out


def test_a_state_folder_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("SGL_WIZARD_STATE_DIR", str(tmp_path / "file"))
    assert str(tmp_path / "file") in said(capsys, "sessions", "list", code=3)
