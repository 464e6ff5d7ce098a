"""docs/tui.md has the keys and settings that the dashboard has, and its pictures can be shown anywhere."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import CHECKOUT
from tui.keys import remapped, settings_file

sys.path.insert(0, str(CHECKOUT / "docs"))
import keys

PAGE = keys.PAGE.read_text()
PICTURES = sorted((CHECKOUT / "docs" / "images").glob("*.svg"))


def test_keys_are_those_of_the_dashboard() -> None:
    """The tables are what docs/keys.py makes of the table of actions."""
    assert keys.parts(PAGE)[1] == keys.tables().strip("\n"), "run docs/keys.py"


def test_settings_of_the_example_are_accepted() -> None:
    """The example is a settings file that nothing is told about, at the place where it is read."""
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert remapped(tomllib.loads(example[1])["keys"])[1] == []
    assert settings_file().endswith("/omega-sessiond/tui.toml")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pictures_stand_by_themselves(picture: Path) -> None:
    """Each picture is well-formed, fetches nothing when it is shown, names no place of the machine it was taken on, and
    is shown by a page."""
    text = picture.read_text()
    ElementTree.fromstring(text)
    assert "url(http" not in text and "@import" not in text and "<image" not in text
    assert "/root" not in text and "/work" not in text
    assert f"images/{picture.name}" in PAGE
