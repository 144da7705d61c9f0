"""Stage 4: what the runner is doing and waits for; then the verdict and what is left to decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer

from wizard.core.session import Decided, StartedOver
from wizard.tui.command import command_text
from wizard.tui.format import Line
from wizard.tui.outcome import progress_lines, run_is_over, verdict_lines
from wizard.tui.screens.base import ALWAYS, Frame
from wizard.tui.screens.text import TextScreen
from wizard.tui.widgets.choices import Buttons, Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.progress import RunState


def verify_buttons(run: RunState) -> list[Choice]:
    """What is left to decide."""
    if run.awaiting_decision:
        return [Choice("keep", "Keep it"), Choice("rollback", "Put the old one back")]
    if run.outcome is not None:
        return [Choice("report", "Report"), Choice("over", "Look again from the start"), Choice("quit", "Quit")]
    if not run.runner_alive:
        return [Choice("finish", "Finish or roll back now"), Choice("quit", "Quit")]
    return []


class VerifyScreen(Frame):
    kind = "verify"
    stage = "verify"
    AUTO_FOCUS = "Buttons"
    help_text = (
        "The change is carried out by its own process: closing this terminal does not stop it. Each step is "
        "written down before it is done, so a broken change can always be finished or rolled back."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "abort", show=False, id="abort"),
        Binding("r", "report", show=False, id="report"),
        Binding("s", "deploy", show=False, id="deploy"),
    ]

    def __init__(self) -> None:
        super().__init__(id="verify")
        self.clock: Timer | None = None

    def body(self) -> ComposeResult:
        yield Lines(id="note")
        yield Lines(id="text")

    def below(self) -> ComposeResult:
        yield Buttons(id="buttons")

    def draw(self) -> None:
        state = self.state
        run = state.run if state else None
        if state is None or run is None:
            return
        self.query_one("#note", Lines).show(self.note_line)
        now = self.wizard.now
        over = run_is_over(run)
        tall = self.app.size.height >= 34
        self.query_one("#text", Lines).show(
            lambda w: (
                verdict_lines(run, w) if over else progress_lines(run, now(), w, log_lines=8 if tall else 2)
            )
        )
        options = verify_buttons(run)
        buttons = self.query_one(Buttons)
        buttons.put(options, key=",".join(c.id for c in options))
        if options and self.focused is None:
            buttons.focus()
        self._keep_time(running=not over and run.active is not None)

    def _keep_time(self, *, running: bool) -> None:
        """A clock of one second, only while a stage is under way."""
        if running and self.clock is None:
            self.clock = self.set_interval(1.0, self._tick)
        elif not running and self.clock is not None:
            self.clock.stop()
            self.clock = None

    def _tick(self) -> None:
        self.query_one("#text", Lines).renew()

    def keys(self) -> Sequence[tuple[str, str]]:
        run = self.state.run if self.state else None
        if run is None:
            return ALWAYS
        if not run_is_over(run):
            alive = (("a", "abort and restore the old command"),) if run.runner_alive else ()
            return (("l", "log"), *alive, *ALWAYS)
        deploy = (("s", "command to deploy"),) if self._plan() is not None else ()
        return (("tab", "choose"), ("enter", "go on"), ("r", "report"), *deploy, ("l", "log"), *ALWAYS)

    def _plan(self) -> object:
        offer = self.state.offer if self.state else None
        return offer.plan if offer is not None else None

    def on_choices_taken(self, message: Choices.Taken) -> None:
        what = message.choice.id
        run = self.state.run if self.state else None
        if run is None:
            return
        if what in ("keep", "rollback"):
            self.wizard.decide(Decided("keep" if what == "keep" else "rollback"))
        elif what == "report":
            self.action_report()
        elif what == "over":
            self.wizard.decide(StartedOver())
        elif what == "finish":
            self.wizard.attach(run.session_id)
        elif what == "quit":
            self.wizard.action_leave()

    def action_back(self) -> None:
        run = self.state.run if self.state else None
        if run is not None and run.outcome is not None:
            self.wizard.go_back()

    def action_abort(self) -> None:
        run = self.state.run if self.state else None
        if run is None or run.outcome is not None or run.awaiting_decision or not run.runner_alive:
            return
        from wizard.tui.format import wrap
        from wizard.tui.screens.confirm import ConfirmScreen

        def build(width: int) -> list[Line]:
            text = "Abort the change? What was begun is taken back and the old command is started again."
            return wrap(text, width, role="strong")

        self.wizard.open_over(
            ConfirmScreen(build, "Abort", "Go on with the change", kind="abort"),
            lambda yes: self.wizard.send(Decided("abort")) if yes else None,
        )

    def action_report(self) -> None:
        engine = self.wizard.engine
        if engine is not None:
            self.wizard.open_over(TextScreen("report", fetch=engine.report))

    def action_deploy(self) -> None:
        state = self.state
        offer = state.offer if state else None
        if offer is None or offer.plan is None:
            return
        run = state.run if state else None
        kept = run is not None and run.serving == "new"
        argv = offer.plan.new_argv if kept or run is None or run.awaiting_decision else offer.plan.old_argv
        which = "new" if argv == offer.plan.new_argv else "old"
        text = (
            f"# The {which} command\nPut this into the unit file, the compose file or the chart that starts "
            f"the server; otherwise the next deployment brings the former one back.\n\n{command_text(argv)}\n\n"
            "Secrets are not shown: take them from where they are kept."
        )
        self.wizard.open_over(TextScreen("the command to deploy", text))
