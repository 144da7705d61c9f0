"""``sgl-wizard sessions list|show|resume|abort|rollback|report``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import datetime
from pathlib import Path

from wizard.cli.fix import Progress, exit_code
from wizard.cli.output import CliError, Exit, put, put_json, say
from wizard.core.argv import shell_join
from wizard.core.progress import Outcome
from wizard.core.redact import redact_argv
from wizard.core.session import SessionState
from wizard.runner import client
from wizard.runner.journal import JournalError
from wizard.runner.state_dir import StateDirError
from wizard.session.text import run_lines


def run(args: argparse.Namespace) -> int:
    try:
        if args.verb == "list":
            return _list(args)
        path = _path(args.session)
        verbs = {"show": _show, "report": _report, "resume": _resume, "rollback": _rollback, "abort": _abort}
        return verbs[args.verb](args, path)
    except (JournalError, StateDirError) as error:
        raise CliError(str(error), Exit.COULD_NOT_EXAMINE) from None


def _path(number: str | None) -> Path:
    if number is not None:
        return client.find(number)
    sessions = client.list_sessions()
    if not sessions:
        raise CliError("there are no sessions yet", Exit.COULD_NOT_EXAMINE)
    unfinished = [s for s in sessions if s.is_unfinished]
    return (unfinished or sessions)[0].path


def _list(args: argparse.Namespace) -> int:
    sessions = client.list_sessions()
    if args.json:
        put_json(
            {
                "schema_version": 1,
                "sessions": [
                    {
                        "id": s.id,
                        "created_at": s.created_at,
                        "target": s.target,
                        "cause": s.cause,
                        "outcome": s.outcome.value if s.outcome else None,
                        "serving": s.serving,
                        "runner_alive": s.runner_alive,
                        "sentence": s.sentence,
                        "error": s.error,
                    }
                    for s in sessions
                ],
            }
        )
        return Exit.OK
    if not sessions:
        say("There are no sessions yet.")
    for s in sessions:
        when = datetime.fromtimestamp(s.created_at).astimezone().strftime("%Y-%m-%d %H:%M")
        if s.error:
            word = f"damaged: {s.error}"
        elif s.outcome is not None:
            word = f"{s.outcome.value}, serving: {s.serving}"
        else:
            word = "running" if s.runner_alive else "UNFINISHED: its runner died; resume it"
        put(f"{s.id:>4}  {when}  {s.target}  {s.cause}  [{word}]")
    return Exit.OK


def _show(args: argparse.Namespace, path: Path) -> int:
    if args.json:
        from wizard.runner.report import to_document

        put_json(to_document(path))
        return Exit.OK
    put("\n".join([f"session {client.session_id(path)}", *run_lines(client.read(path))]))
    return Exit.OK


def _report(args: argparse.Namespace, path: Path) -> int:
    from wizard.runner.report import report

    put(report(path))
    return Exit.OK


def _rollback(args: argparse.Namespace, path: Path) -> int:
    _agree(args, path)
    return _bring_to_end(args, path, "rollback")


def _abort(args: argparse.Namespace, path: Path) -> int:
    if not client.read(path).runner_alive:
        raise CliError("nothing is under way in this session; rollback puts its old command back", Exit.USAGE)
    _agree(args, path)
    return _bring_to_end(args, path, "abort")


def _agree(args: argparse.Namespace, path: Path) -> None:
    """Name the server and the command that comes back, and ask; raises CliError without a yes."""
    if args.read_only or args.yes:
        return
    target, order = client.read_order(path)
    say(f"Session {client.session_id(path)}: {target.name} {target.base_url}")
    say(f"This starts the old command again: {shell_join(redact_argv(order.plan.old_argv))}")
    if args.json or not sys.stdin.isatty():
        raise CliError("nobody can be asked here; give --yes to agree", Exit.USAGE)
    try:
        answer = input("Type yes: ").strip().lower()
    except EOFError:
        answer = ""
    if answer not in ("y", "yes"):
        raise CliError("you did not agree: nothing was changed", Exit.FOUND)


def _resume(args: argparse.Namespace, path: Path) -> int:
    if args.rollback and client.read(path).outcome is Outcome.KEPT:
        _agree(args, path)  # of an interrupted one it was agreed to at its start
    return _bring_to_end(args, path, "rollback" if args.rollback else "auto")


def _bring_to_end(args: argparse.Namespace, path: Path, how: str) -> int:
    """Follow a live runner, or start one that finishes or rolls back; exit like ``fix``."""
    state = client.read(path)
    if args.read_only:
        raise CliError("read-only: a session is only shown (sessions show)", Exit.USAGE)
    if state.runner_alive:
        if how == "abort":
            client.send(path, "abort")
        elif how == "rollback":
            client.send(path, "rollback")
    elif state.outcome in (None, Outcome.ROLLBACK_FAILED) or (how == "rollback" and state.serving == "new"):
        try:
            client.resume(path, "rollback" if how == "rollback" else "auto")
        except client.StartError as error:
            raise CliError(str(error), Exit.COULD_NOT_EXAMINE) from None
    else:
        put("\n".join(run_lines(state)))
        return exit_code(state)
    progress = Progress(quiet=args.json)

    async def follow() -> None:
        async for run_state in client.watch(path):
            progress.show(SessionState(run=run_state))

    asyncio.run(follow())
    state = client.read(path)
    if args.json:
        from wizard.runner.report import to_document

        put_json(to_document(path))
    else:
        put("\n".join(run_lines(state)))
    return exit_code(state)
