"""From the TARGET options to one Target, or one clear line why not."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path

from wizard.cli.output import CliError, Exit
from wizard.core.flow import FlowBook
from wizard.core.target import Target


def load_flows(args: argparse.Namespace) -> FlowBook:
    """The flows to use; a broken file ends the command with exit code 2 and every problem's place."""
    from wizard.flowfile.load import load_book
    from wizard.flowfile.resources import flows_dir
    from wizard.flowfile.source import FlowFileError

    folder = Path(args.flows) if args.flows else flows_dir()
    try:
        return load_book(folder, proven=not args.flows)
    except FlowFileError as error:
        raise CliError(str(error), Exit.USAGE) from None


def resolve(args: argparse.Namespace, *, relaunch: bool = False) -> Target:
    """The target that was asked for. ``relaunch``: a log with a command is a server of this host that is down.

    Raises CliError: 2 for a choice that the person has to make, 3 when there is nothing to examine.
    """
    from wizard.server.discovery import TargetError, find_servers, target_from_pid, target_from_url

    _refuse_torn(args)
    given = [name for name in ("url", "pid", "log") if getattr(args, name) is not None]
    if len(given) > 1 and set(given) != {"pid", "log"}:
        raise CliError(f"--{given[0]} and --{given[1]} name different targets; give one", Exit.USAGE)
    try:
        if args.url is not None:
            if any(c.isspace() or not c.isprintable() for c in args.url.strip()) or not args.url.strip():
                raise CliError(f"{args.url!r} is not an address; write http://HOST:PORT", Exit.USAGE)
            target = target_from_url(args.url)
        elif args.pid is not None:
            target = target_from_pid(args.pid)
        elif args.log is not None or args.command_text is not None or args.metrics is not None:
            return _saved(args, relaunch or args.local)
        else:
            found = find_servers()
            if not found and not relaunch and (getattr(args, "request", None) or args.symptom):
                return _saved(args, False)  # a body or words can be judged without a server
            if not found:
                raise CliError(
                    "no SGLang server runs on this host. Give --url, --pid, or --log FILE of one that is down; "
                    "or try: sgl-wizard demo",
                    Exit.COULD_NOT_EXAMINE,
                )
            if len(found) > 1:
                rows = "\n".join(
                    f"  --pid {t.identity.pid if t.identity else '?'}   {t.base_url}  {t.name}" for t in found
                )
                raise CliError(f"{len(found)} servers run on this host; choose one:\n{rows}", Exit.USAGE)
            target = found[0]
    except TargetError as error:
        raise CliError(str(error), Exit.COULD_NOT_EXAMINE) from None
    changes: dict[str, str] = {"symptom": args.symptom, "hardware": args.hardware}
    if getattr(args, "request", None) is not None:
        changes["request_path"] = _readable(args.request)
        changes["request_endpoint"] = args.endpoint
    if args.log is not None:
        changes["log_path"] = _readable(args.log)
    if args.sglang_version:
        changes["version"] = args.sglang_version
    return replace(target, **changes)  # type: ignore[arg-type]


_VERSION = re.compile(
    r"\bsglang(?:\[\w+\])?[ =~v:-]{0,4}(0\.\d{1,2}\.\d{1,2}(?:\.?(?:post|rc)\d{1,2})?)\b", re.I
)


def _told_version(symptom: str) -> str | None:
    """The version that a person names in words ("sglang 0.4.1"); None when there is none, or more than one."""
    found = set(_VERSION.findall(symptom))
    return found.pop() if len(found) == 1 else None


def _refuse_torn(args: argparse.Namespace) -> None:
    """A launch line to judge has to be whole; beside a log or a symptom a torn one is still evidence."""
    from wizard.core.argv import torn_quote

    if args.command_text and not (args.log or args.metrics or args.symptom):
        torn = torn_quote(args.command_text)
        if torn is not None:
            raise CliError(f"--command: {torn}", Exit.USAGE)


def _readable(path: str) -> str:
    if os.path.isdir(path):
        raise CliError(f"{path} is a folder, not a log file", Exit.COULD_NOT_EXAMINE)
    try:
        with open(path, "rb"):
            return os.path.abspath(path)
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", Exit.COULD_NOT_EXAMINE) from None


def _installed(text: str) -> str | None:
    """The version that a command would run if it were started here; None for one that runs in a container."""
    from wizard.core.argv import split
    from wizard.server.installed import version_of

    pasted = split(text)
    if pasted.wrapper or not pasted.argv:
        return None
    return version_of(pasted.argv, {**os.environ, **pasted.environ})


def _saved(args: argparse.Namespace, local: bool) -> Target:
    """A saved log (evidence only), or a server of this host that is down (``local``)."""
    log_path = _readable(args.log) if args.log is not None else None
    metrics_path = _readable(args.metrics) if args.metrics is not None else None
    if local and args.command_text:
        from wizard.core.argv import split
        from wizard.server.discovery import target_from_command

        command = split(args.command_text)
        environ = {**os.environ, **command.environ}
        target = target_from_command(tuple(command.argv), os.getcwd(), environ, log_path)
    else:
        target = Target(port=0, command_text=args.command_text or "")
        if args.command_text and not (args.log or args.metrics or args.symptom or args.sglang_version):
            target = replace(target, version=_installed(args.command_text))
    return replace(
        target,
        log_path=log_path,
        metrics_path=metrics_path,
        command_text=args.command_text or "",
        version=args.sglang_version or target.version or _told_version(args.symptom),
        request_path=_readable(args.request) if getattr(args, "request", None) else None,
        request_endpoint=getattr(args, "endpoint", ""),
        symptom=args.symptom,
        hardware=args.hardware,
    )
