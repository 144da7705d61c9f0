"""The recipe and its acts on disk: read back after a crash, private, and loud on a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.supervisors.engines.conftest import KINDS, World
from wizard.server.supervisors import execute
from wizard.server.supervisors.book import Book
from wizard.server.supervisors.contract import SupervisorError
from wizard.server.supervisors.recipe import Recipe, Run, Step, Undo

Make = Callable[[str], World]


def small(*steps: Step) -> Recipe:
    return Recipe("docker", "x", "", steps=steps, undo=(Undo("back", Run(("true",)), "one"),))


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_runner_reads_the_recipe_and_what_was_begun(make: Make, kind: str, tmp_path: Path) -> None:
    world = make(kind)
    found, path = world.recipe(), tmp_path / "book"
    book = Book(path)
    assert (book.exists, book.recipe(), book.begun()) == (False, None, [])
    book.open(found)
    assert execute.apply(found.steps[:2], book).ok
    later = Book(path)
    assert later.exists
    assert later.recipe() == found
    assert later.begun() == [one.name for one in found.steps[:2]]


def test_the_first_recipe_counts(tmp_path: Path) -> None:
    book = Book(tmp_path / "book")
    book.open(small())
    book.open(Recipe("podman", "y", ""))
    assert book.recipe() == small()


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_nobody_else_may_read_it(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "book"
    before = os.umask(mask)
    try:
        Book(path).open(small())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [1, 2, 9, 25])
def test_a_torn_last_line_is_none_and_what_follows_it_is_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "book"
    book = Book(path)
    book.open(small())
    book("doing", "one", {})
    book("doing", "two", {"detail": "é"})
    path.write_bytes(path.read_bytes()[: -1 - cut])  # its line end, and some of it
    assert (book.recipe(), book.begun()) == (small(), ["one"])
    book("doing", "three", {})
    assert (book.recipe(), book.begun()) == (small(), ["one", "three"])


def test_a_torn_recipe_is_none(tmp_path: Path) -> None:
    path = tmp_path / "book"
    Book(path).open(small())
    path.write_bytes(path.read_bytes()[:40])
    assert Book(path).recipe() is None
    path.write_bytes(b'\n[1]\n"x"\nnull\n\xff\xfe\n{"is": "doing", "name": "one"}\n')
    assert (Book(path).recipe(), Book(path).begun()) == (None, ["one"])


def test_the_step_that_a_runner_died_in_was_begun(tmp_path: Path) -> None:
    """A real process, killed by its own step."""
    path = tmp_path / "book"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from wizard.server.supervisors import execute\n"
        "from wizard.server.supervisors.book import Book\n"
        "from wizard.server.supervisors.recipe import Recipe, Run, Step\n"
        "kill = Run((sys.executable, '-c', 'import os, signal; os.kill(os.getppid(), signal.SIGKILL)'))\n"
        "steps = (Step('one', Run(('true',))), Step('two', kill), Step('three', Run(('true',))))\n"
        "book = Book(Path(sys.argv[1]))\n"
        "book.open(Recipe('docker', 'x', '', steps=steps))\n"
        "execute.apply(steps, book)\n"
    )
    root = str(Path(__file__).parents[4])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=env, timeout=60)
    assert done.returncode == -signal.SIGKILL
    book = Book(path)
    assert book.begun() == ["one", "two"]
    recipe = book.recipe()
    assert recipe is not None
    assert [one.name for one in recipe.steps] == ["one", "two", "three"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_stops_a_change_and_not_the_way_back(tmp_path: Path) -> None:
    full = Book(Path("/dev/full"))
    touched = tmp_path / "touched"
    recipe = small(Step("one", Run(("touch", str(touched)))))
    with pytest.raises(SupervisorError, match="/dev/full cannot be written: No space left"):
        full.open(recipe)
    with pytest.raises(SupervisorError):
        full("doing", "one", {})
    with pytest.raises(SupervisorError):
        execute.apply(recipe.steps, full)
    assert not touched.exists()  # nothing is done that could not be written down
    full.try_to("doing", "back", {})
    assert execute.apply(recipe.steps, full.try_to).ok
    assert touched.exists()


def test_half_a_line_is_a_full_disk_too(tmp_path: Path) -> None:
    """The kernel writes what still fits, and says so."""
    path = tmp_path / "book"
    book = Book(path)
    book.open(small())
    book("doing", "one", {})
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, limits[1]))
    try:
        with pytest.raises(SupervisorError, match="No space left"):
            book("doing", "two", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size + 7
    assert book.begun() == ["one"]
    book("doing", "three", {})
    assert book.begun() == ["one", "three"]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    book = Book(tmp_path / "gone" / "book")
    with pytest.raises(SupervisorError, match="cannot be written: No such file"):
        book.open(small())
    assert (book.exists, book.recipe(), book.begun()) == (False, None, [])
