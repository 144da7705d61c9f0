"""Loads the flag catalogue, and finds out which SGLang version a command line would run.

The data file is made by ``tests/tools/build_catalogue.py``.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from wizard.core.argv import parse, split_environ
from wizard.core.flags import INTENTS, Catalogue, FlagSpec, Span, nearest_version, snake, version_key

DATA = Path(__file__).parent / "data" / "flags.json.gz"

SIMULATED_VERSION = "0.5.20"
"""The version that ``python -m wizard.simulator`` plays."""


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress(DATA.read_bytes()))
    return document


@lru_cache(maxsize=1)
def _spans() -> dict[str, Span]:
    return {option: Span(*span) for option, span in _document()["spans"].items()}


@lru_cache(maxsize=1)
def catalogued_versions() -> tuple[str, ...]:
    """Every version in the catalogue, oldest first."""
    return tuple(sorted(_document()["versions"], key=version_key))


@lru_cache(maxsize=64)
def _load(version: str) -> tuple[FlagSpec, ...]:
    rows = _document()["specs"]
    return tuple(_spec(rows[number]) for number in _document()["versions"][version])


def _spec(row: Sequence[Any]) -> FlagSpec:
    options, dest, kind, nargs, action, default, choices, required, deprecated, replacement, const = row
    return FlagSpec(
        options=tuple(options),
        dest=dest,
        type=kind or "str",
        nargs=nargs,
        action=action,
        default=default,
        choices=None if choices is None else tuple(str(c) for c in choices),
        required=bool(required),
        deprecated=deprecated,
        replacement=replacement,
        const=const,
    )


_LEARNT: dict[str, Catalogue] = {}
"""Catalogues read from installed sources that the shipped one does not have."""

MOST_LEARNT = 32


def learn(catalogue: Catalogue) -> None:
    """From now on this catalogue stands for its version (``wizard.server.installed`` reads them)."""
    if len(_LEARNT) < MOST_LEARNT or catalogue.version in _LEARNT:
        _LEARNT[catalogue.version] = catalogue


def for_version(version: str | None) -> Catalogue:
    """The flags of a version: as learnt from an installation, else of the nearest catalogued one that is
    not newer, else of the oldest.

    None, or text that is no version, gives the newest and ``exact`` False for text.
    """
    learnt = _LEARNT.get(version) if version else None
    return learnt if learnt is not None else _shipped(version)


@lru_cache(maxsize=64)
def _shipped(version: str | None) -> Catalogue:
    versions = catalogued_versions()
    try:
        chosen = nearest_version(version, versions) if version else versions[-1]
    except ValueError:
        chosen, version = versions[-1], "0.0"
    unknown = not version
    return Catalogue(chosen, _load(chosen), _spans(), asked=version or "", any_version=unknown)


def next_newer(version: str) -> Catalogue | None:
    """The flags of the first catalogued version above one that is not catalogued itself; None above the newest.

    None as well below the oldest: what that one took nobody can tell.
    """
    versions = catalogued_versions()
    try:
        key = version_key(version)
    except ValueError:
        return None
    if key < version_key(versions[0]):
        return None
    above = next((v for v in versions if version_key(v) > key), None)
    return for_version(above) if above is not None else None


@lru_cache(maxsize=1)
def known_names() -> tuple[str, ...]:
    """Every name that ``Catalogue.flag_for`` takes in at least one version, in snake case, sorted."""
    names = {snake(option) for option in _document()["spans"]} | {row[1] for row in _document()["specs"]}
    return tuple(sorted(names | set(INTENTS)))


def exists_in_any_version(name: str) -> bool:
    """Whether some catalogued version takes a setting of this name."""
    return name.lstrip("-").replace("-", "_") in known_names()


_MODULE_VERSION = {"wizard.simulator": SIMULATED_VERSION}
_SOURCE = "sglang/srt/server_args.py"
_MOST_LINKS = 40
"""As the kernel has it (path_resolution(7))."""
_DIST_INFO = re.compile(r"^sglang-(\d[^-]*)\.(?:dist|egg)-info$")


def installed_version(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The SGLang version that this command would run, or None when that cannot be told.

    Read from the package metadata in the interpreter's ``site-packages``; nothing is imported or run.
    ``environ`` is the environment of the target (PATH, PYTHONPATH, VIRTUAL_ENV), not ours.
    """
    package = installed_package(argv, environ)
    return None if package is None else package[1]


def installed_package(
    argv: Sequence[str], environ: Mapping[str, str], root: str = ""
) -> tuple[Path | None, str] | None:
    """The folder that holds the ``sglang`` package which this command would run, and its version.

    ``root``: /proc/PID/root of the running server, when its files are not the wizard's.

    The folder is None for the simulator, and where the sources stand elsewhere (some editable installs).
    """
    own, rest = split_environ(argv)
    environ = {**environ, **own}
    command = parse(rest, for_version(None))
    if command.module in _MODULE_VERSION:
        return None, _MODULE_VERSION[command.module]
    for folder in _search_path(command.program, environ) if not root else _inside(root, environ):
        version = _version_in(folder, root)
        if version is not None:
            return _source_root(folder, root), version
    return None


def _inside(root: str, environ: Mapping[str, str]) -> list[Path]:
    """Where a running server of another root looks for packages. Nothing is searched by name there: the kernel
    says which interpreter it runs."""
    folders = [_followed(p, root) for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    prefixes = [environ[name] for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(name)]
    with contextlib.suppress(OSError):
        prefixes.append(os.path.dirname(os.path.dirname(os.readlink(f"{root.removesuffix('/root')}/exe"))))
    for prefix in prefixes:
        folders += _packages_below(Path(f"{root}/{prefix.lstrip('/')}"), root)
    return list(dict.fromkeys(folders))


def _followed(path: str, root: str) -> Path:
    """A path of another root as it is to be opened from here. Its links are followed by hand: the kernel would
    lead an absolute one out of that root, into the wizard's own files. A link in a circle leads to nothing."""
    todo, done, links = path.split("/")[::-1], [root], 0
    while todo:
        part = todo.pop()
        if part in ("", ".", ".."):
            done = done[: max(1, len(done) - 1)] if part == ".." else done
            continue
        try:
            to = os.readlink("/".join([*done, part]))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return Path(os.devnull, part)
        done = [root] if to.startswith("/") else done
        todo += to.split("/")[::-1]
    return Path("/".join(done))


def _below(folder: Path, place: str, root: str) -> Path:
    """A place below a folder that was followed already, or (no ``root``) is one of the wizard's own."""
    return _followed(f"{str(folder).removeprefix(root)}/{place}", root) if root else folder / place


def _packages_below(prefix: Path, root: str = "") -> list[Path]:
    patterns = ("python3*/site-packages", "python3*/dist-packages", "python3/dist-packages")
    found = []
    for lib in (_below(prefix, one, root) for one in ("lib", "lib64", "local/lib")):
        for pattern in patterns:
            name, last = pattern.split("/")
            places = [_below(one, last, root) for one in sorted(lib.glob(name))]
            found += [one for one in places if os.path.isdir(one)]
    return found


def _source_root(folder: Path, root: str = "") -> Path | None:
    """Where the package's sources are: here, or where an editable install's ``.pth`` file points."""
    here = _with_sources(folder, root)
    if here is not None:
        return here
    try:
        pointers = [_below(folder, one.name, root) for one in sorted(folder.glob("*sglang*.pth"))]
        lines = [line for one in pointers[:4] for line in one.read_text("utf-8", "replace")[:4096].splitlines()]
    except OSError:
        return None
    places = (Path(f"{root}{line.strip()}") for line in lines if line.strip().startswith("/"))
    return next((found for found in (_with_sources(one, root) for one in places) if found is not None), None)


def _with_sources(folder: Path, root: str) -> Path | None:
    """The folder, or the one that its links lead to, if SGLang's sources are in it."""
    file = _below(folder, _SOURCE, root)
    if not os.path.isfile(file):
        return None
    if not root:
        return folder
    return file.parents[2] if str(file).endswith(f"/{_SOURCE}") else None


def _search_path(program: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    """Folders where the program's Python looks for packages, in its order."""
    folders = [Path(p) for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    for interpreter in _interpreters(program, environ):
        folders += _site_packages(interpreter)
    return folders


def _interpreters(program: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    found: list[Path] = []
    for word in program:
        path = _which(word, environ)
        if path is None:
            continue
        if re.match(r"^(python[\d.]*|pypy[\d.]*)$", path.name):
            found.append(path)
            continue
        shebang = _shebang(path)
        if shebang is not None:
            found.append(shebang)
    virtual_env = environ.get("VIRTUAL_ENV")
    if not found and virtual_env:
        found.append(Path(virtual_env) / "bin" / "python")
    return found


def _which(word: str, environ: Mapping[str, str]) -> Path | None:
    if os.sep in word:
        return Path(word) if os.path.isfile(word) else None  # Path.is_file raises in a folder closed to us
    for folder in environ.get("PATH", "").split(os.pathsep):
        path = Path(folder or ".") / word
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _shebang(script: Path) -> Path | None:
    """The interpreter that a console script names in its first line, ``sh`` trampolines included."""
    try:
        with script.open("rb") as file:
            head = file.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    if not head.startswith("#!"):
        return None
    lines = head.splitlines()
    words = lines[0][2:].split()
    if words and os.path.basename(words[0]) in ("sh", "env") and len(lines) > 1:
        # pip writes "#!/bin/sh" and "'''exec' /long/path/python ..." where the path is too long
        match = re.search(r"'''exec'\s+\"?([^\s\"]+)", lines[1])
        return Path(match.group(1)) if match else None
    return Path(words[0]) if words else None


def _site_packages(interpreter: Path) -> list[Path]:
    """``site-packages`` of an interpreter: of its virtual environment first, else of its prefix.

    The interpreter's own path is not resolved: a venv's ``python`` is a link out of the venv.
    """
    prefixes = [interpreter.parent.parent]
    config = prefixes[0] / "pyvenv.cfg"
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = None
    if text is not None:
        if re.search(r"^include-system-site-packages\s*=\s*true", text, re.M | re.I):
            home = re.search(r"^home\s*=\s*(.+)$", text, re.M)
            if home:
                prefixes.append(Path(home.group(1).strip()).parent)
    else:
        resolved = Path(os.path.realpath(interpreter)).parent.parent
        if resolved != prefixes[0]:
            prefixes.append(resolved)
    folders = [found for prefix in prefixes for found in _packages_below(prefix)]
    return list(dict.fromkeys(folders))


def _version_in(folder: Path, root: str = "") -> str | None:
    """The version of the ``sglang`` package in a folder: its metadata, else its ``_version.py``."""
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        match = _DIST_INFO.match(name)
        if match:
            return match.group(1)
    for name in ("_version.py", "version.py"):
        try:
            text = _below(folder, f"sglang/{name}", root).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        match = re.search(r"^(?:__version__\s*=\s*)?(?:version|__version__)\s*=\s*['\"](\d[^'\"]*)", text, re.M)
        if match:
            return match.group(1)
    for name in names:  # an editable install leaves a pointer to its checkout
        if name.startswith("__editable__.sglang-") and name.endswith(".pth"):
            return name[len("__editable__.sglang-") : -len(".pth")]
    return None
