"""The package of a server whose files are not the wizard's: a made-up /proc/PID with a root folder in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wizard.server.catalogue import installed_package

ARGV = ("python3", "-m", "sglang.launch_server", "--model-path", "m")
SITE = "lib/python3.11/site-packages"


class Root:
    """``/proc/PID`` with ``exe`` (which interpreter runs, as the kernel names it in there) and ``root``."""

    def __init__(self, folder: Path, exe: str = "/usr/bin/python3.11") -> None:
        self.process = folder / "4000"
        self.path = self.process / "root"
        self.path.mkdir(parents=True)
        (self.process / "exe").symlink_to(exe)

    def at(self, place: str) -> Path:
        return self.path / place.lstrip("/")

    def install(self, site: str, version: str, sources: bool = True) -> Path:
        folder = self.at(site)
        (folder / f"sglang-{version}.dist-info").mkdir(parents=True)
        if sources:
            self.sources(site)
        return folder

    def sources(self, place: str) -> Path:
        found = self.at(place) / "sglang" / "srt"
        found.mkdir(parents=True)
        (found / "server_args.py").write_text("")
        return self.at(place)

    def link(self, place: str, to: str) -> None:
        self.at(place).parent.mkdir(parents=True, exist_ok=True)
        self.at(place).symlink_to(to)

    def package(self, **environ: str) -> tuple[Path | None, str] | None:
        return installed_package(ARGV, environ, root=str(self.path))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


@pytest.fixture
def out_here(tmp_path: Path) -> Path:
    """Another version, among the wizard's own files."""
    site = tmp_path / "out_here" / SITE
    (site / "sglang-0.4.1.dist-info").mkdir(parents=True)
    (site / "sglang" / "srt").mkdir(parents=True)
    (site / "sglang" / "srt" / "server_args.py").write_text("")
    return tmp_path / "out_here"


def real(found: tuple[Path | None, str] | None) -> tuple[Path | None, str]:
    assert found is not None
    folder, version = found
    return folder.resolve() if folder is not None else None, version


def test_the_interpreter_that_the_kernel_names_is_looked_below(root: Root) -> None:
    assert root.package() is None
    folder = root.install(f"/usr/{SITE}", "0.5.6")
    assert root.package() == (folder, "0.5.6")


def test_what_is_installed_out_here_does_not_count(root: Root, out_here: Path) -> None:
    """Paths of its environment mean its own files."""
    assert root.package(VIRTUAL_ENV=str(out_here), PYTHONPATH=str(out_here / SITE)) is None
    assert installed_package(ARGV, {"PYTHONPATH": str(out_here / SITE)}) == (out_here / SITE, "0.4.1")
    folder = root.install(f"{out_here}/{SITE}", "0.5.6")
    assert root.package(VIRTUAL_ENV=str(out_here)) == (folder, "0.5.6")


def test_the_order_of_places(root: Root) -> None:
    root.install(f"/usr/{SITE}", "0.5.1")
    root.install(f"/opt/conda/{SITE}", "0.5.2")
    root.install(f"/opt/venv/{SITE}", "0.5.3")
    root.install("/src/python", "0.5.4")
    assert real(root.package())[1] == "0.5.1"
    assert real(root.package(CONDA_PREFIX="/opt/conda"))[1] == "0.5.2"
    assert real(root.package(CONDA_PREFIX="/opt/conda", VIRTUAL_ENV="/opt/venv"))[1] == "0.5.3"
    assert real(root.package(VIRTUAL_ENV="/opt/venv", PYTHONPATH="/nowhere:/src/python"))[1] == "0.5.4"


@pytest.mark.parametrize(
    ("place", "below"),
    [
        ("/opt/venv", SITE),
        ("/opt/venv/lib", "python3.11/site-packages"),
        ("/opt/venv/lib/python3.11", "site-packages"),
        (f"/opt/venv/{SITE}", ""),
    ],
)
def test_an_absolute_link_in_there_leads_into_it(root: Root, out_here: Path, place: str, below: str) -> None:
    """The kernel would follow it from the wizard's own root."""
    to = str(out_here) + place.removeprefix("/opt/venv")
    root.link(place, to)
    assert root.package(VIRTUAL_ENV="/opt/venv") is None
    folder = root.install(f"{to}/{below}", "0.5.6")
    assert real(root.package(VIRTUAL_ENV="/opt/venv")) == (folder, "0.5.6")


def test_an_absolute_link_on_the_python_path(root: Root, out_here: Path) -> None:
    root.link("/src", f"{out_here}/{SITE}")
    assert root.package(PYTHONPATH="/src") is None
    folder = root.install(f"{out_here}/{SITE}", "0.5.6")
    assert real(root.package(PYTHONPATH="/src")) == (folder, "0.5.6")


def test_relative_links_and_links_that_lead_up_stay_in_it(root: Root, out_here: Path) -> None:
    root.link("/opt/venv", "../../../../../.." + str(out_here))
    assert root.package(VIRTUAL_ENV="/opt/venv") is None
    folder = root.install(f"{out_here}/{SITE}", "0.5.6")
    assert real(root.package(VIRTUAL_ENV="/opt/venv")) == (folder, "0.5.6")


def test_a_link_to_itself_ends(root: Root) -> None:
    root.link("/opt/venv", "/opt/venv")
    root.link("/opt/a", "/opt/b")
    root.link("/opt/b", "/opt/a")
    assert root.package(VIRTUAL_ENV="/opt/venv", PYTHONPATH="/opt/a") is None


@pytest.mark.parametrize("through_link", [False, True])
def test_an_editable_install_points_into_it(root: Root, tmp_path: Path, through_link: bool) -> None:
    checkout = str(tmp_path / "checkout" / "python")
    theirs = Path(checkout) / "sglang" / "srt"
    theirs.mkdir(parents=True)
    (theirs / "server_args.py").write_text("")
    site = root.install(f"/usr/{SITE}", "0.5.6", sources=False)
    pointed = "/sgl-workspace/python" if through_link else checkout
    (site / "__editable__.sglang-0.5.6.pth").write_text(f"# made by pip\n{pointed}\n")
    if through_link:
        root.link("/sgl-workspace/python", checkout)
    assert root.package() == (None, "0.5.6")  # nothing there in it: not the wizard's own checkout
    sources = root.sources(checkout)
    assert real(root.package()) == (sources, "0.5.6")


def test_without_metadata_the_editable_pointer_tells_the_version(root: Root) -> None:
    sources = root.sources("/sgl-workspace/python")
    site = root.at(f"/usr/{SITE}")
    site.mkdir(parents=True)
    (site / "__editable__.sglang-0.5.6.pth").write_text("/sgl-workspace/python\n")
    assert root.package() == (sources, "0.5.6")


def test_a_process_whose_files_cannot_be_read(tmp_path: Path) -> None:
    assert installed_package(ARGV, {}, root=str(tmp_path / "gone" / "root")) is None
    assert installed_package(("python", "-m", "wizard.simulator"), {}, root=str(tmp_path))
