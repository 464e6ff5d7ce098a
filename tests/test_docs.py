"""README and docs say what the program has: commands with their options, settings, routes, codes, fields, links."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from daemon import CHECKOUT
from omega_sessiond import config, errors, messages
from omega_sessiond.cli import parse, parser
from omega_sessiond.errors import OmegaError
from omega_sessiond.routes import ROUTES

PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
API = (CHECKOUT / "docs" / "API.md").read_text()

OUTSIDE_HTTP = {"config_error", "already_running", "runtime_dir_error", "daemon_unreachable", "protocol_error", "error"}
"""Codes that never cross the API."""


def _commands() -> set[str]:
    found = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return set(found.choices)


def _shown() -> list[str]:
    """The lines of code blocks that call omegactl, from there on to the end of the call."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines += [
                line[found.end() :] for line in block.splitlines() if (found := re.search(r"(^|[$|] )omegactl ", line))
            ]
    return lines


@pytest.mark.parametrize("line", _shown())
def test_every_command_line_shown_is_understood(line: str) -> None:
    """A call of omegactl in a code block parses as it stands."""
    arguments = shlex.split(line, comments=True)
    is_omegallm = arguments[0] == "-s"
    assert parse(arguments).command == (None if is_omegallm else arguments[0])


def test_every_command_named_exists_and_every_one_is_named() -> None:
    """`omegactl X` in a text names a command, and the README mentions each there is."""
    for page in PAGES:
        named = set(re.findall(r"`omegactl ([a-z]+)", page.read_text()))
        assert named <= _commands(), page.name
    readme = (CHECKOUT / "README.md").read_text()
    mentioned = set(re.findall(r"(?:omegactl |`)([a-z]+)", readme))
    assert _commands() <= mentioned


def test_settings_are_those_of_the_program() -> None:
    """docs/SETTINGS.md lists each setting with its default and its variables, and no other."""
    rows = re.findall(
        r"^\| `(\w+)` \| `([^`]+)` \|([^|]*)\|", (CHECKOUT / "docs" / "SETTINGS.md").read_text(), re.MULTILINE
    )
    listed = [(name, default, tuple(re.findall(r"`(\w+)`", variables))) for name, default, variables in rows]
    assert listed == [(setting.name, setting.default, setting.env) for setting in config.describe()]


def test_routes_are_those_of_the_program() -> None:
    """docs/API.md has each route with its query parameters and the fields of its body, and no other route."""
    rows = re.findall(r"^\| (`(?:GET|POST|PATCH|DELETE) .*?) \| (.*) \|$", API, re.MULTILINE)
    shown: dict[tuple[str, str], str] = {}
    for route, text in rows:
        method, path = re.match(r"`(\w+) ([^`?]+)", route).groups()  # type: ignore[union-attr]
        for at in (path, *(path.rpartition("/")[0] + more for more in re.findall(r", `(/\w+)`", route))):
            shown[method, at] = shown.get((method, at), "") + route + text
    assert set(shown) == {
        (
            route.method,
            route.path.replace("{name}", "NAME")
            .replace("{id}", "ID")
            .replace("{n}", "N")
            .replace("{snapshot}", "SNAPSHOT"),
        )
        for route in ROUTES
    }
    for route in ROUTES:
        text = shown[
            route.method,
            route.path.replace("{name}", "NAME")
            .replace("{id}", "ID")
            .replace("{n}", "N")
            .replace("{snapshot}", "SNAPSHOT"),
        ]
        fields = [*route.query.__struct_fields__]
        if route.body is not None and not route.path.endswith("/execute"):
            fields += route.body.__struct_fields__
        for field in fields:
            assert re.search(rf"\b{field}\b", text), f"{route.method} {route.path}: {field}"


@pytest.mark.parametrize("struct", [messages.ExecuteRequest, messages.Execution, messages.Session, messages.Server])
def test_fields_are_in_the_api_document(struct: type[messages.Execution]) -> None:
    """docs/API.md names each field of what is sent and answered."""
    assert [field for field in struct.__struct_fields__ if not re.search(rf"\b{field}\b", API)] == []


def test_error_codes_are_in_the_api_document() -> None:
    """docs/API.md names each code that a reply can carry."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OmegaError)]
    concrete = {kind.code for kind in kinds if not kind.__subclasses__()} - OUTSIDE_HTTP
    assert [code for code in sorted(concrete) if f"`{code}`" not in API] == []


@pytest.mark.parametrize("page", [*PAGES, CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "benchmarks" / "README.md"])
def test_links_lead_to_files(page: Path) -> None:
    """A relative link leads to a file of the checkout."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
