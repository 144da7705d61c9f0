"""A launch as text for a person: the exact command to type, without its secrets."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from wizard.core.target import Launch

SECRET_FLAGS = ("--api-key", "--admin-api-key")
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_SESSION_NOISE = (
    *("_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLORTERM", "LS_COLORS", "HOME", "USER", "LOGNAME", "SHELL"),
    *("MAIL", "LANG", "LINES", "COLUMNS", "TMUX", "TMUX_PANE", "STY", "DISPLAY", "DBUS_SESSION_BUS_ADDRESS"),
    *("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "INVOCATION_ID", "JOURNAL_STREAM"),
    "SGL_WIZARD_SESSION",
)
"""Variables of a login, not of the server."""
HIDDEN = "***"


def hide_secrets(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words with the values of --api-key and its like replaced by ***."""
    out: list[str] = []
    for i, word in enumerate(argv):
        flag = word.split("=", 1)[0]
        if i and argv[i - 1] in SECRET_FLAGS:
            out.append(HIDDEN)
        elif flag in SECRET_FLAGS and "=" in word:
            out.append(f"{flag}={HIDDEN}")
        else:
            out.append(word)
    return tuple(out)


def shell_command(launch: Launch, environ: Mapping[str, str] | None = None) -> str:
    """What starts this server again from a shell: folder, differing environment, nohup, log."""
    words = []
    for name, value in sorted(_differing(launch, os.environ if environ is None else environ).items()):
        words.append(f"{name}={HIDDEN if _SECRET_NAME.search(name) else shlex.quote(value)}")
    prefix = f"env {' '.join(words)} " if words else ""
    log = shlex.quote(launch.log_path) if launch.log_path else "sglang.log"
    command = " ".join(w if HIDDEN in w else shlex.quote(w) for w in hide_secrets(launch.argv))
    return f"cd {shlex.quote(launch.cwd)} && {prefix}nohup {command} >> {log} 2>&1 < /dev/null &"


def help_text(launch: Launch, journal: Path) -> str:
    """What to type when the wizard could not put the old command back."""
    command = shell_command(launch)
    lines = ["Start the old command by hand:", f"  {command}"]
    if HIDDEN in command:
        lines.append(f"  ({HIDDEN}: a secret; it stands in the session file {journal}, readable by you only)")
    number = journal.stem.removeprefix("session-")
    lines.append(f"or, when the reason is gone: sgl-wizard sessions rollback {number}")
    return "\n".join(lines)


def _differing(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in launch.environ.items()
        if name not in _SESSION_NOISE and environ.get(name) != value
    }


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SECRET_TEXT = re.compile(
    r"((?:api_key|admin_api_key|hf_token|authorization)['\"]?\s*[=:]\s*(?:Bearer\s+)?['\"]?)(?!None\b)[^'\",\s)]+",
    re.IGNORECASE,
)


def clean_line(line: str) -> str:
    """A log line safe to show: no escape sequences, and the api key of ``server_args=`` hidden."""
    plain = _CONTROL.sub("", line)
    return _SECRET_TEXT.sub(rf"\g<1>{HIDDEN}", plain)
