"""A program's own save and load, made trustworthy: what was saved is loaded into a fresh program at once, and only when
that shows the same values for the same names does it count as saved.

Names, values and the orders for them come from the preset. Knows dialogues and files; nothing of sessions.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import zipfile
from typing import Any, Callable, Dict, List, Sequence, Tuple
from weakref import WeakKeyDictionary

from omega_sessiond.hosts.dialogue import Dialogue, Gone, Unstarted
from omega_sessiond.hosts.engine import CannotLoad, CannotSave

NAME = "omega-session"
"""What the program's own save is called."""

SHOWN = "shown"
"""The entry of the archive with the names and what the program shows of them."""

ANSWER_S = 60.0
"""For one order, where no budget is given."""

MAX_FAILED_NAMES = 50
"""Names that turn out to have no value (their definition failed) before the rest is given up."""


class Memory:
    """What one session's programs keep. `begin` makes a new program whose private directory is its argument."""

    def __init__(self, rules: Dict[str, Any], directory: str, begin: Callable[[str], Dialogue]) -> None:
        self._rules = rules
        self._files = [name.replace("{name}", NAME) for name in rules["files"]]
        self._base = directory
        self._begin = begin
        self._known: WeakKeyDictionary[Dialogue, List[str]] = WeakKeyDictionary()
        """Names that a program has and may not tell: what it has taken up from a save, and what commands define."""
        self._doubtful: WeakKeyDictionary[Dialogue, List[str]] = WeakKeyDictionary()
        """What commands may define."""
        shutil.rmtree(directory, ignore_errors=True)

    def place(self) -> str:
        """A new private directory for one program."""
        os.makedirs(self._base, mode=0o700, exist_ok=True)
        return tempfile.mkdtemp(dir=self._base)

    def clear(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)

    def note(self, dialogue: Dialogue, code: str) -> None:
        """The program has run a command, which may have defined something."""
        pattern = self._rules.get("defines")
        found = re.findall(pattern, code) if pattern else []
        if found:
            doubtful = self._doubtful.setdefault(dialogue, [])
            doubtful += [name for name in found if name not in doubtful]

    # ---- saving ----

    def renew(self, dialogue: Dialogue, budget_s: float) -> Tuple[Dialogue, str, str]:
        """A fresh program that has, by proof, what this one has, with its directory, and the words in which the two
        show it. Raises CannotSave; this one goes on as it was."""
        deadline = time.monotonic() + budget_s
        try:
            shown = self._show(dialogue, deadline)
            said = self._order(dialogue, self._rules["save"], deadline)
        except Gone:
            raise CannotSave("%s died of it" % dialogue.child.name) from None
        if re.search(self._rules["saved"], said) is None:
            raise CannotSave("%s did not save: %s" % (dialogue.child.name, said.strip()[-300:]))
        place = self.place()
        fresh: List[Dialogue] = []
        try:
            for name in self._files:
                _copy(os.path.join(dialogue.place, name), os.path.join(place, name))
            fresh.append(self._begin(place))
            self._take_up(fresh[0], shown, deadline)
        except (OSError, Unstarted, CannotLoad) as error:
            for failed in fresh:
                failed.end()
            shutil.rmtree(place, ignore_errors=True)
            raise CannotSave(str(error)) from None
        return fresh[0], place, shown

    def save(self, dialogue: Dialogue, file: str, budget_s: float) -> List[str]:
        """Save into a file what is proven to come back; the names. Raises CannotSave, OSError."""
        fresh, place, shown = self.renew(dialogue, budget_s)
        fresh.end()
        try:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(SHOWN, shown)
                for name in self._files:
                    archive.write(os.path.join(place, name), "files/" + name)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return shown.partition("\n")[0].split()

    def load(self, dialogue: Dialogue, file: str) -> None:
        """Have a fresh program take up what `save` wrote. Raises CannotLoad, and the program is not fresh any more."""
        try:
            with zipfile.ZipFile(file) as archive:
                shown = archive.read(SHOWN).decode("utf-8")
                for name in self._files:
                    into = os.path.join(dialogue.place, name)
                    os.makedirs(os.path.dirname(into), mode=0o700, exist_ok=True)
                    with archive.open("files/" + name) as source, open(into, "wb") as target:
                        shutil.copyfileobj(source, target)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise CannotLoad("its file cannot be read: %s" % error) from None
        self._take_up(dialogue, shown, time.monotonic() + ANSWER_S)

    # ---- speaking ----

    def _take_up(self, dialogue: Dialogue, shown: str, deadline: float) -> None:
        name = dialogue.child.name
        try:
            said = self._order(dialogue, self._rules["load"], deadline)
            if re.search(self._rules["loaded"], said) is None:
                raise CannotLoad("a fresh %s did not load what was saved: %s" % (name, said.strip()[-300:]))
            names, _, values = shown.partition("\n")
            found = self._values(dialogue, names.split(), deadline)
        except Gone:
            raise CannotLoad("a fresh %s died of what was saved" % name) from None
        except CannotSave as error:
            raise CannotLoad(str(error)) from None
        if found != values:
            raise CannotLoad(
                "a fresh %s does not show what was saved: %s instead of %s"
                % (name, found.strip()[-200:], values.strip()[-200:])
            )
        self._known[dialogue] = names.split()

    def _show(self, dialogue: Dialogue, deadline: float) -> str:
        """A line of names, and what the program shows of them."""
        said = self._order(dialogue, self._rules["names"], deadline)
        named = re.findall(self._rules["name"], said, re.MULTILINE)
        known = self._known.setdefault(dialogue, [])
        for name in self._doubtful.pop(dialogue, ()):
            is_new = name not in named and name not in known
            if is_new and not re.search(self._rules["unknown"], self._values(dialogue, [name], deadline)):
                known.append(name)
        names = list(dict.fromkeys([*known, *named]))
        for _ in range(MAX_FAILED_NAMES):
            values = self._values(dialogue, names, deadline)
            failed = re.search(self._rules["unknown"], values)
            if failed is None:
                return "%s\n%s" % (" ".join(names), values)
            if failed.group(1) not in names:
                break
            names.remove(failed.group(1))
        raise CannotSave("what it defines cannot be shown: %s" % values.strip()[-300:])

    def _values(self, dialogue: Dialogue, names: List[str], deadline: float) -> str:
        return self._order(dialogue, self._rules["show"], deadline, names)

    def _order(self, dialogue: Dialogue, template: str, deadline: float, names: Sequence[str] = ()) -> str:
        heard: List[str] = []
        values = {"name": NAME, "names": " ".join(names)}
        talk = dialogue.say(template, values, heard=heard, budget_s=max(0.0, deadline - time.monotonic()))
        if talk.status is None:
            raise CannotSave("%s did not answer in time" % dialogue.child.name)
        return "".join(heard)


def _copy(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    shutil.copyfile(source, target)
