"""Faults of the server and of the machine under it: deaths, hangs, thieves of ports and of memory."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from tests.faults import watch, world
from tests.faults.ground import HERE, Scene
from tests.faults.watch import NotReached
from tests.faults.world import Proc

FREE_MB = 40


def server_dies(scene: Scene) -> str:
    """``moment``: ("old" | "new", record, "parent" | "child"): it is killed a little after that record."""
    which, record, part = scene.moment
    scene.notes.append("dies")
    scene.start_fix()
    scene.until(record)
    time.sleep(scene.rng.uniform(0.0, 0.5 if record != "result ready" else 0.02))
    _kill_server(scene, which, part)
    return f"{which} {part} at '{record}'"


def _kill_server(scene: Scene, which: Literal["old", "new"], part: str) -> None:
    root = scene.wait(lambda: scene.server(which) or scene.no_more(), "the server")
    if not isinstance(root, Proc):
        raise NotReached(which)
    victim: Proc | None = root
    if part == "child":
        below = [one for one in world.marked(scene.marker) if one.ppid == root.pid]
        victim = below[0] if below else root
    scene.kill(victim)
    scene.struck()


def dies_in_phase(scene: Scene) -> str:
    """``moment``: a line of the new server's log; it dies when that line is there."""
    line = scene.moment
    log = Path(scene.wanted.log)
    offset = log.stat().st_size
    scene.notes.append("dies")
    scene.start_fix()
    scene.until("launched launch")

    def there() -> bool:
        with log.open("rb") as file:
            file.seek(offset)
            return line.encode() in file.read() or scene.no_more()

    scene.wait(there, line)
    _kill_server(scene, "new", scene.rng.choice(("parent", "child")))
    return f"new at '{line}'"


def never_ready(scene: Scene) -> str:
    """The new server is frozen while it starts; ``moment``: which part of it."""
    scene.start_fix("--ready-limit", "4")
    scene.until("launched launch")
    time.sleep(scene.rng.uniform(0.2, 0.8))
    root = scene.server("new")
    parts = [one for one in world.marked(scene.marker) if root is not None and one.ppid == root.pid]
    frozen: list[Proc | None] = [root, *parts] if scene.moment == "whole tree" else [*parts] or [root]
    for one in frozen:
        scene.kill(one, signal.SIGSTOP)
    scene.struck()
    return f"{scene.moment} frozen"


def old_hangs(scene: Scene) -> str:
    """The old server does not hear SIGTERM: it is frozen before the stop."""
    scene.start_fix()
    scene.until("intent snapshot" if scene.moment == "before" else "intent stop")
    scene.kill(scene.server("old"), signal.SIGSTOP)
    scene.struck()
    return f"old frozen {scene.moment} the stop"


def squatter(scene: Scene) -> str:
    """Somebody takes the port in the gap and answers 200. ``moment``: seconds until it leaves, 0 for never."""
    seconds = scene.moment or 3600
    scene.start_fix()
    scene.until("intent stop")
    log = scene.folder / "squatter.log"
    words = (sys.executable, "-S", str(HERE / "squatter.py"), str(scene.port), str(seconds))
    process = scene.spawn(words, log, scene.environ())
    scene.wait(lambda: log.read_bytes() != b"" or scene.no_more(), "the squatter")
    if b"has it" not in log.read_bytes():
        raise NotReached("the port was never free")
    scene.struck()
    born = world.look(process.pid)
    if born is None:
        raise NotReached("the squatter")
    scene.wait(lambda: scene.no_more(), "the end", 200)
    if not scene.moment and not world.same(born):
        scene.notes.append("the squatter was ended")
    return f"for {scene.moment} s" if scene.moment else "for good"


def memory_slow(scene: Scene) -> str:
    """The card keeps a dead server's memory for ``moment`` seconds (set in the target's environment)."""
    scene.start_fix()
    scene.until("result stop")
    scene.struck()
    return f"for {scene.moment} s"


def memory_taken(scene: Scene) -> str:
    """A neighbour takes the card's memory in the gap. ``moment``: seconds until it leaves, 0 for never."""
    scene.start_fix()
    scene.until("result stop")
    words = ["--gb", "130", *(("--seconds", str(scene.moment)) if scene.moment else ())]
    env = scene.environ(SGLANG_SIM_CARD=str(scene.folder / "card.json"))
    log = scene.folder / "neighbour.log"
    argv = (sys.executable, "-m", "wizard.simulator.neighbour", *words)
    deadline = time.monotonic() + 10.0
    while True:
        process = scene.spawn(argv, log, env)
        while process.poll() is None and b"holding" not in log.read_bytes():
            time.sleep(0.02)
        if process.poll() is None:
            break
        if time.monotonic() > deadline:
            raise NotReached("the memory was never free")
    scene.struck()
    return f"for {scene.moment} s" if scene.moment else "for good"


def supervisor_restarts(scene: Scene) -> str:
    """A shell loop starts the old command again behind our back."""
    scene.start_fix()
    scene.until("result stop")
    scene.struck()
    scene.wait(scene.no_more, "the end", 120)
    time.sleep(scene.moment)  # a loop that is fought goes on doing harm
    return f"old command in a loop, judged after {scene.moment} s"


def pid_reused(scene: Scene) -> str:
    """``moment``: whose, K. The runner dies after record K, then the server; a bystander gets that very pid."""
    which, number = scene.moment
    root = _all_dead(scene, which, number)

    def free() -> bool:
        for process in scene.own:
            process.poll()  # reaped, where it is a child of ours
        return not Path(f"/proc/{root.pid}").exists()

    scene.wait(free, "the pid to be free")
    return f"{which} after record {number}, pid {_bystander(scene, root.pid)} given again"


def rebooted(scene: Scene) -> str:
    """Runner and server die, and all that the journal names is of an earlier boot (its boot id is another)."""
    which, number = scene.moment
    _all_dead(scene, which, number)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    other = "00000000" + boot[8:]
    with sqlite3.connect(scene.journal) as db:
        for table in ("meta", "records"):
            db.execute(f"UPDATE {table} SET json = replace(json, ?, ?)", (boot, other))
    db.close()
    return f"after record {number}, '{watch.told(scene.journal)[-1].name}'"


def _all_dead(scene: Scene, which: Literal["old", "new"], number: int) -> Proc:
    """The runner dies right after a record, then the server with all below it; its root as it was."""
    face = scene.start_fix(hook=f"kill:after:{number}")
    scene.wait(lambda: face.poll() is not None, "the face to see it", 90)
    scene.struck()
    if scene.runner() is not None or watch.told(scene.journal)[-1].kind == "ended":
        raise NotReached(f"record {number}")
    root = scene.server(which)
    if root is None:
        raise NotReached(f"{which} is gone")
    tree = world.below(root.pid)
    for one in world.marked(scene.marker):
        if one.pid in tree and world.same(one):
            scene.kill(one)
    return root


def _bystander(scene: Scene, pid: int) -> int:
    """A decoy under a wanted pid, by the kernel's own counter of this pid namespace."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    path = scene.folder / "signals-reused"
    words = (sys.executable, str(HERE / "decoy.py"), str(path), "sglang.launch_server", str(scene.port))
    deadline = time.monotonic() + 15.0
    while time.monotonic() < deadline:  # its children's zombies keep the number too, until init takes them
        try:
            last.write_text(str(pid - 1), encoding="ascii")
        except OSError as error:
            raise NotReached(f"pids cannot be chosen here: {error}") from error
        process = scene.spawn(words, scene.folder / "decoys.log", scene.environ(), process_group=0)
        if process.pid == pid:
            scene.adopt("decoy with the server's pid", process, path)
            return pid
        process.kill()
        process.wait()
        path.with_name(f"{path.name}.standing").unlink(missing_ok=True)
        time.sleep(0.05)
    raise NotReached("somebody else got the pid")


def disk_full(scene: Scene) -> str:
    """The disk of the state folder fills to the last byte at ``moment``; freed when ``fix`` has ended."""
    scene.start_fix()
    scene.until(scene.moment)
    filler = scene.state / "filler"
    _fill(filler)
    scene.struck()
    scene.wait(lambda: scene.no_more(), "the end", 200)
    filler.unlink()
    return f"at '{scene.moment}'"


def file_limit(scene: Scene) -> str:
    """The runner may write no byte more to any file (RLIMIT_FSIZE 0 from ``moment`` on)."""
    import resource

    scene.start_fix()
    scene.until(scene.moment)
    runner = scene.runner()
    if runner is None:
        raise NotReached("the runner")
    resource.prlimit(runner.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    scene.struck()
    return f"at '{scene.moment}'"


def state_unusable(scene: Scene) -> str:
    """The state folder cannot be written from the start: nothing may be touched."""
    match scene.moment:
        case "a file":
            scene.state.write_text("no folder")
        case "read-only":
            scene.state.mkdir(mode=0o700)
            mount(scene, "ro,size=40m")
        case _:
            scene.state.mkdir(mode=0o700)
            mount(scene, "size=4m,mode=0700")
    scene.struck()
    before = scene.server("old")
    scene.start_fix()
    scene.wait(lambda: scene.no_more(), "the refusal")
    if before is None or not world.same(before):
        scene.notes.append("the old server was touched")
    return str(scene.moment)


def mount(scene: Scene, options: str, at: Path | None = None) -> None:
    """A tmpfs of this run, over its state folder if not told otherwise. Raises NotReached where forbidden."""
    at = at or scene.state
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, check=False
    )
    if done.returncode:
        raise NotReached(f"no mount here: {done.stderr.decode().strip()}")
    scene.mounts.append(at)


def log_on_small_disk(scene: Scene) -> None:
    """Set-up: the server's folder, with its log, on a disk of its own."""
    mount(scene, "size=200m,mode=0755", scene.home)


def log_disk_full(scene: Scene) -> str:
    """The disk below the server's own log is full from ``moment`` until ``fix`` has ended."""
    scene.start_fix()
    scene.until(scene.moment)
    _fill(scene.home / "filler")
    scene.notes.append("log_disk_full")
    scene.struck()
    scene.wait(lambda: scene.no_more(), "the end", 200)
    (scene.home / "filler").unlink()
    return f"at '{scene.moment}'"


def _fill(path: Path) -> None:
    for size in (65536, 1):
        try:
            with path.open("ab", buffering=0) as file:
                while True:
                    file.write(b"\0" * size)
        except OSError:
            continue


def on_small_disk(scene: Scene) -> None:
    """Set-up: the state folder on a disk of its own, with just enough room to begin."""
    scene.state.mkdir(mode=0o700)
    mount(scene, f"size={FREE_MB}m,mode=0700")
