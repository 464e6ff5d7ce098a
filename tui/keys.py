"""The dashboard's settings file, `tui.toml` beside the daemon's: theme, ASCII, and keys by the id of an action.

    theme = "light"
    ascii = true

    [keys]
    kill = "ctrl+k"

Two actions may not share a key where both apply; what clashes, or is not known, is told, and the default stays.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omega_sessiond import paths
from omega_sessiond.errors import ConfigError
from tui.actions import DEFAULT_KEYS, PLACES, Action, ScreenKey, shown_key

THEMES = {"dark": "omega-dark", "light": "omega-light"}


@dataclass(frozen=True)
class Settings:
    """What the file says. `troubles` are sentences about what it says in vain."""

    theme: str | None = None
    ascii: bool | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    troubles: Sequence[str] = ()


def settings_file() -> str:
    return os.path.join(os.path.dirname(paths.config_file()), "tui.toml")


def load(file: str) -> Settings:
    """The settings; those of no file where there is none. Raises ConfigError where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            text = stream.read()
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}", hint="Make it readable or remove it.") from None
    import tomllib  # most have no such file, and the first picture need not wait for it

    try:
        found = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="Correct the line it names.") from None
    troubles = [
        f"{file}: there is no setting '{name}'{_nearest(name, ('theme', 'ascii', 'keys'))}"
        for name in found
        if name not in ("theme", "ascii", "keys")
    ]
    theme, is_ascii, given = found.get("theme"), found.get("ascii"), found.get("keys", {})
    if theme is not None and theme not in THEMES:
        troubles.append(f"{file}: theme is 'dark' or 'light'")
        theme = None
    if is_ascii is not None and not isinstance(is_ascii, bool):
        troubles.append(f"{file}: ascii is true or false")
        is_ascii = None
    if not isinstance(given, dict):
        troubles.append(f"{file}: [keys] is a table")
        given = {}
    keys, more = remapped(given)
    return Settings(theme, is_ascii, keys, [*troubles, *more])


def remapped(given: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """The keys that can be given to actions as asked, and a sentence for each that cannot."""
    keys: dict[str, str] = {}
    troubles: list[str] = []
    for id, wanted in given.items():
        if id not in DEFAULT_KEYS:
            troubles.append(f"[keys] there is no action '{id}'{_nearest(id, tuple(DEFAULT_KEYS))}")
        elif not isinstance(wanted, str) or not wanted.strip():
            troubles.append(f'[keys] {id}: a key is a text, such as "K" or "ctrl+k"')
        else:
            keys[id] = ",".join(key.strip() for key in wanted.split(","))
    while (clash := _clash(keys)) is not None:
        key, one, other = clash
        # The one that was moved is the one that goes back.
        loser = other if other.id in keys else one
        stays = one if loser is other else other
        troubles.append(f"[keys] {shown_key(key)} is both {stays.id} and {loser.id}: {loser.id} keeps {loser.keys}")
        del keys[loser.id]
    return keys, troubles


def _clash(keys: Mapping[str, str]) -> tuple[str, Action | ScreenKey, Action | ScreenKey] | None:
    """The first key that means two things at one place. What a tab or screen has for itself comes first there, as its
    defaults do."""
    for rows in PLACES:
        owners: dict[str, Action | ScreenKey] = {}
        for row in rows:
            for key in keys.get(row.id, row.keys).split(","):
                if (owner := owners.setdefault(key, row)) is not row:
                    return key, owner, row
    return None


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
