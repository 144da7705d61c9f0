"""``sgl-wizard reference [NAME]``: launch commands for kinds of use, right for a version and a card."""

from __future__ import annotations

import argparse
import asyncio

from wizard.cli.output import CliError, Exit, put, put_json
from wizard.cli.targets import load_flows, resolve
from wizard.core.reference import work_out
from wizard.core.target import Target
from wizard.session.checklist import reference_document, reference_lines
from wizard.session.driver import Driver


def run(args: argparse.Namespace) -> int:
    """Exit 0. Without a target the version is ``--sglang-version`` or the newest known, the card unknown."""
    book = load_flows(args)
    if args.name is None:
        if args.json:
            known = [{"id": r.id, "title": r.title, "summary": r.summary} for r in book.references.values()]
            put_json({"schema_version": 1, "references": known})
        else:
            for one in book.references.values():
                put(f"{one.id:<16} {one.title}")
        return Exit.OK
    reference = book.references.get(args.name)
    if reference is None:
        raise CliError(f"there is no reference {args.name}; there are {', '.join(book.references)}", Exit.USAGE)
    named = args.url or args.pid or args.log or args.command_text
    target = resolve(args) if named else Target(port=0, hardware=args.hardware, version=args.sglang_version)
    driver = Driver(book, read_only=True, window_s=0.0, version=args.sglang_version)
    state = asyncio.run(driver.examine(target))
    catalogue = driver.catalogue()
    lines = work_out(reference, state.snapshot.get, catalogue, args.model)
    if args.json:
        put_json(reference_document(reference, lines, catalogue, args.model))
    else:
        put("\n".join(reference_lines(reference, lines, catalogue, args.model)))
    return Exit.OK
