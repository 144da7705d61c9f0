"""Pre-flight: what can be known to go wrong before the old server is stopped."""

from __future__ import annotations

import os
from dataclasses import replace

from wizard.core.plan import Plan
from wizard.core.target import Launch, Target

Check = tuple[str, bool, str]


def check_plan(plan: Plan, target: Target) -> Plan:
    """The plan with its checks: (name, passed, detail). Looks only; touches nothing."""
    checks: list[Check] = list(plan.checks)
    checks.append(_port(plan, target))
    model = _model(plan, target)
    if model is not None:
        checks.append(model)
    launch = target.launch
    if launch is not None:
        checks.append(_start(launch))
    if target.remote and target.local:
        checks.append(("host", False, "its process cannot be seen: run as its user or as root"))
    elif target.remote:
        checks.append(("host", False, "the server runs on another host; the wizard can only relaunch here"))
    return replace(plan, checks=tuple(checks))


def _start(launch: Launch) -> Check:
    """Folder, program, user, log and disk: what the old command needs too, should it come back."""
    from wizard.runner.state_dir import StateDirError, state_dir
    from wizard.server.launch import LaunchError, check

    try:
        check(launch, fallback_log=state_dir() / "server.log")
    except (LaunchError, StateDirError) as error:
        return ("start", False, str(error))
    return ("start", True, f"in {launch.cwd}, log {launch.log_path or 'beside the session'}")


def port_of(argv: tuple[str, ...], default: int) -> int:
    """The --port of a command line."""
    for index, word in enumerate(argv):
        if word == "--port" and index + 1 < len(argv) and argv[index + 1].isdigit():
            return int(argv[index + 1])
        if word.startswith("--port=") and word[7:].isdigit():
            return int(word[7:])
    return default


def _port(plan: Plan, target: Target) -> Check:
    from wizard.server.ports import port_state
    from wizard.server.proc import descendants

    port = port_of(plan.new_argv, target.port)
    if not 0 < port < 65536:
        return ("port", False, f"{port} is not a port")
    state = port_state(target.host, port)
    if state.state == "free":
        return ("port", True, f"{port} is free")
    owner = state.owner
    if owner is not None and target.identity is not None:
        tree = {target.identity.pid, *(i.pid for i in descendants(target.identity.pid))}
        if owner.pid in tree:
            return ("port", True, f"{port} is the server's own")
    taken = f"{port} is taken by pid {owner.pid if owner else '?'}"
    return ("port", plan.waits_for_port, f"{taken}; it is waited for" if plan.waits_for_port else taken)


def _model(plan: Plan, target: Target) -> Check | None:
    """A model path that is written as an absolute path must exist; SGLang would take it for a hub name."""
    for index, word in enumerate(plan.new_argv):
        value = None
        if word in ("--model-path", "--model") and index + 1 < len(plan.new_argv):
            value = plan.new_argv[index + 1]
        elif word.startswith(("--model-path=", "--model=")):
            value = word.split("=", 1)[1]
        if value is not None:
            if value.startswith("/") and not target.simulated:
                return ("model path", os.path.exists(value), value)
            return ("model path", True, value)
    return None
