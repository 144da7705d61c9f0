"""Stage 4: what the runner is doing and waits for; then the verdict and what is left to decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer

from wizard.core.session import READ_ONLY_NOTE, Decided, StartedOver
from wizard.tui.command import command_text
from wizard.tui.format import wrap
from wizard.tui.outcome import progress_lines, run_is_over, verdict_lines
from wizard.tui.screens.base import ALWAYS, Frame
from wizard.tui.screens.text import TextScreen
from wizard.tui.widgets.choices import Buttons, Choice, Choices
from wizard.tui.widgets.rows import Lines

if TYPE_CHECKING:
    from wizard.core.plan import Plan
    from wizard.core.progress import RunState
    from wizard.runner.recovery import How


def verify_buttons(run: RunState) -> list[Choice]:
    """What is left to decide."""
    if run.awaiting_decision:
        return [Choice("keep", "Keep it"), Choice("rollback", "Put the old one back")]
    if run.outcome is not None:
        kept = run.outcome.value == "kept"
        undo = [Choice("undo", "Put the old one back")] if kept else []
        again = [Choice("again", "Try the rollback again")] if run.outcome.value == "rollback_failed" else []
        return [*again, Choice("over", "Look again"), Choice("report", "Report"), *undo, Choice("quit", "Quit")]
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
        if self.ready and self.app.screen is self:
            self.query_one("#text", Lines).renew()

    def keys(self) -> Sequence[tuple[str, str]]:
        run = self.state.run if self.state else None
        if run is None:
            return ALWAYS
        if not run_is_over(run):
            alive = (("a", "abort and restore the old command"),) if run.runner_alive else ()
            return (("l", "log"), *alive, *ALWAYS)
        more = (("r", "report"), ("s", "command to deploy"), ("l", "log"))
        return (("tab", "choose"), ("enter", "go on"), *more, *ALWAYS)

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
            self._again("auto", "Finish the change, or roll it back where it cannot be finished?")
        elif what in ("undo", "again"):
            self._again("rollback", "Start the old command again? The server is down until it is ready.")
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
        text = "Abort the change? What was begun is taken back and the old command is started again."
        self._ask(text, "Abort", lambda: self.wizard.send(Decided("abort")))

    def _again(self, how: How, text: str) -> None:
        """Another runner for this session, after a yes."""
        state = self.state
        if state is None or state.run is None:
            return
        if state.read_only:
            self.wizard.trouble = READ_ONLY_NOTE
            self.draw()
            return
        session_id = state.run.session_id
        self._ask(text, "Yes", lambda: self.wizard.finish(session_id, how))

    def _ask(self, text: str, yes: str, then: Callable[[], None]) -> None:
        from wizard.tui.screens.confirm import ConfirmScreen

        screen = ConfirmScreen(lambda w: wrap(text, w, role="strong"), yes, "No, back", kind="really")
        self.wizard.open_over(screen, lambda agreed: then() if agreed else None)

    def action_report(self) -> None:
        engine = self.wizard.engine
        if engine is not None:
            self.wizard.open_over(TextScreen("report", fetch=engine.report))

    def action_deploy(self) -> None:
        """The command to put into the deployment; of a resumed session it stands in the journal."""
        state = self.state
        if state is None or state.run is None or not run_is_over(state.run):
            return
        run, offer = state.run, state.offer
        if offer is not None and offer.plan is not None:
            self.wizard.open_over(TextScreen("the command to deploy", deploy_text(offer.plan, run)))
            return
        text = TextScreen(
            "the command to deploy", fetch=lambda: deploy_text(self.wizard.plan_of(run.session_id), run)
        )
        self.wizard.open_over(text)


def deploy_text(plan: Plan, run: RunState) -> str:
    """The command that serves now (or is about to be kept), and where it belongs."""
    new = run.serving == "new" or run.awaiting_decision
    argv = plan.new_argv if new else plan.old_argv
    return (
        f"# The {'new' if new else 'old'} command\n"
        "Put this into the unit file, the compose file or the chart that starts the server; otherwise the next "
        "deployment brings the former one back.\n\n"
        f"{command_text(argv)}\n\nSecrets are not shown: take them from where they are kept."
    )
