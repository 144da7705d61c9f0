"""Pack the flags of many SGLang versions into the one file that the wizard carries.

    python -m tests.tools.build_catalogue FACTS_FOLDER [OUT]

FACTS_FOLDER holds ``flags/<version>.json`` as an extractor wrote them from SGLang's wheels (one record
a flag). Records repeat from version to version, so the file keeps each different record once and a
list of record numbers a version. OUT defaults to ``wizard/server/data/flags.json.gz``.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from wizard.core.flags import version_key

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "wizard" / "server" / "data" / "flags.json.gz"


def canonical_names(newest_first: list[dict[str, Any]]) -> dict[str, str]:
    """One name a flag over all versions: the spelling that the newest version with it puts first.

    Early releases list ``--tensor-parallel-size`` first, later ones ``--tp-size``; a diff must not
    depend on that.
    """
    names: dict[str, str] = {}
    for doc in newest_first:
        for record in doc["flags"]:
            options = [record["flag"], *record["aliases"]]
            known = next((names[o] for o in options if o in names), record["flag"])
            for option in options:
                names.setdefault(option, known)
    return names


def pack(docs: list[dict[str, Any]]) -> dict[str, Any]:
    """The file's content. ``docs`` are the extractor's documents, oldest version first."""
    names = canonical_names(docs[::-1])
    rows: list[list[Any]] = []
    known: dict[str, int] = {}
    versions: dict[str, list[int]] = {}
    spans: dict[str, list[Any]] = {}
    for doc in docs:
        version = doc["sglang_version"]
        numbers: list[int] = []
        for record in doc["flags"]:
            options = [record["flag"], *record["aliases"]]
            flag = names[options[0]] if names[options[0]] in options else options[0]
            options = [flag, *(o for o in options if o != flag)]
            choices = None if record["choices_is_expr"] else record["choices"]
            row = [
                options,
                record["dest"],
                record["type"],
                record["nargs"],
                record["action"],
                None if record["default_is_expr"] else record["default"],
                choices,
                int(record["required"]),
                (record["deprecated_how"] or "yes") if record["deprecated"] else None,
                record["replacement"],
                record.get("const"),
            ]
            key = json.dumps(row, sort_keys=True)
            if key not in known:
                known[key] = len(rows)
                rows.append(row)
            numbers.append(known[key])
            for option in options:
                span = spans.setdefault(option, [version, version, None])
                span[1] = version
                span[2] = record["replacement"] or span[2]
        versions[version] = numbers
    return {"format": 1, "versions": versions, "specs": rows, "spans": spans}


def main(argv: list[str]) -> int:
    if not 1 <= len(argv) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    files = list((Path(argv[0]) / "flags").glob("*.json"))
    if not files:
        print(f"{argv[0]}: no flags/*.json in this folder", file=sys.stderr)
        return 2
    docs = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    docs.sort(key=lambda d: version_key(d["sglang_version"]))
    text = json.dumps(pack(docs), separators=(",", ":"), ensure_ascii=True)
    out = Path(argv[1]) if len(argv) == 2 else DEFAULT_OUT
    out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{out}: {len(docs)} versions, {out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
