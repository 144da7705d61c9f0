"""A launch as text for a person: the exact command to type, without its secrets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from wizard.core.placement import shell_words
from wizard.core.redact import HIDDEN, clean, is_secret_variable, redact_argv, redact_text
from wizard.core.target import Launch
from wizard.server import placement
from wizard.server.configfile import launch_secrets, secret_settings

_SESSION_NOISE = (
    *("_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLORTERM", "LS_COLORS", "HOME", "USER", "LOGNAME", "SHELL"),
    *("MAIL", "LANG", "LINES", "COLUMNS", "TMUX", "TMUX_PANE", "STY", "DISPLAY", "DBUS_SESSION_BUS_ADDRESS"),
    *("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "INVOCATION_ID", "JOURNAL_STREAM"),
    "SGL_WIZARD_SESSION",
)
"""Variables of a login, not of the server."""


def shell_command(launch: Launch, environ: Mapping[str, str] | None = None) -> str:
    """What starts this server again from a shell: folder, differing environment and placement, nohup, log."""
    words = []
    for name, value in sorted(_differing(launch, os.environ if environ is None else environ).items()):
        hidden = is_secret_variable(name) or redact_text(value) != value
        words.append(f"{name}={HIDDEN if hidden else shlex.quote(value)}")
    prefix = f"env {' '.join(words)} " if words else ""
    placed = "".join(f"{word} " for word in shell_words(launch.placement, placement.read(os.getpid())))
    log = shlex.quote(launch.log_path) if launch.log_path else "sglang.log"
    command = " ".join(w if HIDDEN in w else shlex.quote(w) for w in redact_argv(launch.argv))
    placed += _as_user(launch)
    return f"cd {shlex.quote(launch.cwd)} && {prefix}nohup {placed}{command} >> {log} 2>&1 < /dev/null &"


def _as_user(launch: Launch) -> str:
    """Root is told to type it as the server's user: in any other shell it starts as who types."""
    if os.geteuid() != 0 or launch.uid in (-1, 0):
        return ""
    import pwd

    try:
        groups = "--init-groups" if pwd.getpwuid(launch.uid) else ""
    except KeyError:
        groups = "--clear-groups"
    return f"setpriv --reuid={launch.uid} --regid={launch.gid} {groups} "


def help_text(launch: Launch, journal: Path, undo: Sequence[str] = (), *, can_roll_back: bool = True) -> str:
    """What to type when the old command does not run. ``undo``: the words of its holder, where it has one;
    ``can_roll_back``: the session may be asked again."""
    command = shell_command(launch) if not undo else ""
    lines = ["Start the old command by hand:", *(f"  {line}" for line in undo or (command,))]
    if HIDDEN in command:
        lines.append(f"  ({HIDDEN}: a secret; it stands in the session file {journal}, readable by you only)")
    if can_roll_back:
        number = journal.stem.removeprefix("session-")
        lines.append(f"or, when the reason is gone: sgl-wizard sessions rollback {number}")
    return "\n".join(lines)


def _differing(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in launch.environ.items()
        if name not in _SESSION_NOISE and environ.get(name) != value
    }


def clean_line(line: str, launch: Launch | None = None) -> str:
    """A foreign line, safe to show: no escape sequences, no secrets (those of ``launch`` wherever they are)."""
    return redact_text(clean(line).replace("\n", " "), launch_secrets(launch))


def hide_known(text: str, launch: Launch | None) -> str:
    """Our own sentence without the secrets of ``launch``; nothing else in it is touched."""
    for secret in launch_secrets(launch):
        text = text.replace(secret, HIDDEN)
    return text


def api_key(launch: Launch) -> str | None:
    """The key that the API of this launch is protected with: of its words, else of its ``--config`` file."""
    return flag_value(launch.argv, "--api-key") or secret_settings(launch.argv, launch.cwd).get("--api-key")


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The last ``--flag value`` or ``--flag=value``, also inside ``bash -c '...'``; None when absent."""
    found = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            found = argv[i + 1]
        elif word.startswith(flag + "="):
            found = word[len(flag) + 1 :]
        elif " " in word and flag in word:
            try:
                found = flag_value(shlex.split(word), flag) or found
            except ValueError:
                continue
    return found
