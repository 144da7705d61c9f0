"""``sgl-wizard probe``: what the probes see, once or again and again."""

from __future__ import annotations

import argparse
import asyncio
import time

from wizard.cli.output import CliError, Exit, put, put_json
from wizard.cli.targets import load_flows, resolve
from wizard.core.expr import show
from wizard.core.reading import Outcome, ProbeResult, Snapshot
from wizard.core.redact import clean, redact_text
from wizard.core.target import Target
from wizard.core.vocabulary import PROBES, VOCABULARY


def run(args: argparse.Namespace) -> int:
    """Print readings. Exit 0 when at least one probe answered, 3 when none did."""
    names = tuple(args.names) or PROBES
    for name in names:
        if name not in PROBES:
            raise CliError(f"there is no probe {name}; there are {', '.join(PROBES)}", Exit.USAGE)
    book = load_flows(args)
    target = resolve(args)
    from wizard.probes.base import ProbeContext, sweep

    def once(previous: Snapshot) -> Snapshot:
        context = ProbeContext(
            target=target, window_s=args.window, signatures=book.signatures, now=time.time, previous=previous
        )
        return asyncio.run(sweep(names, context, None))

    snapshot = once(Snapshot())
    while True:
        if args.json:
            put_json({"schema_version": 1, "target": _named(target), "probes": snapshot.to_json()})
        else:
            put("\n".join(line for r in snapshot.results.values() for line in result_lines(r)))
        if not args.watch:
            break
        time.sleep(1.0)
        snapshot = once(snapshot)
    answered = any(r.outcome is Outcome.OK for r in snapshot.results.values())
    return Exit.OK if answered else Exit.COULD_NOT_EXAMINE


def _named(target: Target) -> dict[str, object]:
    from wizard.session.document import target_document

    return target_document(target)


def result_lines(result: ProbeResult) -> list[str]:
    """A probe's readings, a line each: name, value, unit, trust, source."""
    head = f"{result.probe}: {result.outcome.value} ({result.elapsed_s:.2f} s)"
    if result.reason:
        head += f": {result.reason}"
    if result.remedy:
        head += f" [{result.remedy}]"
    lines = [head]
    for name, value in result.values.items():
        unit = VOCABULARY[name].unit if name in VOCABULARY else ""
        unit = "" if unit in ("text", "words", "bool", "port", "pid") else f" {unit}"
        text = redact_text(str(value.x)) if not isinstance(value.x, (int, float)) else show(value.x)
        if unit == "" and isinstance(value.x, int) and not isinstance(value.x, bool):
            text = str(value.x)
        lines.append(f"  {name:<36} {clean(text)}{unit}  ({value.trust.value}, {clean(value.source)})")
    return lines
