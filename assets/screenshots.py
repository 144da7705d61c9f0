"""Regenerate the README's screenshots: the wizard's own screens, played on the simulated server.

    python assets/screenshots.py [--size 100x30] [--text] [SCENARIO]

Runs the demo scenario (default queue_cap) from classify to verify with keys only, and writes
``assets/classify.svg`` ... ``assets/verdict.svg``. ``--text`` writes plain text captures to stdout as
well. Needs no GPU; takes about two minutes, most of it the two measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from wizard.tui import environment  # noqa: E402

environment.prepare()

LIMIT_S = 300.0
FONTS = re.compile(r"@font-face\s*\{[^}]*\}\s*")
"""The picture must not fetch a font from the network; any monospace font will do."""


def text_of(app: Any) -> str:
    rows = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in rows)


async def play(stage: Any, size: tuple[int, int], show_text: bool) -> None:
    from wizard.session.engine import Engine
    from wizard.tui.app import WizardApp

    def factory(on_state: Any, on_targets: Any) -> Engine:
        return Engine(target=stage.target, on_state=on_state, on_targets=on_targets)

    app = WizardApp(factory)
    app.host = "gpu-07"
    try:
        async with app.run_test(size=size) as pilot:

            async def until(*texts: str) -> None:
                end = time.monotonic() + LIMIT_S
                while not any(text in text_of(app) for text in texts):
                    if time.monotonic() > end:
                        raise SystemExit(f"{texts} was never shown; the screen:\n{text_of(app)}")
                    await pilot.pause(0.2)

            async def keep(name: str) -> None:
                await pilot.pause(0.3)
                svg = FONTS.sub("", app.export_screenshot(title="sgl-wizard"))
                (HERE / f"{name}.svg").write_text(svg)
                if show_text:
                    print(f"===== {name}\n{text_of(app)}")

            await until("▲ likely")
            await until("TTFT p50")
            await pilot.pause(8)
            await keep("classify")
            await pilot.press("enter")
            for _ in range(6):
                await until("suggested:", "(3) Solve")
                await pilot.pause(1.5)
                if "(3) Solve" in text_of(app):
                    break
                await keep("diagnose")
                await pilot.press("enter")
                await pilot.pause(1)
            await until("Pre-flight")
            await keep("solve")
            await pilot.press("enter")
            await until("Yes, go on")
            await keep("confirm")
            stage.stop_clients()
            await pilot.press("y")
            await until("● start", "● ready", "● measure after")
            await keep("progress")
            await until("KEPT", "FIXED", "BETTER", "ROLLED BACK", "CANNOT TELL", "NO DIFFERENCE")
            await keep("verdict")
            app.exit(0)
    finally:
        if app.engine is not None:
            app.engine.stop()


def main() -> int:
    from wizard.cli.stage import SCENARIOS, Stage

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("scenario", nargs="?", default="queue_cap")
    parser.add_argument("--size", default="100x30")
    parser.add_argument("--text", action="store_true")
    args = parser.parse_args()
    width, _, height = args.size.partition("x")
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        with Stage(SCENARIOS[args.scenario]) as stage:
            asyncio.run(play(stage, (int(width), int(height)), args.text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
