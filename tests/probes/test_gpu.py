"""The GPU probe against NVML with each way to fail, against the simulator's file, and against this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from wizard.core.reading import Outcome, Trust
from wizard.core.target import Launch, Target
from wizard.core.vocabulary import VOCABULARY
from wizard.probes import gpu
from wizard.probes.base import NoData, ProbeContext, Unavailable, run_probe
from wizard.server.identity import identify

GIB = 1 << 30
NO_SUCH_PID = 2**22 + 7
DOWN = Target(launch=Launch(("python", "-m", "sglang.launch_server"), "/"))


@dataclass
class FakeCard:
    total: int = 80 * GIB
    used: int = 0
    uuid: str = "GPU-0"
    holders: dict[int, int | None] = field(default_factory=dict)
    fails: dict[str, int] = field(default_factory=dict)
    slices: list[FakeCard] | None = None
    name: str = "NVIDIA H200"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> list[FakeCard]:
    """pynvml with its functions answering from a list of cards; its error classes stay the real ones."""
    cards: list[FakeCard] = []

    def answer(name: str, value: Callable[[FakeCard], Any]) -> None:
        def call(card: FakeCard, *_: object) -> Any:
            if name in card.fails:
                raise pynvml.NVMLError(card.fails[name])
            return value(card)

        monkeypatch.setattr(pynvml, name, call)

    def running(card: FakeCard) -> list[Any]:
        return [SimpleNamespace(pid=p, usedGpuMemory=held) for p, held in card.holders.items()]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(cards))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda i: cards[i])
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.159.04")
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: 13000)
    answer("nvmlDeviceGetUUID", lambda c: c.uuid)
    answer("nvmlDeviceGetName", lambda c: c.name)
    answer(
        "nvmlDeviceGetMemoryInfo", lambda c: SimpleNamespace(total=c.total, used=c.used, free=c.total - c.used)
    )
    answer("nvmlDeviceGetUtilizationRates", lambda c: SimpleNamespace(gpu=99, memory=60))
    answer("nvmlDeviceGetPowerUsage", lambda c: 680990)
    answer("nvmlDeviceGetEnforcedPowerLimit", lambda c: 700000)
    answer("nvmlDeviceGetClockInfo", lambda c: 1763)
    answer("nvmlDeviceGetTemperature", lambda c: 36)
    answer("nvmlDeviceGetComputeRunningProcesses", running)
    answer("nvmlDeviceGetMPSComputeRunningProcesses", lambda c: [])
    answer("nvmlDeviceGetMigMode", lambda c: [int(c.slices is not None)] * 2)
    answer("nvmlDeviceGetMaxMigDeviceCount", lambda c: 7)

    def part(card: FakeCard, place: int) -> FakeCard:
        if card.slices is None or place >= len(card.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.slices[place]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", part)
    return cards


@pytest.fixture
def server() -> Iterator[Target]:
    """A process that stands for the target."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield Target(identity=identify(child.pid))
    child.communicate()


def test_whole_readings(nvml: list[FakeCard], server: Target) -> None:
    assert server.identity is not None
    nvml.append(FakeCard(141 * GIB, 132 * GIB, holders={server.identity.pid: 131 * GIB}))
    result = gpu.examine(server)
    assert (result.outcome, result.reason) == (Outcome.OK, None)
    assert set(result.values) <= set(VOCABULARY)
    assert {name: value.x for name, value in result.values.items()} == {
        "gpu.count": 1,
        "gpu.name": "NVIDIA H200",
        "gpu.utilization": 99,
        "gpu.memory_total_gb": 141.0,
        "gpu.memory_used_gb": 132.0,
        "gpu.memory_free_gb": 9.0,
        "gpu.target_memory_gb": 131.0,
        "gpu.other_memory_gb": 0.0,
        "gpu.power_w": 681.0,
        "gpu.power_limit_w": 700.0,
        "gpu.sm_clock_mhz": 1763,
        "gpu.temperature_c": 36,
        "gpu.memory_bandwidth_gbs": 4800.0,
        "gpu.driver_version": "580.159.04",
        "gpu.cuda_version": "13.0",
    }


def test_a_foreign_process_is_named_without_its_secrets(nvml: list[FakeCard], server: Target) -> None:
    assert server.identity is not None
    other = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "--api-key", "hunter2"], stdin=subprocess.PIPE
    )
    try:
        nvml.append(FakeCard(used=78 * GIB, holders={server.identity.pid: 16 * GIB, other.pid: 61 * GIB}))
        x = {k: v.x for k, v in gpu.examine(server).values.items()}
    finally:
        other.communicate()
    assert x["gpu.target_memory_gb"] == 16.0
    assert x["gpu.other_memory_gb"] == 61.0
    named = x["gpu.other_process"]
    assert named.startswith(f"pid {other.pid} (")
    assert named.endswith(" 61.0 GiB")
    assert "hunter2" not in named


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver is installed", "container"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded", "modprobe"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions", "reboot or reload the driver"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission", "/dev/nvidia"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML failed", "nvidia-smi"),
    ],
)
def test_failures_at_start_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, code: int, reason: str, remedy: str
) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    with pytest.raises(Unavailable) as caught:
        gpu.examine(DOWN)
    assert reason in caught.value.reason
    assert remedy in (caught.value.remedy or "")


def test_this_machine_says_what_it_has() -> None:
    """Cards where there is a driver; where there is none, which is not there and what to do."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(Unavailable) as caught:
            gpu.examine(DOWN)
        assert caught.value.reason
        assert caught.value.remedy
    else:
        pynvml.nvmlShutdown()
        assert gpu.examine(DOWN).values["gpu.count"].x >= 1


def test_no_card(nvml: list[FakeCard]) -> None:
    with pytest.raises(Unavailable, match="no card"):
        gpu.examine(DOWN)


def test_a_lost_card_is_a_finding_of_its_own(nvml: list[FakeCard]) -> None:
    nvml.append(FakeCard(fails={"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_GPU_IS_LOST}))
    with pytest.raises(Unavailable, match="lost"):
        gpu.examine(DOWN)


def test_an_unsupported_field_leaves_the_others(nvml: list[FakeCard]) -> None:
    no = pynvml.NVML_ERROR_NOT_SUPPORTED
    nvml.append(FakeCard(fails={"nvmlDeviceGetPowerUsage": no, "nvmlDeviceGetUtilizationRates": no}))
    result = gpu.examine(DOWN)
    assert result.outcome is Outcome.OK
    assert "power (not supported" in (result.reason or "")
    assert "gpu.power_w" not in result.values
    assert "gpu.utilization" not in result.values
    assert result.values["gpu.memory_free_gb"].x == 80.0


def test_pids_of_another_namespace_are_not_called_foreign(nvml: list[FakeCard], server: Target) -> None:
    nvml.append(FakeCard(used=61 * GIB, holders={NO_SUCH_PID: 60 * GIB}))
    result = gpu.examine(server)
    assert "gpu.other_memory_gb" not in result.values
    assert "gpu.target_memory_gb" not in result.values
    assert "namespace" in (result.reason or "")
    # With no server up whatever is there is in its way.
    down = {k: v.x for k, v in gpu.examine(DOWN).values.items()}
    assert down["gpu.other_memory_gb"] == 60.0
    assert "not visible" in down["gpu.other_process"]


def test_memory_in_use_that_nobody_is_listed_for(nvml: list[FakeCard], server: Target) -> None:
    nvml.append(FakeCard(used=50 * GIB))
    assert "gpu.other_memory_gb" not in gpu.examine(server).values
    other = gpu.examine(DOWN).values["gpu.other_memory_gb"]
    assert (other.x, other.trust) == (50.0, Trust.ESTIMATED)
    nvml[0].used = 615 << 20  # an idle H200
    assert gpu.examine(DOWN).values["gpu.other_memory_gb"].x == 0.0


def test_several_cards_the_one_in_use_counts(nvml: list[FakeCard], server: Target) -> None:
    assert server.identity is not None
    pid = server.identity.pid
    nvml += [
        FakeCard(used=79 * GIB, uuid="GPU-a", holders={1: 79 * GIB}),
        FakeCard(used=20 * GIB, uuid="GPU-b", holders={pid: 20 * GIB}),
        FakeCard(used=50 * GIB, uuid="GPU-c", holders={pid: 50 * GIB}),
    ]
    x = {k: v.x for k, v in gpu.examine(server).values.items()}
    assert x["gpu.count"] == 3
    assert x["gpu.memory_free_gb"] == 30.0  # the tighter one of its two cards


@pytest.mark.parametrize(
    ("visible", "flags", "expected"),
    [
        (None, (), [0]),
        ("2", (), [2]),
        ("3,1", ("--tp", "2"), [3, 1]),
        ("GPU-2", (), [2]),
        (None, ("--base-gpu-id", "1", "--tp-size=2"), [1, 2]),
        (None, ("--gpu-id-step", "2", "--tensor-parallel-size", "2"), [0, 2]),
        ("7", (), [0]),
    ],
)
def test_which_cards_a_command_means(visible: str | None, flags: tuple[str, ...], expected: list[int]) -> None:
    cards = [gpu.Card(i, f"GPU-{i}") for i in range(4)]
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    target = Target(launch=Launch(("python", "-m", "sglang.launch_server", *flags), "/", environ))
    assert [card.index for card in gpu.choose_cards(cards, target, set())] == expected


def test_a_hung_driver_holds_one_thread_only(nvml: list[FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    entered = threading.Event()

    def hang() -> int:
        entered.set()
        release.wait(30)
        return 1

    nvml.append(FakeCard())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", hang)
    stuck = threading.Thread(target=gpu.examine, args=(DOWN,), daemon=True)
    stuck.start()
    assert entered.wait(10)
    try:
        with pytest.raises(Unavailable, match="unanswered"):
            gpu.examine(DOWN)
    finally:
        release.set()
        stuck.join(10)


def write_card(path: Path, **over: Any) -> Target:
    document = {
        "simulated": True,
        "name": "Simulated H100 80GB",
        "memory_total_bytes": 80 * GIB,
        "driver_version": "580.159.04",
        "power_limit_w": 700,
        "utilization": 97,
        "power_w": 512.5,
        "sm_clock_mhz": 1755,
        "temperature_c": 44,
        "updated": 1.0,
        "processes": [],
        **over,
    }
    path.write_text(json.dumps(document))
    return Target(simulated=True, card_path=str(path), launch=DOWN.launch)


def test_simulated_card(tmp_path: Path, server: Target) -> None:
    assert server.identity is not None
    pid, start = server.identity.pid, server.identity.start_ticks
    own = identify(os.getpid())
    assert own is not None
    path = tmp_path / "card.json"
    holders = [
        {"pid": pid, "start_ticks": start, "used_bytes": 60 * GIB, "name": "sglang::scheduler"},
        {"pid": os.getpid(), "start_ticks": own.start_ticks, "used_bytes": 8 * GIB, "name": "train.py"},
        {"pid": pid, "start_ticks": start + 1, "used_bytes": 9 * GIB, "name": "an earlier life"},
        {"pid": NO_SUCH_PID, "start_ticks": 1, "used_bytes": 9 * GIB, "name": "dead"},
    ]
    starting = {"pid": NO_SUCH_PID, "start_ticks": None, "used_bytes": GIB, "name": "gone before it was known"}
    write_card(path, memory_reserved_bytes=GIB, processes=[*holders[2:], starting, *holders[:2]])
    target = Target(identity=server.identity, simulated=True, card_path=str(path))
    result = gpu.examine(target)
    x = {k: v.x for k, v in result.values.items()}
    assert x["gpu.memory_used_gb"] == 69.0  # the driver's reserve is used, and nobody's
    assert x["gpu.memory_free_gb"] == 11.0
    assert x["gpu.target_memory_gb"] == 60.0
    assert x["gpu.other_memory_gb"] == 8.0
    assert x["gpu.other_process"].startswith(f"pid {os.getpid()} (")
    assert x["gpu.power_w"] == 512.5
    assert "simulated" in result.values["gpu.memory_used_gb"].source
    assert set(x) <= set(VOCABULARY)
    assert gpu.card_memory_by_pid(target) == {pid: 60 * GIB, os.getpid(): 8 * GIB}


def test_simulated_card_of_a_dead_simulator(tmp_path: Path) -> None:
    dead = [{"pid": NO_SUCH_PID, "start_ticks": 1, "used_bytes": 60 * GIB, "name": "sglang::scheduler"}]
    target = write_card(tmp_path / "card.json", processes=dead)
    x = {k: v.x for k, v in gpu.examine(target).values.items()}
    assert x["gpu.memory_free_gb"] == 80.0
    assert "gpu.utilization" not in x
    assert gpu.card_memory_by_pid(target) == {}


@pytest.mark.parametrize(
    "text",
    ["{", "", "[]", '"x"', '{"memory_total_bytes": "much"}', '{"memory_total_bytes": 1, "processes": [1]}'],
)
def test_broken_card_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    target = Target(simulated=True, card_path=str(path), launch=DOWN.launch)
    with pytest.raises(Unavailable) as caught:
        gpu.examine(target)
    assert str(path) in caught.value.reason
    assert "\n" not in caught.value.reason
    assert gpu.card_memory_by_pid(target) == {}


def test_card_file_that_is_not_there(tmp_path: Path) -> None:
    target = Target(simulated=True, card_path=str(tmp_path / "none.json"), launch=DOWN.launch)
    with pytest.raises(Unavailable, match="No such file"):
        gpu.examine(target)
    with pytest.raises(NoData):
        gpu.examine(Target(simulated=True, launch=DOWN.launch))


@pytest.mark.parametrize("target", [Target(remote=True), Target(log_path="server.log")])
def test_another_machine_is_not_measured_here(target: Target) -> None:
    with pytest.raises(NoData):
        gpu.examine(target)


async def test_a_hung_driver_times_out_and_the_next_sweep_says_so(
    nvml: list[FakeCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    nvml.append(FakeCard())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: release.wait(30) and 1)
    monkeypatch.setattr(gpu.GpuProbe, "spec", replace(gpu.GpuProbe.spec, timeout_s=0.3))
    try:
        first = await run_probe("gpu", ProbeContext(DOWN))
        assert first.outcome is Outcome.TIMED_OUT
        monkeypatch.setattr(gpu.GpuProbe, "spec", replace(gpu.GpuProbe.spec, timeout_s=10))
        second = await run_probe("gpu", ProbeContext(DOWN))
        assert second.outcome is Outcome.UNAVAILABLE
        assert "unanswered" in (second.reason or "")
    finally:
        release.set()


async def test_the_engine_gets_reason_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    result = await run_probe("gpu", ProbeContext(DOWN))
    assert result.outcome is Outcome.UNAVAILABLE
    assert "different versions" in (result.reason or "")
    assert "reload the driver" in (result.remedy or "")


def slice_of(size: int, uuid: str, **more: Any) -> FakeCard:
    return FakeCard(size * GIB, uuid=uuid, name=f"NVIDIA A100-SXM4-80GB MIG {size}", **more)


def test_a_card_in_mig_mode_is_read_slice_by_slice(nvml: list[FakeCard], server: Target) -> None:
    assert server.identity is not None
    held = slice_of(39, "MIG-b", used=30 * GIB, holders={server.identity.pid: 29 * GIB})
    nvml.append(FakeCard(80 * GIB, 31 * GIB, slices=[slice_of(9, "MIG-a"), held]))
    result = gpu.examine(server)
    x = {name: value.x for name, value in result.values.items()}
    assert (x["gpu.memory_total_gb"], x["gpu.memory_used_gb"], x["gpu.target_memory_gb"]) == (39, 30, 29)
    assert (x["gpu.count"], x["gpu.mig"], x["gpu.name"]) == (1, True, "NVIDIA A100-SXM4-80GB MIG 39")
    assert "gpu.utilization" not in x
    assert "gpu.memory_bandwidth_gbs" not in x
    assert x["gpu.power_w"] == 681.0
    assert "one slice only" in (result.reason or "")
    assert set(x) <= set(VOCABULARY)


def test_the_slice_that_the_command_names(nvml: list[FakeCard]) -> None:
    nvml.append(FakeCard(slices=[slice_of(9, "MIG-aaa"), slice_of(39, "MIG-bbb"), slice_of(19, "MIG-ccc")]))
    launch = Launch(
        ("sglang", "serve", "m", "--tp", "2"), "/", environ={"CUDA_VISIBLE_DEVICES": "MIG-bb,MIG-aaa"}
    )
    assert gpu.examine(replace(DOWN, launch=launch)).values["gpu.memory_total_gb"].x == 39


def test_a_card_in_mig_mode_whose_slices_are_not_ours(nvml: list[FakeCard]) -> None:
    nvml.append(FakeCard(slices=[]))
    result = gpu.examine(DOWN)
    assert "gpu.memory_total_gb" not in result.values
    assert "memory of its MIG slices" in (result.reason or "")


def test_whole_cards_beside_one_in_mig_mode_are_counted(nvml: list[FakeCard]) -> None:
    nvml.extend(
        [FakeCard(uuid="GPU-0"), FakeCard(uuid="GPU-1", slices=[slice_of(9, "MIG-a")]), FakeCard(uuid="GPU-2")]
    )
    result = gpu.examine(DOWN)
    assert (result.values["gpu.count"].x, "gpu.mig" in result.values) == (2, False)
