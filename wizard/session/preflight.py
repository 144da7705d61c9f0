"""Pre-flight: what can be known to go wrong before the old server is stopped."""

from __future__ import annotations

import os
from dataclasses import replace

from wizard.core.argv import parse
from wizard.core.expr import Env
from wizard.core.memory import kv_pool_gb, kv_pool_tokens, minimum_fraction
from wizard.core.plan import Plan
from wizard.core.target import Launch, Target
from wizard.server.supervisors.contract import Supervisor, Wish
from wizard.server.supervisors.holders import supervisor_of

Check = tuple[str, bool, str]

_MOVES_WEIGHTS = [
    "model_path",
    "tp_size",
    "pp_size",
    "ep_size",
    "dp_size",
    "dtype",
    "quantization",
    "load_format",
    "cpu_offload_gb",
    "speculative_algorithm",
    "speculative_draft_model_path",
    "enable_lora",
    "lora_paths",
]
"""Settings after which the weights take another share of the card than they did at the last start."""


WAYS = {
    "systemd": "the change is a drop-in to its unit, the rollback removes it",
    "docker": "a new container is made and compared, then the old one is stopped, renamed and kept",
    "podman": "a new container is made and compared, then the old one is stopped, renamed and kept",
    "compose": "the change is an override file beside the project's own; the rollback takes it away",
    "kubernetes": "the change is a patch of its workload, and a watched rollout; the rollback is rollout undo",
}
ASSISTED = "you make the change there; the wizard waits for it, measures and verifies"


def _steps(supervisor: Supervisor, launch: Launch, wish: Wish) -> tuple[str, ...]:
    """What a person has to type, secrets left out."""
    where, command = supervisor.steps(launch, wish).apply
    return (f"{where.lstrip('# ')} {command}",)


def check_plan(plan: Plan, target: Target, env: Env = lambda _: None) -> Plan:
    """The plan with its checks: (name, passed, detail). Looks only; touches nothing.

    ``env``: the readings; what they do not say is not checked.
    """
    checks: list[Check] = list(plan.checks)
    checks.append(_port(plan, target))
    wish = Wish(plan.new_argv, plan.environ)
    supervisor = supervisor_of(target, wish)
    assisted = supervisor is not None and supervisor.by_hand
    own_root = target.held is not None and target.held.kind != "systemd"
    model = _model(plan, target) if not own_root else None  # its files are another root's
    if model is not None:
        checks.append(model)
    memory = _memory(plan, target, env)
    if memory is not None:
        checks.append(memory)
    launch = target.launch
    if launch is not None and not assisted and not own_root:
        checks.append(_start(launch))
    if target.held is not None and supervisor is not None and launch is not None and not target.note:
        way = f"{ASSISTED}{supervisor.why}" if assisted else WAYS[target.held.kind]
        checks.append(("holder", True, f"{target.held.says()}; {way}"))
        if assisted:
            plan = replace(plan, by_hand=True, actions=(*plan.actions, *_steps(supervisor, launch, wish)))
    if target.remote and target.local:
        checks.append(("host", False, "its process cannot be seen: run as its user or as root"))
    elif target.remote:
        checks.append(("host", False, "the server runs on another host; the wizard can only relaunch here"))
    if launch is not None and target.held is None and not target.remote:
        plan = replace(plan, notes=(*plan.notes, *_not_as_before(launch, target)))
    return replace(plan, checks=tuple(checks))


def _not_as_before(launch: Launch, target: Target) -> tuple[str, ...]:
    """What this user may not restore, in one sentence; it refuses nothing."""
    from wizard.server.launch import as_user
    from wizard.server.placement import shortfalls
    from wizard.server.privileges import differences

    pid = target.identity.pid if target.identity else None
    found = (*shortfalls(launch, pid), *(differences(pid, as_user(launch)[2]) if pid is not None else ()))
    return (f"Started from here it will not be quite as before: {'; '.join(found)}.",) if found else ()


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
    if target.inside_port is not None:
        if port != target.inside_port:
            return ("port", False, f"its container leads to port {target.inside_port} of it, not to {port}")
        return ("port", True, f"{target.port} leads to its container's {port}")
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


def _memory(plan: Plan, target: Target, env: Env) -> Check | None:
    """Whether the new fraction leaves a KV pool, from what the last start's log says of this card and model.

    None where that cannot be known: no fraction given, or the weights will not be the same.
    """
    from wizard.server.catalogue import for_version

    catalogue = for_version(target.version)
    old, new = parse(plan.old_argv, catalogue), parse(plan.new_argv, catalogue)
    if any(old.value(name) != new.value(name) for name in _MOVES_WEIGHTS):
        return None
    before, after = (_number(env, f"log.avail_{when}_load_gb") for when in ("before", "after"))
    try:
        fraction = float(new.value("mem_fraction_static") or "")
    except ValueError:
        return None
    if before is None or after is None or not 0 < fraction < 1:
        return None
    pool_gb = kv_pool_gb(before, after, fraction)
    if pool_gb <= 0:
        least = minimum_fraction(before, after)
        return ("memory", False, f"at {fraction:g} the weights leave no KV pool; it must be above {least:.2f}")
    cell = _number(env, "kv.cell_bytes")
    same_cell = old.value("kv_cache_dtype") == new.value("kv_cache_dtype")
    tokens = f", {kv_pool_tokens(pool_gb, cell):,} tokens" if cell and same_cell else ""
    return ("memory", True, f"at {fraction:g} the KV pool gets {pool_gb:.1f} GiB{tokens}")


def _number(env: Env, name: str) -> float | None:
    value = env(name)
    return float(value.x) if value is not None and isinstance(value.x, (int, float)) else None


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
