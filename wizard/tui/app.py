"""The Textual app: takes the engine's states, chooses the screen for each, sends the person's events.

It decides nothing about a server. Before the first paint only what the first screen needs is
imported; the engine and the other screens come after it. Signals and exit codes: see ``ending``.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from wizard.tui import ending
from wizard.tui.environment import over_ssh, refusal
from wizard.tui.messages import EngineFailed, EngineReady, Fetched, StateChanged, TargetsFound
from wizard.tui.screens.base import Frame
from wizard.tui.screens.picker import PickerScreen

if TYPE_CHECKING:
    from wizard.core.plan import Plan
    from wizard.core.session import Event, SessionState
    from wizard.core.target import Target
    from wizard.runner.client import SessionSummary
    from wizard.runner.recovery import How
    from wizard.tui.readings import History

EngineFactory = Callable[..., Any]
LIVE = ("classify", "diagnose")
"""Screens that show live readings: the engine looks again each second while one is in front."""

PAINT_FIRST_S = 0.04
"""The engine's imports share the interpreter with the first paint; measured, they delay it by up to 100 ms."""


class WizardApp(App[int]):
    TITLE = "sgl-wizard"
    CSS_PATH = "styles/base.tcss"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (72, "-normal"), (104, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (22, "-normal"), (34, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", show=False, id="quit"),
        Binding("ctrl+c,ctrl+q", "leave", show=False, priority=True, id="quit.now"),
        Binding("question_mark,f1", "keys", show=False, id="keys"),
        Binding("R", "read_only", show=False, id="read_only"),
        Binding("l", "log", show=False, id="log"),
        Binding("e", "evidence", show=False, id="evidence"),
        Binding("w", "why", show=False, id="why"),
        Binding("t", "tune", show=False, id="tune"),
    ]

    def __init__(self, engine_factory: EngineFactory, *, resume: str | None = None) -> None:
        super().__init__()
        self.engine_factory = engine_factory
        self.at_hang_up: Callable[[], None] | None = None
        self.resume = resume
        self.engine: Any = None
        self.state: SessionState | None = None
        self.targets: tuple[Target, ...] | None = None
        self.sessions: tuple[SessionSummary, ...] = ()
        self.picking = False
        self.history: History | None = None
        self.host = socket.gethostname().split(".")[0]
        self.leaving = False
        self.failure = ""
        self.trouble = ""  # one line about what went wrong here rather than in the session
        self._decided: tuple[object, float] | None = None
        self._watching = False
        self._generation = 0

    # --- start and stop -----------------------------------------------------------------------

    def get_default_screen(self) -> Screen[Any]:
        return PickerScreen()

    def on_mount(self) -> None:
        if not self.is_headless:
            ending.catch_signals(self, self.exit, self.at_hang_up)
        self.call_after_refresh(lambda: self.set_timer(PAINT_FIRST_S, self._start_engine))

    def _start_engine(self) -> None:
        self.run_worker(self._make_engine, thread=True, exit_on_error=False, name="engine", group="engine")

    def _make_engine(self) -> None:
        """In a thread: imports the engine and starts it. A failure is shown, not raised."""
        try:
            engine = self.engine_factory(
                lambda state: self.post_message(StateChanged(state)),
                lambda targets, sessions: self.post_message(TargetsFound(targets, sessions)),
            )
            engine.start()
        except Exception as error:
            self.post_message(EngineFailed(f"{type(error).__name__}: {error}"))
        else:
            self.post_message(EngineReady(engine))

    def on_engine_ready(self, message: EngineReady) -> None:
        from wizard.tui import readings

        self.engine = message.engine
        self.history = self.history or readings.History()
        if self.resume:
            self.engine.attach(self.resume)
        elif getattr(self.engine.state, "target", None) is None:
            self.engine.find_targets()
        if self.engine.state.target is not None and self.state is None:
            self._take_state(self.engine.state)
        self._watch()

    def on_engine_failed(self, message: EngineFailed) -> None:
        self.failure = message.why
        self.exit(3)

    def exit(self, *args: Any, **how: Any) -> None:
        self.leaving = True  # screens lose their widgets from here on, and still get messages
        super().exit(*args, **how)

    def _fatal_error(self) -> None:
        """A defect of a screen ends in one line. Textual's own traceback shows local values: secrets too."""
        self.failure = ending.failure_line(self._exception)
        self._close_messages_no_wait()

    # --- what the engine says -----------------------------------------------------------------

    def on_state_changed(self, message: StateChanged) -> None:
        self._take_state(message.state)

    def _take_state(self, state: SessionState) -> None:
        from wizard.tui import readings

        self.history = self.history or readings.History()
        self.history.add(state)
        self.state = state
        self.sync()

    def on_targets_found(self, message: TargetsFound) -> None:
        first = self.targets is None
        self.targets, self.sessions = tuple(message.targets), tuple(message.sessions)
        nothing_open = self.state is None or self.state.target is None
        if first and nothing_open and len(self.targets) == 1 and not self.unfinished and not self.picking:
            self.open_target(self.targets[0])
            return
        self.sync()

    def on_fetched(self, message: Fetched) -> None:
        if message.for_screen == "app":
            self.trouble = message.error
            if message.error:
                self.sync()
            else:
                self.attach(message.value)
        for screen in self.screen_stack:
            if screen.id == message.for_screen and getattr(screen, "ready", False) and hasattr(screen, "take"):
                screen.take(message.value, message.error)

    @property
    def unfinished(self) -> tuple[SessionSummary, ...]:
        return tuple(s for s in self.sessions if s.is_unfinished)

    # --- screens ------------------------------------------------------------------------------

    def wanted(self) -> str:
        state = self.state
        if state is None or self.picking or (state.target is None and state.run is None):
            return "picker"
        return state.step.value

    def sync(self) -> None:
        """Put the screen of the state in front, unless an overlay is open, and redraw."""
        if not self.screen_stack or self.leaving:
            return
        top, kind = self.screen, self.wanted()
        if isinstance(top, Frame) and not top.is_overlay and top.kind != kind:
            if kind == PickerScreen.kind:
                self.pop_screen()
            elif top.kind == PickerScreen.kind:
                self.push_screen(self._make(kind))
            else:
                self.switch_screen(self._make(kind))
        # Only the one in front: Textual repaints the front screen for each change of the one behind it.
        # Those behind draw themselves when they come back (ScreenResume).
        if isinstance(self.screen, Frame):
            self.screen.draw_all()
        self._watch()

    def _make(self, kind: str) -> Screen[Any]:
        if kind == "classify":
            from wizard.tui.screens.classify import ClassifyScreen

            return ClassifyScreen()
        if kind == "diagnose":
            from wizard.tui.screens.diagnose import DiagnoseScreen

            return DiagnoseScreen()
        if kind == "solve":
            from wizard.tui.screens.solve import SolveScreen

            return SolveScreen()
        from wizard.tui.screens.verify import VerifyScreen

        return VerifyScreen()

    def open_over(self, screen: Screen[Any], then: Callable[[Any], None] | None = None) -> None:
        """Open an overlay; when it closes, the stage below catches up with the state."""

        def closed(result: Any) -> None:
            if then is not None:
                then(result)
            self.call_later(self.sync)

        self.push_screen(screen, closed)

    def _watch(self) -> None:
        on = self.wanted() in LIVE
        if self.engine is not None and on != self._watching:
            self._watching = on
            self.engine.watch(on)

    def now(self) -> float:
        return time.time()

    # --- what the person does -----------------------------------------------------------------

    def send(self, event: Event) -> None:
        if self.engine is not None:
            self.engine.send(event)

    def decide(self, event: Event) -> None:
        """Send an answer; a second key press before the state moved on is not taken for another answer."""
        state = self.state
        place = (state.step, state.flow_id, state.node_id, state.cause_id, state.path) if state else None
        now = time.monotonic()
        if self._decided is not None and self._decided[0] == place and now - self._decided[1] < 1.0:
            return
        self._decided = (place, now)
        self.send(event)

    def open_target(self, target: Target) -> None:
        from wizard.core.session import Opened

        self.picking = False
        if self.history is not None:
            self.history.clear()
        self.send(Opened(target))

    def known(self, target: Target) -> Target:
        """The server found here that answers at this address, or the target as it is."""
        local = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
        for found in self.targets or ():
            same = found.host == target.host or (found.host in local and target.host in local)
            if same and found.port == target.port:
                return found
        return target

    def attach(self, session_id: str) -> None:
        self.picking = False
        if self.engine is not None:
            self.engine.attach(session_id)

    def finish(self, session_id: str, how: How = "auto") -> None:
        """Start a runner that brings a session to its end, then follow it."""

        def begin() -> str:
            from wizard.runner import client

            client.resume(client.find(session_id), how)
            return session_id

        self.trouble = ""
        self.fetch("app", begin)

    def plan_of(self, session_id: str) -> Plan:
        """The plan of a session, from its journal. Blocking: for ``fetch``."""
        from wizard.runner import client

        return client.read_order(client.find(session_id))[1].plan

    def find_targets(self) -> None:
        self.targets = None
        self.sync()
        if self.engine is not None:
            self.engine.find_targets()

    def go_back(self) -> None:
        """One step back; from the first stage to the choice of the server."""
        from wizard.core.session import StartedOver, WentBack

        state = self.state
        if self.wanted() == "picker":
            if self.picking and state is not None and state.target is not None:
                self.picking = False
                self.sync()
            return
        if state is not None and state.step.value == "classify":
            self.picking = True
            self.find_targets()
            return
        over = state is not None and state.run is not None and state.run.outcome is not None
        self.decide(StartedOver() if over else WentBack())

    def fetch(self, for_screen: str, what: Callable[[], Any]) -> None:
        """Run a blocking question to the engine in a thread; the answer comes as ``Fetched``."""

        def ask() -> None:
            try:
                value = what()
            except Exception as error:
                self.post_message(Fetched(for_screen, error=f"{type(error).__name__}: {error}"))
            else:
                self.post_message(Fetched(for_screen, value))

        self.run_worker(ask, thread=True, exit_on_error=False, group=for_screen, name=f"fetch {for_screen}")

    def _overlay_open(self, kind: str) -> bool:
        return any(isinstance(s, Frame) and s.kind == kind for s in self.screen_stack[1:])

    def action_read_only(self) -> None:
        from wizard.core.session import ReadOnlySet

        if self.state is not None:
            self.send(ReadOnlySet(not self.state.read_only))

    def action_keys(self) -> None:
        from wizard.tui.screens.text import keys_screen

        if isinstance(self.screen, Frame) and not self._overlay_open("keys"):
            self.open_over(keys_screen(self.screen))

    def action_log(self) -> None:
        if self.state is not None and self.state.target is not None and not self._overlay_open("log"):
            from wizard.tui.screens.text import LogScreen

            self.open_over(LogScreen())

    def action_evidence(self) -> None:
        if self.state is not None and self.state.target is not None and not self._overlay_open("evidence"):
            from wizard.tui.screens.evidence import EvidenceScreen

            self.open_over(EvidenceScreen())

    def action_why(self) -> None:
        if self.state is not None and self.state.hypotheses and not self._overlay_open("why"):
            from wizard.tui.screens.evidence import WhyScreen

            self.open_over(WhyScreen())

    def action_tune(self) -> None:
        busy = self.state is None or self.state.target is None or self.wanted() not in ("classify", "solve")
        if not busy and not self._overlay_open("tune"):
            from wizard.tui.screens.tune import TuneScreen

            self.open_over(TuneScreen())

    def action_leave(self) -> None:
        """Quit; while a change is under way, say first that it goes on without us."""
        run = self.state.run if self.state else None
        if run is None or run.outcome is not None or not run.runner_alive:
            self.exit(ending.exit_code(self.state))
            return
        from wizard.tui.screens.confirm import leaving_screen

        if self._overlay_open("leaving"):
            self.exit(ending.exit_code(self.state))
            return
        self.open_over(
            leaving_screen(run.session_id), lambda yes: self.exit(ending.exit_code(self.state)) if yes else None
        )


def run(
    engine_factory: EngineFactory, *, resume: str | None = None, at_hang_up: Callable[[], None] | None = None
) -> int:
    """Run the wizard full screen; the exit code. ``engine_factory(on_state, on_targets)`` makes the engine.

    ``at_hang_up`` is called in the SIGHUP handler just before the process ends: the demo puts its
    stage away there. It must not write to the terminal.
    Refuses with one line on stderr (exit 3) where no full screen can be shown.
    """
    why = refusal()
    if why is not None:
        print(f"sgl-wizard: {why}", file=sys.stderr)
        return 3
    app = WizardApp(engine_factory, resume=resume)
    app.at_hang_up = at_hang_up
    try:
        result = app.run(mouse=not over_ssh())
    finally:
        if app.engine is not None:
            app.engine.stop()
    if app.failure:
        print(f"sgl-wizard: {app.failure}", file=sys.stderr)
        return 3
    state = app.state
    if state is not None and state.run is not None and state.run.outcome is None:
        print(
            f"The change goes on by itself. Follow it: sgl-wizard sessions resume {state.run.session_id}",
            file=sys.stderr,
        )
    return app.return_code or (result if result is not None else 0)
