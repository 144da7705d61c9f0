#!/usr/bin/env python3
"""A stand-in for ``systemctl`` on PATH: one unit a ``NAME.service`` file in $STANDIN_WORLD, really run.

It knows show, daemon-reload, start, stop, restart, reset-failed and the settings that matter here: ExecStart,
Environment, UnsetEnvironment, Restart, KillMode, TimeoutStopSec, and drop-ins in ``NAME.service.d`` of
$STANDIN_WORLD/etc and /run. As systemd does, it takes in files only at a daemon-reload. A keeper process stands
above each unit's main process and starts it again as Restart= says. Every call is written to ``calls``.

Its reader of unit files is written from systemd.syntax(7) and systemd.service(5), not from the wizard's writer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WORLD = Path(os.environ["STANDIN_WORLD"])
C_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "s": " "}


def words_of(line: str) -> list[str]:
    """systemd.syntax(7): quotes at the start of a word, C escapes everywhere, blanks between."""
    words: list[str] = []
    i = 0
    while i < len(line):
        if line[i] in " \t":
            i += 1
            continue
        quote, word = "", ""
        while i < len(line):
            c = line[i]
            if c == "\\":
                e = line[i + 1]
                if e == "x":
                    word += chr(int(line[i + 2 : i + 4], 16))
                    i += 4
                else:
                    word += C_ESCAPES.get(e, e)
                    i += 2
            elif quote and c == quote:
                quote = ""
                i += 1
            elif not quote and c in "\"'":
                quote = c
                i += 1
            elif not quote and c in " \t":
                break
            else:
                word += c
                i += 1
        words.append(word)
    return words


def command(line: str) -> tuple[str, list[str]]:
    """Program and argv of an ExecStart line: @ gives another argv[0]; %% and $$ stand for themselves."""
    words = [w.replace("%%", "%").replace("$$", "$") for w in words_of(line.removeprefix("-"))]
    if words[0].startswith("@"):
        return words[0][1:], words[1:]
    return words[0], words


def settings(unit: str) -> dict[str, list[str]]:
    """All values of each [Service] setting; an empty one empties the list before it."""
    drop_ins = sorted(
        (p for part in ("etc", "run") for p in (WORLD / part / f"{unit}.d").glob("*.conf")),
        key=lambda p: p.name,
    )
    found: dict[str, list[str]] = {}
    for path in [WORLD / unit, *drop_ins]:
        section = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                found[name] = [*found.get(name, []), value] if value else []
    return found


def load(unit: str) -> dict[str, object]:
    path = WORLD / f"{unit}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(unit: str, **changes: object) -> None:
    path = WORLD / f"{unit}.json"
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({**load(unit), **changes}), encoding="utf-8")
    os.replace(fresh, path)


def keeper(unit: str) -> None:
    """Run the main process; again after it ended, as the policy says, until told to stop."""
    while True:
        known = load(unit)["settings"]
        program, argv = command(known["ExecStart"][-1])
        environ = {k: v for k, v in os.environ.items() if k not in ("STANDIN_WORLD",)}
        for line in known.get("Environment", []):
            environ.update(w.replace("%%", "%").split("=", 1) for w in words_of(line))
        for line in known.get("UnsetEnvironment", []):
            for name in words_of(line):
                environ.pop(name, None)
        with open(WORLD / f"{unit}.log", "ab") as log:
            main = subprocess.Popen(
                argv, executable=program, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=known.get("WorkingDirectory", ["/"])[-1], env=environ, start_new_session=True,
            )  # fmt: skip
        save(unit, main=main.pid, state="active")
        code = main.wait()
        if load(unit).get("stopping"):
            save(unit, main=0, state="inactive", stopping=False)
            return
        policy = known.get("Restart", ["no"])[-1]
        if policy == "always" or (policy == "on-failure" and code not in (0, -signal.SIGTERM)):
            save(unit, main=0, state="activating")
            time.sleep(0.3)
            continue
        save(unit, main=0, state="inactive" if code == 0 else "failed")
        return


def start(unit: str) -> int:
    if load(unit).get("state") in ("active", "activating"):
        return 0
    save(unit, state="activating", stopping=False, main=0)
    subprocess.Popen(
        [sys.executable, __file__, "--keeper", unit], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    return 0


def stop(unit: str) -> int:
    known = load(unit)
    if known.get("state") not in ("active", "activating"):
        return 0
    save(unit, stopping=True)
    pid, config = int(known.get("main") or 0), known["settings"]
    if pid:
        mixed = config.get("KillMode", ["control-group"])[-1] == "mixed"
        (os.kill if mixed else os.killpg)(pid, signal.SIGTERM)
        limit = config.get("TimeoutStopSec", ["90s"])[-1]
        end = time.monotonic() + (1e9 if limit == "infinity" else float(limit.rstrip("s")))
        while load(unit).get("state") == "active":
            if time.monotonic() > end:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.05)
    return 0


def show(unit: str, names: list[str], bare: bool) -> int:
    known = load(unit)
    config = known.get("settings", {})
    program, argv = command(config.get("ExecStart", ["/bin/true"])[-1])  # a target has none
    ignored = "yes" if config.get("ExecStart", [""])[-1].startswith("-") else "no"
    started = (
        f"{{ path={program} ; argv[]={' '.join(argv)} ; ignore_errors={ignored} ; start_time=[n/a] ; pid=0 }}"
    )
    values = {
        "MainPID": str(known.get("main") or 0),
        "Type": config.get("Type", ["simple"])[-1],
        "Restart": config.get("Restart", ["no"])[-1],
        "RefuseManualStop": config.get("RefuseManualStop", ["no"])[-1],
        "RefuseManualStart": "no",
        "LoadState": "loaded",
        "NeedDaemonReload": "yes" if config and config != settings(unit) else "no",
        "ActiveState": str(known.get("state", "inactive")),
        "ExecStart": started,
        "ExecStartEx": started.replace("ignore_errors=no", f"flags={config.get('Flags', [''])[-1]}"),
    }
    for name in (
        "ExecStop",
        "SuccessAction",
        "FailureAction",
        "RequiredBy",
        "RequisiteOf",
        "BoundBy",
        "ConsistsOf",
        "PropagatesStopTo",
    ):
        values[name] = config.get(name, [""])[-1]
    for path in config.get("EnvironmentFile", []):
        if "EnvironmentFiles" in names:
            print(
                f"EnvironmentFiles={path.removeprefix('-')} (ignore_errors={'yes' if path[0] == '-' else 'no'})"
            )
    for name in names:
        if name == "EnvironmentFiles":
            continue
        print(values[name] if bare else f"{name}={values[name]}")
    return 0


def main(words: list[str]) -> int:
    if words[:1] == ["--keeper"]:
        keeper(words[1])
        return 0
    with open(WORLD / "calls", "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
    names = [words[i + 1] for i, w in enumerate(words) if w == "-p"]
    plain = [w for i, w in enumerate(words) if not w.startswith("-") and (i == 0 or words[i - 1] != "-p")]
    verb, unit = plain[0], plain[1] if len(plain) > 1 else ""
    if verb == "daemon-reload":
        for path in WORLD.glob("*.service"):
            save(path.name, settings=settings(path.name))
        return 0
    if not (WORLD / unit).exists():
        print(f"Unit {unit} could not be found.", file=sys.stderr)
        return 4
    if verb == "show":
        return show(unit, names, "--value" in words)
    if verb == "start":
        return start(unit)
    if verb == "stop":
        if "--no-block" in words:
            if os.fork():
                return 0
            null = os.open(os.devnull, os.O_RDWR)  # or the caller would wait for the end of our output
            for number in range(3):
                os.dup2(null, number)
        return stop(unit)
    return 0 if verb == "reset-failed" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
