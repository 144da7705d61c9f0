"""What is said of a launch command before it is started."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.argv import parse, split
from wizard.core.findings import Checked, examine, name_in
from wizard.core.reading import Value
from wizard.server.catalogue import catalogued_versions, for_version, next_newer

RULES = BOOK.command_rules
assert RULES is not None
HEAD = "python -m sglang.launch_server --model-path m "


def check(args: str, version: str | None = "0.5.20", **readings: float | str) -> Checked:
    assert RULES is not None
    argv = split(args if "launch_server" in args else HEAD + args).argv
    env = {k.replace("__", "."): Value(v) for k, v in readings.items()}
    catalogue = for_version(version)
    newer = next_newer(version) if version and not catalogue.exact else None
    return examine(parse(argv, catalogue), RULES, env.get, version_known=version is not None, newer=newer)


@pytest.mark.parametrize(
    ("version", "args", "kind", "flag", "edits"),
    [
        ("0.5.20", "--cuda-graph-max-bs 16", "ambiguous", "--cuda-graph-max-bs",
         "--cuda-graph-max-bs-decode 16"),
        ("0.5.20", "--tokenizer-threads 4", "unknown", "--tokenizer-threads", "--tokenizer-worker-num 4"),
        ("0.5.20", "--max-runing-requests 4", "unknown", "--max-runing-requests", "--max-running-requests 4"),
        ("0.5.20", "--gpu-memory-utilization 0.9", "unknown", "--gpu-memory-utilization",
         "--mem-fraction-static 0.9"),
        ("0.5.20", "--enforce-eager", "unknown", "--enforce-eager", "--disable-decode-cuda-graph"),
        ("0.5.9", "--enforce-eager", "unknown", "--enforce-eager", "--disable-cuda-graph"),
        ("0.5.20", "--enable-prefix-caching", "unknown", "--enable-prefix-caching",
         "without --enable-prefix-caching"),
        ("0.5.20", "--schedule-policy fcsf", "bad_value", "--schedule-policy", "--schedule-policy fcfs"),
        ("0.5.20", "--quantization int8", "bad_value", "--quantization", "--quantization fp8"),
        ("0.4.0", "--quantization w8a8", "bad_value", "--quantization", "--quantization fp8"),
        ("0.5.20", "--context-length -5", "bad_value", "--context-length", ""),
        ("0.5.20", "--quantization int4", "bad_value", "--quantization", "without --quantization"),
        ("0.5.20", "--disable-radix-cache=1", "bad_value", "--disable-radix-cache", "--disable-radix-cache"),
        ("0.5.20", "--port", "missing", "--port", ""),
        ("0.5.20", "--speculative-algorithm EAGLE --speculative-num-draft-tokens 5", "contradictory",
         "--speculative-algorithm", "--speculative-num-steps 3"),
        ("0.5.20", "--speculative-algorithm EAGLE --speculative-draft-model-path d --speculative-num-steps 3",
         "missing", "--speculative-eagle-topk", "--speculative-eagle-topk 1"),
        ("0.5.20", "--kv-cache-dtype fp8", "bad_value", "--kv-cache-dtype", "--kv-cache-dtype fp8_e4m3"),
        ("0.4.2", "--kv-cache-dtype e4m3", "bad_value", "--kv-cache-dtype", "--kv-cache-dtype fp8_e4m3"),
        ("0.5.20", "--tp 8 --ep-size 3", "contradictory", "--ep-size", ""),
        ("0.5.20", "--tp 8 --dp-size 3 --enable-dp-attention", "contradictory", "--dp-size", ""),
        ("0.5.20", "--enable-hierarchical-cache --disable-radix-cache", "contradictory",
         "--enable-hierarchical-cache", "without --disable-radix-cache"),
        ("0.5.20", "--pp-size 2 --speculative-algorithm EAGLE", "contradictory", "--pp-size", ""),
        ("0.5.22.post1", "--cuda-graph-max-bs 16", "ambiguous", "--cuda-graph-max-bs", "-decode 16"),
        ("0.5.21", "--tokenizer-threads 4", "unknown", "--tokenizer-threads", "--tokenizer-worker-num 4"),
        (None, "--gpu-memory-utilization 0.9", "unknown", "--gpu-memory-utilization", "--mem-fraction-static"),
    ],
)  # fmt: skip
def test_what_would_end_the_start(version: str | None, args: str, kind: str, flag: str, edits: str) -> None:
    errors = check(args, version).errors
    assert [(e.kind, e.flag) for e in errors] == [(kind, flag)]
    assert edits in (errors[0].instead or "")
    assert errors[0].why


@pytest.mark.parametrize(
    ("version", "args", "notes"),
    [
        ("0.5.19", "--cuda-graph-max-bs 64", ["deprecated --cuda-graph-max-bs"]),
        ("0.5.23", "--tp 8 --dp-size 8 --enable-dp-attention", ["deprecated --enable-dp-attention"]),
        ("0.5.20", "--host 0.0.0.0", ["open_to_all"]),
        ("0.5.20", "--host 0.0.0.0 --api-key k", []),
        ("0.5.20", "--mem-fraction-static 0.97", ["fraction_very_high"]),
        ("0.5.20", "--mem-fraction-static 0.05", ["fraction_very_low"]),
        ("0.5.20", "--chunked-prefill-size -1", ["chunking_off"]),
        ("0.5.20", "--max-running-requests 16", ["cap_far_below_default"]),
        ("0.5.20", "--schedule-policy lpm", ["lpm_helps_some"]),
        ("0.5.20", "--schedule-policy lpm --disable-radix-cache", ["lpm_without_cache", "radix_cache_off"]),
        ("0.5.20", "--speculative-num-steps 3", ["speculation_without_algorithm"]),
        ("0.5.20", "--speculative-num-steps $N --speculative-algorithm $A", []),
        ("0.5.20", "--tp 2 --tp-size 4", ["contradictory --tp-size"]),
        ("0.5.20", "--tp 2 --tp-size 2", []),
        ("0.5.20", "--max-total-tokens 4096 --context-length 32k", ["context_over_pool"]),
        ("0.5.20", "--nnodes 2 --node-rank 2 --tp 4 --dist-init-addr h:1", ["node_rank_too_high"]),
        ("0.5.20", "--tp 4 --mem-fraction-static 0.85 --context-length 32768 --api-key k --port 30001", []),
        ("0.5.20", "--stream-interval 0", ["bad_value --stream-interval"]),
        ("0.5.20", "--disable-cuda-graph --cuda-graph-max-bs-decode 64 --tp 2",
         ["deprecated --disable-cuda-graph", "graphs_off", "graphs_off_and_sized"]),
        ("0.5.20", "--disable-decode-cuda-graph --cuda-graph-bs-decode 1 2",
         ["graphs_off", "graphs_off_and_listed"]),
        ("0.5.20", "--cuda-graph-backend-decode disabled --cuda-graph-max-bs-decode 64",
         ["graphs_off", "graphs_off_and_sized"]),
        ("0.5.17", "--cuda-graph-backend-decode=disabled --cuda-graph-max-bs 64",
         ["deprecated --cuda-graph-max-bs", "graphs_off", "graphs_off_and_sized"]),
        ("0.4.7", "--disable-cuda-graph --cuda-graph-max-bs 64", ["graphs_off", "graphs_off_and_sized"]),
        ("0.5.10", "--disable-piecewise-cuda-graph --piecewise-cuda-graph-max-tokens 64",
         ["prefill_graphs_off_and_sized"]),
        ("0.5.20", "--disable-prefill-cuda-graph --cuda-graph-max-bs-decode 64", []),
        # a version that is between two, or older than all: what a neighbour takes accuses nobody
        ("0.4.9", "--max-queued-requests 5", ["unknown --max-queued-requests"]),
        ("0.2.7", "--tokenizer-threads 4", ["unknown --tokenizer-threads"]),
        (None, "--cuda-graph-max-bs 64", ["ambiguous --cuda-graph-max-bs"]),
        ("0.4.7", "--speculative-algorithm EAGLE --speculative-draft-model-path d --speculative-num-steps 3",
         ["speculation_partly_told"]),
        # shortened by the person who quotes it
        ("0.5.20", "--tp 2 ...", []),
    ],
)  # fmt: skip
def test_what_is_only_worth_a_note(version: str | None, args: str, notes: list[str]) -> None:
    checked = check(args, version)
    assert checked.errors == ()
    assert sorted(f.rule or f"{f.kind} {f.flag}" for f in checked.notes) == sorted(notes)


def test_int8_weights_keep_their_caveat() -> None:
    error = check("--quantization int8").errors[0]
    assert "w8a8_int8 is only for a checkpoint that was saved with 8-bit integer weights" in error.says()
    assert error.says().endswith("write --quantization fp8")


def test_cards_and_the_model_count() -> None:
    assert [f.rule for f in check("--tp 8", gpu__count=4).errors] == ["too_few_cards"]
    assert check("--tp 8", gpu__count=8).errors == ()
    assert [f.rule for f in check("--tp 4 --dp-size 2", gpu__count=4).errors] == ["too_few_cards_for_replicas"]
    assert [f.rule for f in check("--tp 3", model__heads=32).errors] == ["heads_not_divisible"]
    found = check("--context-length 65536", model__context=32768).errors
    assert [(f.rule, f.instead) for f in found] == [("context_over_model", "--context-length 32768")]


def test_flags_quoted_by_name_lack_no_values() -> None:
    assert RULES is not None
    assert examine(parse(("--reasoning-parser",), for_version("0.5.20")), RULES).errors == ()


def test_a_key_is_not_repeated() -> None:
    checked = check("--api-key hush-hush --api-key hush-too --admin-api-kee hush-three")
    assert "hush" not in repr([f.to_json() for f in checked.findings if f.kind != "unknown"])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("launch_server.py: error: unrecognized arguments: --foo 3", "--foo"),
        ("error: ambiguous option: --pp could match --pp-size, --pp-async", "--pp"),
        ("error: argument --quantization: invalid choice: 'int8'", "--quantization"),
        ("TypeError: ServerArgs.__init__() got an unexpected keyword argument 'tp_siz'", "--tp-siz"),
        ("all is well", None),
    ],
)
def test_the_flag_that_a_log_names(line: str, name: str | None) -> None:
    assert name_in(line) == name


PIECES = (
    "python -m sglang.launch_server --model-path m --tp 2 --host '0.0.0.0 \" \\ \n $VAR ${X} $(x) ` # ; && >",
    "docker run -e A=1 bash -c sgl.Engine( tp_size=4, ) command: [ ] - | {a:1} --config x.yaml -- … = --=",
)
WORDS = st.sampled_from([word for piece in PIECES for word in piece.split(" ")])
ROUGH = st.one_of(
    st.text(max_size=120),
    st.lists(WORDS, max_size=30).map(" ".join),
    st.lists(WORDS, max_size=20).map("\n".join),
    st.lists(WORDS, max_size=20).map(lambda w: "command:\n" + "\n".join(f"  - {x}" for x in w)),
    st.lists(WORDS, max_size=20).map(lambda w: "sgl.Engine(" + ", ".join(w) + ")"),
)


@settings(max_examples=300, deadline=None)
@given(ROUGH)
def test_any_text_is_survived(text: str) -> None:
    assert RULES is not None
    command = parse(split(text).argv, for_version("0.5.20"))
    for one in examine(command, RULES).findings:
        assert one.says()


VALUES = st.sampled_from(
    ["a b", "it's", 'say "x"', "$HOME", "#1", "a;b", "--not-a-flag", "back\\slash", '{"a": [1]}', "x=y"]
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(["plain", "continued", "docker", "shell", "compose", "engine"]))
def test_one_value_is_read_alike_however_it_is_written(value: str, form: str) -> None:
    """The same command as a line, over several lines, in a container, in a shell, as YAML, in Python."""
    import json
    import shlex

    words = ["python3", "-m", "sglang.launch_server", "--tp-size", "4", f"--served-model-name={value}"]
    line = shlex.join(words)
    text = {
        "plain": line + "  # and so on --tp-size 8",
        "continued": line.replace(" --", " \\\n  --", 1),
        "docker": f"docker run --gpus all -e A=1 -v x:y image {line}",
        "shell": f"bash -c {shlex.quote(line)}",
        "compose": "    command: " + json.dumps(words) + "\n    ports: [1]",
        "engine": f"llm = sgl.Engine(tp_size=4, served_model_name={value!r})",
    }[form]
    command = parse(split(text).argv, for_version("0.5.20"))
    assert command.value("tp_size") == "4"
    assert command.value("served_model_name") == value


@pytest.mark.parametrize(
    ("version", "args", "capability", "rule"),
    [
        ("0.5.20", "--attention-backend fa3", 9.0, None),
        ("0.5.20", "--attention-backend fa3", 8.9, None),
        ("0.5.20", "--attention-backend fa3", 10.0, "fa3_on_other_cards"),
        ("0.5.20", "--attention-backend fa3", 7.5, "fa3_on_other_cards"),
        ("0.4.6.post5", "--attention-backend fa3", 12.0, "fa3_on_other_cards"),
        ("0.5.20", "--decode-attention-backend fa3", 10.3, "fa3_decode_on_other_cards"),
        ("0.5.20", "--prefill-attention-backend fa3", 12.0, "fa3_prefill_on_other_cards"),
        ("0.5.20", "--attention-backend fa3 --prefill-attention-backend triton "
         "--decode-attention-backend triton", 10.0, None),
        ("0.5.20", "--attention-backend trtllm_mla", 9.0, "trtllm_mla_before_blackwell"),
        ("0.5.20", "--decode-attention-backend trtllm_mla", 8.0, "trtllm_mla_decode_before_blackwell"),
        ("0.5.20", "--attention-backend trtllm_mla", 12.0, None),
        ("0.5.4", "--attention-backend trtllm_mla", 12.0, "trtllm_mla_on_small_blackwell"),
        ("0.5.4", "--attention-backend trtllm_mla", 10.0, None),
        ("0.5.20", "--attention-backend trtllm_mha", 9.0, None),
        ("0.5.20", "--attention-backend trtllm_mha", 8.9, "trtllm_mha_before_hopper"),
        ("0.5.10", "--attention-backend trtllm_mha", 9.0, "trtllm_mha_prefill_needs_sm100"),
        ("0.5.10", "--attention-backend trtllm_mha", 10.0, None),
        ("0.5.10", "--prefill-attention-backend trtllm_mha", 12.0, "trtllm_mha_prefill_flag_needs_sm100"),
        ("0.5.10", "--decode-attention-backend trtllm_mha", 9.0, None),
        ("0.5.20", "--prefill-attention-backend trtllm_mha", 8.0, "trtllm_mha_prefill_before_hopper"),
        ("0.5.20", "--decode-attention-backend trtllm_mha", 8.9, "trtllm_mha_decode_before_hopper"),
        ("0.5.20", "--decode-attention-backend cutedsl_mla", 9.0, "cutedsl_mla_needs_sm100"),
        ("0.5.20", "--attention-backend cutedsl_mla", 12.0, "cutedsl_mla_everywhere_needs_sm100"),
        # between two versions that differ nobody has looked; no source checks these; no card is known
        ("0.5.17", "--attention-backend trtllm_mha", 9.0, None),
        ("0.5.20", "--attention-backend fa4", 7.5, None),
        ("0.5.20", "--attention-backend flashinfer", 7.5, None),
        ("0.5.20", "--attention-backend fa3", None, None),
    ],
)  # fmt: skip
def test_attention_backends_of_other_cards(
    version: str, args: str, capability: float | None, rule: str | None
) -> None:
    readings = {} if capability is None else {"gpu__capability": capability}
    errors = check(args, version, **readings).errors
    assert [e.rule for e in errors] == ([rule] if rule else [])
    for error in errors:
        assert str(capability).removesuffix(".0") in error.why
        assert error.edits[0].value is None
    assert check(args, None, **readings).errors == ()


@pytest.mark.parametrize(
    ("version", "config", "words"),
    [
        ("0.5.20", '{"decode": {"max_bs": 64}', "Expecting ',' delimiter at character 26 behind"),
        ("0.5.20", "{decode: {max_bs: 64}}", "at character 2 behind '{'; the shell took its quotes"),
        ("0.5.20", "[1]", "must be a JSON object"),
        ("0.5.20", '{"deocde": {}}', "no phase 'deocde'"),
        ("0.5.20", '{"decode": 3}', "decode must be a JSON object"),
        ("0.5.20", '{"decode": {"maxbs": 3}}', "decode.maxbs is no setting of SGLang 0.5.20"),
        ("0.5.20", '{"decode": {"backend": "off"}}', 'decode.backend does not take "off"; it takes full'),
        ("0.5.14", '{"prefill": {"backend": "full"}}', "prefill.backend does not take"),
        ("0.5.14", '{"prefill": {"full_prefill_max_req": 4}}', "is no setting of SGLang 0.5.14"),
        ("0.5.23", '{"decode": {"tc_compiler": "eager"}}', "is no setting of SGLang 0.5.23"),
        ("0.5.23", '{"prefill": {"backend": "tc_piecewise"}}', "it takes full, breakable, disabled"),
        ("0.5.20", "[" * 100_000, "nested too deep"),
    ],
)  # fmt: skip
def test_a_graph_config_that_ends_the_start(version: str, config: str, words: str) -> None:
    errors = check(f"--cuda-graph-config '{config}'", version).errors
    assert [(e.kind, e.flag) for e in errors] == [("bad_value", "--cuda-graph-config")]
    assert words in errors[0].why


@pytest.mark.parametrize(
    ("version", "args", "notes"),
    [
        ("0.5.20", """--cuda-graph-config '{"decode": {"max_bs": 64}, "prefill": {"backend": "full"}}'""", []),
        ("0.5.23", """--cuda-graph-config '{"prefill": {"max_seq_len": 4}}'""", []),
        ("0.5.17", """--cuda-graph-config '{"prefill": {"full_prefill_max_req": 4}}'""", []),
        ("0.5.20", "--cuda-graph-config $GRAPHS", []),
        ("0.5.20", """--cuda-graph-config '{"decode": {"max_bs": 64}}' --cuda-graph-max-bs-decode 64""", []),
        ("0.5.20", """--cuda-graph-config '{"decode": {"max_bs": 64}}' --cuda-graph-max-bs-decode 32""",
         ["graph_config_wins --cuda-graph-max-bs-decode"]),
        ("0.5.20", """--cuda-graph-config '{"decode": {"max_bs": 64}}' --cuda-graph-max-bs-prefill 512""", []),
        ("0.5.17", """--cuda-graph-config '{"decode": {"max_bs": 64}}' --cuda-graph-max-bs 32""",
         ["deprecated --cuda-graph-max-bs", "graph_config_wins --cuda-graph-max-bs"]),
        ("0.5.20", """--cuda-graph-config '{"decode": {"bs": [1, 2]}}' --cuda-graph-bs-decode 1 2""", []),
        ("0.5.20", """--cuda-graph-config '{"decode": {"bs": [1, 2]}}' --cuda-graph-bs-decode 1 4""",
         ["graph_config_wins --cuda-graph-bs-decode"]),
        ("0.5.20", """--cuda-graph-config '{"decode": {"backend": "full"}}' --disable-decode-cuda-graph""",
         ["graph_config_wins --disable-decode-cuda-graph"]),
        ("0.5.20", """--cuda-graph-config '{"prefill": {"backend": "full"}}' """
         "--cuda-graph-backend-prefill disabled", ["graph_config_wins --cuda-graph-backend-prefill"]),
        ("0.5.20", """--cuda-graph-config '{"decode": {"backend": "disabled", "max_bs": 8}}'""",
         ["graph_config_idle --cuda-graph-config", "graphs_off --cuda-graph-config"]),
        ("0.5.20", """--cuda-graph-config '{"prefill": {"backend": "disabled"}}' """
         "--cuda-graph-max-bs-prefill 512", ["graph_config_idle --cuda-graph-max-bs-prefill"]),
        ("0.5.20", """--disable-prefill-cuda-graph --cuda-graph-config '{"prefill": {"max_bs": 512}}'""",
         ["graph_config_idle --cuda-graph-config"]),
        ("0.5.20", """--cuda-graph-config '{"decode": {"max_bs": "64", "bs": [0]}}'""",
         ["bad_value --cuda-graph-config", "bad_value --cuda-graph-config"]),
    ],
)  # fmt: skip
def test_a_graph_config_beside_other_flags(version: str, args: str, notes: list[str]) -> None:
    checked = check(args, version)
    assert checked.errors == ()
    assert sorted(f"{f.rule or f.kind} {f.flag}" for f in checked.notes) == sorted(notes)
    for found in checked.notes:
        if found.rule == "graph_config_wins":
            assert "does nothing" in found.why
            assert found.edits[0].value is None


def test_json_of_other_flags_says_its_place_too() -> None:
    (error,) = check("--mm-process-config '{\"a\": }'", "0.5.20").errors
    assert "Expecting value at character 7" in error.why


@pytest.mark.parametrize(
    ("args", "rules"),
    [("--tp 2", ["ranks_over_slices"]), ("--pp-size 2", ["ranks_over_slices"]), ("--tp 1", [])],
)
def test_ranks_over_slices_of_a_card(args: str, rules: list[str]) -> None:
    assert [e.rule for e in check(args, gpu__mig=True, gpu__count=1).errors] == rules
    assert all(e.rule != "ranks_over_slices" for e in check(args, gpu__count=8).errors)


@pytest.mark.parametrize(
    ("version", "args", "edits", "says"),
    [
        ("0.4.0", "--tp 8 --page-size 16", None, "install SGLang 0.4.4 or newer"),
        ("0.4.2", "--pp-size 2", None, "install SGLang 0.4.6.post5 or newer"),
        ("0.5.9", "--disable-piecewise-cuda-graph", None, "leave it out"),
        ("0.5.23", "--enable-piecewise-cuda-graph", "without --enable-piecewise-cuda-graph", "by themselves"),
        ("0.4.0", "--admin-api-key s3cret", None, "leave it out"),
        ("0.5.18", "--torchao-config int4wo-128", "--quantization a value of your own", "torchao left"),
        ("0.5.20", "--attn-dp-size 4 --tp 8", "--enable-dp-attention, --dp-size 4", ""),
        ("0.5.13", "--cuda-graph-max-bs-decode 8", "--cuda-graph-max-bs 8", ""),
        ("0.5.12", "--dsa-prefill-backend fa3", "--nsa-prefill-backend fa3", ""),
        ("0.5.6", "--enable-flashinfer-trtllm-moe", "--moe-runner-backend flashinfer_trtllm", ""),
        ("0.5.8", "--context-length 32k", "--context-length 32768", "from 0.5.10"),
        ("0.5.20", "--context-length 32K", "--context-length 32768", "lower case count"),
        ("0.5.20", "--max-total-tokens 1.5Mi", None, "whole number"),
        ("0.5.20", "--disable-metrics", None, ""),
    ],
)  # fmt: skip
def test_a_flag_of_another_version(version: str, args: str, edits: str | None, says: str) -> None:
    """By its name in this version where it has one; never by another setting that is spelled like it."""
    (found,) = check(args, version).errors
    assert found.instead == edits
    assert says in found.says()


def test_no_flag_of_another_version_is_told_by_likeness() -> None:
    for version in catalogued_versions():
        catalogue = for_version(version)
        for option in catalogue.spans:
            found = catalogue.resolve(option)
            assert found.kind != "unknown" or not found.candidates, (version, option)


@pytest.mark.parametrize("value", ["32k", "1.5M", "1Mi", "4096"])
def test_suffixes_that_argparse_takes(value: str) -> None:
    assert not check(f"--context-length {value}").errors


def test_dp_attention_takes_its_size_along() -> None:
    (found,) = [f for f in check("--enable-dp-attention --dp-size 8 --tp 8", "0.5.23").findings]
    assert (found.kind, found.instead) == ("deprecated", "--attn-dp-size 8")


@pytest.mark.parametrize(("version", "errors"), [("0.5.4", ["sglang serve"]), ("0.5.6", []), ("0.5.23", [])])
def test_serve_came_with_0_5_6(version: str, errors: list[str]) -> None:
    assert RULES is not None
    command = parse(split("sglang serve m --port 30001").argv, for_version(version))
    assert [f.flag for f in examine(command, RULES).errors] == errors
