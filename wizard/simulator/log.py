"""Lines in SGLang's format. Everything goes to stderr but uvicorn's access lines, which go to stdout."""

from __future__ import annotations

import os
import time

_second = 0
_stamp = ""


def stamp() -> str:
    """`[2026-11-22 08:29:57]`, in local time as SGLang's formatter has it."""
    global _second, _stamp
    now = int(time.time())
    if now != _second:
        _second, _stamp = now, time.strftime("[%Y-%m-%d %H:%M:%S]", time.localtime(now))
    return _stamp


def say(text: str) -> None:
    """A line of SGLang's own logger."""
    raw(f"{stamp()} {text}\n")


def raw(text: str) -> None:
    """Text as it is, to stderr."""
    _put(2, text)


def access(peer: str, method: str, path: str, status: int, phrase: str) -> None:
    """Uvicorn's access line."""
    _put(1, f'{stamp()} INFO:     {peer} - "{method} {path} HTTP/1.1" {status} {phrase}\n')


def _put(handle: int, text: str) -> None:
    try:
        os.write(handle, text.encode("utf-8", "replace"))
    except OSError:
        pass  # the reader of the pipe left; a server lives on without its log
