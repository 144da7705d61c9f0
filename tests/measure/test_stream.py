"""Events of both APIs, cut anywhere."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wizard.measure.stream import Stream

# Shapes as SGLang 0.5.20 sent them on a CPU (two tokens in an event are usual there).
GENERATE = (
    b'data: {"text":"a \\"completion_tokens\\":99","output_ids":[3778,39],"meta_info":{"id":"03a5",'
    b'"finish_reason":null,"prompt_tokens":20,"reasoning_tokens":0,"completion_tokens":2,"cached_tokens":0,"dp_rank":null}}\n\n'
    b'data: {"text":"b","output_ids":[3778,39,3,4,5],"meta_info":{"id":"03a5","finish_reason":{"type":"length",'
    b'"length":5},"prompt_tokens":20,"completion_tokens":5,"e2e_latency":0.058}}\n\ndata: [DONE]\n\n'
)
COMPLETIONS = (
    b'data: {"id":"a7","choices":[{"index":0,"text":"x \\"finish_reason\\":","logprobs":null,'
    b'"finish_reason":null,"matched_stop":null}],"usage":null}\n\n'
    b'data: {"id":"a7","choices":[{"index":0,"text":"","finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"a7","choices":[{"index":0,"text":"y","finish_reason":"length"}],"usage":null}\n\n'
    b'data: {"id":"a7","choices":[],"usage":{"prompt_tokens":20,"total_tokens":25,"completion_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.sampled_from([GENERATE, COMPLETIONS]), st.lists(st.integers(0, 700), max_size=12), st.booleans())
@settings(max_examples=120, deadline=None)
def test_cut_anywhere_it_is_the_same(page: bytes, cuts: list[int], crlf: bool) -> None:
    if crlf:
        page = page.replace(b"\n", b"\r\n")
    stream = Stream()
    places = sorted({0, len(page), *(min(cut, len(page)) for cut in cuts)})
    for start, end in pairwise(places):
        stream.feed(page[start:end])
    assert (stream.tokens, stream.finished, stream.error) == (5, True, None)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (
            {
                "text": "",
                "meta_info": {"finish_reason": {"type": "abort", "status_code": 503, "message": "full\nup"}},
            },
            "503 full up",
        ),
        ({"text": "", "meta_info": {"finish_reason": {"type": "abort", "message": None}}}, "aborted"),
        ({"choices": [{"text": "", "finish_reason": "abort"}]}, "aborted"),
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"error": "text"}, "text"),
    ],
)
def test_errors_inside_of_a_stream(event: dict[str, object], error: str) -> None:
    stream = Stream()
    stream.feed(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")
    assert stream.error == error
    assert not stream.finished
    assert stream.tokens == 0


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60), st.sampled_from([b"data:", b"\n", b'{"finish_reason":', b"[]", b"{}"])
        )
    )
)
@settings(max_examples=150, deadline=None)
def test_garbage_does_not_finish_a_stream(pieces: list[bytes]) -> None:
    stream = Stream()
    for piece in pieces:
        stream.feed(piece)
    assert not stream.finished
