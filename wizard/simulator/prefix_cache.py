"""The KV pool with a prefix cache: token accounting only, in blocks of `BLOCK` tokens keyed by a chained hash.

Tokens of the pool are free, private to a running request, locked (cached and in use) or evictable (cached,
unused). SGLang's radix tree matches to the token; this one to a block, which is near enough for shared system
prompts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BLOCK = 32


def block_keys(tokens: Sequence[int]) -> list[int]:
    """A key for each full block; equal keys mean equal prefixes."""
    keys, chained = [], 0
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        chained = hash((chained, *tokens[start : start + BLOCK]))
        keys.append(chained)
    return keys


@dataclass
class _Block:
    size: int
    users: int


class KvPool:
    """`capacity` tokens. Never hands out more than it has: callers ask `reclaim` first."""

    def __init__(self, capacity: int, caching: bool = True) -> None:
        self.capacity, self.caching = capacity, caching
        self.private = self.locked = self.evictable = 0
        self.evicted_total = 0
        self._blocks: dict[Hashable, _Block] = {}
        self._unused: OrderedDict[Hashable, _Block] = OrderedDict()

    @property
    def free(self) -> int:
        return self.capacity - self.private - self.locked - self.evictable

    @property
    def available(self) -> int:
        """Free now or by eviction."""
        return self.capacity - self.private - self.locked

    @property
    def used(self) -> int:
        return self.private + self.locked

    def match(self, keys: Sequence[Hashable], tokens: int) -> int:
        """How many blocks of this prompt are cached; one token at least is always left to compute."""
        if not self.caching:
            return 0
        found, limit = 0, (tokens - 1) // BLOCK
        for key in keys[:limit]:
            if key not in self._blocks:
                break
            found += 1
        return found

    def unused_among(self, keys: Sequence[Hashable]) -> int:
        """Tokens of these cached blocks that nobody uses now."""
        return sum(self._unused[key].size for key in keys if key in self._unused)

    def lock(self, keys: Sequence[Hashable]) -> None:
        """Keep these cached blocks from eviction."""
        for key in keys:
            block = self._blocks[key]
            if block.users == 0:
                del self._unused[key]
                self.evictable -= block.size
                self.locked += block.size
            block.users += 1

    def reclaim(self, tokens: int) -> bool:
        """Make `tokens` free by evicting the least recently used blocks; False when that is not enough."""
        while self.free < tokens and self._unused:
            key, block = self._unused.popitem(last=False)
            del self._blocks[key]
            self.evictable -= block.size
            self.evicted_total += block.size
        return self.free >= tokens

    def take(self, tokens: int) -> None:
        """Make free tokens private to a request."""
        self.private += tokens

    def give_back(self, tokens: int) -> None:
        """Private tokens become free."""
        self.private -= tokens

    def insert(self, keys: Sequence[Hashable]) -> None:
        """Turn the private tokens of freshly computed blocks into cached ones, in use by their request."""
        for key in keys:
            self.private -= BLOCK
            block = self._blocks.get(key)
            if block is None:
                self._blocks[key] = _Block(BLOCK, 1)
                self.locked += BLOCK
            else:  # a twin computed it at the same time; ours is dropped
                self.lock([key])

    def insert_tail(self, tokens: int) -> None:
        """Private tokens of a finished request (rest of the prompt, output) stay cached, unused."""
        if tokens <= 0:
            return
        self.private -= tokens
        if self.caching:
            key = object()
            block = _Block(tokens, 0)
            self._blocks[key] = self._unused[key] = block
            self.evictable += tokens

    def unlock(self, keys: Sequence[Hashable]) -> None:
        """A request lets go of its blocks; the deepest becomes the oldest, so that parents outlive children."""
        for key in reversed(keys):
            block = self._blocks[key]
            block.users -= 1
            if block.users == 0:
                self.locked -= block.size
                self.evictable += block.size
                self._unused[key] = block

    def flush(self) -> None:
        """Drop all that is not in use."""
        for key in self._unused:
            del self._blocks[key]
        self._unused.clear()
        self.evictable = 0
