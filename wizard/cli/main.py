"""The command line: argparse, sub-commands imported when they are run.

Nothing heavy is imported before a command needs it, so that ``--version`` and ``--help`` answer at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any

from wizard import __version__

EPILOG = """\
exit codes: 0 healthy or fixed, 1 a cause was found and not fixed, 2 usage or a bad flow file,
3 could not examine, 4 change applied and rolled back, 5 rollback failed, 130/143 signals
"""


DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("json", "read_only", "plain", "local"), False),
    **dict.fromkeys(("flows", "sglang_version"), None),
    **dict.fromkeys(("url", "pid", "log", "command_text", "metrics", "request")),
    **dict.fromkeys(("symptom", "endpoint", "hardware"), ""),
}
"""Filled in afterwards: a verb's own defaults would take the place of what was said in front of it."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line of DESIGN.md."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common")
    group.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document on stdout"
    )
    group.add_argument(
        "--read-only", action="store_true", default=argparse.SUPPRESS, help="show everything, change nothing"
    )
    group.add_argument(
        "--plain",
        action="store_true",
        default=argparse.SUPPRESS,
        help="lines and numbered answers, no full screen",
    )
    group.add_argument("--flows", metavar="DIR", default=argparse.SUPPRESS, help="use the flows of this folder")
    group.add_argument(
        "--sglang-version",
        metavar="V",
        default=argparse.SUPPRESS,
        help="take this SGLang version instead of the installed one",
    )
    target = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = target.add_argument_group("target (default: the one server on this host)")
    group.add_argument("--url", help="a running server, e.g. http://127.0.0.1:30000")
    group.add_argument("--pid", type=int, help="a running server, by any process of it")
    group.add_argument("--log", metavar="FILE", help="a saved log, or the log of a server that is down")
    group.add_argument("--command", metavar="STR", dest="command_text", help="its launch command line")
    group.add_argument("--metrics", metavar="FILE", help="a saved /metrics page")
    group.add_argument("--symptom", metavar="STR", help="what hurts, in words")
    group.add_argument("--request", metavar="FILE", help="the body of a request that fails; it is not sent")
    group.add_argument("--endpoint", metavar="PATH", help="where --request was sent, e.g. /generate")
    group.add_argument("--hardware", metavar="STR", help="the cards, in words")
    group.add_argument(
        "--local",
        action="store_true",
        help="with --log: the server belongs to this host, look at its port and GPU too",
    )
    parser = argparse.ArgumentParser(
        prog="sgl-wizard",
        description='From "my SGLang server is in trouble" to a fix, and the measurement that shows it.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common, target],
    )
    parser.add_argument("--version", action="version", version=f"sgl-wizard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    both = [common, target]

    demo = commands.add_parser(
        "demo", parents=[common], help="the wizard on a simulated server with a fault in it"
    )
    demo.add_argument(
        "scenario", nargs="?", default="queue_cap", help="queue_cap (default), kv_pool, oom, healthy ..."
    )
    demo.add_argument("--headless", action="store_true", help="play it through without a screen")
    demo.add_argument("--list", action="store_true", help="list the scenarios")

    check = commands.add_parser("check", parents=both, help="classify and diagnose, change nothing")
    check.add_argument("--window", type=float, default=2.0, metavar="S", help="seconds to watch the metrics")

    fix = commands.add_parser(
        "fix", parents=both, help="diagnose, apply the remedy, measure, keep or roll back"
    )
    fix.add_argument("--cause", metavar="ID", help="treat this cause")
    _change_options(fix)

    tune = commands.add_parser(
        "tune", parents=both, help="a checklist read off the live server; apply what is missing, measured"
    )
    tune.add_argument("goal", metavar="GOAL", help="throughput, latency, memory or stability")
    _change_options(tune)

    reference = commands.add_parser(
        "reference", parents=both, help="a launch command for a kind of use, right for a version and a card"
    )
    reference.add_argument("name", nargs="?", metavar="NAME", help="default: list them")
    reference.add_argument("--model", default="", help="the model path to put in")

    probe = commands.add_parser("probe", parents=both, help="show what the probes see")
    probe.add_argument("names", nargs="*", metavar="NAME", help="gpu host port process http sglang metrics log")
    probe.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    probe.add_argument("--window", type=float, default=2.0, metavar="S", help="seconds to watch the metrics")

    flows = commands.add_parser("flows", parents=[common], help="the decision trees")
    verbs = flows.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", parents=[common], help="the flows and their causes")
    lint = verbs.add_parser("lint", parents=[common], help="prove that they hang together")
    lint.add_argument("folder", nargs="?", help="a folder of flow files (default: the built-in ones)")
    graph = verbs.add_parser("graph", parents=[common], help="draw them")
    graph.add_argument("flow", nargs="?")
    graph.add_argument("--dot", action="store_true", help="as Graphviz")
    verbs.add_parser("schema", parents=[common], help="JSON Schema for editors")

    sessions = commands.add_parser("sessions", parents=[common], help="changes made and under way")
    verbs = sessions.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", parents=[common], help="all sessions, newest first")
    for verb, text in (
        ("show", "where one stands"),
        ("resume", "follow a running one; finish or roll back one whose runner died"),
        ("abort", "end a change under way; the old command comes back"),
        ("rollback", "put the old command of a session back"),
        ("report", "what happened, as a text to keep"),
    ):
        one = verbs.add_parser(verb, parents=[common], help=text)
        if verb in ("abort", "rollback"):  # these change a server: no default, and a question
            one.add_argument("session", help="its number (see: sessions list)")
            one.add_argument("--yes", action="store_true", help="do not ask")
        else:
            one.add_argument("session", nargs="?", help="its number (default: the newest)")
        if verb == "resume":
            one.add_argument("--rollback", action="store_true", help="put the old command back")
            one.add_argument("--yes", action="store_true", help="do not ask (a kept change is asked about)")
    return parser


def _change_options(parser: argparse.ArgumentParser) -> None:
    """What a command takes that may change a server."""
    parser.add_argument("--window", type=float, default=2.0, metavar="S", help="seconds to watch the metrics")
    parser.add_argument("--remedy", metavar="ID", help="take this remedy of it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FLAG=VALUE", help="apply your own change instead"
    )
    parser.add_argument("--unset", action="append", default=[], metavar="FLAG", help="drop a flag instead")
    parser.add_argument("--yes", action="store_true", help="agree to the plan, its restart and its load test")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, change nothing")
    parser.add_argument("--passive", action="store_true", help="judge by the live traffic; send nothing")
    parser.add_argument("--no-load-test", action="store_true", help="apply without measuring")
    parser.add_argument(
        "--drain", type=float, default=60.0, metavar="S", help="let running requests end for so long"
    )
    parser.add_argument("--no-escalate", action="store_true", help="never kill what does not stop by itself")
    parser.add_argument(
        "--ready-limit",
        type=float,
        metavar="S",
        help="longest wait for ready (4 times the last start, at least 300; 900 if that cannot be seen)",
    )
    load = parser.add_argument_group("load test (default: like the load it sees)")
    load.add_argument("--clients", type=int, metavar="N")
    load.add_argument("--input-tokens", type=int, metavar="N")
    load.add_argument("--output-tokens", type=int, metavar="N")
    load.add_argument("--windows", type=int, metavar="N")
    load.add_argument("--window-s", type=float, metavar="S")
    load.add_argument("--warmup-s", type=float, metavar="S", help="left out of the measurement")


_MODULES = {
    "demo": "wizard.cli.demo",
    "check": "wizard.cli.check",
    "fix": "wizard.cli.fix",
    "tune": "wizard.cli.tune",
    "reference": "wizard.cli.reference",
    "probe": "wizard.cli.probe",
    "flows": "wizard.cli.flows",
    "sessions": "wizard.cli.sessions",
    None: "wizard.screen",
}


_TEXT_OPTIONS = frozenset({"--command", "--symptom", "--hardware"})
"""Their value is a text of a person's, which may start with a dash (``--command "--tp 4"``)."""

_FLAG_OPTIONS = frozenset({"--set", "--unset"})
"""Their value names a flag of SGLang's, which people write as they type it (``--set --tp=4``)."""

_OWN_SWITCHES = frozenset({"-h", "--help", "--json", "--plain", "--read-only", "--local", "--yes"})


def join_texts(argv: Sequence[str], own: Collection[str] = _OWN_SWITCHES) -> list[str]:
    """The words with each text option and its value as one: argparse takes a leading dash for a flag.

    A bare switch of our own behind such an option is no text: the value was forgotten. ``own``: the
    options that may stand beside ``--set``, none of which is a flag of a server.
    """
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            return [*words, word, *rest]
        if word in _TEXT_OPTIONS or word in _FLAG_OPTIONS:
            value = next(rest, None)
            if value is None or value in (_OWN_SWITCHES if word in _TEXT_OPTIONS else own):
                words += [word] if value is None else [word, value]
                continue
            word = f"{word}={value}"
        words.append(word)
    return words


def filled(args: argparse.Namespace) -> argparse.Namespace:
    """With the options that were not given."""
    for name, default in DEFAULTS.items():
        if not hasattr(args, name):
            setattr(args, name, default)
    return args


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code. Errors become one line on stderr."""
    parser = build_parser()
    args = filled(parser.parse_args(join_texts(argv, _beside_set(parser))))
    from wizard.cli.output import CliError, Exit, put_error, say

    signal.signal(signal.SIGTERM, _terminated)
    from wizard.runner import latch

    latch.close(args.read_only)
    if args.command is not None and sys.stdout.isatty():
        from wizard.session.layout import fit

        fit(shutil.get_terminal_size().columns)
    try:
        _check_version(args.sglang_version)
        return int(import_module(_MODULES[args.command]).run(args))
    except CliError as error:
        say(f"sgl-wizard: {error}")
        if args.json:
            put_error(str(error), error.code)
        return int(error.code)
    except KeyboardInterrupt:
        say("sgl-wizard: interrupted")
        if args.json:
            put_error("interrupted", Exit.INTERRUPTED)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout went away (head, a closed pager): nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)


def _beside_set(parser: argparse.ArgumentParser) -> frozenset[str]:
    """Every option of the commands that take ``--set``."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices.values()
    takes = [one for one in commands if "--set" in one._option_string_actions]
    return frozenset(option for one in takes for option in one._option_string_actions)


def _check_version(version: str | None) -> None:
    """Raises CliError for a word that is no version."""
    from wizard.cli.output import CliError, Exit
    from wizard.core.flags import version_key

    if version is None:
        return
    try:
        version_key(version)
    except ValueError:
        raise CliError(f"{version!r} is no SGLang version; write for example 0.5.20", Exit.USAGE) from None


def _terminated(_signum: int, _frame: object) -> None:
    from wizard.cli.output import Exit

    sys.exit(int(Exit.TERMINATED))
