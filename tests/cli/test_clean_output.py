"""Nothing that a server says of itself reaches the terminal raw, not even on stdout."""

from __future__ import annotations

import json

import pytest

from wizard.cli.output import put, put_json


def test_data_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    put("version 0.5.\x1b]0;title\x07 \x9b31mred\nsecond line")
    assert capsys.readouterr().out == "version 0.5. red\nsecond line\n"


def test_a_document_holds_no_control_byte_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    doc = {"version": "0.5\x1b[31m \x9b31m \x7f é \u202egnp.exe \u2028 \udcff"}
    put_json(doc)
    out = capsys.readouterr().out
    assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in out)
    assert not any(c in out for c in "\u202e\u2028\udcff")
    assert json.loads(out) == doc
