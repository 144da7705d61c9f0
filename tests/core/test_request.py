"""Request bodies: what SGLang refuses with a bare 400, said before anything is sent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.request import examine

USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"model": "m", "messages": [USER]}, []),
        ({"model": "m"}, ["no_messages"]),
        ({"messages": []}, ["empty_messages"]),
        ({"messages": "hi"}, ["empty_messages"]),
        ({"messages": [{"role": "boss", "content": "x"}]}, ["bad_role"]),
        ({"messages": [{"role": "user"}]}, ["no_content"]),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, []),
        ({"messages": [{"role": "user", "content": 3}]}, ["bad_content"]),
        ({"messages": [USER, "x"]}, ["bad_message"]),
        ({"messages": [USER], "temperature": -1}, ["bad_sampling"]),
        ({"messages": [USER], "top_p": 0}, ["bad_sampling"]),
        ({"messages": [USER], "top_p": "0.9"}, []),
        ({"messages": [USER], "top_p": "much"}, ["bad_sampling"]),
        ({"text": "x", "sampling_params": {"top_p": "0.9"}}, ["bad_sampling"]),
        ({"text": "x", "sampling_params": {"max_tokens": 9}}, ["strange_sampling"]),
        ({"messages": [USER], "top_k": 0}, ["bad_sampling"]),
        ({"messages": [USER], "max_tokens": -3}, ["bad_sampling"]),
        ({"messages": [USER], "max_tokens": 0}, []),
        ({"prompt": "x", "max_tokens": 0}, ["bad_sampling"]),
        ({"text": "x", "sampling_params": {"max_new_tokens": -1}}, ["bad_sampling"]),
        ({"text": "x", "sampling_params": {"regex": "a", "ebnf": "b"}}, ["bad_sampling"]),
        ({"messages": [USER], "repetition_penalty": 0}, ["bad_sampling"]),
        ({"messages": [USER], "temperature": 10**400}, []),
        ({"messages": [USER], "temperature": float("nan")}, ["bad_sampling"]),
        ({"messages": [{"role": "System", "content": "x"}]}, []),
        ({"messages": [{"role": "USER", "content": "x"}]}, ["bad_role"]),
        ({"messages": [{"role": ["user"], "content": "x"}]}, ["bad_role"]),
        ({"text": "x", "max_new_tokens": 5}, ["loose_sampling"]),
        ({"text": "x", "sampling_params": {"temperature": -2}}, ["bad_sampling"]),
        ({"sampling_params": {}}, ["no_text"]),
        ([1], ["not_an_object"]),
    ],
)
def test_what_is_wrong_with_a_body(body: object, problems: list[str]) -> None:
    assert [i for i, _ in examine(json.dumps(body)).problems] == problems


@pytest.mark.parametrize(
    ("body", "endpoint", "problems"),
    [
        ({"messages": [USER]}, "/v1/completions", ["wrong_endpoint"]),
        ({"prompt": "x"}, "http://127.0.0.1:30000/v1/chat/completions", ["wrong_endpoint"]),
        ({"prompt": "x"}, "/v1/completions?x=1", []),
        ({"text": "x"}, "/v1/chat/completions", ["wrong_endpoint"]),
        ({"messages": [USER]}, "/generate", ["no_text"]),
        ({"input": "x"}, "", []),
        ({"text": "x"}, "v1/chat/completions/", ["wrong_endpoint"]),
    ],
)
def test_a_body_at_the_wrong_endpoint(body: object, endpoint: str, problems: list[str]) -> None:
    assert [i for i, _ in examine(json.dumps(body), endpoint).problems] == problems


def test_an_endpoint_that_is_not_known_is_not_judged() -> None:
    assert not examine('{"input": "x"}').judged
    assert not examine('{"text": "x"}', "nonsense").judged
    assert examine('{"text": "x"}').judged


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("{'a': 1}", "a Python dict?"),
        ("[" * 200_000, "nested too deep"),
        ("9" * 5000, "too long"),
    ],
)
def test_what_is_no_json_is_said_in_words(text: str, says: str) -> None:
    ((problem, words),) = examine(text).problems
    assert problem == "malformed_json"
    assert says in words


def test_bounds_are_said_as_a_person_would() -> None:
    (problem,) = examine(json.dumps({"messages": [USER], "temperature": -1})).problems
    assert problem[1] == "temperature is -1; it has to be at least 0"
    (problem,) = examine(json.dumps({"messages": [USER], "top_p": 0})).problems
    assert problem[1] == "top_p is 0; it has to be above 0 and at most 1"


def test_a_torn_body_is_pointed_at() -> None:
    (problem,) = examine('{"messages": [{"role": "user", "content": "x"}],}').problems
    assert problem[0] == "malformed_json"
    assert "line 1, column" in problem[1]


def test_sizes_and_wishes_are_read() -> None:
    wishes = {"tools": [{}], "response_format": {"type": "json_schema"}, "stream": True, "max_tokens": 7}
    facts = examine(json.dumps({"messages": [{"role": "user", "content": "a" * 400}], **wishes}))
    assert (facts.prompt_tokens, facts.max_tokens) == (100, 7)
    assert (facts.tools, facts.schema, facts.stream) == (True, True, True)
    facts = examine(json.dumps({"input_ids": [3, 99_999], "sampling_params": {"max_new_tokens": 4}}))
    assert (facts.endpoint, facts.prompt_tokens, facts.max_tokens, facts.largest_id) == (
        "/generate",
        2,
        4,
        99_999,
    )


KEYS = st.sampled_from(["messages", "role", "content", "top_k", "text", "sampling_params", "input_ids"])
BODIES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=15,
)


@given(st.text(max_size=200) | BODIES.map(json.dumps))
def test_no_body_breaks_it(text: str) -> None:
    examine(text)
    examine("[" * 5000 + text)
