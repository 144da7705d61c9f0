"""What systemd says of a unit: whether the wizard may change it, and what a stop of it would take along."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from wizard.core.held import Held
from wizard.server.supervisors.contract import SupervisorError
from wizard.server.supervisors.tool import ask

SYSTEM_FOLDERS = ("/etc/systemd/system", "/run/systemd/system")
_PROPERTIES = ["MainPID", "Type", "Restart", "RefuseManualStop", "RefuseManualStart", "ExecStart"]
_PROPERTIES += ["LoadState", "NeedDaemonReload", "ExecStartEx", "ExecStop", "SuccessAction", "FailureAction"]
_PROPERTIES += ["EnvironmentFiles"]
_DEPENDENTS = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
"""Units that a stop takes along and a start does not bring back (systemd.unit(5))."""
_PROPERTIES += _DEPENDENTS
MOST_DEPENDENTS = 50
_LOST_PREFIXES = {"privileged": "+", "no-setuid": "!", "ambient": "!!"}
"""Of ExecStart=, as ExecStartEx tells them: a drop-in without them would run as somebody else."""
_SIMPLE_TYPES = frozenset({"simple", "exec", "notify", "notify-reload", "idle"})


def held_by(pid: int, unit: str, user: bool = False, folders: tuple[str, str] = SYSTEM_FOLDERS) -> Held:
    """The unit as holder of process ``pid``; ``why_not`` says what stands in the way. Only asks."""
    details = {"folder": folders[0], "run_folder": folders[1]}
    try:
        about = show(client(user), unit)
        needed_by = _running_dependents(client(user), about)
    except SupervisorError as error:
        return Held("systemd", unit, why_not=str(error), details=details)
    policy = about.get("Restart", "no")
    details["program"] = _program(about.get("ExecStart", ""))
    details["prefix"] = "-" if "; ignore_errors=yes ;" in about.get("ExecStart", "") else ""
    details["environ_files"] = about.get("EnvironmentFiles", "")
    restarts = "" if policy in ("no", "") else f"Restart={policy}"
    why_not = _why_not(about, pid, user, details["program"]) or _reaches_further(about, needed_by)
    return Held("systemd", unit, restarts, why_not, details=details)


def overrules(held: Held, names: Collection[str]) -> str:
    """Why variables of these names cannot be set by a drop-in: a file of the unit sets one of them, and files
    win over ``Environment=`` (systemd.exec(5)). "" where none does; a file that cannot be read is said too."""
    for line in held.details.get("environ_files", "").splitlines() if names else ():
        pattern = line.partition(" (ignore_errors=")[0].strip()
        for path in sorted(glob.glob(pattern)):
            try:
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                return (
                    f"its EnvironmentFile {path} cannot be read ({error.strerror}), and may win over a drop-in"
                )
            for name in sorted(names):
                if re.search(rf"(?m)^[ \t]*{re.escape(name)}[ \t]*=", text):
                    return f"{path} (EnvironmentFile=) sets {name}, which wins over a drop-in"
    return ""


def _running_dependents(client: tuple[str, ...], about: Mapping[str, str]) -> list[str]:
    """Units that would go down with it and stay down. A target is a name for others, which it takes along."""
    seen: set[str] = set()
    todo = [name for kind in _DEPENDENTS for name in about.get(kind, "").split()]
    while todo and len(seen) < MOST_DEPENDENTS:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.endswith(".target"):
            told = ask([*client, "show", name, *(word for kind in _DEPENDENTS for word in ("-p", kind))])
            todo += [one for line in told.splitlines() for one in line.partition("=")[2].split()]
    found = sorted(name for name in seen if not name.endswith(".target"))
    states = [(n, ask([*client, "show", n, "-p", "ActiveState", "--value"]).strip()) for n in found]
    return [name for name, state in states if state not in ("inactive", "failed")]


def _reaches_further(about: Mapping[str, str], needed_by: Sequence[str]) -> str:
    """Why a stop and a start would do more than that."""
    if needed_by:
        return f"{', '.join(needed_by)} would be stopped with it and not started again"
    if about.get("ExecStop"):
        return "a command of its own runs when it is stopped (ExecStop=)"
    for name in ("SuccessAction", "FailureAction"):
        if about.get(name, "none") not in ("none", ""):
            return f"the host would be told to {about[name]} when it ends ({name}=)"
    flags = set(re.findall(r"[\w-]+", " ".join(re.findall(r" flags=(.*?) ;", about.get("ExecStartEx", "")))))
    lost = [mark for flag, mark in _LOST_PREFIXES.items() if flag in flags]
    return f"its ExecStart has a prefix ({' '.join(lost)}) that a drop-in would lose" if lost else ""


def _why_not(about: Mapping[str, str], pid: int, user: bool, program: str) -> str:
    if user:
        return "it is a unit of a user's own systemd"
    if os.geteuid() != 0:
        return "only root may change a system unit: run the wizard as root"
    if about.get("LoadState") not in (None, "loaded"):
        return f"the unit is {about['LoadState']}"
    if about.get("Type", "simple") not in _SIMPLE_TYPES:
        return f"its type is {about['Type']}"
    if about.get("MainPID") != str(pid):
        return "the unit starts a wrapper around the server"
    if about.get("NeedDaemonReload") == "yes":
        return (
            "its file was edited and not loaded yet (systemctl daemon-reload), which a restart would bring in"
        )
    if not program:
        return "its ExecStart cannot be read"
    if "yes" in (about.get("RefuseManualStop"), about.get("RefuseManualStart")):
        return "the unit refuses to be stopped or started by hand"
    return ""


def _program(exec_start: str) -> str:
    """The one program of ``systemctl show -p ExecStart``; "" for none or several."""
    found = re.findall(r"\{ path=(.*?) ; argv\[\]=", exec_start)
    return found[0] if len(found) == 1 else ""


def client(user: bool = False) -> tuple[str, ...]:
    return ("systemctl", "--user") if user else ("systemctl",)


def show(client: tuple[str, ...], unit: str) -> dict[str, str]:
    words = [word for name in _PROPERTIES for word in ("-p", name)]
    text = ask([*client, "show", unit, *words])
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, is_one, value = line.partition("=")
        if is_one:
            found[name] = f"{found[name]}\n{value}" if name in found else value
    return found
