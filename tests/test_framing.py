"""The end of an output, found in whatever a program prints: split anywhere, imitated, echoed, cut off; and whether code
is whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omega_sessiond.hosts.framing import Mark, Piece, Scanner, Token, fill, has_token, quote_shell
from omega_sessiond.hosts.syntax import Counter, Syntax

LISP = {"brackets": ["()", "[]"], "strings": ['"'], "escape": "\\", "comments": [";"], "blocks": [["#|", "|#"]]}
SCHEME = {**LISP, "characters": "#\\"}


def _scanner(*templates: str) -> tuple[Scanner, Token]:
    token, scanner = Token(), Scanner()
    scanner.marks = [Mark(f"kind{number}", template, token) for number, template in enumerate(templates)]
    return scanner, token


def _joined(pieces: list[Piece]) -> list[tuple[str, bytes, str]]:
    """Neighbouring texts as one."""
    found: list[tuple[str, bytes, str]] = []
    for piece in pieces:
        if piece.kind == "text" and found and found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + piece.text, "")
        else:
            found.append((piece.kind, piece.text, piece.status))
    return found


@pytest.mark.parametrize(
    "template", ["{token}", "\x1e{token} {status}\x1e", "Unknown: :{token}. Help.\n", "{left} {right}\n"]
)
def test_mark_is_found_however_it_is_cut(template: str) -> None:
    """Bytes split at any two places give the same output and the same end."""
    scanner, token = _scanner(template)
    mark = fill(template, token).replace("{status}", "17").encode()
    data = b"\x1eline\nUnknown: :" + mark + b"late"
    wanted = [
        ("text", data[: -len(mark) - 4], ""),
        ("kind0", b"", "17" if "{status}" in template else ""),
        ("text", b"late", ""),
    ]
    for first in range(len(data)):
        for second in range(first, len(data), 7):
            pieces = scanner.feed(data[:first]) + scanner.feed(data[first:second]) + scanner.feed(data[second:])
            rest = scanner.flush()
            assert _joined(pieces + ([Piece("text", rest)] if rest else [])) == wanted


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_nothing_of_an_output_is_lost(chunks: list[bytes]) -> None:
    """What holds no mark comes out as it went in, whatever it looks like."""
    scanner, _ = _scanner("\x1e{token} {status}\x1e", "\x1e{token}=\x1e")
    found = b"".join(piece.text for chunk in chunks for piece in scanner.feed(chunk))
    assert found + scanner.flush() == b"".join(chunks)


def test_what_only_begins_like_a_mark_is_output() -> None:
    """A wrong status, half a token and a mark of an earlier command are text."""
    scanner, token = _scanner("\x1e{token} {status}\x1e")
    for text in (
        f"\x1e{token.left}",
        f"\x1e{token.left}{token.right} no status\n",
        f"\x1e{token.left}{token.right} {'9' * 40}\x1e",
    ):
        pieces = scanner.feed(text.encode() + b"x" * 100)
        assert {piece.kind for piece in pieces} == {"text"}
        assert b"".join(piece.text for piece in pieces) + scanner.flush() == text.encode() + b"x" * 100


def test_echoed_order_is_no_mark() -> None:
    """An order that names the halves of the token does not hold the mark that it makes."""
    token = Token()
    order = fill("print('{left}' + '{right}')", token)
    assert (token.left + token.right) not in order
    assert has_token(order) is False and has_token("print('{left}')") is True


def test_values_are_no_templates() -> None:
    """Code that looks like a place in a template is code."""
    assert fill("run {code} {unknown} {", Token(), {"code": "{token} {json}"}) == "run {token} {json} {unknown} {"


@pytest.mark.parametrize("code", ["it's", "a\\b", "line\nline", "\ttab\r", '$HOME `x` "y"', "ä€😀"])
def test_shell_word_is_the_code(code: str) -> None:
    """What bash reads of a quoted word is the code."""
    import subprocess

    done = subprocess.run(["bash", "-c", f"printf %s {quote_shell(code)}"], capture_output=True, check=True)
    assert done.stdout.decode() == code


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", "complete"),
        ("(f 1)", "complete"),
        ("(f (g 1)", "incomplete"),
        ('(f "a) b', "incomplete"),
        ('(f "a\\"b)")', "complete"),
        ("(f ; )\n", "incomplete"),
        ("(f ; (\n)", "complete"),
        ("#| ( #| nested |# |# 1", "complete"),
        ("#| open", "incomplete"),
        ("#\\( ", "complete"),
        ("(f #\\))", "complete"),
        (")", "invalid"),
        ("(]", "invalid"),
    ],
)
def test_whole_code_is_told_from_half(code: str, status: str) -> None:
    """Brackets count where they are code, not in strings, comments and characters."""
    assert Syntax(SCHEME).judge(code).status == status


OMEGA: dict[str, Any] = {
    "syntax": LISP | {"brackets": ["()"], "blocks": []},
    "balance": "()",
    "skips_lines": True,
    "commands": ":",
    "newline": "\\n",
}


def _read(sent: str) -> list[str]:
    """What a program that counts line by line takes for forms and commands."""
    found, buffer, depth = [], "", 0
    for line in sent.split("\n"):
        word = line.strip()
        if not word or word.startswith(";"):
            continue
        if word.startswith(":"):
            found.append(word)
            continue
        buffer += ("\n" if buffer else "") + line
        depth += line.count("(") - line.count(")")
        if depth <= 0:
            found.append(buffer)
            buffer, depth = "", 0
    return [*found, f"unfinished: {buffer}"] if buffer else found


def _meant(code: str) -> str:
    """Code without comments and blanks, a newline in a string by its escape."""
    parts, place = [], 0
    for start, end in Syntax(OMEGA["syntax"]).spans(code):
        parts.append(re.sub(r"\s", "", code[place:start]))
        span = code[start:end]
        parts.append("" if span.startswith(";") else span.replace("\n", "\\n"))
        place = end
    return "".join(parts) + re.sub(r"\s", "", code[place:])


@given(st.lists(st.sampled_from(["(", ")", '"', "\n", " ", "a", ";", "\\", ":"]), max_size=30).map("".join))
def test_counting_program_reads_what_is_meant(code: str) -> None:
    """What is sent to a program that counts brackets line by line, leaves lines out and obeys others is read as whole
    forms, in which nothing but comments and blanks is missing."""
    syntax = Syntax(OMEGA["syntax"])
    if syntax.judge(code).status != "complete":
        return
    sent, refusal = Counter(syntax, OMEGA).prepare(code)
    if refusal:
        assert ":" in code
        return
    read = _read(sent)
    assert all(syntax.judge(form).status == "complete" for form in read), read
    assert "".join(_meant(form) for form in read) == _meant(code)


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        ('(f "a(")', '(f "a(") ; )'),
        ("(f\n; )))\n1\n)", "(f\n; )))\n1\n)"),
        ("(f) ; see (\n1", "(f) \n1"),
        ('"a\n\n; b\n:c"', '"a\\n\\n; b\\n:c"'),
        ('"a\nb"', '"a\\nb"'),
        ('(f "\n)")', '(f "\\n)")'),
        (":help\n(f\n1)", ":help\n(f\n1)"),
    ],
)
def test_code_is_changed_where_it_would_be_misread(code: str, sent: str) -> None:
    """Comments go that would be counted, and strings are on one line."""
    assert Counter(Syntax(OMEGA["syntax"]), OMEGA).prepare(code) == (sent, "")


def test_command_within_a_form_is_refused() -> None:
    """A line that the program would obey in the middle of a form is named."""
    counter = Counter(Syntax(OMEGA["syntax"]), OMEGA)
    assert counter.prepare("(f\n:help)")[1] == "line 2 is within a form, and the program would take it for a command"
    assert "which ends with its line" in counter.prepare(":debug (f\n1)")[1]


def test_string_that_cannot_be_sent_is_refused() -> None:
    """Without a way to write a newline, a string that the program would cut or leave a line out of is named."""
    counter = Counter(Syntax(OMEGA["syntax"]), {**OMEGA, "newline": ""})
    assert "the program would end the command there" in counter.prepare('(f ")))\n")')[1]
    assert counter.prepare('(f "(\n\n")')[1] == "line 2 is within a string, and the program would leave it out"
    assert counter.prepare('(f "a\nb")') == ('(f "a\nb")', "")
