#!/usr/bin/env python3
"""A stand-in for ``journalctl`` on PATH: what the stand-in systemd's units wrote to their files.

It knows the words of journalctl(1) that are used here, and refuses others. How it misbehaves stands in
$STANDIN_WORLD/journal_mood: ``slow`` answers never, ``endless`` writes for ever. Every call is written down.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

WORLD = Path(os.environ["STANDIN_WORLD"])


def main(argv: list[str]) -> int:
    with open(WORLD / "journal_calls", "a", encoding="utf-8") as file:
        file.write(json.dumps(argv) + "\n")
    mood = WORLD / "journal_mood"
    how = mood.read_text(encoding="utf-8") if mood.exists() else ""
    if how == "slow":
        time.sleep(60)
    while how == "endless":
        print("RuntimeError: the same line again and again", flush=True)
    units: list[str] = []
    lines = None
    for word in argv:
        if word.startswith("--lines="):
            lines = int(word.partition("=")[2])
        elif word.startswith("--since=@"):
            float(word.partition("@")[2])
        elif word.startswith("_SYSTEMD_UNIT="):
            units.append(word.partition("=")[2])
        elif word.startswith(("_SYSTEMD_USER_UNIT=", "UNIT=", "_PID=")) or word == "+":
            continue
        elif word not in ("--no-pager", "--quiet", "--all", "--output=cat"):
            print(f"journalctl: unrecognized option '{word}'", file=sys.stderr)
            return 1
    found = []
    for unit in units:
        path = WORLD / f"{unit}.log"
        found += path.read_bytes().splitlines(keepends=True) if path.exists() else []
    sys.stdout.buffer.write(b"".join(found[-lines:] if lines else found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
