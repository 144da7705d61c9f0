"""What is imported when: --version and --help answer at once, core stays pure, nobody imports the simulator."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("textual", "rich", "httpx", "psutil", "yaml", "pynvml", "asyncio", "sqlite3")

RUN = """
import json, os, sys
from wizard.__main__ import main
sys.argv = ["sgl-wizard", *json.loads(sys.argv[1])]
out, sys.stdout = sys.stdout, sys.stderr
try:
    code = main()
except SystemExit as end:
    code = end.code
print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]), file=out)
"""


def modules_after(code: str, *args: str) -> tuple[int, set[str], str]:
    """Exit code, top-level modules imported, and what was said."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    status, names = json.loads(done.stdout)
    return status, set(names), done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--version"], "sgl-wizard "),
        (["--help"], "exit codes"),
        (["check", "--help"], "--symptom"),
        (["fix", "--help"], "--drain"),
        (["sessions", "resume", "--help"], "--rollback"),
    ],
)
def test_answers_that_need_nothing_heavy(words: list[str], says: str) -> None:
    status, names, said = modules_after(RUN, json.dumps(words))
    assert status == 0
    assert says in said
    assert "wizard" in names
    assert not names.intersection(HEAVY)


def test_a_wrong_word_is_refused_as_fast() -> None:
    status, names, said = modules_after(RUN, json.dumps(["no-such-command"]))
    assert status == 2
    assert "no-such-command" in said
    assert not names.intersection(HEAVY)


IMPORT_ALL = """
import importlib, json, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([0, sorted(name for name in new if name not in sys.stdlib_module_names)]))
"""


@pytest.mark.parametrize("package", ["core", "server"])
def test_core_and_server_need_only_the_standard_library(package: str) -> None:
    """Every module of them is really imported; in the server package httpx may come later, in a function."""
    names = [name for name, _ in modules(package)]
    assert len(names) > 5
    assert modules_after(IMPORT_ALL, *names)[1] == {"wizard"}


def test_the_plain_wizard_never_imports_the_screen_or_the_gpu() -> None:
    """All of cli, session and runner, imported at once: what a check needs comes when it is needed."""
    names = [name for package in ("cli", "session", "runner") for name, _ in modules(package)]
    found = modules_after(IMPORT_ALL, *names)[1]
    assert not found.intersection({"textual", "rich", "pynvml"})


ALLOWED = {
    "core": (),
    "server": ("core",),
    "flowfile": ("core", "server"),
    "probes": ("core", "server"),
    "measure": ("core", "server"),
    "runner": ("core", "server", "flowfile", "probes", "measure"),
    "session": ("core", "server", "flowfile", "probes", "measure", "runner"),
    "cli": ("core", "server", "flowfile", "probes", "measure", "runner", "session"),
    "tui": ("core", "server", "flowfile", "probes", "measure", "runner", "session"),
}
ONLY = {"textual": "tui", "rich": "tui", "pynvml": "probes"}
"""Who alone may name a package, even inside a function."""


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    """Also inside functions, and with import-linter not installed. Strings given to importlib are not seen."""
    allowed = {package, *ALLOWED[package]}
    wrong = []
    for name, tree in modules(package):
        for word in everywhere(tree):
            parts = word.split(".")
            if parts[0] == "wizard":
                if parts[-1] != "wizard" and (ROOT / "wizard" / parts[1]).is_dir() and parts[1] not in allowed:
                    wrong.append((name, word))
                continue
            elsewhere = package != ONLY.get(parts[0], package)
            if elsewhere or (package == "core" and parts[0] not in sys.stdlib_module_names):
                wrong.append((name, word))
    assert wrong == []


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "wizard" / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] != "__main__":
            yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


def words_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module] if node.module != "wizard" else [f"wizard.{one.name}" for one in node.names]
    return []


def everywhere(tree: ast.Module) -> list[str]:
    return [word for node in ast.walk(tree) if isinstance(node, ast.stmt) for word in words_of(node)]
