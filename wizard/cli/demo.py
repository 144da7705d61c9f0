"""``sgl-wizard demo [SCENARIO]``: the wizard on a simulated server with a fault in it."""

from __future__ import annotations

import argparse
import asyncio
import sys

from wizard.cli.output import CliError, Exit, put, put_json, say


def run(args: argparse.Namespace) -> int:
    """Headless: play the scenario through. Otherwise: the same screens as on a real server."""
    from wizard.cli.stage import SCENARIOS, Stage

    if args.list:
        rows = [{"id": s.id, "title": s.title} for s in SCENARIOS.values()]
        if args.json:
            put_json({"schema_version": 1, "scenarios": rows})
        else:
            put("\n".join(f"{r['id']:<18} {r['title']}" for r in rows))
        return Exit.OK
    if args.scenario not in SCENARIOS:
        raise CliError(f"there is no scenario {args.scenario}; there are {', '.join(SCENARIOS)}", Exit.USAGE)
    scenario = SCENARIOS[args.scenario]
    headless = args.headless or args.json or args.plain or not sys.stdout.isatty()
    say(f"Starting a SIMULATED SGLang server on a simulated GPU: {scenario.title}.")
    with Stage(scenario) as stage:
        if headless:
            return asyncio.run(_headless(args, stage))
        from importlib import import_module

        screen = import_module("wizard.screen")
        return int(
            screen.show(
                args, stage.target, before_start=lambda _order: stage.stop_clients(), at_hang_up=stage.hang_up
            )
        )


async def _headless(args: argparse.Namespace, stage: object) -> int:
    """``fix`` with the scenario's target, a short load test, and agreement given."""
    from wizard.cli import fix
    from wizard.cli.main import build_parser, filled
    from wizard.cli.stage import Stage
    from wizard.cli.targets import load_flows
    from wizard.session.driver import Driver

    assert isinstance(stage, Stage)
    words = ["fix", "--yes", "--drain", "20", "--ready-limit", "60", "--windows", "5", "--window-s", "1.6"]
    words += ["--warmup-s", "3"]
    for change in stage.scenario.forced:
        words += ["--set", change]
    options = filled(build_parser().parse_args(words))
    options.json, options.read_only, options.plain = args.json, args.read_only, True
    options.flows, options.sglang_version = args.flows, args.sglang_version
    driver = Driver(load_flows(args), read_only=args.read_only, window_s=2.0)
    driver.before_start = lambda _order: stage.stop_clients()
    if not args.json:
        put(f"(1) Classify and (2) diagnose the simulated server on port {stage.port}")
    return await fix.fix(options, driver, stage.target)
