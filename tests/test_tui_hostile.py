"""The bytes that a terminal gets from the dashboard, with payloads wherever text from outside is shown.

Held against a run that shows the same places with harmless text: no kind of sequence appears that was not there, and
nothing of a payload but its letters.
"""

from __future__ import annotations

import re

from daemon import wait_until
from life import Life
from person import at_terminal

PAYLOAD = (
    "\x1b]52;c;T1NDNTI=\x07"  # the clipboard
    "\x1b]8;;http://link.example/\x1b\\"
    "\x1b]0;owned-title\x1b\\"
    "\x1b[6n\x1b[>q\x1b[5n"  # questions, which a terminal answers into the program's input
    "\x1b[?1049l\x1b[2J\x1bc\x1b[!p"
    "\x9b6n\x9d52;c;QzE1Mg==\x9c\x90+qRENT\x9c"  # the same with C1
    "\x1bP+qRENT\x1b\\\x1b_Gi=1;QVBD\x1b\\\x1b^x\x1b\\"
    "\x1b(0\x0e"  # line drawing instead of letters
    "\x1b[1;\x1b]52;c;QlJPS0VO\x07"  # broken off by another
    "[@click=app.quit]x[/] [/nope] [red"
)
LOST = (b"T1NDNTI", b"link.example", b"owned-title", b"QzE1Mg", b"RENT", b"QVBD", b"QlJPS0VO")
"""What stands inside the sequences: it goes with them."""

MARKUP = b"[@click=app.quit]x[/] [/nope] [red"

SEQUENCE = re.compile(
    rb"\x1b\[(?P<private>[<-?]?)[0-9;:]*(?P<between>[ -/]*)(?P<final>[@-~])"
    rb"|\x1b\](?P<osc>[0-9]*)|\x1b(?P<other>[^\[\]])"
)
C1 = re.compile(r"[\x80-\x9f]")


def kinds(sent: bytes) -> set[tuple[bytes | None, ...]]:
    """The kinds of sequences among the bytes: parameters do not count, but the numbers of OSC do."""
    return {match.groups() for match in SEQUENCE.finditer(sent)}


def watched(life: Life, name: str, payload: str) -> bytes:
    """Everything a terminal gets while one looks at each place where text of this session is shown."""

    def marked(place: str) -> str:
        return f"{place}-begins {payload}{place}-ends"

    def code(place: str) -> str:
        """An expression that is this text and does not show it."""
        return f"text({place!r})"

    directory = life.place.base / marked("directory").replace("/", "")
    directory.mkdir()
    made = life.call(
        "POST", "/api/sessions", {"name": name, "cwd": str(directory), "labels": {"note": marked("label")[:256]}}
    )
    assert made.status == 201, made
    shown = f"bytes.fromhex('{payload.encode().hex()}').decode()"
    life.run(name, f"def text(place): return f'{{place}}-begins ' + {shown} + f'{{place}}-ends'")
    life.run(name, f"print({code('output')})")
    life.run(name, f"class R:\n    def __repr__(self): return {code('result')}\nR()")
    life.execute(name, f"raise ValueError({code('error')})")
    life.run(name, f"class M:\n    def _repr_mimebundle_(self, **k): return {{'text/' + {code('mime')}: 'x'}}\nM()")
    life.run(name, f"globals()[{code('variable')}] = (one for one in ())")
    life.run(
        name,
        f"import threading\nend = threading.Event()\nthreading.Thread(target=end.wait, name={code('thread')}).start()",
    )
    life.run(name, f"class N:\n    def __reduce__(self): raise ValueError({code('reason')})\nn = N()")
    life.post(
        f"/api/sessions/{name}/snapshots", {"name": "state", "note": marked("note"), "tags": ["tag-" + payload[:9]]}
    )
    life.run(name, f"# {marked('command')}")
    id = life.begin(name, f"answer = input({code('prompt')})")
    wait_until(lambda: life.session(name)["state"] == "waiting_input", "it asks")
    with open(life.place.state_dir / "daemon.log", "a") as log:
        log.write(f"2026-01-02T03:04:05.678 warning {marked('log')}\n")
    with at_terminal(life.place, "tui", rows=50, columns=170) as person:
        for place in ("output", "result", "error", "command", "prompt"):
            person.sees(f"{place}-ends")
        person.type("2")
        person.sees("label-begins")
        person.sees("directory-begins")
        person.type("4")
        person.sees("note-ends")
        person.sees("reason-begins")
        person.sees("variable-begins")
        person.sees("thread-begins")
        person.type("5")
        person.sees("snapshot state")
        person.type("1")
        person.sees("prompt-ends")
        life.post(f"/api/sessions/{name}/input", {"execution_id": id, "text": marked("answer")})
        life.finished(name, id)
        person.sees("answer-ends")
        person.type("S")
        person.sees("log-ends")
        person.type("\x1b")
        person.sees("Sessions ")
        person.type("E")
        person.sees("Done here")
        life.run(name, f"# {marked('event')}")
        person.sees("event-ends")
        person.type("\x1b")
        person.sees("Sessions ")
        person.type("q")
        assert person.leaves() == 0
        life.call("DELETE", f"/api/sessions/{name}")
        return person.sent


def test_no_payload_reaches_the_terminal(life: Life) -> None:
    """Output, results, errors, commands, prompts, answers, labels, directories, snapshots and what they lack, types of
    data, log lines and events reach the terminal as letters: no kind of sequence that harmless text does not bring, no
    C1, markup as it was written."""
    harmless = watched(life, "harmless", "harmless ")
    hostile = watched(life, "hostile", PAYLOAD)
    assert kinds(hostile) <= kinds(harmless), kinds(hostile) - kinds(harmless)
    assert [lost for lost in LOST if lost in hostile] == []
    assert C1.search(hostile.decode("utf-8", "replace")) is None
    assert MARKUP in hostile
