"""``sgl-wizard`` without a command: the full screen, or lines where there is no terminal for it.

The one place where cli and tui meet; they do not know each other.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wizard.core.target import Target

if TYPE_CHECKING:
    from wizard.session.engine import Engine


def run(args: argparse.Namespace) -> int:
    """Open the wizard on the target given, or on its picker."""
    if not can_draw(args):
        from wizard.cli import plain

        return plain.run(args)
    target: Target | None = None
    if any(getattr(args, name) is not None for name in ("url", "pid", "log", "command_text", "metrics")):
        from wizard.cli.targets import resolve

        target = resolve(args, relaunch=True)
    return show(args, target)


def can_draw(args: argparse.Namespace) -> bool:
    """A full screen needs a terminal on both ends that is not dumb, and nobody who asked for lines."""
    if args.plain or args.json:
        return False
    # Textual draws on stderr, so that has to be the terminal too.
    terminals = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    return terminals and os.environ.get("TERM", "dumb") != "dumb"


def show(
    args: argparse.Namespace,
    target: Target | None,
    *,
    resume: str | None = None,
    before_start: Callable[..., None] | None = None,
    at_hang_up: Callable[[], None] | None = None,
) -> int:
    """Run the screens. ``before_start`` is called when a change has been agreed to, before it begins;
    ``at_hang_up`` when the terminal goes away.
    """
    from wizard.tui import environment

    environment.prepare()
    from wizard.tui.app import run as run_app

    def engine(on_state: Callable[..., Any], on_targets: Callable[..., Any]) -> Engine:
        from wizard.session.engine import Engine

        return Engine(
            target=target,
            read_only=args.read_only,
            flows_dir=Path(args.flows) if args.flows else None,
            version=args.sglang_version,
            before_start=before_start,
            on_state=on_state,
            on_targets=on_targets,
        )

    return int(run_app(engine, resume=resume, at_hang_up=at_hang_up))
