"""Cards as NVML tells of them (pynvml is imported late): memory, holders, load, slices of cards in MIG mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from wizard.core.cards import bandwidth_gbs
from wizard.core.reading import Trust, Value
from wizard.probes.base import Unavailable

_nvml_guard = threading.Lock()


@dataclass
class Card:
    """One card as a provider saw it. ``holders``: bytes by pid; None = listed without a number."""

    index: int
    uuid: str = ""
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    holders: dict[int, int | None] = field(default_factory=dict)
    readings: dict[str, Value] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def explain_failure(error: Exception, nvml: ModuleType) -> Unavailable:
    """What an NVML error means on this machine, and what to do about it."""
    code = getattr(error, "value", None)
    known: dict[int, tuple[str, str]] = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
            "no NVIDIA driver is installed here (libnvidia-ml.so.1 was not found)",
            "run the wizard where the GPU is; in a container start it with the NVIDIA runtime (--gpus all)",
        ),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is installed but not loaded",
            "load it (modprobe nvidia), and look into dmesg when that fails",
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA library and the loaded kernel driver have different versions",
            "reboot or reload the driver: it was upgraded while the old one was running",
        ),
        nvml.NVML_ERROR_NO_PERMISSION: (
            "no permission to ask the NVIDIA driver",
            "run the wizard as a user who may open /dev/nvidia* (or give the container the devices)",
        ),
        nvml.NVML_ERROR_GPU_IS_LOST: (
            "the driver has lost the GPU (fallen off the bus)",
            "look for Xid 79 in dmesg; the host needs a reboot",
        ),
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
            "the installed driver is too old for this query",
            "update the NVIDIA driver",
        ),
    }
    reason, remedy = known.get(
        code if isinstance(code, int) else -1, (f"NVML failed: {error}", "try nvidia-smi")
    )
    return Unavailable(reason, remedy)


@contextmanager
def _nvml_session() -> Iterator[ModuleType]:
    """NVML initialised. Raises Unavailable: not to be had, or an earlier call still hangs in the driver."""
    try:
        import pynvml as nvml
    except ImportError as error:
        raise Unavailable(
            "the Python package nvidia-ml-py is not installed", "pip install nvidia-ml-py"
        ) from error
    # A call that hangs in the driver keeps its thread for good: one such thread is enough.
    if not _nvml_guard.acquire(timeout=1.0):
        raise Unavailable(
            "an earlier question to the NVIDIA driver is still unanswered",
            "the driver hangs: nvidia-smi will hang too; look for Xid lines in dmesg",
        )
    try:
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise explain_failure(error, nvml) from error
        try:
            yield nvml
        except nvml.NVMLError as error:
            raise explain_failure(error, nvml) from error
        finally:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                pass  # what was read stays read
    finally:
        _nvml_guard.release()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _read_card(nvml: ModuleType, index: int) -> Card:
    """One card. A field that it cannot tell is listed in ``missing``; a lost card raises NVMLError."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    card = Card(index)

    def ask(name: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
                card.missing.append(f"{name} (not supported by this card)")
            elif error.value == nvml.NVML_ERROR_NO_PERMISSION:
                card.missing.append(f"{name} (no permission)")
            else:
                card.missing.append(f"{name} ({error})")
            return None

    def note(reading: str, x: Any) -> None:
        if x is not None:
            card.readings[reading] = Value(x, source=f"NVML card {index}")

    card.uuid = _text(ask("uuid", lambda: nvml.nvmlDeviceGetUUID(handle)) or "")
    name = ask("name", lambda: nvml.nvmlDeviceGetName(handle))
    note("gpu.name", None if name is None else _text(name))
    bandwidth = None if name is None else bandwidth_gbs(_text(name))
    if bandwidth is not None:
        card.readings["gpu.memory_bandwidth_gbs"] = Value(bandwidth, Trust.DOCUMENTED, "data sheet")
    memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    if memory is not None:
        card.total_bytes, card.used_bytes, card.free_bytes = (
            int(memory.total),
            int(memory.used),
            int(memory.free),
        )
    rates = ask("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    note("gpu.utilization", None if rates is None else int(rates.gpu))
    power = ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    note("gpu.power_w", None if power is None else round(power / 1000, 1))
    limit = ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    note("gpu.power_limit_w", None if limit is None else round(limit / 1000, 1))
    note(
        "gpu.sm_clock_mhz",
        ask("SM clock", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
    )
    note(
        "gpu.temperature_c",
        ask("temperature", lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
    )
    running = ask("processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    try:  # most cards have no MPS: no news
        running = [*running, *nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)]
    except nvml.NVMLError:
        pass
    for process in running:
        held = process.usedGpuMemory
        card.holders[int(process.pid)] = None if held is None else int(held)
    return card


def _slices(nvml: ModuleType, card: Card) -> list[Card]:
    """A card in MIG mode as its slices, each with its own memory and processes; the card itself otherwise.

    Power, clock and temperature stay those of the whole card: NVML has none of a slice.
    """
    handle = nvml.nvmlDeviceGetHandleByIndex(card.index)
    try:
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return [card]
    except nvml.NVMLError:
        return [card]  # most cards cannot do it
    source = f"NVML card {card.index}"
    load = {k: v for k, v in card.readings.items() if k not in ("gpu.utilization", "gpu.memory_bandwidth_gbs")}
    load["gpu.mig"] = Value(True, source=source)
    found: list[Card] = []
    try:
        most = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except nvml.NVMLError:
        most = 0
    for place in range(most):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            one = Card(card.index, _text(nvml.nvmlDeviceGetUUID(part)), readings=dict(load))
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            continue  # places without a slice, and slices that are not ours
        one.total_bytes, one.used_bytes, one.free_bytes = int(memory.total), int(memory.used), int(memory.free)
        try:
            one.readings["gpu.name"] = Value(_text(nvml.nvmlDeviceGetName(part)), source=source)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(part):
                held = process.usedGpuMemory
                one.holders[int(process.pid)] = None if held is None else int(held)
        except nvml.NVMLError as error:
            one.missing.append(f"processes of a slice ({error})")
        found.append(one)
    if found:
        return found
    bare = Card(card.index, card.uuid, readings=load, missing=[*card.missing, "memory of its MIG slices"])
    return [bare]


def read_nvml() -> tuple[list[Card], dict[str, Value]]:
    """Every card, and the readings of the driver. Raises Unavailable."""
    with _nvml_session() as nvml:
        whole = [_read_card(nvml, i) for i in range(nvml.nvmlDeviceGetCount())]
        cards = [part for card in whole for part in _slices(nvml, card)]
        if not cards:
            raise Unavailable(
                "the NVIDIA driver works but shows no card",
                "look at lspci and dmesg; in a container, at NVIDIA_VISIBLE_DEVICES",
            )
        driver: dict[str, Value] = {}
        try:
            driver["gpu.driver_version"] = Value(_text(nvml.nvmlSystemGetDriverVersion()), source="NVML")
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
            driver["gpu.cuda_version"] = Value(f"{cuda // 1000}.{cuda % 1000 // 10}", source="NVML")
        except nvml.NVMLError as error:
            cards[0].missing.append(f"driver version ({error})")
        return cards, driver
