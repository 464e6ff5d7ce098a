"""Makes the key tables of docs/tui.md from the dashboard's own table of actions.

.venv/bin/python docs/keys.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from textual.binding import Binding  # noqa: E402 - found by the path above
from textual.widget import Widget  # noqa: E402

from tui.actions import ACTIONS, shown_keys  # noqa: E402
from tui.model import Session  # noqa: E402
from tui.screens.events import EventsScreen  # noqa: E402
from tui.screens.service import ServiceScreen  # noqa: E402
from tui.statetabs import Snapshots, Timeline  # noqa: E402

PAGE = CHECKOUT / "docs" / "tui.md"
BEGIN, END = "<!-- made by docs/keys.py -->", "<!-- end of what docs/keys.py makes -->"

TITLES = {"Session": "The selected session", "List": "The list", "View": "What is shown", "Program": "The program"}
SCREENS: tuple[tuple[str, type[Widget]], ...] = (
    ("The snapshots tab", Snapshots),
    ("The timeline tab", Timeline),
    ("The service screen", ServiceScreen),
    ("The events screen", EventsScreen),
)


def tables() -> str:
    """All keys: by group, then by tab and screen."""
    return "\n".join([*_groups(), *_screens()])


def _groups() -> Iterator[str]:
    example = Session("", "NAME")
    for group in dict.fromkeys(action.group for action in ACTIONS):
        yield f"\n**{TITLES.get(group, group)}**\n"
        yield "| key | | | the same on the command line | id |"
        yield "|---|---|---|---|---|"
        for action in ACTIONS:
            if action.group == group:
                words = action.words(example)
                line = _code("omegactl " + " ".join(words)) if words else ""
                yield f"| {_keys(action.keys)} | {action.label} | {action.help} | {line} | `{action.id}` |"


def _screens() -> Iterator[str]:
    for title, screen in SCREENS:
        yield f"\n**{title}**\n"
        yield "| key | | |"
        yield "|---|---|---|"
        for binding in screen.BINDINGS:
            assert isinstance(binding, Binding)
            yield f"| {_keys(binding.key)} | {binding.description} | {binding.tooltip} |"


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
