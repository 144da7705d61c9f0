"""``--config FILE``: read as SGLang reads it, and never more than is good for us."""

from __future__ import annotations

from pathlib import Path

import pytest

from wizard.core.argv import parse
from wizard.core.target import Launch, Target
from wizard.probes.fetch import headers_for
from wizard.runner.command import api_key, clean_line, hide_known
from wizard.server.catalogue import for_version
from wizard.server.configfile import ConfigError, merged

HEAD = ["python", "-m", "sglang.launch_server"]
CURRENT = for_version("0.5.20")


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model-path: m\ntp-size: 4\nport: 31000\nenable-metrics: true\ndisable_radix_cache: false\n"
        "cuda-graph-bs-decode: [1, 2]\njson-model-override-args: {a: 1}\n"
    )
    line = parse([*HEAD, "--port", "32000", "--config", "c.yaml", "--tp", "2"], CURRENT)
    command = merged(line, str(tmp_path))
    assert (command.value("model_path"), command.value("port"), command.value("tp_size")) == ("m", "32000", "2")
    assert command.value("enable_metrics") == ""
    assert not command.has("disable_radix_cache")
    assert command.use("--cuda-graph-bs-decode").values == ("1", "2")  # type: ignore[union-attr]
    assert command.value("json_model_override_args") == '{"a": 1}'
    assert command.config_path is None
    assert command.problems == ()


def test_the_model_of_serve_stays_in_front(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("tp-size: 4\n")
    command = merged(parse(["sglang", "serve", "m", "--config", "c.yml"], CURRENT), str(tmp_path))
    assert (command.value("model_path"), command.value("tp_size")) == ("m", "4")


def test_without_a_file_nothing_changes() -> None:
    command = parse([*HEAD, "--model-path", "m"], CURRENT)
    assert merged(command, "/") is command


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("c.json", "{}", ".yaml or .yml"),
        ("c.yaml", "- a\n- b", "names with values"),
        ("c.yaml", "a: [1", "no YAML"),
        ("c.yaml", "a: &x [1, 2]\nb: *x", "aliases"),
        ("c.yaml", "a: " + "[" * 3000, "no YAML"),
        ("c.yaml", "a: " + "x" * 300_000, "larger"),
        ("c.yaml", "!!python/object/apply:os.system ['true']", "no YAML"),
        ("c.yaml", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=why):
        merged(parse([*HEAD, "--config", name], CURRENT), str(tmp_path))


def test_the_words_about_a_broken_file_do_not_quote_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('port: 1\napi-key: "hunter2\n')
    with pytest.raises(ConfigError) as said:
        merged(parse([*HEAD, "--config", "c.yaml"], CURRENT), str(tmp_path))
    assert "hunter2" not in str(said.value)
    assert "(line " in str(said.value)


@pytest.mark.parametrize("key", ["api-key", "api_key", "--api-key"])
@pytest.mark.parametrize("shell", [False, True])
def test_a_key_in_the_file_is_known_and_hidden(tmp_path: Path, key: str, shell: bool) -> None:
    """It protects the API as one of the command line does, so the wizard asks with it and never shows it."""
    file = tmp_path / "c.yaml"
    file.write_text(
        f"{key}: hunter2-file\nadmin-api-key: adm1n-file\nport: 31000\nssl-keyfile-password: 90210\n"
    )
    argv = [*HEAD, "--model-path", "m", "--config", "c.yaml"]
    launch = Launch(("bash", "-c", " ".join(argv)) if shell else tuple(argv), str(tmp_path))
    assert api_key(launch) == "hunter2-file"
    assert headers_for(Target(launch=launch)) == {"Authorization": "Bearer hunter2-file"}
    assert (
        clean_line("said hunter2-file, adm1n-file and 90210 at 31000", launch)
        == "said ***, *** and *** at 31000"
    )
    assert hide_known("said hunter2-file", launch) == "said ***"
    file.write_text(f"{key}: other-key\n")
    assert api_key(launch) == "other-key", "the file was changed"
    typed = Launch((*argv, "--api-key", "typed-key"), str(tmp_path))
    assert api_key(typed) == "typed-key"
    assert headers_for(Target(launch=typed)) == {"Authorization": "Bearer typed-key"}
    assert "other-key" not in clean_line("other-key", typed)
    file.unlink()
    assert api_key(launch) is None
