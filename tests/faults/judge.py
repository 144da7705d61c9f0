"""What the wizard promised against what is: each broken promise is a line of a kind that must not occur."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from typing import Any

from tests.faults import watch, world
from tests.faults.ground import STATE_REMOVED, Ran, Scene
from tests.faults.world import Serving

KINDS = (
    "old command lost",
    "server left down without a message",
    "foreign processes signalled",
    "wrong verdicts",
    "stray servers left",
    "defects shown to the user",
    "terminals left in a bad state",
    "secrets shown",
)
"""Totals that must be 0: the four of the issue, and more that a user would not forgive either."""

STRAY_LIMIT_S = 12.0
ENDED_WELL = {0: "new", 4: "old"}


@dataclass(frozen=True)
class Broken:
    kind: str
    what: str


@dataclass
class Judged:
    """The end of one run. ``end``: what serves and what the wizard says about it, in a few words."""

    end: str
    serving: Serving
    broken: list[Broken] = field(default_factory=list)
    recovered_s: float | None = None

    def add(self, kind: str, what: str) -> None:
        assert kind in KINDS, kind
        self.broken.append(Broken(kind, what))


def judge(scene: Scene, ends: frozenset[str], at_rest: bool = True) -> Judged:
    """Look at the world and at what was said. ``ends``: what may serve now ("old", "new", "none": down, and
    told so). ``at_rest`` False: a second look later follows, strays are its business."""
    now = world.serving(scene.port, scene.wanted)
    doc = _claims(scene)
    judged = Judged(f"{now.words}, said {_said(doc)}", now)
    _is_up(scene, judged, doc, ends)
    _command(scene, judged, doc)
    _verdict(scene, judged, doc)
    if scene.silent:
        judged.add("server left down without a message", scene.silent)
    _foreign(scene, judged)
    if at_rest:
        _strays(scene, judged)
    for ran in scene.ran:
        if "Traceback (most recent call last)" in ran.err:
            judged.add(
                "defects shown to the user", f"{' '.join(ran.words)}: {ran.err.strip().splitlines()[-1]}"
            )
    for note in scene.notes:
        if note.startswith("screen: "):
            judged.add("terminals left in a bad state", note.removeprefix("screen: "))
    _secrets(scene, judged)
    if scene.fault_at is not None and now.who in ("old", "new") and now.healthy:
        judged.recovered_s = max(0.0, scene.settled_at - scene.fault_at)
    return judged


def _claims(scene: Scene) -> dict[str, Any]:
    """The document of the session that decided: the newest one that was not refused or called off."""
    sessions = [s for s in scene.sessions() if not s["error"]]
    touched = [s for s in sessions if s["outcome"] != "called_off"] or sessions
    if not touched:
        return {}
    doc = scene.user("sessions", "show", str(touched[-1]["id"]), "--json").doc
    return doc if isinstance(doc, dict) else {}


def _said(doc: dict[str, Any]) -> str:
    return f"{doc.get('outcome')}/{doc.get('serving')}" if doc else "no session"


def last(scene: Scene) -> Ran | None:
    """The command that brought the change to its end, as the user saw it."""
    telling = [
        r for r in scene.ran if r.words[0].startswith("fix") or r.words[1:2] in (("resume",), ("rollback",))
    ]
    whole = [r for r in telling if r.code >= 0]
    return whole[-1] if whole else None


def _up(serving: Serving) -> bool:
    return serving.who in ("old", "new") and serving.healthy


def _is_up(scene: Scene, judged: Judged, doc: dict[str, Any], ends: frozenset[str]) -> None:
    now = judged.serving
    if _up(now):
        if now.who not in ends:
            judged.add("wrong verdicts", f"{now.who} serves, expected {' or '.join(sorted(ends))}")
        unlike = [what for what in now.unlike if not (what == "log" and _log_is_told(scene, now))]
        if unlike:
            judged.add("old command lost", f"it serves with another {', '.join(unlike)}")
        return
    if "none" not in ends:
        judged.add("wrong verdicts", f"{now.words} on the port, expected {' or '.join(sorted(ends))}")
    final = last(scene)
    told = doc.get("serving") in ("none", "unknown") and doc.get("outcome") is not None
    said = final is not None and final.code not in (0, 4) and _admits(final.said)
    if not (told and said):
        code = final.code if final else None
        judged.add("server left down without a message", f"{now.words}; said {_said(doc)}, exit {code}")


def _log_is_told(scene: Scene, now: Serving) -> bool:
    """Where the log of before cannot be written the server logs elsewhere, and the user is told where."""
    path = "".join(world.link(f"/proc/{now.pid}/fd/1").split())
    return "log_disk_full" in scene.notes and any(path in "".join(ran.said.split()) for ran in scene.ran)


def _admits(text: str) -> bool:
    flat = " ".join(text.split()).lower()
    words = ("could not be put back", "serving now: nothing", "is down", "nothing serves", "type this")
    return any(word in flat for word in words)


def _command(scene: Scene, judged: Judged, doc: dict[str, Any]) -> None:
    """While the old one does not serve, its exact command has to be there: kept, and printed when down."""
    if judged.serving.who == "old" and judged.serving.healthy:
        return
    shown = [r.said for r in scene.ran]
    if STATE_REMOVED in scene.notes:  # what was said is all there is
        if not any(_holds(text, scene.old_argv) for text in shown):
            judged.add("old command lost", "its session was removed, and no output holds the exact command")
        return
    held = tuple(doc.get("plan", {}).get("old", ()))
    if scene.secret and len(held) == len(scene.old_argv):  # shown without the key, which a relaunch has to have
        held = tuple(b if b == scene.secret else a for a, b in zip(held, scene.old_argv, strict=True))
    if held != scene.old_argv and not _held_by_an_earlier(scene):
        judged.add("old command lost", "the session does not hold it")
    if _up(judged.serving):
        return
    if not any(_holds(text, scene.old_argv) for text in shown):
        judged.add("old command lost", "nothing serves, and no output holds the exact command")


def _held_by_an_earlier(scene: Scene) -> bool:
    """A second wizard that came right after the first relaunched what that one had started."""
    for session in scene.sessions()[:-1]:
        doc = scene.user("sessions", "show", str(session["id"]), "--json").doc
        if isinstance(doc, dict) and tuple(doc.get("plan", {}).get("old", ())) == scene.old_argv:
            return session["outcome"] == "kept"
    return False


def _holds(text: str, argv: tuple[str, ...]) -> bool:
    """Whether one line of it, typed into a shell, has these words in a row."""
    for line in text.splitlines():
        try:
            words = tuple(shlex.split(line))
        except ValueError:
            continue
        if any(words[i : i + len(argv)] == argv for i in range(len(words) - len(argv) + 1)):
            return True
    return False


def _verdict(scene: Scene, judged: Judged, doc: dict[str, Any]) -> None:
    now, final = judged.serving, last(scene)
    actual = now.who if _up(now) else "none"
    died_later = _died_after_the_end(scene)
    claimed = doc.get("serving")
    fits = claimed == actual or (claimed == "unknown" and now.who in ("other", "none"))
    if doc and not fits and not died_later and not (claimed == "none" and now.who == "other"):
        judged.add("wrong verdicts", f"it says that {claimed} serves, but {now.words} does")
    if (
        doc.get("verdict") in ("fixed", "better")
        and not (scene.change.ends_new and actual == "new")
        and not died_later
    ):
        judged.add("wrong verdicts", f"it claims {doc['verdict']} while {now.words} serves")
    if doc.get("outcome") == "rolled_back" and actual != "old":
        judged.add("wrong verdicts", f"it claims rolled_back while {now.words} serves")
    if doc and doc.get("outcome") is None:
        judged.add("wrong verdicts", "the session is never brought to an end")
    if final is not None and not died_later:
        expected = ENDED_WELL.get(final.code)
        if expected is not None and expected != actual:
            judged.add("wrong verdicts", f"exit {final.code} while {now.words} serves")
        if final.code == 5 and _up(now):
            judged.add("wrong verdicts", f"exit 5 while {now.words} serves")


def _died_after_the_end(scene: Scene) -> bool:
    """Nobody can know of a death that comes after the last word."""
    if scene.fault_at is None or scene.change.name == "clock":
        return False
    ended = [line.at for line in watch.lines(scene.journal) if line.kind == "ended"]
    at = time.time() - (time.monotonic() - scene.fault_at)
    return bool(ended) and "dies" in scene.notes and at >= ended[-1]


def _foreign(scene: Scene, judged: Judged) -> None:
    for decoy in scene.decoys:
        harm = decoy.harm()
        if harm:
            judged.add("foreign processes signalled", harm)
    if (scene.folder / "shell.signals").exists():
        judged.add("foreign processes signalled", "the shell around the target")
    if scene.supervisor is not None and not world.same(scene.supervisor):
        judged.add("foreign processes signalled", "the supervisor")


def _secrets(scene: Scene, judged: Judged) -> None:
    """The target's key: in nothing that was said, and only in files that nobody else can read."""
    if not scene.secret:
        return
    for ran in scene.ran:
        if scene.secret in ran.said:
            line = next(text for text in ran.said.splitlines() if scene.secret in text)
            judged.add("secrets shown", f"{' '.join(ran.words)} says: {line.strip()[:200]}")
    for path in sorted(scene.state.rglob("*")):
        if path.is_file() and scene.secret.encode() in path.read_bytes() and path.stat().st_mode & 0o077:
            judged.add("secrets shown", f"{path.name} has mode {path.stat().st_mode & 0o777:o}")
    for one in world.everybody():
        words = world.argv(one.pid)
        if "wizard.simulator" not in words and any(scene.secret in word for word in words):
            judged.add("secrets shown", f"in the command line of process {one.pid}: {words[:3]}")


def _strays(scene: Scene, judged: Judged) -> None:
    """Servers of this run that run beside the one that serves; they hold the card."""
    deadline = time.monotonic() + STRAY_LIMIT_S
    while True:
        mine = world.below(judged.serving.pid) if judged.serving.pid is not None else set()
        shells = {p.pid for p in scene.own}
        if scene.supervisor is not None:
            mine |= world.below(scene.supervisor.pid)
        left = [one for one in scene.servers() if one.pid not in mine | shells]
        if not left:
            return
        if time.monotonic() > deadline:
            words = " ".join(world.argv(left[0].pid)[-2:])
            judged.add("stray servers left", f"{len(left)}: process {left[0].pid} (... {words})")
            return
        time.sleep(0.2)
