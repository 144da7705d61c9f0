"""The target's cards: memory and who holds it, power, clock, temperature.

Two providers of the same readings: NVML (through pynvml, imported late) and, for the wizard's simulator, the
JSON file in which it keeps its simulated card.

With several cards the readings of load (power, clock, temperature, name) are those of the target's first card;
those of memory are of the one of its cards with the least free memory, because that one runs out first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from wizard.core.cards import bandwidth_gbs
from wizard.core.hardware import MIG_NOTE
from wizard.core.reading import Outcome, ProbeResult, Trust, Value
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, Unavailable, in_thread
from wizard.probes.nvml import Card, read_nvml
from wizard.probes.process import GIB, command_of, is_running, tree_pids
from wizard.server import proc

UNLISTED_BYTES = int(1.5 * GIB)
"""Memory in use beyond what the listed processes hold, more than the driver's own share explains: an H200 has
615 MiB in use with no process on it (recordings/h200, nvml_10hz)."""


RELEASE_LIMIT_S = 3.0


def read_simulated(path: str) -> tuple[list[Card], dict[str, Value]]:
    """The simulator's card from its file. Raises Unavailable with one line when the file cannot be used.

    Processes that are gone (pid and start time) hold nothing any more; load readings are given only
    while one lives, because nobody refreshes them afterwards.
    """
    remedy = "start the simulated server again: it writes the file anew"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Unavailable(f"simulated card {path}: {error.strerror}", remedy) from error
    except ValueError as error:
        raise Unavailable(f"simulated card {path} is not JSON: {error}", remedy) from error
    source = f"simulated card {path}"
    try:
        total = int(document["memory_total_bytes"])
        reserved = int(document.get("memory_reserved_bytes", 0))
        alive = {
            int(entry["pid"]): int(entry["used_bytes"])
            for entry in document.get("processes", [])
            if entry["start_ticks"] is not None and is_running(int(entry["pid"]), int(entry["start_ticks"]))
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(
            f"simulated card {path}: wrong content ({type(error).__name__}: {error})", remedy
        ) from error
    used = reserved + sum(alive.values())  # NVML counts the driver's share as used too
    card = Card(0, "simulated", total, used, max(0, total - used), dict(alive))
    names = {"name": "gpu.name", "power_limit_w": "gpu.power_limit_w"}
    if alive:
        for key in ("utilization", "power_w", "sm_clock_mhz", "temperature_c"):
            names[key] = f"gpu.{key}"
    for key, reading in names.items():
        x = document.get(key)
        if isinstance(x, (int, float, str)):
            card.readings[reading] = Value(x, Trust.REPORTED, source)
    bandwidth = bandwidth_gbs(str(document.get("name")))
    if bandwidth is not None:
        card.readings["gpu.memory_bandwidth_gbs"] = Value(bandwidth, Trust.DOCUMENTED, "data sheet")
    version = document.get("driver_version")
    driver = {"gpu.driver_version": Value(version, Trust.REPORTED, source)} if isinstance(version, str) else {}
    return [card], driver


def read_cards(target: Target) -> tuple[list[Card], dict[str, Value]]:
    """The cards of the target's machine, real or simulated. Raises Unavailable or NoData."""
    if target.card_path is not None:
        return read_simulated(target.card_path)
    if target.simulated:
        raise NoData("the simulated server did not say where its card's file is")
    return read_nvml()


def _flag(argv: Sequence[str], name: str) -> str | None:
    """The last value given for a flag, as ``--flag value`` or ``--flag=value``."""
    found = None
    for position, word in enumerate(argv):
        if word == name and position + 1 < len(argv):
            found = argv[position + 1]
        elif word.startswith(name + "="):
            found = word.partition("=")[2]
    return found


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default


def choose_cards(cards: Sequence[Card], target: Target, tree: set[int]) -> list[Card]:
    """The cards that are the target's, first one first.

    Those that its tree holds memory on; else those that its command names (CUDA_VISIBLE_DEVICES,
    --base-gpu-id, --gpu-id-step, tensor and pipeline parallel size); else the first.
    """
    holding = [card for card in cards if tree & card.holders.keys()]
    if holding:
        return holding
    environ: Mapping[str, str] = target.launch.environ if target.launch else {}
    argv = target.launch.argv if target.launch else ()
    visible = list(cards)
    told = environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        by_name = {str(card.index): card for card in cards}
        named = []
        for word in (w.strip() for w in told.split(",")):
            match = by_name.get(word) or next((c for c in cards if word and c.uuid.startswith(word)), None)
            if match is None:
                break  # CUDA stops at the first one it does not know
            named.append(match)
        visible = named or visible
    first, step = _number(_flag(argv, "--base-gpu-id"), 0), max(1, _number(_flag(argv, "--gpu-id-step"), 1))
    size = 1
    for names in (("--tp-size", "--tensor-parallel-size", "--tp"), ("--pp-size", "--pipeline-parallel-size")):
        size *= next((_number(text, 1) for n in names if (text := _flag(argv, n)) is not None), 1)
    if visible and "gpu.mig" in visible[0].readings:
        size = 1  # a process sees one slice
    return visible[first::step][: max(1, size)] or visible[:1]


def describe_holder(pid: int, held_bytes: int | None) -> str:
    """``pid 4711 (python train.py) 61.0 GiB``."""
    command = command_of(pid)
    if not command:
        command = "not visible from here: another container or pid namespace" if not proc.state(pid) else "?"
    command = command if len(command) <= 80 else command[:77] + "..."
    size = "memory unknown" if held_bytes is None else f"{held_bytes / GIB:.1f} GiB"
    return f"pid {pid} ({command}) {size}"


def _memory_readings(
    card: Card, tree: set[int], source: str, trust: Trust
) -> tuple[dict[str, Value], str | None]:
    """Total, used, free, and whose it is; with what cannot be told about that."""

    def gib(amount: int, how: Trust = trust) -> Value:
        return Value(round(amount / GIB, 2), how, source)

    values: dict[str, Value] = {}
    for key, amount in (("total", card.total_bytes), ("used", card.used_bytes), ("free", card.free_bytes)):
        if amount is not None:
            values[f"gpu.memory_{key}_gb"] = gib(amount)
    foreign = {pid: held for pid, held in card.holders.items() if pid not in tree}
    own = {pid: held for pid, held in card.holders.items() if pid in tree}
    if tree and not own and any(not proc.state(pid) for pid in foreign):
        # NVML counts pids of the host; seen from a container the target's own pid looks foreign.
        return values, "the driver names pids of another namespace: whose memory it is cannot be told from here"
    unknown = [pid for pid, held in card.holders.items() if held is None]
    listed = sum(held or 0 for held in card.holders.values())
    unlisted = max(0, (card.used_bytes or 0) - listed)
    if unknown or unlisted > UNLISTED_BYTES:
        if tree:
            return values, "the driver does not say how much memory each process holds"
        # Nobody of ours runs: all that is in use is somebody else's, the driver's share apart.
        values["gpu.target_memory_gb"] = gib(0)
        values["gpu.other_memory_gb"] = gib(card.used_bytes or listed, Trust.ESTIMATED)
        if foreign:
            pid = max(foreign, key=lambda p: foreign[p] or 0)
            values["gpu.other_process"] = Value(describe_holder(pid, foreign[pid]), trust, source)
        return values, "the owners of some memory are not visible from here"
    values["gpu.target_memory_gb"] = gib(sum(held or 0 for held in own.values()))
    values["gpu.other_memory_gb"] = gib(sum(held or 0 for held in foreign.values()))
    if foreign:
        pid = max(foreign, key=lambda p: foreign[p] or 0)
        values["gpu.other_process"] = Value(describe_holder(pid, foreign[pid]), trust, source)
    return values, None


def examine(target: Target) -> ProbeResult:
    """Readings of the target's card. Raises Unavailable or NoData."""
    if target.remote and target.local:
        raise NoData("no process was found at this address: which card and memory are its cannot be told")
    if target.remote:
        raise NoData("the server runs on another machine: its GPU cannot be seen from here")
    if target.identity is None and target.launch is None and target.log_path is not None:
        raise NoData("the target is a saved log: this machine's GPU would mislead")
    cards, driver = read_cards(target)
    tree = tree_pids(target)
    chosen = choose_cards(cards, target, tree)
    first = chosen[0]
    simulated = target.card_path is not None
    mig = "gpu.mig" in first.readings
    count = 1 if mig else sum("gpu.mig" not in card.readings for card in cards)
    values = {**driver, "gpu.count": Value(count, Trust.REPORTED if simulated else Trust.MEASURED, "NVML")}
    if simulated:
        values["gpu.count"] = Value(1, Trust.REPORTED, f"simulated card {target.card_path}")
    values.update(first.readings)
    tightest = min(chosen, key=lambda c: c.free_bytes if c.free_bytes is not None else 1 << 62)
    source = f"simulated card {target.card_path}" if simulated else f"NVML card {tightest.index}"
    memory, doubt = _memory_readings(tightest, tree, source, Trust.REPORTED if simulated else Trust.MEASURED)
    values.update(memory)
    reasons = [f"card {first.index} does not tell: {', '.join(first.missing)}"] if first.missing else []
    if mig:
        reasons.append(MIG_NOTE)
    return ProbeResult("gpu", Outcome.OK, values, "; ".join([*reasons, *([doubt] if doubt else [])]) or None)


def card_memory_by_pid(target: Target) -> dict[int, int]:
    """Bytes of GPU memory by pid over all cards, real or simulated; for seeing whether memory was released.

    Empty when there is no way to look (no driver, a hung driver: given up after 3 s). In a container NVML may
    name pids of the host, so a pid that is absent here is no proof on its own.
    """
    held: dict[int, int] = {}

    def look() -> None:
        try:
            cards, _ = read_cards(target)
        except (Unavailable, NoData):
            return
        for card in cards:
            for pid, amount in card.holders.items():
                held[pid] = held.get(pid, 0) + (amount or 0)

    thread = threading.Thread(target=look, name="card-memory", daemon=True)
    thread.start()
    thread.join(RELEASE_LIMIT_S)
    return {} if thread.is_alive() else held


class GpuProbe:
    """Memory, power, clock and temperature of the card, and who holds its memory."""

    spec = ProbeSpec("gpu", "GPU", timeout_s=3.0, cost="asks NVML, nothing is changed")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        return await in_thread(examine, ctx.target)


PROBE = GpuProbe()
