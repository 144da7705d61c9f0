"""``--config FILE.yaml`` of a launch command: its settings stand in front of the command line's own.

As SGLang 0.5.4+ merges them (utils/server_args_config_parser.py, 0.5.20): each ``key: value`` becomes
``--key value``, a true switch ``--key``, a list several words; the command line comes after and wins.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from wizard.core.argv import CommandLine, parse
from wizard.core.flags import Catalogue
from wizard.core.redact import is_secret_flag, secrets_of
from wizard.core.target import Launch

MOST_BYTES = 256 * 1024
MOST_SETTINGS = 1000


class ConfigError(ValueError):
    """The file cannot be used; the text says why, in one line."""


def merged(command: CommandLine, cwd: str) -> CommandLine:
    """The command line with its file's settings in it; the same one when it names no file.

    For reading only: what is edited is the line as it was typed. Raises ConfigError.
    """
    if "--config" not in command.args:
        return command
    at = command.args.index("--config")
    if at + 1 >= len(command.args):
        raise ConfigError("--config names no file")
    if command.args.count("--config") > 1:
        raise ConfigError("SGLang takes one --config only")
    words = words_of(read(command.args[at + 1], cwd), command.catalogue)
    own = (*command.args[:at], *command.args[at + 2 :])
    # the MODEL of `sglang serve MODEL` has to stay in front
    first = own[:1] if command.kind == "serve" and own and not own[0].startswith("-") else ()
    argv = (*(command.program or command.prefix), *first, *words, *own[len(first) :])
    return parse(argv, command.catalogue)


def read(path: str, cwd: str) -> dict[str, Any]:
    """The settings in a file; a relative path counts from ``cwd``. Raises ConfigError."""
    import yaml  # late: few commands name a file

    class Loader(yaml.SafeLoader):
        """Without aliases: a few lines of them can stand for gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not read")
            return super().compose_node(parent, index)

    if "$" in path:
        raise ConfigError(f"--config {path}: a shell fills its name in")
    if os.path.splitext(path)[1].lower() not in (".yaml", ".yml"):
        raise ConfigError(f"--config {path}: SGLang takes .yaml or .yml only")
    full = os.path.join(cwd, path)
    try:
        if not os.path.isfile(full):
            raise ConfigError(f"--config {path}: there is no such file")
        with open(full, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"--config {path} is larger than {MOST_BYTES // 1024} KiB")
    try:
        document = yaml.load(data.decode("utf-8", "replace"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path} is no YAML: {_what_and_where(error)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"--config {path} must hold names with values (key: value)")
    return {str(key): value for key, value in list(document.items())[:MOST_SETTINGS]}


def _what_and_where(error: Exception) -> str:
    """A parser's words quote the line that they are about, and that line may hold a key."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return f"{' '.join(str(what).split())[:120]}" + (f" (line {mark.line + 1})" if mark is not None else "")


def secret_settings(argv: Sequence[str], cwd: str) -> dict[str, str]:
    """The secrets in the file that a command names, by flag (``--api-key``); none when it cannot be used."""
    path = named_in(argv)
    if path is None:
        return {}
    try:
        about = os.stat(os.path.join(cwd, path))
        return dict(_secrets(path, cwd, about.st_mtime_ns, about.st_size))
    except (OSError, ValueError):
        return {}


def named_in(argv: Sequence[str]) -> str | None:
    """The word behind ``--config``, also in the text of a shell."""
    for at, word in enumerate(argv):
        if word == "--config" and at + 1 < len(argv):
            return argv[at + 1]
        if " " in word and "--config" in word:
            try:
                found = named_in(shlex.split(word))
            except ValueError:
                continue
            if found is not None:
                return found
    return None


@lru_cache(maxsize=8)
def _secrets(path: str, cwd: str, changed_ns: int, size: int) -> tuple[tuple[str, str], ...]:
    """Kept as long as the file is the same: each line of a log is held against them. Raises ConfigError."""
    settings = {f"--{key.lstrip('-').replace('_', '-')}": value for key, value in read(path, cwd).items()}
    return tuple((f, str(v)) for f, v in settings.items() if is_secret_flag(f) and v not in (None, ""))


def launch_secrets(launch: Launch | None) -> tuple[str, ...]:
    """The secrets of a launch, to be hidden wherever they turn up: of its words, environment and file."""
    if launch is None:
        return ()
    in_file = (s for s in secret_settings(launch.argv, launch.cwd).values() if len(s) >= 4)
    return tuple(dict.fromkeys((*secrets_of(launch.argv, launch.environ), *in_file)))


def words_of(settings: dict[str, Any], catalogue: Catalogue) -> list[str]:
    """The settings as words of a command line."""
    words: list[str] = []
    for key, value in settings.items():
        flag = f"--{key.lstrip('-')}"
        if isinstance(value, bool):
            spec = catalogue.resolve(flag.replace("_", "-")).spec
            if spec is None or spec.is_switch:
                words += [flag] if value else []
            else:
                words += [flag, str(value).lower()]
        elif isinstance(value, list):
            words += [flag, *(str(one) for one in value)] if value else []
        elif isinstance(value, dict):
            words += [flag, json.dumps(value, default=str)]
        else:
            words += [flag, str(value)]
    return words
