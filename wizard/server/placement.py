"""Reading where a process runs and at what rank, and starting another one there.

Most of it is an attribute of a thread that a child inherits at fork (sched_setaffinity(2), set_mempolicy(2),
setpriority(2), ioprio_set(2)), and the memory policy of a running process cannot be set from outside. So a
server is started from a thread of its own that took these attributes on and ends right after: no wrapper stands
in the server's command line, no code of ours runs between fork and exec, and the wizard itself stays as it is.
The same thread, starting nothing, tells beforehand what this user may not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import re
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wizard.core.placement import Placement, cpu_list, io_words
from wizard.core.target import Launch
from wizard.server import proc

T = TypeVar("T")

_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 269}
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}
"""System calls without a wrapper in the C library, by machine (kernel: arch/*/.../syscall*.tbl)."""
_IOPRIO_WHO_PROCESS = 1

_MODES = {
    "default": 0,
    "prefer": 1,
    "bind": 2,
    "interleave": 3,
    "local": 4,
    "prefer (many)": 5,
    "weighted interleave": 6,
}
"""policy_modes and MPOL_* of the kernel (mm/mempolicy.c, include/uapi/linux/mempolicy.h)."""
_FLAGS = {"static": 1 << 15, "relative": 1 << 14, "balancing": 1 << 13}
_POLICY = re.compile(
    r"(?P<mode>default|local|prefer \(many\)|prefer|bind|interleave|weighted interleave)"
    r"(?:=(?P<flags>[a-z|]+))?(?::(?P<nodes>[\d,-]+))?"
)
_MOST_NODES = 1024
_PINS_ITSELF = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
"""With one of these OpenMP binds the main thread to a processor of its own: that is not what it was given."""
_SYS_RESOURCE = 24


# -- reading


def read(pid: int) -> Placement:
    """Of a running process; what cannot be seen stays unknown."""
    nice = None
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, pid)
    return Placement(_cpus(pid), _memory(pid), nice, _io(pid), _oom(pid), _cgroups(pid))


def _cpus(pid: int) -> tuple[int, ...]:
    """All that any thread of it may run on: a library may have bound the main thread after the start."""
    if any(proc.environ(pid).get(name, "").lower() not in ("", "false", "disabled") for name in _PINS_ITSELF):
        return ()
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found |= os.sched_getaffinity(int(name))
    return tuple(sorted(found))


def _memory(pid: int) -> str:
    """The policy of its first mapping, the program's own file, which has none but that of the thread asked of.

    Only the head is read: the kernel walks all page tables of what is asked for.
    """
    try:
        with open(f"/proc/{pid}/numa_maps", "rb", buffering=0) as file:
            line = file.read(4096).partition(b"\n")[0].decode("utf-8", "replace")
    except OSError:
        return ""
    found = _POLICY.match(line.partition(" ")[2])
    return found.group(0) if found else ""


def _io(pid: int) -> int | None:
    found = _call(_IOPRIO_GET, _IOPRIO_WHO_PROCESS, pid)
    return found if found is not None and found >= 0 else None


def _oom(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _cgroups(pid: int | str) -> tuple[str, ...]:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    return tuple(sorted(line for line in text.splitlines() if line.count(":") >= 2))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(numbers: dict[str, int], *words: object) -> int | None:
    """The answer of a system call, minus errno where it failed; None where its number is not known here."""
    number = numbers.get(platform.machine())
    if number is None:
        return None
    answer = int(_libc().syscall(ctypes.c_long(number), *words))
    return answer if answer >= 0 else -(ctypes.get_errno() or errno.EIO)


# -- starting there


def start_at(wanted: Placement, start: Callable[[], T]) -> T:
    """Call ``start`` in a thread that took on what this user may have; what it raises is raised here."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        _take_on(wanted)
        try:
            answers.append(start())
        except BaseException as error:
            errors.append(error)

    _in_thread(work)
    if errors:
        raise errors[0]
    return answers[0]


def settle(pid: int, wanted: Placement) -> None:
    """What belongs to a whole process, right after its start: control groups first, for what it allocates.

    Its processors once more, as a move between cpusets resets them.
    """
    for line in wanted.cgroups:
        if line not in _cgroups(pid):
            path = _procs_file(line)
            with contextlib.suppress(OSError):
                if path is not None:
                    path.write_text(str(pid), encoding="utf-8")
    with contextlib.suppress(OSError, ValueError):
        if wanted.cpus and os.sched_getaffinity(pid) != set(wanted.cpus):
            os.sched_setaffinity(pid, wanted.cpus)
    if wanted.oom is not None and wanted.oom != _oom(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(wanted.oom), encoding="utf-8")


def differences(wanted: Placement, now: Placement) -> list[str]:
    """In words, what is not as wanted; what is unknown on either side is no difference."""
    found = []
    if wanted.cpus and now.cpus and wanted.cpus != now.cpus:
        found.append(f"processors {cpu_list(now.cpus)} instead of {cpu_list(wanted.cpus)}")
    if wanted.memory and now.memory and wanted.memory != now.memory:
        found.append(f"memory policy {now.memory} instead of {wanted.memory}")
    if None not in (wanted.nice, now.nice) and wanted.nice != now.nice:
        found.append(f"nice {now.nice} instead of {wanted.nice}")
    if wanted.io is not None and now.io is not None and wanted.io != now.io:
        found.append(f"I/O priority {io_words(now.io)} instead of {io_words(wanted.io)}")
    if None not in (wanted.oom, now.oom) and wanted.oom != now.oom:
        found.append(f"OOM score {now.oom} instead of {wanted.oom}")
    if wanted.cgroups and now.cgroups and wanted.cgroups != now.cgroups:
        lost = [line for line in wanted.cgroups if line not in now.cgroups]
        found += [f"control group {_moved_to(line, now.cgroups)} instead of {_path_of(line)}" for line in lost]
    return found


def shortfalls(launch: Launch, pid: int | None = None) -> tuple[str, ...]:
    """What of an old server would not be as before if this process started it again. Looks only.

    ``pid``: the old server, while it runs: a login's control group that it is alone in ends with it.
    """
    wanted, trial = launch.placement, Placement()

    def work() -> None:
        nonlocal trial
        _take_on(wanted)
        here = threading.get_native_id()
        cpus = tuple(sorted(os.sched_getaffinity(0)))
        trial = Placement(cpus, _memory(here), os.getpriority(os.PRIO_PROCESS, 0), _io(0))

    _in_thread(work)
    found = differences(wanted, trial)
    own = _oom(os.getpid())
    may_all = _may(_SYS_RESOURCE)
    if wanted.oom is not None and own is not None and wanted.oom < own and not may_all:
        found.append(f"OOM score {own} instead of {wanted.oom}")
    if not may_all:
        found += _limits_not_to_have(launch)
    ours = _cgroups("self")
    for line in wanted.cgroups:
        if line not in ours and not _can_join(line, pid):
            found.append(f"control group {_moved_to(line, ours)} instead of {_path_of(line)}")
    return tuple(found)


def _take_on(wanted: Placement) -> None:
    """The calling thread's own attributes, each as far as it may."""
    if wanted.cpus:
        with contextlib.suppress(OSError, ValueError):
            os.sched_setaffinity(0, wanted.cpus)
    if wanted.memory:
        _set_memory(wanted.memory)
    if wanted.io is not None:
        _call(_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, wanted.io)
    if wanted.nice is not None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, wanted.nice)


def _set_memory(policy: str) -> None:
    found = _POLICY.fullmatch(policy)
    if found is None:
        return
    mode = _MODES[found["mode"]]
    for flag in (found["flags"] or "").split("|"):
        mode |= _FLAGS.get(flag, 0)
    bits = ctypes.c_ulong * (_MOST_NODES // (8 * ctypes.sizeof(ctypes.c_ulong)))
    mask = bits()
    width = 8 * ctypes.sizeof(ctypes.c_ulong)
    for span in (found["nodes"] or "").split(",") if found["nodes"] else ():
        low, _, high = span.partition("-")
        for node in range(int(low), int(high or low) + 1):
            if node < _MOST_NODES:
                mask[node // width] |= 1 << (node % width)
    if found["nodes"]:
        _call(_SET_MEMPOLICY, ctypes.c_int(mode), mask, ctypes.c_ulong(_MOST_NODES + 1))
    else:
        _call(_SET_MEMPOLICY, ctypes.c_int(mode), None, ctypes.c_ulong(0))


def _in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, name="start-as-before")
    thread.start()
    thread.join()


# -- rights


def _may(capability: int) -> bool:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = next((line.split()[1] for line in text.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(found, 16) >> capability & 1)


def _limits_not_to_have(launch: Launch) -> list[str]:
    """Soft limits that lie above our own hard ones, which only root may raise."""
    found = []
    for name, (soft, _) in launch.limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        hard = resource.getrlimit(number)[1] if number is not None else resource.RLIM_INFINITY
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            wanted = "unlimited" if soft == resource.RLIM_INFINITY else soft
            found.append(f"limit {name} {hard} instead of {wanted}")
    return found


# -- control groups


def _path_of(line: str) -> str:
    return line.split(":", 2)[2]


def _moved_to(line: str, ours: tuple[str, ...]) -> str:
    """The group of the same hierarchy that is had in place of ``line``'s."""
    controllers = line.split(":", 2)[1]
    return next((_path_of(one) for one in ours if one.split(":", 2)[1] == controllers), "another one")


def _can_join(line: str, pid: int | None) -> bool:
    path = _procs_file(line)
    if path is None or not os.access(path, os.W_OK):
        return False
    if os.geteuid() != 0 and not line.split(":", 2)[1] and not _may_leave(line):
        return False
    return not (path.parent.name.endswith(".scope") and pid is not None and _is_alone(path, pid))


def _may_leave(line: str) -> bool:
    """cgroups(7), delegation: a move needs write access to the nearest group above both, too."""
    own = next((one for one in _cgroups("self") if one.split(":", 2)[1] == line.split(":", 2)[1]), None)
    if own is None:
        return False
    number, controllers, _ = line.split(":", 2)
    above = _procs_file(f"{number}:{controllers}:{os.path.commonpath([_path_of(own), _path_of(line)])}")
    return above is not None and os.access(above, os.W_OK)


def _is_alone(path: Path, pid: int) -> bool:
    """systemd removes a scope when its last process ends."""
    try:
        members = {int(one) for one in path.read_text(encoding="utf-8").split()}
    except (OSError, ValueError):
        return False
    return members <= {pid, *(one.pid for one in proc.descendants(pid))}


def _procs_file(line: str) -> Path | None:
    """The file that moves a process into the group of a /proc/PID/cgroup line; None where there is none."""
    _, controllers, path = line.split(":", 2)
    for root, mount, kind, options in _mounts():
        if kind == "cgroup2" if not controllers else kind == "cgroup" and _mounts_them(controllers, options):
            inside = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
            if inside.startswith("..") or "/../" in f"/{path}/":
                return None
            found = Path(mount, inside, "cgroup.procs")
            return found if found.is_file() else None
    return None


def _mounts_them(controllers: str, options: str) -> bool:
    return set(controllers.split(",")) <= set(options.split(","))


def _mounts() -> list[tuple[str, str, str, str]]:
    """(root, mount point, type, super options) of the control-group file systems, proc_pid_mountinfo(5)."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) > 4 and len(right) > 2 and right[0] in ("cgroup", "cgroup2"):
            found.append((left[3], left[4], right[0], right[2]))
    return found
