"""What a relaunch knows of itself, and its journal: each record is on disk before what follows from it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from wizard.core.plan import Order
from wizard.core.progress import Outcome, RunState, Stage
from wizard.core.target import Launch, Target
from wizard.runner.command import clean_line, flag_value, help_text, hide_known
from wizard.runner.fold import fold
from wizard.runner.journal import Journal, JournalError, Record
from wizard.runner.state_dir import holder_path
from wizard.server.supervisors.contract import Wish
from wizard.server.supervisors.holders import supervisor_of

Serving = Literal["old", "new", "none", "unknown"]


class CalledOff(Exception):
    """Stop here: the old server was not touched."""


class Ledger:
    """One order for one target, and all that was recorded of it. Acts on nothing but its journal.

    ``touched``: the server may not be as it was any more: an error ends in a rollback, not in a refusal.
    """

    def __init__(self, journal: Journal, order: Order, target: Target) -> None:
        self.journal, self.order, self.target = journal, order, target
        self.plan, self.consent = order.plan, order.consent
        self.records: list[Record] = list(journal.read_since(0))
        acts = (Stage.STOP.value, Stage.ROLLBACK.value)
        self.touched = any(
            r.kind == "launching" or (r.kind == "intent" and r.stage in acts) for r in self.records
        )
        self.journal_broken = ""

    # -- what is known

    @property
    def state(self) -> RunState:
        return fold(self.journal.path.stem.removeprefix("session-"), self.records)

    @property
    def old_launch(self) -> Launch:
        if self.target.launch is None:
            raise CalledOff("The command that started this server is not known, so it could not be put back.")
        return self.target.launch

    @property
    def new_launch(self) -> Launch:
        launch = self.old_launch.with_argv(self.plan.new_argv)
        environ = dict(launch.environ)
        for name, value in self.plan.environ.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value
        return replace(launch, environ=environ)

    @property
    def new_port(self) -> int:
        """The port of the new command: its own --port; without one the port stays."""
        if self.target.inside_port is not None:
            return self.target.port  # where its container publishes it
        asked = flag_value(self.plan.new_argv, "--port")
        if asked is None and flag_value(self.plan.old_argv, "--port") is not None:
            return 30000  # SGLang's default
        return int(asked) if asked is not None and asked.isdigit() else self.target.port

    @property
    def measures_speed(self) -> bool:
        by_load = self.consent.load_test and self.order.workload is not None
        return self.plan.goal.reading != "ready" and (by_load or self.consent.passive)

    def to_type(self, can_roll_back: bool = True) -> str:
        """The exact words that bring the old command back, through its holder if it has one; "" if unknown."""
        if self.target.launch is None:
            return ""
        wish = Wish(self.plan.new_argv, self.plan.environ)
        supervisor = supervisor_of(self.target, wish, holder_path(self.journal.path), self.plan.by_hand)
        undo = supervisor.steps(self.old_launch, Wish()).undo if supervisor is not None else ()
        return help_text(self.old_launch, self.journal.path, undo, can_roll_back=can_roll_back)

    # -- the journal

    def say(self, kind: str, stage: Stage | None = None, data: Mapping[str, Any] | None = None) -> None:
        """One record. Once the server was touched a journal that cannot be written does not stop the rescue."""
        word = stage.value if stage else ""
        data = self._told(data)
        try:
            seq = self.journal.append(kind, word, data)
        except JournalError as error:
            if not self.touched:
                raise
            seq = self.records[-1].seq + 1 if self.records else 1
            if not self.journal_broken:
                print(f"journal: {error}", file=sys.stderr)
            self.journal_broken = str(error)
        at = self.records[-1].at if self.journal_broken and self.records else time.time()
        self.records.append(Record(seq, at, kind, word, dict(data or {})))

    def _told(self, data: Mapping[str, Any] | None) -> dict[str, Any]:
        """Words for people, without what either command keeps secret (a server may print its own key)."""
        found = dict(data or {})
        launches = (self.target.launch, self.new_launch) if self.target.launch is not None else ()
        for name in ("detail", "text", "sentence"):
            for launch in launches if isinstance(found.get(name), str) else ():
                found[name] = hide_known(found[name], launch)
        return found

    def intent(self, stage: Stage, **data: Any) -> None:
        self.say("intent", stage, data)

    def result(self, stage: Stage, ok: bool, detail: str = "", **data: Any) -> None:
        self.say("result", stage, {"ok": ok, "detail": hide_known(detail, self.target.launch), **data})

    def skip(self, stage: Stage, why: str) -> None:
        self.say("result", stage, {"ok": True, "skipped": True, "detail": why})

    def progress(self, stage: Stage) -> Callable[[str], None]:
        def write(detail: str) -> None:
            try:
                self.journal.progress(stage.value, clean_line(detail, self.target.launch))
            except JournalError as error:
                if not self.touched:
                    raise
                self.journal_broken = str(error)

        return write

    def end(self, outcome: Outcome, serving: Serving, sentence: str, help: str = "") -> RunState:
        self.journal.give_up_reserve()
        sentence = hide_known(sentence, self.target.launch)
        doc = {"outcome": outcome.value, "serving": serving, "sentence": sentence, "help": help}
        try:
            self.say("ended", None, doc)
        except JournalError as error:  # untouched and unwritable: the caller still learns it
            print(f"journal: {error}", file=sys.stderr)
            self.records.append(Record(0, time.time(), "ended", "", doc))
        return self.state
