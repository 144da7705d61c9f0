"""Command lines as data. The oracle for reading them is argparse itself, built from the catalogue."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wizard.core.argv import diff, parse, render, set_flag, unset_flag, validate
from wizard.core.commandline import CommandLine
from wizard.core.flags import Catalogue, FlagSpec
from wizard.core.plan import FlagChange
from wizard.server.catalogue import catalogued_versions, for_version

CURRENT = for_version("0.5.20")
HEAD = ["python", "-m", "sglang.launch_server"]
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def line(text: str, catalogue: Catalogue = CURRENT) -> CommandLine:
    return parse(text.split(), catalogue)


# -- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "args", "program"),
    [
        ("python -m sglang.launch_server --port 1", "--port 1", "python -m sglang.launch_server"),
        ("python3 -u -m sglang.launch_server --port 1", "--port 1", "python3 -u -m sglang.launch_server"),
        ("/v/python3.12 -X dev -m sglang.launch_server", "", "/v/python3.12 -X dev -m sglang.launch_server"),
        ("python -msglang.launch_server --port 1", "--port 1", "python -msglang.launch_server"),
        ("sglang serve m --port 1", "m --port 1", "sglang serve"),
        ("/v/bin/python /v/bin/sglang serve m", "m", "/v/bin/python /v/bin/sglang serve"),
        ("python -m wizard.simulator --port 1", "--port 1", "python -m wizard.simulator"),
        ("env A=1 python -m sglang.launch_server --port 1", "--port 1", "python -m sglang.launch_server"),
        ("numactl -N 0 python -m sglang.launch_server", "", "python -m sglang.launch_server"),
        ("nohup uv run python -m sglang.launch_server", "", "python -m sglang.launch_server"),
        ("uv run sglang serve m", "m", "sglang serve"),
        ("python /src/sglang/launch_server.py --port 1", "--port 1", "python /src/sglang/launch_server.py"),
    ],
)
def test_finds_where_the_server_arguments_start(text: str, args: str, program: str) -> None:
    command = line(text)
    assert " ".join(command.args) == args
    assert " ".join(command.program) == program
    assert command.editable
    assert render(command) == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--tp 4", [("--tp-size", ("4",), "abbreviation")]),
        ("--tensor-parallel-size=4", [("--tp-size", ("4",), "alias")]),
        ("--mem-frac=0.8", [("--mem-fraction-static", ("0.8",), "abbreviation")]),
        ("--chunked-prefill-size -1", [("--chunked-prefill-size", ("-1",), "exact")]),
        ("--lora-paths a=b c --port 1", [("--lora-paths", ("a=b", "c"), "exact"), ("--port", ("1",), "exact")]),
        (
            "--disable-radix-cache --port 1",
            [("--disable-radix-cache", (), "exact"), ("--port", ("1",), "exact")],
        ),
        ("--cuda-graph-max-bs 16", [("--cuda-graph-max-bs", ("16",), "ambiguous")]),
        ("--tokenizer-threads 4", [("--tokenizer-threads", ("4",), "unknown")]),
        ("--port 1 --port 2", [("--port", ("1",), "exact"), ("--port", ("2",), "exact")]),
    ],
)
def test_reads_flags(text: str, expected: list[tuple[str, tuple[str, ...], str]]) -> None:
    command = parse([*HEAD, *text.split()], CURRENT)
    assert [(u.flag, u.values, u.kind) for u in command.flags] == expected


def test_the_last_use_counts() -> None:
    assert line("python -m sglang.launch_server --port 1 --port 2").value("port") == "2"


def test_the_model_of_serve_may_stand_alone() -> None:
    command = line("sglang serve org/model --port 1")
    assert command.value("model_path") == "org/model"
    assert set_flag(command, "model_path", "other").argv == ("sglang", "serve", "other", "--port", "1")
    with pytest.raises(ValueError, match="without its model"):
        unset_flag(command, "model_path")


def _argparse(catalogue: Catalogue) -> tuple[argparse.ArgumentParser, dict[str, FlagSpec]]:
    """A parser like SGLang's: each flag stores what it took under its canonical name."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    by_key: dict[str, FlagSpec] = {}
    for number, spec in enumerate(catalogue.specs):
        key = f"f{number}"
        by_key[key] = spec
        if spec.is_switch:
            parser.add_argument(*spec.options, dest=key, action="store_const", const=[], default=None)
        else:
            parser.add_argument(*spec.options, dest=key, nargs=spec.nargs, default=None)
    return parser, by_key


_PARSERS = {v: _argparse(for_version(v)) for v in ("0.4.4", "0.5.9", "0.5.20")}
_WORDS = st.sampled_from(
    [
        *("a", "8", "-1", "0.5", "-.5", "x=y", "a b", "-x", "--nope", "--tp", "--tp-size=", "--port=3"),
        *("--lora-paths", "--max-running-requests", "--disable-radix-cache", "--cuda-graph-bs-decode"),
        *("--enable-metrics", "--mem", "--dp", "--schedule-p", "--cuda-graph-max-bs", "--model"),
        *("--trust-remote-code=1", "--tool-call-parser"),
    ]
)


@MANY
@given(version=st.sampled_from(sorted(_PARSERS)), words=st.lists(_WORDS, max_size=8))
def test_reads_as_argparse_reads(version: str, words: list[str]) -> None:
    catalogue = for_version(version)
    command = parse([*HEAD, *words], catalogue)
    parser, by_key = _PARSERS[version]

    class Refused(Exception):
        pass

    def refuse(message: str) -> None:
        raise Refused(message)

    parser.error = refuse  # type: ignore[method-assign, assignment]
    try:
        namespace, extra = parser.parse_known_args(words)
    except (Refused, argparse.ArgumentError):
        assert command.problems
        return
    assert bool(command.problems) == bool(extra)
    read = {u.flag: list(u.values) for u in command.flags if u.spec is not None}
    stored = {by_key[k].flag: v for k, v in vars(namespace).items() if v is not None}
    assert read == {k: v if isinstance(v, list) else [v] for k, v in stored.items()}


# -- shells -----------------------------------------------------------------------------------------


def test_edits_inside_a_shell_text_touch_one_word() -> None:
    text = "cd /x && exec python -m sglang.launch_server --model-path 'a b' --port $PORT --tp 2 > log 2>&1 &"
    command = parse(["bash", "-lc", text], CURRENT)
    assert command.editable, command.why
    assert command.value("model_path") == "a b"
    edited = set_flag(set_flag(command, "tp_size", 4), "mem_fraction_static", 0.8)
    assert edited.argv[2] == text.replace("--tp 2", "--tp-size 4 --mem-fraction-static 0.8")
    assert unset_flag(edited, "port").argv[2] == edited.argv[2].replace(" --port $PORT", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("python -m sglang.launch_server $ARGS", "only when it runs"),
        ('exec python -m sglang.launch_server "$@"', "only when it runs"),
        ("python -m sglang.launch_server --port 1; python -m sglang.launch_server --port 2", "more than one"),
        ("./start.sh", "does not start"),
        ("python -m sglang.launch_server --port 1 <<EOF\nx\nEOF", "here-document"),
    ],
)
def test_a_shell_text_that_cannot_be_edited_says_why(text: str, why: str) -> None:
    command = parse(["sh", "-c", text], CURRENT)
    assert not command.editable
    assert why in command.why
    with pytest.raises(ValueError, match="cannot be edited"):
        set_flag(command, "port", 1)


def test_a_command_without_a_server_is_not_editable() -> None:
    assert not line("vllm serve model").editable
    assert "router" in line("python -m sglang_router.launch_server --port 1").why


# -- editing ----------------------------------------------------------------------------------------


def test_set_keeps_place_and_spelling() -> None:
    command = line("python -m sglang.launch_server --tp 4 --port=30001 --model x")
    assert set_flag(command, "model_path", "y").argv[3:] == ("--tp", "4", "--port=30001", "--model", "y")
    assert set_flag(command, "port", 5).argv[3:] == ("--tp", "4", "--port=5", "--model", "x")


def test_an_abbreviation_that_is_changed_is_written_in_full() -> None:
    command = line("python -m sglang.launch_server --tp 4 --port=30001 --model x")
    assert set_flag(command, "tp_size", 2).argv[3:] == ("--tp-size", "2", "--port=30001", "--model", "x")


@pytest.mark.parametrize(
    ("version", "old", "expected"),
    [
        ("0.5.20", "--tp-size 8", "--tp-size 8 --enable-dp-attention"),
        ("0.5.22", "--tp-size 8", "--tp-size 8 --attn-dp-size 8"),
        ("0.5.22", "--tp 8 --dp-size 4", "--tp 8 --attn-dp-size 4"),
        ("0.5.23", "--tp 8 --dp-size 4 --enable-dp-attention", "--tp 8 --attn-dp-size 4"),
        ("0.5.20", "--tp 8 --dp-size 4 --enable-dp-attention", "--tp 8 --dp-size 4 --enable-dp-attention"),
    ],
)
def test_dp_attention_is_a_switch_or_a_number(version: str, old: str, expected: str) -> None:
    command = parse([*HEAD, *old.split()], for_version(version))
    assert " ".join(set_flag(command, "enable_dp_attention", True).args) == expected


@pytest.mark.parametrize(
    ("version", "old", "expected"),
    [
        ("0.5.13", "", "--cuda-graph-max-bs 32"),
        ("0.5.19", "", "--cuda-graph-max-bs-decode 32"),
        ("0.5.20", "", "--cuda-graph-max-bs-decode 32"),
        ("0.5.19", "--cuda-graph-max-bs 8", "--cuda-graph-max-bs-decode 32"),
        ("0.5.20", "--cuda-graph-max-bs 8", "--cuda-graph-max-bs-decode 32"),
    ],
)
def test_an_intent_is_spelled_for_the_version(version: str, old: str, expected: str) -> None:
    command = parse([*HEAD, *old.split()], for_version(version))
    for name in ("cuda_graph_max_bs", expected.split()[0]):
        assert list(set_flag(command, name, 32).args) == expected.split()


def test_a_switch_said_in_an_older_way_is_found_and_taken_out() -> None:
    for old in ("--disable-cuda-graph", "--disable-decode-cuda-graph --disable-prefill-cuda-graph"):
        command = line(f"python -m sglang.launch_server {old} --port 1")
        assert command.has("disable_cuda_graph")
        assert set_flag(command, "disable_cuda_graph") is command
        assert unset_flag(command, "disable_cuda_graph").args == ("--port", "1")
    kept = line("python -m sglang.launch_server --cuda-graph-backend-decode full")
    assert unset_flag(kept, "disable_cuda_graph") is kept


def test_a_boolean_pair_turns_round_in_place() -> None:
    pairs = [s for s in for_version("0.5.23").specs if s.action == "BooleanOptionalAction"]
    flag = pairs[0].flag
    command = parse([*HEAD, flag, "--port", "1"], for_version("0.5.23"))
    off = set_flag(command, flag, False)
    assert off.args == ("--no-" + flag[2:], "--port", "1")
    assert set_flag(off, flag, True).args == command.args
    assert [(c.flag, c.new) for c in diff(command.argv, off.argv, off.catalogue)] == [
        (flag, None),
        ("--no-" + flag[2:], ""),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("tokenizer_thread", 4, "no flag"), ("disable_radix_cache", 4, "switch"), ("port", None, "needs a value")],
)
def test_an_impossible_edit_is_refused(name: str, value: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_flag(line("python -m sglang.launch_server"), name, value)


def test_diff_tells_what_changed_and_hides_keys() -> None:
    old = [*HEAD, "--max-running-requests", "8", "--api-key", "old-secret", "--tp", "2"]
    new = [*HEAD, "--api-key", "new-secret", "--tp", "4", "--disable-radix-cache"]
    assert diff(old, new, CURRENT) == (
        FlagChange("--max-running-requests", "8", None),
        FlagChange("--api-key", "***", "***"),
        FlagChange("--tp-size", "2", "4"),
        FlagChange("--disable-radix-cache", None, ""),
    )
    assert diff(old, old, CURRENT) == ()


def _uses(catalogue: Catalogue) -> st.SearchStrategy[list[str]]:
    """A use of a random flag, with values that argparse takes."""
    word = st.text(alphabet="abz019./:{}\"' é", min_size=1, max_size=6)

    def use(spec: FlagSpec) -> st.SearchStrategy[list[str]]:
        option = st.sampled_from(spec.options)
        if spec.arity == "none":
            return option.map(lambda o: [o])
        if spec.arity in ("some", "any"):
            return st.tuples(option, st.lists(word, min_size=1, max_size=3)).map(lambda t: [t[0], *t[1]])
        pair = st.tuples(option, word)
        return st.one_of(pair.map(list), pair.map(lambda t: [f"{t[0]}={t[1]}"]))

    return st.sampled_from(catalogue.specs).flatmap(use)


def _lines() -> st.SearchStrategy[CommandLine]:
    def make(version: str) -> st.SearchStrategy[CommandLine]:
        catalogue = for_version(version)
        args = st.lists(_uses(catalogue), max_size=6).map(lambda us: [w for u in us for w in u])
        return args.map(lambda a: parse([*HEAD, *a], catalogue))

    return st.sampled_from(catalogued_versions()).flatmap(make)


Edit = tuple[str, Any]

_EDITS = st.sampled_from(
    [
        ("max_running_requests", 7),
        ("mem_fraction_static", 0.83),
        ("cuda_graph_max_bs", 24),
        ("disable_radix_cache", None),
        ("disable_cuda_graph", None),
        ("schedule_policy", "lpm"),
        ("port", 31000),
        ("lora_paths", ["a", "b"]),
        ("kv_cache_dtype", "fp8_e5m2"),
        ("chunked_prefill_size", -1),
    ]
)


@MANY
@given(command=_lines())
def test_reading_and_writing_is_identity(command: CommandLine) -> None:
    assert tuple(render(command)) == command.argv == (*command.prefix, *command.args)
    assert sum(u.end - u.start for u in command.flags) == len(command.args)


@MANY
@given(command=_lines(), edit=_EDITS)
def test_set_is_heard_and_idempotent_and_moves_nothing_else(command: CommandLine, edit: Edit) -> None:
    name, value = edit
    if not command.catalogue.spell(name):
        return
    once = set_flag(command, name, value)
    assert set_flag(once, name, value).argv == once.argv
    assert once.has(name)
    if value is not None and not isinstance(value, list):
        assert once.value(name) == str(value)
    touched = {u.start for u in command.uses(name)}
    others = [command.args[u.start : u.end] for u in command.flags if u.start not in touched]
    remaining = [once.args[u.start : u.end] for u in once.flags if u not in once.uses(name)]
    assert remaining == others


@MANY
@given(command=_lines(), edit=_EDITS)
def test_set_then_unset_restores(command: CommandLine, edit: Edit) -> None:
    name, value = edit
    if not command.catalogue.spell(name):
        return
    bare = unset_flag(command, name)
    assert not bare.has(name)
    changed = set_flag(bare, name, value)
    assert unset_flag(changed, name).argv == bare.argv
    flags = {c.flag for c in diff(bare.argv, changed.argv, command.catalogue)}
    assert flags == {s.flag for s in command.catalogue.spell(name)}


@MANY
@given(command=_lines(), edit=_EDITS)
def test_edits_inside_a_shell_text_equal_edits_of_words(command: CommandLine, edit: Edit) -> None:
    name, value = edit
    if not command.catalogue.spell(name):
        return
    text = f"ulimit -n 65536; {shlex.join(command.argv)} 2>&1 | tee log"
    shell = parse(["bash", "-c", text], command.catalogue)
    assert shell.args == command.args
    assert shell.editable, shell.why
    assert set_flag(shell, name, value).args == set_flag(command, name, value).args
    assert unset_flag(shell, name).args == unset_flag(command, name).args
    assert set_flag(shell, name, value).argv[2].endswith(" 2>&1 | tee log")


# -- checking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "args", "kind", "fatal", "suggestion"),
    [
        ("0.5.20", "--cuda-graph-max-bs 16", "ambiguous", True, "--cuda-graph-max-bs-decode"),
        ("0.5.19", "--cuda-graph-max-bs 16", "deprecated", False, "--cuda-graph-max-bs-decode"),
        ("0.5.20", "--tokenizer-threads 4", "unknown", True, "--tokenizer-worker-num"),
        ("0.5.20", "--max-runing-requests 4", "unknown", True, "--max-running-requests"),
        ("0.5.20", "--quantization int8", "bad_choice", True, None),
        ("0.5.20", "--schedule-policy fcsf", "bad_choice", True, "fcfs"),
        ("0.5.20", "--port thirty", "bad_type", True, None),
        ("0.5.20", "--mem-fraction-static 80%", "bad_type", True, None),
        ("0.5.20", "--context-length 32q", "bad_type", True, None),
        ("0.5.9", "--context-length 32k", "bad_type", True, None),
        ("0.5.20", "--mem-fraction-static 1.5", "out_of_range", True, None),
        ("0.5.20", "--mem-fraction-static 0", "out_of_range", True, None),
        ("0.5.20", "--port 70000", "out_of_range", True, None),
        ("0.5.20", "--port -1", "out_of_range", True, None),
        ("0.5.20", "--context-length -5", "out_of_range", True, None),
        ("0.5.20", "--context-length=-2k", "bad_type", True, None),
        ("0.5.20", "--context-length=-2", "out_of_range", True, None),
        ("0.4.0", "--context-length 0", "out_of_range", True, None),
        ("0.5.20", "--max-total-tokens -1", "out_of_range", True, None),
        ("0.5.20", "--nnodes 0", "out_of_range", True, None),
        ("0.5.20", "--tp -2", "out_of_range", True, None),
        ("0.5.20", "--cuda-graph-max-bs-decode 0", "out_of_range", False, None),
        ("0.5.20", "--cuda-graph-bs-decode 1 -4", "out_of_range", False, None),
        ("0.5.20", "--max-queued-requests 0", "out_of_range", False, None),
        ("0.5.20", "--speculative-num-steps -1", "out_of_range", False, None),
        ("0.5.20", "--cpu-offload-gb -1", "out_of_range", False, None),
        ("0.5.20", "--port", "missing_value", True, None),
        ("0.5.20", "--disable-radix-cache=1", "unexpected_value", True, None),
        ("0.5.20", "--enable-metrics yes", "stray", True, None),
        ("0.5.4", "--enable-ep-moe", "deprecated", True, "--ep-size"),
        (
            "0.5.20",
            "--disable-cuda-graph",
            "deprecated",
            False,
            "--disable-decode-cuda-graph --disable-prefill-cuda-graph",
        ),
        ("0.5.20", "--pp 2", "ambiguous", True, "--pp-size"),
    ],
)
def test_what_a_version_refuses(
    version: str, args: str, kind: str, fatal: bool, suggestion: str | None
) -> None:
    problems = validate([*HEAD, "--model-path", "m", *args.split()], for_version(version))
    assert [(p.kind, p.fatal) for p in problems] == [(kind, fatal)], problems
    if suggestion is not None:
        assert problems[0].suggestion == suggestion
    assert problems[0].message


@pytest.mark.parametrize(
    ("version", "args"),
    [
        ("0.5.13", "--cuda-graph-max-bs 16 --tp 4"),
        ("0.5.20", "--context-length 32k --mem-fraction-static 0.85 --chunked-prefill-size -1"),
        ("0.5.20", "--cuda-graph-bs-decode 1 2 4 --served-model-name x --log-level info"),
        ("0.4.0", "--schedule-policy lpm --tp 2"),
        # numbers below one that say something
        ("0.5.20", "--offload-group-size -1 --random-seed -3 --priority-scheduling-preemption-threshold -5"),
        ("0.5.20", "--base-gpu-id 0 --node-rank 0 --cpu-offload-gb 0 --hicache-size 0 --port 0"),
        ("0.5.20", "--context-length 1Mi --max-total-tokens 2k"),
    ],
)
def test_what_a_version_takes(version: str, args: str) -> None:
    assert validate([*HEAD, "--model-path", "m", *args.split()], for_version(version)) == []


def test_a_model_is_required_unless_a_file_may_name_it() -> None:
    assert [p.kind for p in validate(HEAD, CURRENT)] == ["missing_required"]
    assert validate([*HEAD, "--config", "x.yaml"], CURRENT) == []
    assert validate(["sglang", "serve", "m"], CURRENT) == []


def test_a_refused_key_is_not_repeated() -> None:
    problems = validate([*HEAD, "--model-path", "m", "--api-key=hush-hush", "--port", "x"], CURRENT)
    assert "hush" not in repr(problems)


def test_no_default_of_a_version_is_out_of_range() -> None:
    """The defaults say which numbers below one are legal values."""
    for version in catalogued_versions():
        catalogue = for_version(version)
        for spec in catalogue.specs:
            if spec.type in ("int", "float", "human_readable_int") and isinstance(spec.default, (int, float)):
                argv = [*HEAD, "--model-path", "m", spec.flag, str(spec.default)]
                kinds = [p.kind for p in validate(argv, catalogue)]
                assert "out_of_range" not in kinds, (version, spec.flag, spec.default)
