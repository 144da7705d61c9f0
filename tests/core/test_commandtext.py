"""Pasted commands, and commands shown."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.argv import shell_join, split, torn_quote
from wizard.core.shelltext import scan

SERVE = "python -m sglang.launch_server --model-path m --port 30000"
PLAIN = ("python", "-m", "sglang.launch_server", "--model-path", "m", "--port", "30000")


@pytest.mark.parametrize(
    ("text", "environ", "wrapper"),
    [
        ("SERVE", {}, ""),
        ("$ python -m sglang.launch_server \\\n  --model-path m \\\n  --port 30000\n", {}, ""),
        ("(venv) me@gpu-07:~$ SERVE", {}, ""),
        ("python -m sglang.launch_server \\ \r\n --model-path m \\\r\n --port 30000", {}, ""),
        ("CUDA_VISIBLE_DEVICES=0 SERVE", {"CUDA_VISIBLE_DEVICES": "0"}, ""),
        ("export A=1 B='2 3'\nSERVE", {"A": "1", "B": "2 3"}, ""),
        ("A=1; exec SERVE", {"A": "1"}, ""),
        ("env -u X A=1 SERVE > log 2>&1 &", {"A": "1"}, ""),
        (
            "docker run --gpus all --shm-size 32g -p 1:1 -e A=1 --env=B=2 --ipc=host lmsysorg/sglang:latest "
            "SERVE",
            {"A": "1", "B": "2"},
            "docker",
        ),
        (
            "sudo docker run img bash -c 'cd /x && A=1 SERVE'",
            {"A": "1"},
            "sudo",
        ),
        ("docker run -it img\nSERVE", {}, ""),
        ("# start it\nSERVE # here", {}, ""),
        ("python -m sglang.launch_server --model-path 'm' --port \"30000\" | tee log", {}, ""),
    ],
)
def test_finds_the_server_in_a_pasted_text(text: str, environ: dict[str, str], wrapper: str) -> None:
    pasted = split(text.replace("SERVE", SERVE))
    assert pasted.argv == PLAIN
    assert pasted.environ == environ
    assert pasted.wrapper == wrapper


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("nohup python -m sglang.launch_server", ("nohup", "python", "-m", "sglang.launch_server")),
        ("--enable-dp-attention --tp 8", ("--enable-dp-attention", "--tp", "8")),
        ("sglang serve m --json '{\"a\": 1", ("sglang", "serve", "m", "--json", '{"a": 1')),
        ("curl -X GET http://127.0.0.1:40000/metrics --header x", ()),
        ("glm 5.1 FP8 tp=4", ()),
        ("python -m sglang.launch_server --dist-init-addr $(hostname -i):5000",
         ("python", "-m", "sglang.launch_server", "--dist-init-addr", "$(hostname -i):5000")),
        ("", ()),
    ],
)  # fmt: skip
def test_copes_with_rough_texts(text: str, argv: tuple[str, ...]) -> None:
    assert split(text).argv == argv


@given(st.text(alphabet="ab -=$`'\"\\\n;&|()<>#{}12*", max_size=40))
def test_any_text_is_survived_and_places_are_true(text: str) -> None:
    split(text)
    at = 0
    for word in scan(text):
        assert at <= word.start <= word.end <= len(text)
        at = word.end


@given(st.lists(st.text(min_size=0, max_size=8).filter(lambda w: "\x00" not in w), min_size=1, max_size=6))
def test_what_is_joined_reads_back(words: list[str]) -> None:
    text = shell_join(words, show_secrets=True)
    assert shlex.split(text) == words
    scanned = scan(text)
    assert [w.value for w in scanned] == words
    assert all(w.plain and w.kind == "word" for w in scanned)


def test_a_shown_command_hides_the_key() -> None:
    assert shell_join([*PLAIN, "--api-key", "hush", "--admin-api-key=hush2"]).endswith(
        "--api-key '***' '--admin-api-key=***'"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SERVE --api-key 'x y --tp 2", "the quote ' at character 70 (behind --api-key)"),
        ("SERVE \\\n  --json-model-override-args \"{'a': 1}", 'the quote " at line 2, character 30'),
        ("$ SERVE --revision 'v", "the quote ' at character 73"),
        ("bash -c 'SERVE", "the quote ' at character 9"),
        ("--tp 2 --revision 'v", "the quote ' at character 19 (behind --revision)"),
        ("SERVE --x \"$(cat 'f", 'the quote "'),
        ("SERVE --x '{\"a\": 1}' --y \"it's\" --z it\\'s", None),
        ("SERVE\nand then it doesn't start", None),
        ("SERVE # it's mine", None),
        ("SERVE --x $'a' --y `b`", None),
        ("it doesn't start", None),
        ("command: [python, -m, sglang.launch_server, --revision, 'v]", None),
        ("", None),
        ("> 'f", None),
    ],
)
def test_a_quote_that_nothing_closes(text: str, says: str | None) -> None:
    found = torn_quote(text.replace("SERVE", SERVE))
    assert (found is None) if says is None else (found is not None and found.startswith(says)), found


@given(st.text(alphabet="ab'\"\\$(){}` \n#;-m", max_size=60))
def test_a_torn_text_is_survived(text: str) -> None:
    torn_quote(SERVE + " " + text)
