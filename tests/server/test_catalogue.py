"""The shipped flag catalogue, and telling which version a command would run."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wizard.core.flags import INTENTS
from wizard.server.catalogue import (
    DATA,
    catalogued_versions,
    exists_in_any_version,
    for_version,
    installed_version,
    known_names,
)

SHARED = Path(os.environ.get("SGL_WIZARD_SHARED") or Path(__file__).resolve().parents[3] / "shared")


def test_small_and_whole() -> None:
    assert DATA.stat().st_size < 150_000
    versions = catalogued_versions()
    assert len(versions) == 26
    assert (versions[0], versions[-1]) == ("0.4.0", "0.5.23")
    assert versions.index("0.4.10.post2") < versions.index("0.5.1")
    counts = {"0.4.0": 82, "0.5.4": 273, "0.5.13": 406, "0.5.20": 494, "0.5.23": 531}
    assert {v: len(for_version(v).specs) for v in counts} == counts


def test_is_what_the_facts_give() -> None:
    if not (SHARED / "facts" / "flags").is_dir():
        pytest.skip("needs the extracted flags: set SGL_WIZARD_SHARED to the folder that holds facts/flags")
    from tests.tools.build_catalogue import pack
    from wizard.core.flags import version_key

    docs = [json.loads(f.read_text(encoding="utf-8")) for f in (SHARED / "facts" / "flags").glob("*.json")]
    docs.sort(key=lambda d: version_key(d["sglang_version"]))
    assert json.loads(gzip.decompress(DATA.read_bytes())) == json.loads(json.dumps(pack(docs)))


@pytest.mark.parametrize(
    ("asked", "version", "exact"),
    [
        ("0.5.20", "0.5.20", True),
        ("0.5.21", "0.5.20", False),
        ("0.5.20.post1", "0.5.20", False),
        ("0.5.20rc1", "0.5.20", True),
        ("v0.5.4", "0.5.4", True),
        ("0.4.10", "0.4.10.post2", False),
        ("0.4.9", "0.4.8", False),
        ("0.4.6.post1", "0.4.6.post5", False),
        ("0.4.6.post7", "0.4.6.post5", False),
        ("0.3.6", "0.4.0", False),
        ("1.0.0", "0.5.23", False),
        ("0.5.20+cu128", "0.5.20", True),
        (None, "0.5.23", True),
        ("main", "0.5.23", False),
    ],
)
def test_nearest_version(asked: str | None, version: str, exact: bool) -> None:
    catalogue = for_version(asked)
    assert (catalogue.version, catalogue.exact) == (version, exact)


@pytest.mark.parametrize(
    ("version", "option", "kind", "flag"),
    [
        ("0.5.20", "--tp", "abbreviation", "--tp-size"),
        ("0.4.0", "--tp", "abbreviation", "--tp-size"),
        ("0.5.20", "--tensor-parallel-size", "alias", "--tp-size"),
        ("0.4.8", "--model", "abbreviation", "--model-path"),
        ("0.4.10.post2", "--model", "alias", "--model-path"),
        ("0.4.7", "--pp", "abbreviation", "--pp-size"),
        ("0.5.20", "--pp", "ambiguous", None),
        ("0.4.4", "--ep", "abbreviation", "--ep-size"),
        ("0.4.8", "--ep", "ambiguous", None),
        ("0.5.1", "--ep", "alias", "--ep-size"),
        ("0.5.13", "--cuda-graph-max-bs", "exact", "--cuda-graph-max-bs"),
        ("0.5.20", "--cuda-graph-max-bs", "ambiguous", None),
        ("0.5.20", "--tokenizer-threads", "unknown", None),
        ("0.5.20", "--he", "unknown", None),
    ],
)
def test_resolves_as_argparse_would(version: str, option: str, kind: str, flag: str | None) -> None:
    found = for_version(version).resolve(option)
    if option == "--he":  # --help is no setting
        assert found.spec is None
        return
    assert (found.kind, found.spec.flag if found.spec else None) == (kind, flag)


def test_an_intent_never_names_a_flag_that_warns_where_a_better_one_exists() -> None:
    for version in catalogued_versions():
        catalogue = for_version(version)
        for name, ways in INTENTS.items():
            for spelling in catalogue.spell(name):
                spec = catalogue.by_option[spelling.flag]
                assert not spec.fatal
                if spec.deprecated is not None:
                    clean = [w for w in ways if all(s.flag in catalogue for s in w)]
                    assert len(clean) == 1, (version, name)


@pytest.mark.parametrize(
    "name", ["max_running_requests", "mem_fraction_static", "max_total_tokens", "port", "tp_size"]
)
def test_plain_names_exist_everywhere(name: str) -> None:
    for version in catalogued_versions():
        spec = for_version(version).flag_for(name)
        assert spec is not None
        assert spec.flag == "--" + name.replace("_", "-")


@pytest.mark.parametrize(
    ("version", "name", "flag"),
    [
        (None, "disable_cuda_graph", "--disable-cuda-graph"),
        (None, "disable_decode_cuda_graph", "--disable-cuda-graph"),
        ("0.5.23", "disable_decode_cuda_graph", "--disable-decode-cuda-graph"),
        ("0.4.8", "disable_decode_cuda_graph", "--disable-cuda-graph"),
        (None, "enable_dp_attention", "--enable-dp-attention"),
        ("0.5.23", "enable_dp_attention", "--attn-dp-size"),
        (None, "cuda_graph_max_bs", "--cuda-graph-max-bs-decode"),  # no spelling lasts: the newest
    ],
)
def test_where_the_version_is_unknown_a_spelling_that_lasts_is_written(
    version: str | None, name: str, flag: str
) -> None:
    spec = for_version(version).flag_for(name)
    assert spec is not None
    assert spec.flag == flag


def test_names() -> None:
    assert exists_in_any_version("cuda_graph_max_bs")
    assert exists_in_any_version("--torchao-config")
    assert not exists_in_any_version("max_runing_requests")
    assert for_version("0.5.20").flag_for("torchao_config") is None
    assert len(known_names()) > 500


def _venv(folder: Path, version: str | None, script: str = "") -> Path:
    """The files of a virtual environment, as far as metadata goes. Gives its python."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text("home = /nowhere/bin\ninclude-system-site-packages = false\n")
    python = folder / "bin" / "python"
    python.symlink_to(sys.executable)
    if version:
        (packages / f"sglang-{version}.dist-info").mkdir()
    if script:
        tool = folder / "bin" / "sglang"
        tool.write_text(script.format(python=python))
        tool.chmod(0o755)
    return python


def test_installed_version_of_a_venv(tmp_path: Path) -> None:
    python = _venv(tmp_path / "a", "0.5.9", "#!{python}\nimport sys\n")
    module = ["-m", "sglang.launch_server", "--model-path", "m"]
    script = str(tmp_path / "a" / "bin" / "sglang")
    path = {"PATH": str(tmp_path / "a" / "bin")}
    assert installed_version([str(python), *module], {}) == "0.5.9"
    assert installed_version([str(python), script, "serve", "m"], {}) == "0.5.9"
    assert installed_version([script, "serve", "m"], {}) == "0.5.9"
    assert installed_version(["sglang", "serve", "m"], path) == "0.5.9"
    assert installed_version(["python", "-u", *module], path) == "0.5.9"
    assert installed_version(["env", f"PATH={path['PATH']}", "python", *module], {"PATH": "/bin"}) == "0.5.9"
    assert installed_version(["numactl", "-N", "0", str(python), *module], {}) == "0.5.9"
    assert installed_version(["python", *module], {"PATH": "", "VIRTUAL_ENV": str(tmp_path / "a")}) == "0.5.9"


def test_installed_version_through_a_trampoline_and_pythonpath(tmp_path: Path) -> None:
    _venv(tmp_path / "b", "0.5.4", "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\nimport sys\n")
    assert installed_version([str(tmp_path / "b" / "bin" / "sglang"), "serve", "m"], {}) == "0.5.4"
    python = _venv(tmp_path / "c", None)
    assert installed_version([str(python), "-m", "sglang.launch_server"], {}) is None
    checkout = tmp_path / "src" / "sglang"
    checkout.mkdir(parents=True)
    (checkout / "version.py").write_text('__version__ = "0.4.8"\n')
    environ = {"PYTHONPATH": str(tmp_path / "src")}
    assert installed_version([str(python), "-m", "sglang.launch_server"], environ) == "0.4.8"


def test_the_simulator_plays_one_version() -> None:
    assert installed_version([sys.executable, "-m", "wizard.simulator", "--port", "1"], {}) == "0.5.20"
    assert installed_version(["no-such-program", "--port", "1"], {}) is None


def test_importing_and_loading_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); "  # a distribution's site module brings some of its own
        "from wizard.server.catalogue import for_version; import wizard.core.argv; "
        "for_version('0.5.20').flag_for('port'); late = {'difflib', 'importlib.resources', 'yaml', 'httpx'}; "
        "print(sorted(late & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
