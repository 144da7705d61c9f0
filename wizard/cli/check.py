"""``sgl-wizard check``: classify and diagnose, change nothing."""

from __future__ import annotations

import argparse
import asyncio

from wizard.cli.output import CliError, Exit, put, put_json, say
from wizard.cli.targets import load_flows, resolve
from wizard.cli.unfinished import document, unfinished, words
from wizard.core.session import Offer
from wizard.core.triage import named
from wizard.session.checklist import version_lines
from wizard.session.corrections import examined
from wizard.session.document import check_document
from wizard.session.driver import Driver
from wizard.session.planner import make_offers
from wizard.session.text import card_lines, finding_lines, launch_lines, spelling_lines
from wizard.session.untold import cannot_tell_line, missing_lines

CODES = {"healthy": Exit.OK, "problem": Exit.FOUND, "unknown": Exit.COULD_NOT_EXAMINE}


def run(args: argparse.Namespace) -> int:
    """Examine the target and print what was found. Exit 0 healthy, 1 problem, 3 cannot tell."""
    book = load_flows(args)
    try:
        target = resolve(args)
    except CliError as error:
        down = unfinished(None) if error.code is Exit.COULD_NOT_EXAMINE else None
        if down is not None:
            say(f"sgl-wizard: {words(down)}")
        raise
    driver = Driver(book, read_only=True, window_s=args.window, version=args.sglang_version)
    state = asyncio.run(driver.examine(target))
    catalogue = driver.catalogue()
    offers: dict[str, tuple[Offer, ...]] = {
        h.cause.id: make_offers(h.cause, book, target, state.snapshot, catalogue)
        for h in named(state.hypotheses)
    }
    alone = state.snapshot.get("command.alone")
    open_change = unfinished(target.port) if target.port > 0 and not target.is_elsewhere else None
    if open_change is not None:
        say(f"sgl-wizard: {words(open_change)}")
    if args.json:
        checked = examined(target, state.snapshot, catalogue, book)
        more = {"version_note": catalogue.stands_in or None, "unfinished": document(open_change)}
        put_json({**check_document(state, offers, checked), **more})
        if state.verdict == "unknown":
            say(f"sgl-wizard: {cannot_tell_line(state)}")
        return CODES[state.verdict]
    if target.is_live:
        say(f"{target.name or 'server'}  {target.base_url}" + ("  (SIMULATED)" if target.simulated else ""))
    assumed = spelling_lines(state, offers, catalogue.version) if not catalogue.asked else []
    put("\n".join([*finding_lines(state, offers), *card_lines(state), *assumed, *version_lines(catalogue)]))
    if state.verdict == "unknown":
        say(f"sgl-wizard: {cannot_tell_line(state)}")
    elif alone is not None and alone.x is True:
        further = launch_lines(state, told=1) if state.verdict == "problem" else []
        if further:
            put("\n".join(further))
        return CODES[state.verdict]
    else:
        for line in missing_lines(state):
            say(line)
    if state.verdict == "problem" and (target.is_live or target.launch or target.command_text):
        say("To apply a remedy and measure it: sgl-wizard fix (same target).")
    return CODES[state.verdict]
