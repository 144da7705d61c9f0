"""The top three rows: who and where, the four stages, a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wizard.tui.format import Line, line, one_line, rule, split, stages_line
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.session import SessionState


def server_name(state: SessionState) -> str:
    """``llama-8b 127.0.0.1:30000``, ``a log: server.log``, or nothing yet."""
    target = state.target
    if target is None:
        return ""
    name = one_line(target.name).rsplit("/", 1)[-1]
    if not target.is_live and target.log_path and target.launch is None:
        return f"a log: {target.log_path.rsplit('/', 1)[-1]}"
    local = target.host in ("127.0.0.1", "localhost", "::1")
    address = f":{target.port}" if local and name else f"{target.host}:{target.port}"
    return f"{name} {address}" if name else address


def header_lines(state: SessionState | None, where: Line, width: int, *, stage: str, host: str) -> list[Line]:
    """Row 1 left: the server (or the program and the machine). Right: where we are, or read-only."""
    name = server_name(state) if state is not None and stage != "classify" else ""
    left = line((f" {name or 'sgl-wizard'}", "title"), *(() if name else (f"   {host}",)))
    if state is not None and state.target is not None and state.target.simulated:
        left = (*left, ("  SIMULATED", "warn"))
    if where:
        left = (*left, ("   ", ""), *where)
    locked = state is not None and state.read_only
    step = stage or (state.step.value if state is not None else "classify")
    off = (("read-only: off ", "dim"),) if step == "classify" else ()
    right: Line = (("read-only: ON ", "warn"),) if locked else off
    done = bool(state and state.run and state.run.outcome is not None)
    return [split(left, right, width), stages_line(step, finished=done), rule(width)]


class Header(Lines):
    DEFAULT_CSS = "Header { height: 3; dock: top; }"
