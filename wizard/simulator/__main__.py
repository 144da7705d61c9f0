"""`python -m wizard.simulator <flags of sglang.launch_server 0.5.20>`: a server that behaves like SGLang on a
GPU.

It says that it is a simulation in /server_info (`"simulated": true`). Environment: SGLANG_SIM_CARD (the card's
file), SGLANG_SIM_CARD_GB (141 or 80), SGLANG_SIM_START_S (seconds to start, 21), SGLANG_SIM_SPEED (divides
start-up and shutdown waits), SGLANG_SIM_FAULT (faults.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wizard.simulator import failures, log
from wizard.simulator.argv import ServerArgs, parse
from wizard.simulator.faults import faults_from_env
from wizard.simulator.gpu import ModelSpec, card_from_env, model_for
from wizard.simulator.server import Server


def check_model(args: ServerArgs, model: ModelSpec) -> str | None:
    """The last line of the real server's traceback when it cannot use this model, or None."""
    path = str(args.model_path)
    if path.startswith("/") and not Path(path).exists():
        return (
            "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
            f"'{path}'. Use `repo_type` argument if needed."
        )
    length = args.context_length
    allowed = os.environ.get("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "").lower() in ("1", "true")
    if length and length > model.context_len and not allowed:
        return (
            f"ValueError: Warning: User-specified context_length ({length}) is greater than the derived "
            f"context_length "
            f"({model.context_len}). This may lead to incorrect model outputs or CUDA errors. Note that the "
            f"derived "
            "context_length may differ from max_position_embeddings in the model's config. To allow "
            "overriding this "
            "maximum, set the env var SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1"
        )
    return None


def main() -> int:
    """Run one server; returns its exit code (2 for a bad command line, 1 for a bad model or environment)."""
    try:
        card, faults = card_from_env(), faults_from_env()
    except ValueError as error:
        print(f"wizard.simulator: {error}", file=sys.stderr)
        return 1
    args = parse(sys.argv[1:], card)
    for line in args.warnings:
        log.raw(line + "\n")
    model = model_for(str(args.model_path))
    problem = check_model(args, model)
    if problem:
        log.raw(failures.launch_traceback(problem))
        return 1
    log.say("Attention backend not specified. Use fa3 backend by default.")
    log.say(f"server_args={args.values!r}")
    log.say("Using default HuggingFace chat template with detected content format: string")
    try:
        return Server(args, model, card, faults).run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
