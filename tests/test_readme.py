"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path

from wizard.flowfile.lint import lint
from wizard.flowfile.load import parse_book

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_flow_that_it_teaches_has_no_problem(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (tmp_path / "a.yaml").write_text(example.group(1), encoding="utf-8")
    book, problems = parse_book(tmp_path)
    assert [str(p) for p in [*problems, *lint(book)]] == []
    assert book.flows.keys() == {"requests_wait"}


def test_the_pictures_it_shows_exist() -> None:
    pictures = re.findall(r"\((assets/[^)]+)\)", README)
    assert len(pictures) >= 2
    for name in pictures:
        assert (ROOT / name).is_file(), name


def test_the_commands_it_names_exist() -> None:
    from wizard.cli.main import build_parser

    words = set(re.findall(r"^sgl-wizard ([a-z]+)", README, re.MULTILINE))
    assert {"check", "fix", "probe", "sessions", "flows"} <= words
    text = build_parser().format_help()
    for word in words:
        assert word in text
