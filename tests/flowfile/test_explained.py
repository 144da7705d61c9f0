"""Every cause and every remedy explains itself: why, how to see it, what it costs, where that is known from."""

from __future__ import annotations

import re

import pytest

from tests.books import BOOK
from wizard.core.flow import Cause, Remedy

CAUSES = sorted(BOOK.causes.values(), key=lambda c: c.id)
REMEDIES = sorted(BOOK.remedies.values(), key=lambda r: r.id)

_SENTENCE = re.compile(r"[.!?](?:\s+(?=\S)|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs)\.", re.I)
_NAMES = """
CUDA_LAUNCH_BLOCKING NCCL_DEBUG awk cat command cuobjdump curl dcgmi df dig dmesg docker du echo env
export file find for free getent git grep head hf htop huggingface-cli ibstat ibv_devinfo id iostat
ip journalctl jq kill kubectl ldd ls lscpu lsof mount mpstat nc nproc nslookup numactl nvcc
nvidia-smi openssl pidstat ping pip printenv ps py-spy python ray readelf rg sed sglang sha256sum ss
stat strings sudo tail test time timeout top tr ulimit uname watch wc which xxd
"""
_COMMANDS = frozenset(_NAMES.split())
"""Programs that a "how to see it yourself" may begin with; what is set before them does not count."""


def sentences(text: str) -> int:
    """Full stops and the like with more behind them, or at the end."""
    return len(_SENTENCE.findall(_ABBREVIATION.sub("", text.strip())))


def begins_with_a_command(text: str) -> bool:
    words = text.strip().lstrip("$ (").split()
    while words and re.match(r"[A-Z_]+=\S*$", words[0]):
        words.pop(0)
    first = words[0].rstrip(";").rsplit("/", 1)[-1] if words else ""
    return re.sub(r"[\d.]+$", "", first) in _COMMANDS or first in _COMMANDS


@pytest.mark.parametrize("cause", CAUSES, ids=lambda c: c.id)
def test_a_cause_explains_itself(cause: Cause) -> None:
    lacking = []
    if sentences(cause.why) < 2:
        lacking.append(f"why has {sentences(cause.why)} sentences")
    if not begins_with_a_command(cause.see):
        lacking.append(f"see is no command to type: {cause.see[:60]!r}")
    if len(cause.source) < 10:
        lacking.append("no source")
    if not cause.remedies:
        lacking.append("no remedy")
    assert not lacking, f"{cause.id} ({cause.mark.file}:{cause.mark.line}): " + "; ".join(lacking)


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda r: r.id)
def test_a_remedy_explains_itself(remedy: Remedy) -> None:
    lacking = [name for name in ("title", "why", "cost") if not str(_source(remedy, name)).strip()]
    assert not lacking, f"{remedy.id} ({remedy.mark.file}:{remedy.mark.line}) lacks {', '.join(lacking)}"


def _source(remedy: Remedy, name: str) -> str:
    part = getattr(remedy, name)
    return part if isinstance(part, str) else str(part.source)


@pytest.mark.parametrize(
    ("text", "count"), [("One. Two.", 2), ("One", 0), ("Runs at 0.5 of 1.8 GB.", 1), ("First: this. That.", 2)]
)
def test_sentences_are_counted_by_their_ends(text: str, count: int) -> None:
    assert sentences(text) == count


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("curl -s HOST:PORT/metrics", True),
        ("CUDA_VISIBLE_DEVICES=0 python3 -m sglang.check_env", True),
        ("Look at the log", False),
        ("", False),
    ],
)
def test_a_command_is_told_from_prose(text: str, is_one: bool) -> None:
    assert begins_with_a_command(text) is is_one
