"""Makes the key tables of docs/tui.md from the dashboard's own table of actions.

.venv/bin/python docs/keys.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from tui.actions import ACTIONS, SCREEN_KEYS, SCREEN_TITLES, shown_keys  # noqa: E402 - found by the path above
from tui.model import Session  # noqa: E402

PAGE = CHECKOUT / "docs" / "tui.md"
BEGIN, END = "<!-- made by docs/keys.py -->", "<!-- end of what docs/keys.py makes -->"

TITLES = {"Session": "The selected session", "List": "The list", "View": "What is shown", "Program": "The program"}
HEAD = "| key | | | the same on the command line | id |\n|---|---|---|---|---|"


def tables() -> str:
    """All keys: by group, then by tab and screen."""
    return "\n".join([*_groups(), *_screens()])


def _groups() -> Iterator[str]:
    example = Session("", "NAME")
    for group in dict.fromkeys(action.group for action in ACTIONS):
        yield f"\n**{TITLES.get(group, group)}**\n"
        yield HEAD
        for action in ACTIONS:
            if action.group == group:
                yield _row(action.keys, action.label, action.help, action.words(example), action.id)


def _screens() -> Iterator[str]:
    for screen, rows in SCREEN_KEYS.items():
        yield f"\n**{SCREEN_TITLES[screen]}**\n"
        yield HEAD
        yield from (_row(row.keys, row.label, row.help, row.words, row.id) for row in rows)


def _row(keys: str, label: str, help: str, words: tuple[str, ...], id: str) -> str:
    line = _code("omegactl " + " ".join(words)) if words else ""
    return f"| {_keys(keys)} | {label} | {help} | {line} | `{id}` |"


def _keys(keys: str) -> str:
    return " ".join(_code(key) for key in shown_keys(keys).split())


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def parts(page: str) -> tuple[str, str, str]:
    """What stands before the tables, the tables, and what stands after them."""
    before, begin, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    assert begin and end, f"{PAGE} has no marks for the tables"
    return before + begin, inside.strip("\n"), end + after


def main() -> None:
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(f"{before}\n{tables()}\n\n{after}")


if __name__ == "__main__":
    main()
