"""Messages between the parent and the scheduler: marshal with a length in front, over a socket pair.

Both ends are one interpreter (the child is forked), so marshal's format cannot differ.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

_HEAD = struct.Struct("<I")


def pack(message: Any) -> bytes:
    """One message as bytes."""
    body = marshal.dumps(message)
    return _HEAD.pack(len(body)) + body


class Unpacker:
    """Collects bytes and gives back whole messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._rest += data
        messages, at = [], 0
        while len(self._rest) - at >= 4:
            (size,) = _HEAD.unpack_from(self._rest, at)
            if len(self._rest) - at - 4 < size:
                break
            messages.append(marshal.loads(bytes(self._rest[at + 4 : at + 4 + size])))
            at += 4 + size
        del self._rest[:at]
        return messages
