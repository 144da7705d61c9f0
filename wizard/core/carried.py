"""What carried a log around its lines: records of docker or a kubelet, several services in one file.

What stands before each line by itself is taken off by logtext.read_line. Here is what needs more than one line
to be seen: JSON records (docker's json-file driver), lines that were split over several records, lines of other
programs between those of SGLang. All of it works on blocks of bytes and keeps the number of lines, so that a
line is still found by its number in the file. Shapes: moby daemon/logger/jsonfilelog and its 16 KiB split (moby
#34855, Azure/adx-mon #272), the CRI's text log, docker compose and kubectl --prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

SAMPLE_BYTES = 4 * 1024 * 1024
"""How much of a log's beginning, and of its end, is looked at for who writes into it."""
LOOKED_AT = 200
"""Lines that tell how a log is carried."""

_SERVICE = re.compile(
    rb"^(?:\x1b\[[\d;]{0,12}m)*(?:([A-Za-z0-9][\w.-]{0,62}) *\| |\[(pod/[^\]\s]{1,160})\] )(?:\x1b\[0?m)?", re.M
)
"""``sglang-1  | `` of docker compose (in colours too), ``[pod/sglang-0/sglang] `` of kubectl --prefix."""
_CRI = re.compile(rb"^\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d) (std(?:out|err)) ([FP]) ")
_SPLIT = re.compile(rb"^\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d) std(?:out|err) P ", re.M)
_SGLANG = re.compile(
    rb"server_args=\s{0,8}(?:ServerArgs|\{)|(?:Decode|Prefill) batch[,.] #|server is fired up and ready to roll"
    rb"|/sglang/(?:srt|launch_server|cli|python)\b|\bsglang\.(?:srt|launch_server)\b|launch_server\.py: error"
    rb"|\bsglang serve: error|usage: (?:launch_server\.py|sglang)"
)
_VLLM = re.compile(rb"vLLM API server version|Initializing an? (?:V\d )?LLM engine \(v")
"""Where vLLM says of itself what it is. A frame of it alone proves less, and an excerpt is answered as well as
can be: what fails below both engines fails alike."""
_VLLM_WORDS = (b"vLLM", b"LLM engine")
"""What vLLM alone prints: SGLang 0.4 imports other parts of it, whose lines and frames may stand in its log."""

Kind = Literal["lines", "docker", "cri"]


@dataclass(frozen=True)
class Carriage:
    """How a log is carried. ``services``: named before the lines; ``muted``: those that are not SGLang's.

    ``splits``: a record without a newline at its end goes on in the next one of its stream. ``vllm``: the lines
    are vLLM's, and none of those looked at is SGLang's.
    """

    kind: Kind = "lines"
    splits: bool = False
    services: frozenset[str] = frozenset()
    muted: frozenset[str] = frozenset()
    vllm: bool = False

    @property
    def plain(self) -> bool:
        """Nothing is to be taken off that read_line does not."""
        return self.kind == "lines" and not self.services

    def bare(self, block: bytes) -> bytes:
        """The lines of a block without what carried them. A line of somebody else's is left empty."""
        if self.kind != "lines":
            block = _unpacked(block, self)
        if self.services:
            block = _SERVICE.sub(b"", _without(block, self.muted))
        return block

    def whole(self, block: bytes | bytearray, end: int, least: int) -> int:
        """The last newline of ``block[least:end]`` behind a record that ends a line; ``end`` where none does.

        ``end`` is where a newline stands.
        """
        if not self.splits:
            return end
        at = end
        while at > least:
            start = block.rfind(b"\n", least, at) + 1
            if start <= 0:
                break
            line = bytes(block[start:at])
            if (b'\\n"' in line) if self.kind == "docker" else not _SPLIT.match(line):
                return at
            at = start - 1
        return end


PLAIN = Carriage()


def carriage_of(head: bytes, tail: bytes = b"") -> Carriage:
    """How a log is carried, by its beginning and its end (at most SAMPLE_BYTES each are of use)."""
    first = [line for line in head[: 64 * 1024].split(b"\n")[:LOOKED_AT] if line.strip()]
    kind, splits = _kind_of(first, head)
    records = Carriage(kind, splits)
    bare = [records.bare(part) if kind != "lines" else part for part in (head, tail) if part]
    services = _services_of(b"\n".join(bare[:1]))
    muted: set[str] = set()
    if services:
        seen = {name for part in bare for name in _names(part)}
        speak = {name for part in bare for name in _speaking(part)}
        own = speak | {name for name in seen if "sgl" in name.lower()}
        muted = seen - own if own else set()
        bare = [_without(part, frozenset(muted)) for part in bare]
    vllm = any(word in part for word in _VLLM_WORDS for part in bare) and (
        any(_VLLM.search(part) for part in bare) and not any(_SGLANG.search(part) for part in bare)
    )
    return Carriage(kind, splits, frozenset(services), frozenset(muted), vllm)


def _kind_of(first: list[bytes], head: bytes) -> tuple[Kind, bool]:
    if not first:
        return "lines", False
    if sum(line.lstrip()[:1] == b"{" for line in first) * 2 > len(first):
        records = [r for r in map(_record, (line.decode("utf-8", "replace") for line in first)) if r]
        if len(records) * 2 > len(first):
            return "docker", any(text.endswith("\n") for _, text in records)
    elif _SPLIT.search(head) and sum(_CRI.match(line) is not None for line in first) * 2 > len(first):
        return "cri", True
    return "lines", False


def _services_of(head: bytes) -> set[str]:
    """The names before the lines, where nearly all lines have one."""
    first = [line for line in head[: 64 * 1024].split(b"\n")[:LOOKED_AT] if line.strip()]
    named = [match for match in map(_SERVICE.match, first) if match]
    if not first or len(named) * 10 < len(first) * 8:
        return set()
    return {_name(match) for match in named}


def _name(match: re.Match[bytes]) -> str:
    return (match[1] or match[2]).decode("utf-8", "replace")


def _names(block: bytes) -> set[str]:
    return {_name(match) for match in _SERVICE.finditer(block)}


def _speaking(block: bytes) -> Iterator[str]:
    """The services of whose lines one is certainly SGLang's."""
    for found in _SGLANG.finditer(block):
        start = block.rfind(b"\n", 0, found.start()) + 1
        match = _SERVICE.match(block[start : found.start()])
        if match is not None:
            yield _name(match)


def _without(block: bytes, muted: frozenset[str]) -> bytes:
    if not muted:
        return block
    lines = block.split(b"\n")
    for i, line in enumerate(lines):
        match = _SERVICE.match(line)
        if match is not None and _name(match) in muted:
            lines[i] = b""
    return b"\n".join(lines)


def _record(line: str) -> tuple[str, str] | None:
    """Stream and text of a line that is a record of docker; None for any other."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _of_record(found)


def _of_record(found: Any) -> tuple[str, str] | None:
    if not isinstance(found, dict):
        return None
    text, stream = found.get("log", "" if "stream" in found and "time" in found else None), found.get("stream")
    return (str(stream), text) if isinstance(text, str) else None


def _unpacked(block: bytes, carriage: Carriage) -> bytes:
    if carriage.kind == "cri":
        return "\n".join(_joined(map(_of_cri, block.split(b"\n")))).encode("utf-8", "replace")
    text = block.decode("utf-8", "replace")
    lines = text.split("\n")
    records: list[tuple[str, str] | None]
    try:  # all of them in one call: ten times as fast as one by one
        records = [_of_record(found) for found in json.loads("[" + ",".join(lines) + "]")]
    except (ValueError, RecursionError):
        records = []
    if len(records) != len(lines) or None in records:
        records = [_record(line) for line in lines]
    told = []
    for line, record in zip(lines, records, strict=True):
        if record is None:
            told.append(("", line, True))
        else:
            ended = record[1].endswith("\n") or not carriage.splits
            told.append((record[0], record[1].removesuffix("\n"), ended))
    return "\n".join(_joined(told)).encode("utf-8", "replace")


def _of_cri(line: bytes) -> tuple[str, str, bool]:
    match = _CRI.match(line)
    if match is None:
        return "", line.decode("utf-8", "replace"), True
    return match[1].decode(), line[match.end() :].decode("utf-8", "replace"), match[2] == b"F"


def _joined(records: Iterable[tuple[str, str, bool]]) -> Iterator[str]:
    """Lines of (stream, text, ends a line): split ones in one, with empty lines for their other records."""
    waiting: dict[str, list[str]] = {}
    for stream, text, ended in records:
        parts = waiting.get(stream)
        if parts is None and ended:
            yield text
        elif not ended:
            waiting.setdefault(stream, []).append(text)
        elif parts is not None:
            yield "".join((*parts, text))
            yield from [""] * len(parts)
            del waiting[stream]
    for parts in waiting.values():
        yield "".join(parts)
        yield from [""] * (len(parts) - 1)
