"""The examples of docs/API.md and the first one of the README run as they stand, and answer what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from daemon import CHECKOUT
from isolation import Place
from life import Life

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")

API = (CHECKOUT / "docs" / "API.md").read_text()
BLOCKS = [block for block in re.findall(r"(?:^    .*\n)+", API, re.MULTILINE) if "--unix-socket" in block]


def answers(place: Place, script: str) -> list[Any]:
    """What a script of the docs prints, each line an answer."""
    done = subprocess.run(["bash", "-euc", script], env=place.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_first_example_answers(life: Life, place: Place) -> None:
    """The one under the heading runs its command."""
    (answer,) = answers(place, BLOCKS[0].replace("curl ", "curl -s "))
    assert answer["result"] == "42"


def test_long_command_as_a_program_drives_it(life: Life, place: Place) -> None:
    """The reply is bounded and the repetition is not run again; a stream tells; a question is answered by its id."""
    early, late, *events, accepted, answered, interrupted = answers(place, BLOCKS[1])
    assert (early["status"], late["result"], late["id"]) == ("running", "42", early["id"])
    assert [event["kind"] for event in events][-1] == "execution_finished"
    assert "error" not in accepted or accepted["error"] is None
    assert (answered["status"], answered["result"]) == ("ok", "'Ada'")
    assert interrupted["note"] == "Nothing is running."


def test_example_of_the_readme(life: Life, place: Place) -> None:
    """The call of curl on the front page answers what stands below it."""
    life.run("work", "x = 41")
    readme = (CHECKOUT / "README.md").read_text()
    found = re.search(r"^\$ (curl .*\\\n.*)\n(.*)$", readme, re.MULTILINE)
    assert found is not None
    (answer,) = answers(place, found[1])
    shown = re.sub(r'"id":\d+', f'"id":{answer["id"]}', found[2])
    told = json.dumps(answer, separators=(",", ":"))
    assert re.fullmatch(".*".join(map(re.escape, re.split("…,?", shown))), told), told
