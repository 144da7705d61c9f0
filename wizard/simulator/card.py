"""The simulated card: one JSON file that every simulator process on it shares, written atomically under a lock.

The file is the contract with the GPU probe; see `CardFile.write`. Memory is really accounted: an allocation
that does not fit raises `OutOfMemory`. Processes that died (pid and start time are compared) are dropped by
whoever writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wizard.simulator.gpu import MIB, CardModel

DRIVER = "570.124.06"


class OutOfMemory(Exception):
    """An allocation that the card cannot give; carries what torch would have said."""

    def __init__(self, wanted: int, free: int, mine: int, others: list[tuple[int, int]], total: int) -> None:
        self.wanted, self.free, self.mine, self.others, self.total = wanted, free, mine, others, total
        parts = [
            f"CUDA out of memory. Tried to allocate {size_text(wanted)}.",
            f"GPU 0 has a total capacity of {total / (1 << 30):.2f} GiB of which {size_text(free)} is free.",
        ]
        # torch names each process; in the order NVML lists them (recordings/h200/f_oom_side)
        parts.append(f"Including non-PyTorch memory, this process has {size_text(mine)} memory in use.")
        parts += [f"Process {pid} has {size_text(used)} memory in use." for pid, used in others]
        torch_own = max(mine - int(0.67 * (1 << 30)), 0)
        parts.append(
            f"Of the allocated memory {size_text(torch_own)} is allocated by PyTorch, and 1.72 MiB is "
            f"reserved by "
            "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
            "Memory "
            "Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
        )
        super().__init__(" ".join(parts))


def size_text(count: int) -> str:
    """Bytes the way torch prints them."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / MIB:.2f} MiB"


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rfind(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def card_path() -> Path:
    """SGLANG_SIM_CARD, or a private file of this user under the temp directory."""
    named = os.environ.get("SGLANG_SIM_CARD")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"sglang-sim-card-{os.getuid()}.json"


class CardFile:
    """The shared file of one card."""

    def __init__(self, path: Path, model: CardModel, owner_pid: int | None = None) -> None:
        self.path, self.model = path, model
        self.owner_pid = owner_pid or os.getpid()
        self._held, self._name = 0, "sglang::scheduler"  # put back when somebody deletes the file under us
        path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        handle = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            state = self.read()
            state["processes"] = [entry for entry in state["processes"] if _alive(entry)]
            yield state
            self._write(state)
        finally:
            os.close(handle)

    def read(self) -> dict[str, Any]:
        """The state as it stands; a fresh one when the file is missing, broken or of another card."""
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(state, dict) and state.get("name") == self.model.name:
                return state
        except (OSError, ValueError):
            pass
        return {
            "simulated": True,
            "name": self.model.name,
            "memory_total_bytes": self.model.memory_mib * MIB,
            "memory_reserved_bytes": self.model.memory_mib * MIB - self.model.usable_bytes,
            "driver_version": DRIVER,
            "power_limit_w": 700,
            "utilization": 0,
            "power_w": 77.0,
            "sm_clock_mhz": 345,
            "temperature_c": 31,
            "updated": time.time(),
            "processes": [],
        }

    def _write(self, state: dict[str, Any]) -> None:
        state["updated"] = time.time()
        temporary = Path(f"{self.path}.{os.getpid()}.tmp")
        handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(state, out)
        temporary.replace(self.path)

    def free_bytes(self) -> int:
        """What processes can still take; dead ones count as gone."""
        living = [entry for entry in self.read()["processes"] if _alive(entry)]
        return self.model.usable_bytes - sum(int(entry["used_bytes"]) for entry in living)

    def allocate(self, count: int, name: str, chunk: int | None = None) -> int:
        """Take `count` bytes for this process and return what is free then; raises `OutOfMemory`.

        With `chunk`, an allocation that does not fit takes what it can in pieces of that size before it fails,
        as loading a model's layers does; the error then names one piece.
        """
        with self._locked() as state:
            entry, self._name = self._own(state, name), name
            used = sum(int(each["used_bytes"]) for each in state["processes"])
            free = self.model.usable_bytes - used
            if count > free:
                if chunk:
                    entry["used_bytes"] += max(free // chunk, 0) * chunk
                    free -= max(free // chunk, 0) * chunk
                others = [
                    (int(each["pid"]), int(each["used_bytes"]))
                    for each in state["processes"]
                    if each is not entry
                ]
                raise OutOfMemory(
                    chunk or count, max(free, 0), int(entry["used_bytes"]), others, self.model.usable_bytes
                )
            entry["used_bytes"] += count
            self._held = int(entry["used_bytes"])
            return free - count

    def _own(self, state: dict[str, Any], name: str) -> dict[str, Any]:
        pid = self.owner_pid
        for entry in state["processes"]:
            if entry["pid"] == pid:
                return dict_of(entry)
        entry = {"pid": pid, "start_ticks": start_ticks(pid), "used_bytes": self._held, "name": name}
        state["processes"].append(entry)
        return entry

    def release(self) -> None:
        """Give this process's memory back."""
        with self._locked() as state:
            state["processes"] = [entry for entry in state["processes"] if entry["pid"] != self.owner_pid]

    def show(self, **values: float) -> None:
        """Set utilization, power_w, sm_clock_mhz, temperature_c."""
        with self._locked() as state:
            if self._held:
                self._own(state, self._name)
            state.update(values)


def dict_of(entry: Any) -> dict[str, Any]:
    """The entry itself, typed; raises TypeError when somebody else's writing made it no object."""
    if not isinstance(entry, dict):
        raise TypeError("the card file holds an entry that is not an object")
    return entry


def _alive(entry: Any) -> bool:
    try:
        ticks = start_ticks(int(entry["pid"]))
        return ticks is not None and ticks == int(entry["start_ticks"])
    except (KeyError, TypeError, ValueError):
        return False
