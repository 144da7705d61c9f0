"""Flags read from installed sources: by reading only, bounded, and only where the catalogue has others."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from wizard.server import catalogue, installed, sources
from wizard.server.catalogue import for_version

FORK = """
import torch_that_is_not_there
from sglang.srt.choices import *
from sglang.srt.parsers import Parser

class DeprecatedAction:
    def __call__(self, parser, namespace, values, option_string=None):
        raise ValueError("no")

raise SystemExit("a module that is read is not run")

class ServerArgs:
    tp_size: int = 1

    @staticmethod
    def add_cli_args(parser):
        names = list(Parser.TABLE.keys())
        parser.add_argument("--model-path", "--model", type=str, required=True)
        parser.add_argument("--tensor-parallel-size", "--tp-size", type=int, default=ServerArgs.tp_size)
        parser.add_argument("--quantization", choices=CHOICES + ["own"], help="How.")
        parser.add_argument("--tool-call-parser", choices=names)
        parser.add_argument("--fast", action="store_true")
        parser.add_argument("--old", action=DeprecatedAction, help="Deprecated. Use --fast instead.")
        parser.add_argument("--dynamic", choices=compute(), default=compute())
"""
FIELDS = """
class ServerArgs(Base):
    model_path: A[str, Arg(help="Path.", aliases=["--model"])]
    tp_size: A[int, Arg(help="Ranks.", aliases=["--tensor-parallel-size"])] = 1
    fraction: A[Optional[float], "A part."] = None
    radix: A[bool, "A switch."] = False
    pair: A[bool, Arg(help="Both.", action=argparse.BooleanOptionalAction)] = True
    mode: A[Literal["a", "b"], "One of two."] = "a"
    names: A[Optional[List[str]], "Many."] = None
    extra: A[Optional[dict], Arg(help="JSON.", type_parser=json.loads)] = None
    hidden: A[int, Arg(no_cli=True)] = 0
    plain: int = 3

    @staticmethod
    def add_cli_args(parser):
        add_cli_args_from_dataclass(parser, ServerArgs)
"""


def package(root: Path, version: str, text: str, *, record: bool = False) -> Path:
    """An environment with a pretended sglang; its interpreter's path."""
    site = root / "lib" / "python3.11" / "site-packages"
    folder = site / "sglang" / "srt"
    folder.mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "pyvenv.cfg").write_text("home = /nowhere\n")
    python = root / "bin" / "python"
    python.write_text("#!/bin/false\n")
    python.chmod(0o755)
    (folder / "server_args.py").write_text(text)
    (folder / "choices.py").write_text('CHOICES = ["fp8", "awq"]\nCHOICES.append("gptq")\n')
    (folder / "parsers.py").write_text('class Parser:\n    TABLE = {"qwen": Qwen, "llama": Llama}\n')
    info = site / f"sglang-{version}.dist-info"
    info.mkdir()
    if record:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        (info / "RECORD").write_text(f"sglang/srt/server_args.py,sha256={digest},{len(text)}\n")
    return python


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_LEARNT", {})
    installed._differing.cache_clear()


def version_of(python: Path) -> str | None:
    return installed.version_of([str(python), "-m", "sglang.launch_server"], {})


def test_a_development_build_brings_its_own_flags(tmp_path: Path) -> None:
    assert version_of(package(tmp_path, "0.5.24.dev7", FORK)) == "0.5.24.dev7"
    flags = for_version("0.5.24.dev7")
    assert (flags.version, flags.exact) == ("0.5.24.dev7", True)
    assert flags.by_option["--tensor-parallel-size"].flag == "--tp-size"
    assert flags.by_option["--tp-size"].default == 1
    assert flags.by_option["--quantization"].choices == ("fp8", "awq", "gptq", "own")
    assert flags.by_option["--tool-call-parser"].choices == ("qwen", "llama")
    assert flags.by_option["--dynamic"].choices is None
    assert flags.by_option["--fast"].is_switch
    assert (flags.by_option["--old"].fatal, flags.by_option["--old"].replacement) == (True, "--fast")
    assert flags.resolve("--mem-fraction-static").kind == "unknown"


def test_fields_with_annotations_are_flags(tmp_path: Path) -> None:
    version_of(package(tmp_path, "0.5.24", FIELDS))
    flags = for_version("0.5.24").by_option
    assert sorted(flags) == sorted(
        "--model-path --model --tp-size --tensor-parallel-size --fraction --radix --pair --no-pair --mode "  # noqa: SIM905
        "--names --extra".split()
    )
    assert flags["--model"].required
    assert not flags["--fraction"].required
    assert (flags["--fraction"].type, flags["--extra"].type, flags["--names"].nargs) == ("float", "json", "+")
    assert flags["--mode"].choices == ("a", "b")
    assert flags["--radix"].is_switch
    assert flags["--no-pair"].dest == "pair"


def test_a_patched_release_counts_and_an_untouched_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_of(package(tmp_path / "patched", "0.5.20", FIELDS))
    assert "--radix" in for_version("0.5.20")
    monkeypatch.setattr(catalogue, "_LEARNT", {})
    monkeypatch.setattr(installed, "read", lambda *_: pytest.fail("read for nothing"))
    assert version_of(package(tmp_path / "released", "0.5.20", FIELDS, record=True)) == "0.5.20"
    assert "--radix" not in for_version("0.5.20")


@pytest.mark.parametrize(
    "text",
    ["def (", "ServerArgs = 3", "class ServerArgs: pass", "x = " + "(" * 300, "CHOICES = CHOICES", "\0", ""],
)
def test_sources_that_cannot_be_read_leave_the_catalogue(tmp_path: Path, text: str) -> None:
    assert version_of(package(tmp_path, "0.5.24", text)) == "0.5.24"
    assert for_version("0.5.24").version == "0.5.23"


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_FILE_BYTES", 500)
    version_of(package(tmp_path, "0.5.24", FIELDS))
    assert for_version("0.5.24").version == "0.5.23"
    clock = iter(range(0, 1000, 100))
    late = sources.Sources(tmp_path, clock=lambda: float(next(clock)))
    with pytest.raises(sources.TooMuch):
        late.module("sglang.srt.choices")


def test_a_real_installation_says_what_the_catalogue_says() -> None:
    """Set SGL_WIZARD_SGLANG to a site-packages folder with a catalogued SGLang."""
    site = os.environ.get("SGL_WIZARD_SGLANG")
    if not site:
        pytest.skip("needs SGL_WIZARD_SGLANG: a site-packages folder that holds sglang")
    version = catalogue._version_in(Path(site))
    assert version in catalogue.catalogued_versions()
    own, known = installed.read(Path(site), version), for_version(version)
    assert set(own.by_option) == set(known.by_option)
    for spec in known.specs:
        mine = own.by_option[spec.flag]
        assert (mine.dest, mine.nargs, mine.action, mine.choices) == (
            spec.dest,
            spec.nargs,
            spec.action,
            spec.choices,
        )
        assert (mine.required, mine.deprecated, mine.replacement) == (
            spec.required,
            spec.deprecated,
            spec.replacement,
        )
