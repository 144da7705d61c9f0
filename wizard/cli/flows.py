"""``sgl-wizard flows list|lint|graph|schema``."""

from __future__ import annotations

import argparse
from pathlib import Path

from wizard.cli.output import CliError, Exit, put, put_json, say
from wizard.cli.targets import load_flows


def run(args: argparse.Namespace) -> int:
    return int({"list": _list, "lint": _lint, "graph": _graph, "schema": _schema}[args.verb](args))


def _list(args: argparse.Namespace) -> int:
    book = load_flows(args)
    flows = [
        {
            "id": f.id,
            "title": f.title,
            "family": f.family,
            "summary": f.summary,
            "causes": sorted({n.cause for n in f.nodes.values() if n.cause}),
        }
        for f in book.ordered_flows()
    ]
    if args.json:
        put_json({"schema_version": 1, "flows": flows})
    else:
        for flow in flows:
            put(f"{flow['id']:<16} {flow['title']}\n{'':<16} causes: {', '.join(flow['causes']) or 'none'}")
    return Exit.OK


def _lint(args: argparse.Namespace) -> int:
    """Exit 0 and a count when all is well; 2 and every problem with its place otherwise."""
    from wizard.flowfile.lint import lint
    from wizard.flowfile.load import parse_book
    from wizard.flowfile.resources import flows_dir

    folder = Path(args.folder or args.flows or flows_dir())
    book, problems = parse_book(folder)
    problems = [*problems, *lint(book)]
    if args.json:
        put_json(
            {
                "schema_version": 1,
                "problems": [
                    {"file": p.mark.file, "line": p.mark.line, "column": p.mark.column, "message": p.message}
                    for p in problems
                ],
            }
        )
    else:
        for problem in problems:
            put(str(problem))
    if problems:
        say(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in {folder}")
        return Exit.USAGE
    if not args.json:
        put(
            f"{len(book.flows)} flows, {len(book.causes)} causes, {len(book.remedies)} remedies, "
            f"{len(book.signatures)} signatures: no problem"
        )
    return Exit.OK


def _graph(args: argparse.Namespace) -> int:
    from wizard.flowfile.graph import dot, tree
    from wizard.flowfile.source import nearest

    book = load_flows(args)
    if args.dot:
        put(dot(book))
        return Exit.OK
    if args.flow is not None and args.flow not in book.flows:
        raise CliError(f"there is no flow {args.flow}{nearest(args.flow, book.flows)}", Exit.USAGE)
    flows = [book.flows[args.flow]] if args.flow else list(book.ordered_flows())
    put("\n\n".join(tree(flow, book) for flow in flows))
    return Exit.OK


def _schema(args: argparse.Namespace) -> int:
    from wizard.flowfile.schema import schema

    put_json(schema())
    return Exit.OK
