"""Terminal settings that Textual reads when it is imported: call ``prepare`` before that.

Nothing here imports Textual. What the user has set always wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping


def over_ssh(environ: MutableMapping[str, str] | None = None) -> bool:
    """True when the terminal is at the other end of a link."""
    env = os.environ if environ is None else environ
    return bool(env.get("SSH_CONNECTION") or env.get("SSH_TTY"))


def prepare(environ: MutableMapping[str, str] | None = None) -> None:
    """Set defaults: no animation, at most 30 frames a second over SSH, the terminal's own colours.

    The ansi theme sends about half the bytes of a 24-bit one and keeps the terminal's background.
    """
    env = os.environ if environ is None else environ
    env.setdefault("TEXTUAL_ANIMATIONS", "none")
    env.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    env.setdefault("TEXTUAL_THEME", "ansi-dark")
    env.setdefault("TEXTUAL_FPS", "30" if over_ssh(env) else "60")


def refusal(environ: MutableMapping[str, str] | None = None) -> str | None:
    """Why a full-screen program cannot run here, with what to do instead; None when it can."""
    env = os.environ if environ is None else environ
    # Textual draws on stderr (so that stdout stays free): all three have to be the terminal.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.__stderr__)):
        return "This is not a terminal. Use sgl-wizard --plain to be asked line by line, or sgl-wizard check."
    if env.get("TERM", "") in ("", "dumb", "unknown"):
        return (
            f"TERM={env.get('TERM', '')} cannot show a full screen. "
            "Use sgl-wizard --plain, or set TERM (for example TERM=xterm-256color)."
        )
    return None
