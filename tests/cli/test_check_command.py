"""``check --command`` alone: a launch line judged before anybody waits for a start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import shapes
from wizard.cli import output
from wizard.cli.main import _beside_set, build_parser, join_texts, run
from wizard.server.catalogue import catalogued_versions, for_version

HEAD = "python -m sglang.launch_server --model-path m "


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_documents", 0)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(("check", "--json", *words))
    return code, shapes.document(capsys.readouterr().out, shapes.CHECK)


def test_a_flag_that_the_version_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    code, doc = check(capsys, "--command", HEAD + "--cuda-graph-max-bs 16", "--sglang-version", "0.5.20")
    assert (code, doc["verdict"]) == (1, "problem")
    cause = doc["causes"][0]
    assert cause["id"] == "bad_cli_args"
    assert "--cuda-graph-max-bs" in cause["evidence"][0]["says"]
    assert cause["remedies"][0]["set"] == {"--cuda-graph-max-bs-decode": "16"}
    assert doc["command_line"]["version"] == "0.5.20"
    assert [(f["kind"], f["ends_start"]) for f in doc["command_line"]["findings"]] == [("ambiguous", True)]


def test_nothing_wrong_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--command", HEAD + "--cuda-graph-max-bs 64 --host 0.0.0.0", "--sglang-version", "0.5.13")
    code, doc = check(capsys, *words)
    assert (code, doc["verdict"], doc["causes"]) == (0, "healthy", [])
    assert [f["rule"] for f in doc["command_line"]["findings"]] == ["open_to_all"]
    assert run(("check", *words)) == 0
    out, err = capsys.readouterr()
    assert out.startswith("NO ERROR, but something to note, with this command line for SGLang 0.5.13.\n  note ")
    assert err == ""
    assert run(("check", *words[:1], HEAD, *words[2:])) == 0
    assert capsys.readouterr().out == "NOTHING WRONG with this command line for SGLang 0.5.13.\n"


def test_a_version_that_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    command = "docker run image " + HEAD + "--cuda-graph-max-bs 64"
    code, doc = check(capsys, "--command", command)
    assert (code, doc["command_line"]["version_known"]) == (0, False)
    assert run(("check", "--command", command)) == 0
    assert "--sglang-version" in capsys.readouterr().out


def test_another_version_that_stands_in_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, doc = check(capsys, "--command", HEAD, "--sglang-version", "9.9.9")
    assert (code, doc["command_line"]["version"]) == (0, "0.5.23")
    assert doc["version_note"].startswith("9.9.9 is not in the flag catalogue; 0.5.23, the nearest catalogued")
    assert run(("check", "--command", HEAD, "--sglang-version", "9.9.9")) == 0
    assert "the nearest catalogued version" in capsys.readouterr().out
    assert check(capsys, "--command", HEAD, "--sglang-version", "0.5.20")[1]["version_note"] is None


@pytest.mark.parametrize("command", ["check", "fix"])
def test_a_torn_quote_is_bad_input(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    torn = HEAD + "--revision 'v --tp 2"
    assert run((command, "--command", torn, "--sglang-version", "0.5.20")) == 2
    assert "--command: the quote ' at character" in capsys.readouterr().err


def test_beside_a_log_a_torn_command_is_still_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text("launch_server.py: error: unrecognized arguments: --max-runing-requests 32\n")
    code, doc = check(capsys, "--log", str(log), "--command", HEAD + "--revision 'v")
    assert (code, doc["causes"][0]["id"]) == (1, "bad_cli_args")


def test_the_installed_version_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "bin" / "python"
    (tmp_path / "lib" / "python3.11" / "site-packages" / "sglang-0.5.20.dist-info").mkdir(parents=True)
    python.parent.mkdir()
    python.write_text("")
    command = f"{python} -m sglang.launch_server --model-path m --cuda-graph-max-bs 64"
    code, doc = check(capsys, "--command", command)
    assert (code, doc["command_line"]["version"], doc["command_line"]["version_known"]) == (1, "0.5.20", True)


@pytest.mark.parametrize("text", ["--model-path m --tp 4", "--model m", "-x"])
def test_a_command_may_start_with_a_dash(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, doc = check(capsys, "--command", text, "--symptom", "- it is slow", "--sglang-version", "0.5.20")
    assert code in (0, 1, 3)
    assert doc["target"]["command"] == text


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["check", "--command", "--tp 4", "--json"], ["check", "--command=--tp 4", "--json"]),
        (["check", "--command", "--json"], ["check", "--command", "--json"]),
        (["--symptom", "", "--hardware", "-"], ["--symptom=", "--hardware=-"]),
        (["check", "--command"], ["check", "--command"]),
        (["check", "--", "--command", "x"], ["check", "--", "--command", "x"]),
        (
            ["fix", "--set", "--tp=4", "--unset", "--foo", "--yes"],
            ["fix", "--set=--tp=4", "--unset=--foo", "--yes"],
        ),
        (["fix", "--set", "tp=4"], ["fix", "--set=tp=4"]),
    ],
)
def test_text_options_take_the_next_word(words: list[str], joined: list[str]) -> None:
    assert join_texts(words) == joined


def test_a_plain_sign_of_a_flag_in_a_log_is_respelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "usage: launch_server.py [-h]\n"
        "launch_server.py: error: ambiguous option: --cuda-graph-max-bs could match "
        "--cuda-graph-max-bs-decode, --cuda-graph-max-bs-prefill\n"
    )
    code, doc = check(capsys, "--log", str(log), "--sglang-version", "0.5.20")
    assert (code, doc["causes"][0]["id"]) == (1, "bad_cli_args")
    assert list(doc["causes"][0]["remedies"][0]["set"]) == ["--cuda-graph-max-bs-decode"]
    log.write_text("launch_server.py: error: unrecognized arguments: --max-runing-requests 32\n")
    _, doc = check(capsys, "--log", str(log), "--sglang-version", "0.5.20")
    assert doc["causes"][0]["remedies"][0]["set"] == {"--max-running-requests": "32"}


def test_a_deprecated_flag_never_accuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("[2026-01-02 03:04:05] Load weight begin. avail mem=79.00 GB\n")
    words = ("--log", str(log), "--command", HEAD + "--disable-cuda-graph", "--sglang-version", "0.5.20")
    _, doc = check(capsys, *words)
    assert "bad_cli_args" not in [c["id"] for c in doc["causes"]]
    assert [f["kind"] for f in doc["command_line"]["findings"]] == ["deprecated", "harmful"]


def test_flags_of_a_server_that_loads_are_not_to_blame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_text("[2026-01-02 03:04:05] Load weight begin. avail mem=79.00 GB\n")
    words = ("--log", str(log), "--command", HEAD + "--no-such-flag 1", "--sglang-version", "0.5.20")
    _, doc = check(capsys, *words)
    assert "bad_cli_args" not in [c["id"] for c in doc["causes"]]


def test_a_server_that_is_down_gets_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("launch_server.py: error: unrecognized arguments: --max-runing-requests 32\n")
    command = HEAD + "--max-runing-requests 32 --port 31999 --enforce-eager"
    words = (
        "fix",
        "--local",
        "--log",
        str(log),
        "--command",
        command,
        "--sglang-version",
        "0.5.20",
        "--dry-run",
    )
    assert run((*words, "--json")) in (0, 1)
    text = capsys.readouterr().out
    document = json.loads(text)
    new = json.dumps(document)
    assert "--max-running-requests" in new
    assert "--disable-decode-cuda-graph" in new


def test_an_attention_backend_that_the_card_cannot_take(capsys: pytest.CaptureFixture[str]) -> None:
    line = HEAD + "--attention-backend fa3"
    words = ("--command", line, "--sglang-version", "0.5.20", "--hardware")
    code, doc = check(capsys, *words, "8x NVIDIA B200")
    assert (code, doc["causes"][0]["id"]) == (1, "attention_backend_unsupported")
    assert [f["rule"] for f in doc["command_line"]["findings"]] == ["fa3_on_other_cards"]
    assert "--attention-backend" in doc["causes"][0]["remedies"][0]["unset"]
    code, doc = check(capsys, *words, "8x NVIDIA H100")
    assert (code, doc["causes"], doc["command_line"]["findings"]) == (0, [], [])


def test_a_card_in_mig_mode_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--command", HEAD + "--tp 2", "--sglang-version", "0.5.20", "--hardware", "2x A100 MIG 3g.40gb")
    code, doc = check(capsys, *words)
    assert (code, [f["rule"] for f in doc["command_line"]["findings"]]) == (1, ["ranks_over_slices"])
    assert any("MIG mode" in (probe["reason"] or "") for probe in doc["probes"])
    assert run(("check", *words)) == 1
    assert "A process sees one slice only" in " ".join(capsys.readouterr().out.split())
    log = tmp_path / "server.log"
    log.write_text(
        "[2026-01-02 03:04:05] server_args=ServerArgs(model_path='m', tp_size=1)\n"
        "[2026-01-02 03:04:06] Load weight begin. avail mem=9.00 GB\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.\n"
    )
    said = {}
    for symptom in ("it fails on a MIG 1g.10gb slice", "it fails"):
        assert run(("check", "--log", str(log), "--symptom", symptom)) == 1
        said[symptom] = " ".join(capsys.readouterr().out.split())
    on_slice, on_card = said.values()
    assert "A process sees one slice only" in on_slice
    assert "Spread the model over more GPUs" not in on_slice
    assert "A process sees one slice only" not in on_card
    assert "Spread the model over more GPUs" in on_card


def test_set_takes_a_flag_as_people_type_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("[2026-01-02 03:04:05] The server is fired up and ready to roll!\n", encoding="utf-8")
    command = "python -m sglang.launch_server --model-path m --tp 2 --disable-radix-cache"
    words = (
        "fix",
        "--log",
        str(log),
        "--command",
        command,
        "--sglang-version",
        "0.5.20",
        "--dry-run",
        "--json",
    )
    assert run((*words, "--set", "--tp=4", "--unset", "--disable-radix-cache")) == 1
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert {(c["old"], c["new"]) for c in plan["changes"]} == {("2", "4"), ("", None)}
    with pytest.raises(SystemExit) as end:  # the value was forgotten: what follows is an option of ours
        run(("fix", "--set", "--dry-run"))
    assert end.value.code == 2
    assert "--set: expected one argument" in capsys.readouterr().err


def test_an_option_beside_set_is_no_flag_of_sglang() -> None:
    """Or ``--set --that=1`` could mean either."""
    beside = _beside_set(build_parser())
    assert "--dry-run" in beside
    assert not beside & {o for v in catalogued_versions() for o in for_version(v).by_option} - {"-h", "--help"}
