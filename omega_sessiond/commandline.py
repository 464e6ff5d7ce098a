"""The options of omega-sessiond: its help, which documents every setting, and --check.

Imported only when there are options: a daemon that is started on demand has none and must start fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable

from omega_sessiond import __version__, config, paths
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import AlreadyRunning, OmegaError
from omega_sessiond.journal import Journal
from omega_sessiond.ownership import Lock, look, prepare

ABOUT = """\
Named, stateful REPL sessions that outlive their clients and their server. Usually nobody starts this: the first
request does, by systemd's socket or by omegactl. Started by hand it serves in the foreground until it is interrupted;
sessions go on after it.
"""

EXIT_CODES = """\
exit status:
  0    it left as it should: stopped, or idle for long enough
  2    wrong usage or settings
  3    a directory is not the user's alone, or cannot be made
  5    another daemon serves this state directory
  125  the journal cannot be opened, or a defect
"""


def _settings_text() -> str:
    lines = [f"settings, in {paths.config_file()} (TOML) or the environment, which wins:"]
    for setting in config.describe():
        names = f"   ${', $'.join(setting.env)}" if setting.env else ""
        lines.append(f"  {setting.name} = {setting.default}{names}")
        lines += textwrap.wrap(setting.description, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; exits after --help, --version and wrong usage."""
    parser = argparse.ArgumentParser(
        prog="omega-sessiond",
        description=ABOUT,
        epilog=f"{_settings_text()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"omega-sessiond {__version__}")
    parser.add_argument(
        "--tcp", action="store_true", help="listen on 127.0.0.1:PORT too; every request there needs the bearer token"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="verify settings, engine, directories and journal, print the findings as JSON; makes nothing",
    )
    return parser.parse_args(arguments)


def check() -> int:
    """Print what a start, or the first session, would trip over; 0 when nothing would. Looks, and makes nothing."""
    findings: list[dict[str, object]] = []

    def attempt(name: str, work: Callable[[], str], *, prevents_start: bool = True) -> bool:
        try:
            findings.append({"name": name, "ok": True, "detail": work(), "hint": "", "prevents_start": False})
        except OmegaError as error:
            finding = {"name": name, "ok": False, "detail": error.message, "hint": error.hint}
            findings.append({**finding, "prevents_start": prevents_start})
            return False
        return True

    if attempt("settings", _check_settings):
        state_dir = config.load().state_dir
        attempt("engine", _check_engine, prevents_start=False)
        if attempt("directories", lambda: _check_directories(state_dir)):
            attempt("journal", lambda: _check_journal(state_dir))
    is_well = all(finding["ok"] for finding in findings)
    sys.stdout.write(json.dumps({"ok": is_well, "checks": findings}, indent=2) + "\n")
    return 0 if is_well else 1


def _check_settings() -> str:
    config.load()
    file = paths.config_file()
    return file if os.path.exists(file) else f"defaults ({file} does not exist)"


def _check_directories(state_dir: str) -> str:
    prepare(state_dir, look)
    places = (state_dir, paths.runtime_dir(state_dir))
    return ", ".join(place if os.path.exists(place) else f"{place} (does not exist yet)" for place in places)


def _check_engine() -> str:
    """What sessions get that name no engine and no interpreter, as far as this environment tells."""
    settings, env = config.load(), dict(os.environ)
    catalogue = Catalogue(settings)
    resolved = catalogue.resolve(settings.engine, None, env)
    if settings.python:
        catalogue.resolve("python", None, env)
    return f"{settings.engine} ({resolved.python})" if resolved.python else settings.engine


def _check_journal(state_dir: str) -> str:
    """Open it, unless a daemon has it open: then that daemon's health says more."""
    file = paths.journal_file(state_dir)
    if not os.path.exists(file):
        return f"{file} does not exist yet"
    try:
        lock = Lock.take(paths.lock_file(state_dir))
    except AlreadyRunning as error:
        return f"in use: {error.message}"
    try:
        Journal.open(file).close()
    finally:
        lock.release()
    return file
