"""``sgl-wizard sessions list|show|resume|rollback|report``."""

from __future__ import annotations

import argparse
import asyncio
from datetime import datetime
from pathlib import Path

from wizard.cli.fix import Progress, exit_code
from wizard.cli.output import CliError, Exit, put, put_json, say
from wizard.core.progress import Outcome
from wizard.core.session import SessionState
from wizard.runner import client
from wizard.runner.journal import JournalError
from wizard.session.text import run_lines


def run(args: argparse.Namespace) -> int:
    try:
        if args.verb == "list":
            return _list(args)
        path = _path(args.session)
        verbs = {"show": _show, "report": _report, "resume": _resume, "rollback": _rollback}
        return verbs[args.verb](args, path)
    except JournalError as error:
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
    return _bring_to_end(args, path, "rollback")


def _resume(args: argparse.Namespace, path: Path) -> int:
    return _bring_to_end(args, path, "rollback" if args.rollback else "auto")


def _bring_to_end(args: argparse.Namespace, path: Path, how: str) -> int:
    """Follow a live runner, or start one that finishes or rolls back; exit like ``fix``."""
    state = client.read(path)
    if args.read_only:
        raise CliError("read-only: a session is only shown (sessions show)", Exit.USAGE)
    if state.runner_alive:
        if how == "rollback":
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
