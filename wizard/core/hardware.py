"""Cards in a person's words: "8x NVIDIA L4 24GB" -> how many, which, how large, which compute capability.

The name is found first. What stands around it is read word by word, outwards, as long as the words belong
to the card (its maker, form and size); the number behind them counts the cards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wizard.core.cardnames import CARDS, Card, host_cards


@dataclass(frozen=True)
class Hardware:
    """``memory_gb``: GiB that nvidia-smi shows for one card; None for what was not said.

    ``count``: cards of one host, because the ranks of a node have to fit on those.
    """

    name: str | None = None
    count: int | None = None
    memory_gb: float | None = None
    capability: float | None = None
    """CUDA compute capability (8.9 = sm_89); None for other makers' cards."""
    mig: bool = False
    """The card is in MIG mode. Then ``count`` is 1, because a process sees one slice, and ``memory_gb`` is of a
    slice; None when its size was not told."""


MOST_CARDS = 512
CARDS_OF_A_HOST = 8
"""More than these belong to several hosts where several are told of."""

_WORDS = {"one": 1, "single": 1, "two": 2, "dual": 2, "three": 3, "triple": 3, "four": 4, "quad": 4, "five": 5}
_WORDS.update({"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16})
_WORDS.update({"单": 1, "双": 2, "两": 2, "四": 4, "八": 8})
_NUMBER = r"\d{1,3}|" + "|".join(_WORDS)
_TIMES = ("x", "×", "*", "✕")

_TOKEN = re.compile(
    r"\d{1,4}[ -]?Gi?B?(?![A-Za-z0-9])|SXM-?\d?|HBM\d?e?|DDR\d|PCI-?e|\d+(?:[.,]\d+)*|[x](?=\d)|[A-Za-z]+|\S",
    re.I,
)
_SIZE = re.compile(r"(\d{1,4})[ -]?Gi?B?", re.I)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILLERS = _words(
    "nvidia amd geforce tesla quadro instinct rtx gtx hgx dgx pcie pci-e nvl nvlink vram memory tensor core "
    "super ada ti of the with - _ / ( ) + 的 s gen"
)
_FORMS = re.compile(r"(?:sxm-?\d?|hbm\d?e?)", re.I)
_CARD_WORDS = _words("gpu gpus card cards pcs pieces accelerator accelerators 卡 张 块 个")
_HOST_WORDS = _words("nodes hosts machines servers boxes node host machine server box 台 机")
_NOT_OF_CARDS = _words("ram ddr4 ddr5 total system host cpu disk ssd nvme weights model swap shm dram")
"""Behind a number of GB these say that it is not the memory of one card."""
_VERSIONED = _words("cuda rocm driver ubuntu debian python torch sglang vllm version rank gpu tp dp pp ep")
"""In front of a number these say that it counts no cards: CUDA 12, rank 3."""
_ANYWHERE = (
    re.compile(
        rf"(?<![\w.,$#-])({_NUMBER})[ -]?(?:[A-Za-z]{{2,12}}[ /-]){{0,2}}"
        r"(?:GPUs?|cards?|accelerators)(?![a-z])",
        re.I,
    ),
    re.compile(rf"({_NUMBER}) ?[张块卡]"),
    re.compile(r"(?<![\w.])(\d{1,3}) ?[x×*] ?(?!\d|CPU|core|NVMe|SSD|node|host|machine|server)", re.I),
    re.compile(r"(?<![\w.])[x×](\d{1,2})(?![\w.]| ?(?:node|host|machine|server|CPU))", re.I),
    re.compile(r"(?:GPUs|cards|GPU count|num_gpus)\s?[:=]\s?(\d{1,3})(?![\w.])", re.I),
)
_HOSTS = re.compile(rf"(?<![\w.-])({_NUMBER})[ -]?(?:nodes|hosts|machines|servers|boxes)(?![a-z])", re.I)
_FOR_EACH = re.compile(r"\b(?:each|per|every|apiece)\b|/ ?(?:node|host|server)", re.I)


MIG_NOTE = (
    "the card is in MIG mode: memory and counts are those of one slice. A process sees one slice only, so "
    "neither tensor nor pipeline parallelism goes over slices; power, clock, temperature are the whole card's"
)
"""NVIDIA's MIG user guide: CUDA enumerates a single compute instance; no GPU-to-GPU P2P."""

_SLICE = re.compile(r"(?<![\w.])(?:\d{1,2}c\.)?[1-7]g\.(\d{1,3})gb\b", re.I)
_MIG_TABLE = re.compile(r"MIG devices:.{0,1500}?(\d{1,7}) ?MiB ?/ ?(\d{1,7}) ?MiB", re.S)
_MIG_MODE = re.compile(
    r"(?<![\w.-])MIG(?! ?M\.)(?![\w.-])(?!\W{0,3}(?:mode|is)?\W{0,3}(?:off|disabled|not|N/A)\b)", re.I
)
_NO_MIG = re.compile(
    r"\b(?:no|not|without|non|disabled?|off)[ -](?:using |in |use )?MIG\b|MIG M\.(?!.*MIG devices:)",
    re.I | re.S,
)
SLICE_SHARE = 0.9
"""Of the GB in a slice's name, what a process surely has: 9.5 GiB of 1g.10gb, 10.75 of 1g.12gb (H100 NVL)."""
MIG_CHARS = 8000


def read(text: str) -> Hardware:
    """What can be told from the words; everything None when neither a known card nor a number of cards is."""
    found = _read(text[:2000])
    mig, memory_gb = mig_slice(text)
    return replace(found, count=1, memory_gb=memory_gb, mig=True) if mig else found


def mig_slice(text: str) -> tuple[bool, float | None]:
    """Whether a card in MIG mode is spoken of (words, or what nvidia-smi prints), and the GiB of its smallest
    slice."""
    text = text[:MIG_CHARS]
    table = _MIG_TABLE.search(text)
    if table is not None:
        return True, round(int(table[2]) / 1024, 1)
    sizes = [int(match[1]) for match in _SLICE.finditer(text)]
    if sizes:
        return True, round(min(sizes) * SLICE_SHARE, 1)
    return _MIG_MODE.search(text) is not None and _NO_MIG.search(text) is None, None


def _read(text: str) -> Hardware:
    rented = host_cards(text)
    if rented is not None:
        name, count = rented
        card = next(c for c in CARDS if c.name == name or name in [s[1] for s in c.sizes])
        memory_gb = next((s[2] for s in card.sizes if s[1] == name), card.memory_gb)
        return Hardware(name, count, memory_gb, card.capability)
    found = [(m.start(), rank, m) for rank, c in enumerate(CARDS) if (m := c.pattern.search(text))]
    if not found:
        return Hardware(count=_of_one_host(_anywhere(text), text))
    _, rank, match = min(found, key=lambda f: f[:2])
    card = CARDS[rank]
    before = _TOKEN.findall(text[max(0, match.start() - 60) : match.start()])
    behind = _TOKEN.findall(text[match.end() : match.end() + 60])
    count, sizes = _in_front(before, behind)
    following, more = _behind(behind)
    if count is None and following is None and len({CARDS[r].name for _, r, _ in found}) == 1:
        following = _anywhere(text)  # of several cards a number elsewhere may count another one
    count = count if count is not None else following
    words = text[max(0, match.start() - 6) : match.end()]
    if count is None and card.name == "GB10":
        count = 1
    elif count is None and re.search(r"[HD]GX[ -]", words, re.I):
        count = CARDS_OF_A_HOST
    count = _of_one_host(count, text)
    name, memory_gb = _sized(card, count, (*sizes, *more))
    return Hardware(name, count, memory_gb, card.capability)


def _number(token: str) -> int | None:
    if token.isdecimal() and len(token) <= 3:
        return int(token) if 0 < int(token) <= MOST_CARDS else None
    return _WORDS.get(token.lower())


def _is_filler(token: str) -> bool:
    word = token.lower()
    return word in _FILLERS or word in _CARD_WORDS or _FORMS.fullmatch(token) is not None


def _in_front(before: Sequence[str], behind: Sequence[str]) -> tuple[int | None, tuple[int, ...]]:
    """The number in front of the card (``8x``, ``4 80GB``, ``two``, ``2x8``), and the sizes between them."""
    sizes: list[int] = []
    rest = list(before)
    while rest:
        size = _SIZE.fullmatch(rest[-1])
        if size is not None and not rest[-1].isdecimal():
            sizes.append(int(size[1]))
        elif not _is_filler(rest[-1]):
            break
        rest.pop()
    times = bool(rest) and rest[-1].lower() in _TIMES
    if times:
        rest.pop()
    number = _number(rest[-1]) if rest else None
    if number is None:
        return None, tuple(sizes)
    named = len(rest) > 1 and rest[-2].lower() in _VERSIONED
    plural = [b.lower() for b in behind[:2] if b not in ("-", "s")][:1]
    of_hosts = not times and bool(plural) and plural[0] in _HOST_WORDS and plural[0].endswith("s")
    return (None if named or of_hosts else number), tuple(sizes)


def _behind(behind: Sequence[str]) -> tuple[int | None, tuple[int, ...]]:
    """The number behind the card (``x8``, ``(8x)``, ``: 8``, ``8-GPU``), and the sizes between them."""
    sizes: list[int] = []
    for at, token in enumerate(behind):
        here = token.lower()
        ahead = [t.lower() for t in behind[at + 1 : at + 4]] + ["", "", ""]
        size = _SIZE.fullmatch(token)
        if size is not None and not token.isdecimal():
            if ahead[0] in _NOT_OF_CARDS:
                return None, tuple(sizes)
            sizes.append(int(size[1]))
        elif here in (*_TIMES, ":", "=") and _number(ahead[0]) and ahead[1] not in _HOST_WORDS:
            return _number(ahead[0]), tuple(sizes)
        elif _number(token) is not None:
            word = ahead[1] if ahead[0] == "-" else ahead[0]
            bare = word == ")" and at > 0 and behind[at - 1] == "("
            if word in _CARD_WORDS or (word in _TIMES and not ahead[1].isalnum()) or bare:
                return _number(token), tuple(sizes)
            return None, tuple(sizes)
        elif not _is_filler(token) and token != ",":
            break
    return None, tuple(sizes)


def _anywhere(text: str) -> int | None:
    """A number of cards that stands elsewhere in the text: ``8 GPUs``, ``4x``."""
    for pattern in _ANYWHERE:
        for match in pattern.finditer(text):
            before = text[: match.start()].split()[-1:]
            number = _number(match[1])
            if number is not None and not (before and before[0].lower() in _VERSIONED):
                return number
    return None


def _of_one_host(count: int | None, text: str) -> int | None:
    """``16 GPUs on 2 nodes`` are 8 of each; ``2 nodes, 8 each`` are 8 already."""
    match = _HOSTS.search(text)
    hosts = _number(match[1]) if match is not None else None
    if count is None or hosts is None or count <= CARDS_OF_A_HOST or count % hosts or _FOR_EACH.search(text):
        return count
    return count // hosts


def _sized(card: Card, count: int | None, told: Sequence[int]) -> tuple[str, float]:
    """The build of the card that the told GB are those of; a total of all cards is recognised as such."""
    for gb in told:
        if abs(gb - card.memory_gb) <= 0.13 * card.memory_gb:
            break
        for size, name, memory_gb in card.sizes:
            if gb == size:
                return name, memory_gb
        total = count is not None and count > 1 and abs(gb - count * card.memory_gb) <= 0.13 * gb
        if not total and 0.4 * card.memory_gb <= gb <= 2.1 * card.memory_gb:
            return card.name, float(gb)  # rebuilt cards exist: an RTX 4090 with 48 GB
    return card.name, card.memory_gb
