"""The command line: its grammar, and the one edge where failures become exit codes.

Each command lives in a module of its own kind and is imported when it is called. Exit codes: 0 done; 1 the session's
code failed; 2 usage; 3 daemon unreachable; 4 no such session; 5 conflict; 124 time-out; 125 daemon or protocol error;
130 interrupted. `service status` passes systemctl's on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from omega_sessiond import __version__
from omega_sessiond.amounts import LARGEST, age_of, bytes_of, count_of, number_of, seconds_of
from omega_sessiond.errors import (
    BadRequest,
    OmegaError,
    RouteNotFound,
    SessionNotFound,
    SnapshotNotFound,
    UnknownField,
)
from omega_sessiond.invocation import Invocation, suggestion
from omega_sessiond.screen import FORMATS, Screen
from omega_sessiond.shortcut import Begun
from omega_sessiond.terminal import one_line

SERVICE_VERBS = ("status", "start", "stop", "restart", "enable", "disable", "reset-failed")
SORT_KEYS = ("name", "state", "engine", "created", "used", "count")

LISTED = 10
"""So many choices are named to whoever chose none of them; a command has its own list in --help."""

EXIT_CODES = """exit codes: 0 done, 1 the session's code failed, 2 usage, 3 daemon unreachable,
4 no such session, 5 conflict, 124 time-out, 125 daemon or protocol error, 130 interrupted"""

QUESTIONS = """what the code asks by input() is asked of you at a terminal, and read from standard input, a line when
it is asked, where that is a pipe or a file; elsewhere 'omegactl input NAME TEXT' answers, as it may in any case"""

OMEGALLM = """as OmegaLLM's command line: omegactl -s NAME (-c CMD | -f FILE) [--json]"""


class Once(argparse.Action):
    """An option that stands for one thing: given twice it would lose the first without a word."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{option} can be given only once")
        setattr(namespace, self.dest, value)


class Parser(argparse.ArgumentParser):
    """argparse with suggestions for what was mistyped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"omegactl: {one_line(message)}\nomegactl: see '{self.prog} --help'\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        kind = "command" if isinstance(action, argparse._SubParsersAction) else f"value for {_name_of(action)}:"
        choices = [str(choice) for choice in action.choices]
        if choices == ["-"]:  # what stands where only - for standard input may
            self.error(f"unexpected '{value}': a command comes with -c CODE, -f FILE or - for standard input")
        if kind == "command" and value in SERVICE_VERBS:
            self.error(f"unknown command '{value}'; did you mean 'service {value}'?")
        listed = f"; one of {', '.join(choices)}" if len(choices) <= LISTED else ""
        self.error(f"unknown {kind} '{value}'{suggestion(str(value), choices) or listed}")

    def refuse(self, extras: Sequence[str], chosen: str | None) -> NoReturn:
        """End for arguments nobody knows."""
        parser: argparse.ArgumentParser = self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and chosen in action.choices:
                parser = action.choices[chosen]
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        first = extras[0].partition("=")[0]
        parser.error(f"unknown argument '{first}'" + suggestion(first, known))


def _name_of(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


# ---- the grammar ----


def _common() -> Parser:
    """The options that stand before or after any command."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("options of every command")
    group.add_argument("--socket", metavar="PATH", help="talk to the daemon that listens there, and start none")
    group.add_argument("--no-start", action="store_true", help="fail rather than start a daemon")
    group.add_argument(
        "--timeout", type=_seconds, metavar="S", help="exec: interrupt the command after so long; wait: give up"
    )
    group.add_argument("--color", choices=("auto", "always", "never"), help="colours; auto: on a terminal")
    return common


def _amount(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """What reads an option's text, so that argparse says what is wrong with it."""

    def amount(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return amount


_seconds, _age, _bytes, _count = map(_amount, (seconds_of, age_of, bytes_of, count_of))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return key, value


def _filter(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    return key, value if equals else None


def _number(what: str) -> Callable[[str], int]:
    """Reads a whole number, and says what it should have been the number of."""

    def number(text: str) -> int:
        found = number_of(text)
        if found is None:
            raise argparse.ArgumentTypeError(f"'{text}' is no {what}" + (f": 0 to {LARGEST}" if text.isdigit() else ""))
        return found

    return number


_newest, _part, _event = map(_number, ("number of the newest to show", "number of a part", "id of an event"))
_execution = _number("id of an execution")


class _Unread:
    """Stands for the grammar of a command that nobody reads: takes every argument and keeps none."""

    def __getattr__(self, name: str) -> Callable[..., _Unread]:
        return lambda *_, **__: self


def parser(only: str | None = None) -> Parser:
    """The whole grammar, from which the completions are made, too; or as much of it as one command needs."""
    common = _common()
    top = Parser(
        prog="omegactl",
        description="Named REPL sessions that outlive their clients and their server.",
        epilog=f"{OMEGALLM}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    top.add_argument("--version", action="version", version=f"omegactl {__version__}", help="the version, and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, run: str, text: str, *, reads: bool = False) -> argparse.ArgumentParser | _Unread:
        if only not in (None, name):
            return _Unread()
        command = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:], parents=[common])
        command.set_defaults(run=run)
        if reads:
            command.add_argument("--format", choices=FORMATS, help="how to print (default: table)")
            command.add_argument("--json", action="store_true", help="short for --format json")
        return command

    _add_executions(add)
    _add_sessions(add)
    _add_service(add)
    return top


def _add_executions(add: Any) -> None:
    command = add("exec", "cli_exec:run", "run a command in a session, which is created on first use")
    command.epilog = QUESTIONS
    command.add_argument("name", metavar="NAME", help="the session")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", dest="code", metavar="CODE", action=Once, help="the command")
    source.add_argument("-f", dest="file", metavar="FILE", action=Once, help="a file with it")
    source.add_argument("stdin", nargs="?", choices=("-",), metavar="-", help="read it from standard input")
    command.add_argument("--detach", action="store_true", help="print the execution's id and leave")
    command.add_argument("--format", choices=("text", "json", "jsonl"), help="output, execution, or live events")
    command.add_argument("--json", action="store_true", help="short for --format json")
    command.add_argument("--no-create", action="store_true", help="fail when the session does not exist")
    command.add_argument("--key", metavar="KEY", help="idempotency key: repeated with it, the command runs once")
    _add_creation(command.add_argument_group("of a session that this creates"))

    command = add("repl", "repl:run", "work in a session, which is created on first use")
    command.add_argument("name", nargs="?", metavar="NAME", help="the session (default: main)")
    _add_creation(command.add_argument_group("of a session that this creates"))

    command = add("wait", "cli_executions:wait", "wait for an execution, or for all of a session's", reads=True)
    command.add_argument("what", metavar="NAME|ID", help="a session, or the id of an execution")
    command = add("interrupt", "cli_executions:interrupt", "interrupt what runs; variables are kept", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("--execution", type=_execution, metavar="ID", help="this one only, running or queued")
    command = add("input", "cli_executions:input_", "answer an input() that waits")
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("text", nargs="?", metavar="TEXT", help="the line; without it one is read from standard input")
    command.add_argument("--eof", action="store_true", help="answer end of file")
    command.add_argument(
        "--execution", type=_execution, metavar="ID", help="the execution that asks (default: what runs)"
    )
    command = add("history", "cli_executions:history", "the executions of a session, oldest first", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("-n", dest="count", type=_newest, metavar="N", help="only the last N")
    command.add_argument("-f", "--follow", action="store_true", help="go on with those that come")
    command = add("output", "cli_executions:output", "the whole output of an execution, or of a session's last")
    command.add_argument("what", metavar="ID|NAME", help="the id of an execution, or a session")
    command.add_argument("--grep", metavar="RE", help="only lines that match")
    command.add_argument("--tail", type=_newest, metavar="N", help="only the last N lines")
    command.add_argument("--raw", action="store_true", help="with escape sequences, as it was written")
    command.add_argument("--json", action="store_true", help="the whole execution, with all of its output")
    command.add_argument("--save", metavar="FILE", help="a picture or other data instead; - is standard output")
    command.add_argument("--data", type=_part, metavar="N", help="which one (default: what FILE is called like)")
    command.add_argument("-f", "--force", action="store_true", help="overwrite FILE")


def _add_sessions(add: Any) -> None:
    command = add("ls", "cli_sessions:ls", "list the sessions", reads=True)
    command.add_argument(
        "--filter", action="append", type=_filter, metavar="K=V", help="state=, engine=, name=GLOB, or a label"
    )
    command.add_argument("--sort", choices=SORT_KEYS, metavar="K", help="name, state, engine, created, used or count")
    command.add_argument("-r", "--reverse", action="store_true", help="the other way round")
    command.add_argument("-q", "--quiet", action="store_true", help="names only")
    command.add_argument("-w", "--wide", action="store_true", help="all columns")
    command = add("show", "cli_sessions:show", "the details of a session", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command = add("new", "cli_sessions:new", "create a session", reads=True)
    command.add_argument("name", metavar="NAME", help="of letters, digits, '.', '_', '-'; up to 58")
    _add_creation(command)
    command = add("set", "cli_sessions:set_", "change limits and labels of a session", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    _add_limits(command)
    command.add_argument("--unlabel", action="append", metavar="K", help="remove a label")
    command = add("rm", "cli_sessions:rm", "end sessions and remove them with their history")
    command.add_argument("names", nargs="+", metavar="NAME", help="the sessions")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = add("prune", "cli_history:prune", "remove old history: what the settings let go, or more", reads=True)
    command.add_argument("name", nargs="?", metavar="NAME", help="of this session only")
    command.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")
    command.add_argument("--older-than", type=_age, metavar="AGE", help="what ended so long ago: 36h, 30d")
    command.add_argument("--keep", type=_count, metavar="N", help="all but the last N of each session")
    command.add_argument("--max-size", type=_bytes, metavar="S", help="the oldest, until the journal is no larger: 2G")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = add("kill", "cli_sessions:kill", "end a session's process; history stays, and what is saved", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("--budget", type=_seconds, metavar="S", help="time to end by itself before SIGKILL")
    command = add(
        "restart", "cli_sessions:restart", "end a session's process and start a new one, without variables", reads=True
    )
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("--budget", type=_seconds, metavar="S", help="time to end by itself before SIGKILL")
    command = add("fork", "cli_sessions:fork", "copy a live session, everything in memory included", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("copy", metavar="COPY", help="name of the copy")
    command.add_argument(
        "--from-checkpoint", action="store_true", help="of what is saved, when memory cannot be copied"
    )
    command = add("save", "cli_state:save", "save a session's state now", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command = add("snapshot", "cli_state:snapshot", "give a session's present state a name", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("snapshot", metavar="SNAPSHOT", help="its name: of letters, digits, '.', '_', '-'")
    command.add_argument("-m", dest="note", default="", metavar="NOTE", help="what it is, for people")
    command.add_argument("--tag", action="append", metavar="TAG", help="a tag")
    command.add_argument("--delete", action="store_true", help="forget the snapshot of this name")
    command = add("snapshots", "cli_state:snapshots", "the named states of a session, oldest first", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command = add("restore", "cli_state:restore", "go on from a snapshot; what there is is kept as one", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("snapshot", metavar="SNAPSHOT", help="which")
    command.add_argument("--into", metavar="NEW", help="in a new session of this name")
    command = add("timeline", "cli_state:timeline", "how a session came to where it is, as a tree", reads=True)
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("-n", dest="count", type=_newest, metavar="N", help="over its last N executions")
    command = add("export", "cli_transfer:export", "a session's history as a file: JSON lines, or a notebook")
    command.add_argument("name", metavar="NAME", help="the session")
    command.add_argument("-o", dest="output", metavar="FILE", help="the file, which must be new; - is standard output")
    command.add_argument("--notebook", action="store_true", help="as a Jupyter notebook")
    command.add_argument("--state", action="store_true", help="with its variables, saved first")
    command.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    command = add("import", "cli_transfer:import_", "a session from an exported file", reads=True)
    command.add_argument("file", metavar="FILE", help="what 'omegactl export' wrote")
    command.add_argument("name", nargs="?", metavar="NAME", help="what to call it (default: as it was called)")
    command.add_argument("--trust", action="store_true", help="take its variables: loading them runs what they say")
    command.add_argument("--no-state", action="store_true", help="leave its variables out")
    command.add_argument("--python", metavar="P", help="interpreter (default: its own, if it is here)")
    add("engines", "cli_sessions:engines", "what can evaluate here", reads=True)
    command = add("events", "cli_sessions:events", "what has happened", reads=True)
    command.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    command.add_argument("--since", type=_event, metavar="ID", help="after this event")
    command.add_argument("--session", metavar="NAME", help="of this session only")


def _add_creation(command: argparse._ActionsContainer) -> None:
    command.add_argument("--engine", metavar="E", help="what evaluates (default: python)")
    command.add_argument("--python", metavar="P", help="interpreter (default: that of $VIRTUAL_ENV)")
    command.add_argument("--cwd", metavar="D", help="working directory (default: this one)")
    command.add_argument("--env", action="append", type=_pair, metavar="K=V", help="set in its environment")
    _add_limits(command)


def _add_limits(command: argparse._ActionsContainer) -> None:
    absent = argparse.SUPPRESS
    command.add_argument("--mem", type=_bytes, default=absent, metavar="M", help="memory: 512M, 4G, none")
    command.add_argument("--tasks", type=_count, default=absent, metavar="N", help="processes and threads, or none")
    command.add_argument("--cpu-weight", type=_count, default=absent, metavar="N", help="1 to 10000, or none")
    command.add_argument("--label", action="append", type=_pair, metavar="K=V", help="a label")


def _add_service(add: Any) -> None:
    command = add("service", "cli_service:service", "the daemon: its status, start and stop")
    command.add_argument("verb", choices=SERVICE_VERBS, metavar="VERB", help=", ".join(SERVICE_VERBS))
    command.add_argument("--sessions", action="store_true", help="stop: end the sessions, too")
    command.add_argument("--json", action="store_true", help="status: as JSON")
    command = add("logs", "cli_service:logs", "what the daemon logs, or the host of one session")
    command.add_argument("name", nargs="?", metavar="NAME", help="the session (default: the daemon)")
    command.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    command.add_argument("-n", dest="count", type=_newest, metavar="N", help="only the last N lines")
    add("metrics", "cli_service:metrics", "the figures of daemon and sessions, in Prometheus' text format")
    add("tui", "cli_tui:run", "the dashboard: see every session, work in one, control the service")
    command = add("doctor", "doctor:run", "find what is wrong with this installation, and the remedy")
    command.add_argument("--json", action="store_true", help="the findings as JSON")
    command = add("completion", "completion:run", "a completion script for your shell")
    command.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    command = add("version", "cli_service:version", "the versions of this client and of the daemon")
    command.add_argument("--json", action="store_true", help="as JSON")


def omegallm_parser() -> Parser:
    """The grammar of OmegaLLM's own command line."""
    top = Parser(prog="omegactl", description=OMEGALLM, parents=[_common()])
    top.add_argument("-s", "--session", dest="name", required=True, metavar="NAME")
    source = top.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--cmd", dest="code", metavar="CMD", action=Once)
    source.add_argument("-f", "--file", dest="file", metavar="FILE", action=Once)
    top.add_argument("--json", action="store_true", help="session, command and output as JSON")
    top.set_defaults(run="cli_exec:run_as_omegallm", command=None, stdin=None)
    return top


def _is_omegallm(arguments: Sequence[str], commands: Sequence[str]) -> bool:
    """Whether -s stands where a command would."""
    for argument in arguments:
        if argument in commands:
            return False
        if argument in ("-s", "--session") or argument.startswith("--session="):
            return True
    return False


def _joined(arguments: Sequence[str]) -> list[str]:
    """-c and its value in one piece: code may begin with a dash, and argparse would take it for an option."""
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*joined, argument, *rest]
        if argument in ("-c", "--cmd") and (value := next(rest, None)) is not None:
            argument = f"{argument}={value}"
        joined.append(argument)
    return joined


_DEFAULTS = {
    "socket": None, "no_start": False, "timeout": None, "color": "auto", "format": None, "json": False, "yes": False,
}  # fmt: skip


def _subcommands(grammar: Parser) -> argparse._SubParsersAction[Any]:
    return next(action for action in grammar._actions if isinstance(action, argparse._SubParsersAction))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments understood; ends the process with usage and exit code 2 otherwise."""
    arguments = _joined(arguments)
    # All of it takes longer to build than most of what the command needs else.
    grammar = parser(next((argument for argument in arguments if not argument.startswith("-")), None))
    subcommands = _subcommands(grammar)
    if not subcommands.choices:
        grammar = parser()
        subcommands = _subcommands(grammar)
    if _is_omegallm(arguments, list(subcommands.choices)):
        grammar = omegallm_parser()
    elif arguments and (first := arguments[0].partition("=")[0]) in ("-c", "-f"):
        grammar.error(f"no command stands before '{first}': omegactl exec NAME {first} …")
    args, extras = grammar.parse_known_args(arguments)
    if extras:
        grammar.refuse(extras, args.command)
    for name, value in _DEFAULTS.items():
        if not hasattr(args, name):
            setattr(args, name, value)
    if not hasattr(args, "run"):
        grammar.print_help(sys.stderr)
        grammar.exit(2)
    return args


# ---- the edge ----


def main(arguments: Sequence[str] | None = None, *, begun: Begun | None = None) -> int:
    """Run one command; its exit code."""
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        screen = Screen(args.color)
    except KeyboardInterrupt:
        return 130
    call = Invocation(args, screen, begun)
    module, _, function = args.run.partition(":")
    try:
        code: int = getattr(import_module("omega_sessiond." + module), function)(call)
        return code
    except OmegaError as error:
        _report(call, error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _end_by_sigpipe()
    except OSError as error:
        screen.warn(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        screen.give_up()
        return 125
    except Exception:
        import traceback

        screen.say(traceback.format_exc())
        screen.warn("this is a defect of omegactl; please report it")
        return 125


def _report(call: Invocation, error: OmegaError) -> None:
    if isinstance(error, SessionNotFound) and (name := _session_meant(call)):
        names = _names_at(call, "/api/sessions")
        call.screen.warn(f"no session is called '{name}'{suggestion(name, names)}")
        call.screen.say("'omegactl ls' lists the sessions." if names else "There are no sessions.")
        return
    message, hint = error.message, error.hint
    if isinstance(error, SnapshotNotFound):
        message += suggestion(call.args.snapshot, _names_at(call, f"/api/sessions/{call.args.name}/snapshots"))
    if hint == BadRequest.hint and call.args.command:
        hint = f"See 'omegactl {call.args.command} --help'."
    call.screen.warn(message)
    if hint:
        call.screen.say(hint)
    if isinstance(error, (UnknownField, RouteNotFound)):
        _compare_versions(call)


def _session_meant(call: Invocation) -> str | None:
    args = call.args
    name: str | None = getattr(args, "name", None) or getattr(args, "session", None)
    return name


def _names_at(call: Invocation, path: str) -> list[str]:
    """The names that are there, for a suggestion; none where they cannot be had."""
    try:
        return [row["name"] for row in call.client.get(path)]
    except OmegaError:
        return []


def _compare_versions(call: Invocation) -> None:
    """A daemon that does not know what we ask may be of another version."""
    try:
        running = call.client.get("/api/server")["version"]
    except OmegaError:
        return
    if running != __version__:
        call.screen.say(f"The daemon has version {running}, omegactl {__version__}: run 'omegactl service restart'.")


def _end_by_sigpipe() -> NoReturn:
    """Whoever read our output has gone: end as every filter does, without a word."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(141)
