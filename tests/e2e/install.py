"""Build a real SGLang 0.5.20 that serves on the CPU, once; later runs reuse it.

``python tests/e2e/install.py [--dir DIR]`` (standard library only) makes a virtual environment with the pinned
``requirements.txt``, SGLang itself (``--no-deps``), the import shims and a tiny random Llama: about 2.5 GB, one
to three minutes. A stamp is written last, so a half-built folder is never taken for a whole one; a lock keeps
two installers apart. It ends with the folder's path on stdout, or with one line on stderr and exit code 1.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SGLANG_VERSION = "0.5.20"
OLDEST_PYTHON = (3, 11)
PIP_LIMIT_S = 1500
STAMP = "installed.json"
LOCK = "sgl-wizard-e2e.lock"
LOG = "install.log"


class InstallError(Exception):
    """Why there is no server to test with; one line."""


def fingerprint() -> str:
    """A short hash over all that decides what gets installed."""
    digest = hashlib.sha256(f"sglang=={SGLANG_VERSION} python {sys.version_info[:2]}".encode())
    inputs = [HERE / "requirements.txt", HERE / "tiny_model.py", *sorted((HERE / "shim").rglob("*.py"))]
    for path in inputs:
        digest.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def default_folder() -> Path:
    """$SGL_WIZARD_E2E_DIR, else a folder of the user's cache that names version and fingerprint."""
    told = os.environ.get("SGL_WIZARD_E2E_DIR")
    if told:
        return Path(told).expanduser().resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sgl-wizard" / f"e2e-{SGLANG_VERSION}-{fingerprint()}"


def is_installed(folder: Path) -> bool:
    """True when this very recipe was built to its end in that folder."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("fingerprint") == fingerprint()


def run_logged(argv: Sequence[str | Path], log: Path, what: str) -> None:
    """Run to the end with its output in the log. Raises InstallError with the line that tells most."""
    with log.open("ab") as sink:
        start = sink.tell()
        try:
            code = subprocess.run(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=PIP_LIMIT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise InstallError(f"{what}: still not done after {PIP_LIMIT_S} s; see {log}") from None
    if code:
        lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
        errors = [line.strip() for line in lines if line.startswith("ERROR")] or [x.strip() for x in lines if x]
        last = errors[-1] if errors else "it said nothing"
        raise InstallError(f"{what}: exit code {code}: {last[:300]} (network reachable? whole log: {log})")


def build(folder: Path) -> None:
    """Build into a folder that is ours, from nothing. Raises InstallError."""
    log = folder / LOG
    log.write_bytes(b"")
    (folder / STAMP).unlink(missing_ok=True)
    for part in ("venv", "shim", "tiny-llama"):
        shutil.rmtree(folder / part, ignore_errors=True)
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"  {time.monotonic() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    say("virtual environment")
    run_logged([sys.executable, "-m", "venv", folder / "venv"], log, "python -m venv")
    say("pinned requirements (the long part)")
    run_logged([*pip, "-r", HERE / "requirements.txt"], log, "pip install -r requirements.txt")
    say(f"sglang {SGLANG_VERSION}")
    run_logged([*pip, "--no-deps", f"sglang=={SGLANG_VERSION}"], log, f"pip install sglang=={SGLANG_VERSION}")
    say("shims and model")
    shutil.copytree(HERE / "shim", folder / "shim", ignore=shutil.ignore_patterns("__pycache__"))
    run_logged([python, HERE / "tiny_model.py", folder / "tiny-llama"], log, "tiny_model.py")
    took_s = round(time.monotonic() - started, 1)
    stamp = {"fingerprint": fingerprint(), "sglang": SGLANG_VERSION, "seconds": took_s}
    partial = folder / (STAMP + ".partial")
    partial.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    partial.replace(folder / STAMP)
    say("done")


def install(folder: Path) -> bool:
    """Make sure that the folder holds the server. True when it was built now, False when it was there.

    Raises InstallError: old Python, a folder with other things in it, no network, no room.
    """
    if is_installed(folder):
        return False
    if sys.version_info < OLDEST_PYTHON:
        want = ".".join(map(str, OLDEST_PYTHON))
        raise InstallError(f"the pinned packages of the test server need Python {want} or newer")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / LOCK).exists():
            raise InstallError(f"{folder} has other things in it: give an empty or a new folder with --dir")
        with (folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another install is at work in that folder: waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if is_installed(folder):
                return False
            build(folder)
    except OSError as error:
        raise InstallError(f"{folder}: {error.strerror or error}") from error
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, help="where to build it (default: a folder of the user's cache)")
    told = parser.parse_args(argv).dir
    folder = told.expanduser().resolve() if told else default_folder()
    try:
        built = install(folder)
    except InstallError as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    print(f"SGLang {SGLANG_VERSION} was {'installed now' if built else 'already there'}", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
