"""The settings: one frozen struct, read once, from which the help and the documentation are made.

A value comes from the environment, else from the TOML file, else it is the default. Knows no other module but errors,
paths, presets and complaints; every wrong value ends in a ConfigError that names the place it stands in.
"""
# Annotations are evaluated where they stand: as strings they would be compiled twice at every start.

import os
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from omega_sessiond import paths, presets
from omega_sessiond.errors import ConfigError

MIB = 1024 * 1024

MODULE_PATTERN = r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"

GATEWAY_URL = r"https?://[^/?#@\s]+(/[^?#\s]*)?"

HELP_HINT = "omega-sessiond --help describes it."

LogLevel = Literal["debug", "info", "warning", "error"]


def _setting(description: str, *env: str, **bounds: Any) -> Meta:
    """What the help says of a setting; `env` are the variables that set it, the strongest first."""
    return Meta(description=description, extra={"env": env}, **bounds)


class Gateway(Struct, frozen=True, forbid_unknown_fields=True):
    """Where Jupyter kernels run on other machines: Kernel Gateway, Enterprise Gateway, or a Jupyter Server."""

    url: str
    """Without a user and without a query: the token stands elsewhere."""
    token_file: str = ""
    """A file that only the user can read and that holds the token."""
    token_env: str = ""
    """The variable of the session's environment that holds the token."""
    ca_file: str = ""
    """Certificates to trust for https instead of the system's."""
    reconnect_s: Annotated[float, Meta(ge=0, le=3600)] = 20.0
    """How long a broken connection is tried again before the kernel is given up. More keeps a command waiting for a
    gateway that is dead, less loses one over a restart of something in between."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting with its default. Times in seconds unless the name says otherwise, sizes in bytes."""

    port: Annotated[
        int,
        _setting(
            "TCP port on 127.0.0.1. Listened on only by a daemon started in the foreground with --tcp; "
            "under systemd the port is that of omega-sessiond-tcp.socket.",
            "SESSION_SERVER_PORT",
            "PORT",
            ge=1,
            le=65535,
        ),
    ] = 3000
    session_dir: Annotated[
        str,
        _setting(
            "State directory: the journal, the hosts' logs, checkpoints. Empty means $XDG_STATE_HOME/omega-sessiond.",
            "SESSION_DIR",
        ),
    ] = ""
    max_cached_sessions: Annotated[
        int,
        _setting(
            "How many idle sessions keep a live process, those used last; others are hibernated once they are saved "
            "whole.",
            "MAX_CACHED_SESSIONS",
            ge=1,
            le=100_000,
        ),
    ] = 10
    save_interval_ms: Annotated[
        int,
        _setting(
            "How often a changed session is saved while it is idle, at most, in milliseconds. 0: only when asked.",
            "SAVE_INTERVAL_MS",
            ge=0,
            le=86_400_000,
        ),
    ] = 5000
    save_budget_s: Annotated[
        float,
        _setting(
            "Time for one save; then it is given up, and the session says so. Loading what was saved may take twice "
            "that.",
            gt=0,
            le=3600,
        ),
    ] = 60.0
    checkpoint_max_bytes: Annotated[
        int, _setting("Largest checkpoint; a session that would need more is not saved and says so.", ge=1024 * 1024)
    ] = 1024 * MIB
    hibernate_after_s: Annotated[
        float,
        _setting(
            "A session that is saved whole and was not used for so long is hibernated. 0 means never.",
            ge=0,
            le=31_536_000,
        ),
    ] = 3600.0
    log_level: Annotated[LogLevel, _setting("What is logged: debug, info, warning or error.", "LOG_LEVEL")] = "info"
    python: Annotated[
        str,
        _setting("Interpreter of new Python sessions that name none. Empty means the one behind the daemon's own."),
    ] = ""
    engine: Annotated[
        str,
        _setting("Engine of new sessions that name none.", "OMEGA_ENGINE", min_length=1, max_length=100),
    ] = "python"
    engines: Annotated[
        dict[str, dict[str, Any]],
        _setting("Line REPLs of your own, a table `[engines.NAME]` each: see docs/engines.md."),
    ] = {}
    fork_server: Annotated[
        bool,
        _setting(
            "Fork new Python sessions from a process that is ready, in a millisecond. false: start each by itself."
        ),
    ] = True
    preload: Annotated[
        list[Annotated[str, Meta(pattern=MODULE_PATTERN)]],
        _setting(
            "Modules that sessions with the default interpreter begin with, such as numpy. One whose import starts "
            "threads or leaves files open is left out; omegactl service status and omegactl doctor say why."
        ),
    ] = []
    gateways: Annotated[
        dict[str, Gateway],
        _setting(
            "Jupyter gateways, a table `[gateways.NAME]` each, for engines `jupyter:KERNEL@NAME`: see docs/engines.md."
        ),
    ] = {}
    idle_exit_s: Annotated[
        float,
        _setting(
            "The daemon leaves after so long without a request or running command; sessions stay. 0 means never.",
            ge=0,
            le=31_536_000,
        ),
    ] = 600.0
    max_body_bytes: Annotated[
        int, _setting("Largest request body; a larger one is refused unread.", ge=1024, le=64 * MIB)
    ] = 8 * MIB
    max_connections: Annotated[
        int, _setting("Open connections at most, on each listener; further ones wait.", ge=8, le=100_000)
    ] = 4096
    idle_connection_s: Annotated[
        float, _setting("A connection that sends nothing, or half a request, is closed after this.", gt=0, le=3600)
    ] = 60.0
    max_queue: Annotated[
        int, _setting("Queued commands of one session at most; more are refused with 429.", ge=1, le=100_000)
    ] = 100
    output_head_bytes: Annotated[
        int, _setting("How much of one execution's output is kept from its start.", ge=65536, le=16384 * MIB)
    ] = 256 * MIB
    output_tail_bytes: Annotated[
        int, _setting("How much is kept from the end of an output that is larger than that.", ge=4096, le=64 * MIB)
    ] = MIB
    data_max_bytes: Annotated[
        int, _setting("How much of one execution's pictures, HTML and other rich data is kept.", ge=0, le=1024 * MIB)
    ] = 64 * MIB
    events_kept: Annotated[
        int, _setting("How many past events GET /api/events can resume from.", ge=1000, le=100_000_000)
    ] = 100_000
    history_days: Annotated[
        int, _setting("Executions that ended longer ago than so many days are removed. 0 means never.", ge=0, le=36500)
    ] = 365
    history_count: Annotated[
        int,
        _setting(
            "How many executions of one session are kept at most, but none less than a week. 0 means all.",
            ge=0,
            le=1_000_000_000,
        ),
    ] = 100_000
    history_bytes: Annotated[
        int,
        _setting(
            "How large the journal may become: beyond that the oldest outputs go, and executions older than a week. "
            "0 means no limit.",
            ge=0,
            le=1024 * 1024 * MIB,
        ),
    ] = 4096 * MIB
    host_start_s: Annotated[
        float, _setting("A session's process that has not answered after this is taken for broken.", gt=0, le=600)
    ] = 30.0
    stop_budget_s: Annotated[
        float, _setting("Time for one session to end by itself before it is killed.", gt=0, le=600)
    ] = 10.0
    memory_max_bytes: Annotated[
        Annotated[int, Meta(ge=16 * MIB)] | None,
        _setting("Memory limit of new sessions. Needs systemd. Unset means none."),
    ] = None
    tasks_max: Annotated[
        Annotated[int, Meta(ge=8)] | None,
        _setting("Limit on processes and threads of new sessions. Needs systemd. Unset means none."),
    ] = None
    cpu_weight: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        _setting("CPU weight of new sessions, 1 to 10000. Needs systemd. Unset means systemd's default."),
    ] = None

    @property
    def state_dir(self) -> str:
        """Absolute path of the state directory."""
        return self.session_dir or paths.default_state_dir()


class Setting(Struct, frozen=True):
    """One setting as the help shows it."""

    name: str
    default: str
    env: tuple[str, ...]
    description: str


def describe() -> list[Setting]:
    """Every setting, in the order of the struct: the source of --help and of the documentation's table."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    blank = Settings()
    found = []
    for name in Settings.__struct_fields__:
        meta: Meta = hints[name].__metadata__[0]
        default = getattr(blank, name)
        shown = "unset" if default is None else msgspec.json.encode(default).decode()
        found.append(Setting(name, shown, (meta.extra or {}).get("env", ()), meta.description or ""))
    return found


def load(environ: Mapping[str, str] | None = None, file: str | None = None) -> Settings:
    """The settings of this process. Raises ConfigError, which names the file or the variable and what it takes."""
    environ = os.environ if environ is None else environ
    file = paths.config_file() if file is None else file
    values = _read_file(file)
    for setting in describe():
        for variable in setting.env:
            text = environ.get(variable)
            if text:
                _convert({setting.name: text}, f"environment variable {variable}", strict=False)
                values[setting.name] = text
                break
    settings = _convert(values, "the settings", strict=False)
    presets.check(settings.engines)
    for name, gateway in settings.gateways.items():
        if re.fullmatch(GATEWAY_URL, gateway.url) is None:
            raise ConfigError(
                f"Setting 'gateways.{name}.url' is no address of a gateway",
                hint="Write http://HOST:PORT or https://HOST/PATH, with no user, password or query in it.",
            )
    if settings.session_dir:
        absolute = os.path.abspath(os.path.expanduser(settings.session_dir))
        settings = msgspec.structs.replace(settings, session_dir=absolute)
    try:
        settings.state_dir.encode()
    except UnicodeEncodeError:  # no reply could name it
        raise ConfigError(
            f"The state directory's name is not UTF-8: {settings.state_dir!r}",
            hint="Set SESSION_DIR to a directory whose name is.",
        ) from None
    return settings


def _read_file(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            _refuse_of_others(file, os.fstat(stream.fileno()))
            text = stream.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}", hint="Make it readable or remove it.") from None
    import tomllib  # a start without a file is a start without it

    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="Correct the line it names.") from None
    _convert(values, file, strict=True)
    return values


def _refuse_of_others(file: str, status: os.stat_result) -> None:
    """The settings decide which programs run: they must be the user's own, or root's."""
    if status.st_uid not in (os.getuid(), 0):
        raise ConfigError(f"{file} belongs to another user (uid {status.st_uid})", hint="Make it yours, or remove it.")
    if status.st_mode & 0o002:
        raise ConfigError(f"Everybody can write to {file}", hint=f"chmod o-w {file}")


def _convert(values: dict[str, Any], place: str, *, strict: bool) -> Settings:
    if isinstance(level := values.get("log_level"), str):
        values["log_level"] = level.lower()
    known = Settings.__struct_fields__
    for name in values:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else "omega-sessiond --help lists the settings."
            raise ConfigError(f"Unknown setting '{name}' in {place}", hint=hint)
    try:
        return msgspec.convert(values, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise _explain(str(error), values, place, strict=strict) from None


def _explain(message: str, values: dict[str, Any], place: str, *, strict: bool) -> ConfigError:
    from omega_sessiond import complaints

    what, _, where = message.partition(" - at `$.")
    name = where.rstrip("`") or ", ".join(values)
    head, bracket, rest = name.partition("[...]")
    if head == "gateways" and bracket:  # which one, msgspec does not say
        name = f"gateways.{_wrong_gateway(values[head], strict=strict)}{rest}"
    said = complaints.about_setting(what, name, f" in {place}", {MODULE_PATTERN: "expected the name of a module"})
    hint = HELP_HINT
    if complaints.UNKNOWN.fullmatch(what):
        hint = f"Known in a gateway's table: {', '.join(Gateway.__struct_fields__)}."
    elif words := complaints.choices(typing.get_type_hints(Settings).get(name)):
        hint = f"One of: {', '.join(words)}."
    return ConfigError(said, hint=hint)


def _wrong_gateway(tables: dict[str, Any], *, strict: bool) -> str:
    for name, table in tables.items():
        try:
            msgspec.convert(table, Gateway, strict=strict)
        except msgspec.ValidationError:
            return name
    return "*"
