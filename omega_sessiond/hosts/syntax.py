"""Whether code is whole, judged by brackets, strings and comments: for REPLs that wait for the rest of a command.

The rules are data. Knows characters; nothing of any language beyond its rules.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple


class Verdict(NamedTuple):
    """`status` as in an IsCompleteReply; `what` says what is open, or what closes nothing."""

    status: str
    what: str = ""


class Syntax:
    """`brackets` are pairs like "()"; `strings` quotes, in which `escape` takes the next character; `comments` run to
    the line's end; `blocks` pairs of delimiters around comments; `characters` is a prefix (Lisp's `#\\`) that makes
    the next character a plain one; `words` are pairs like "python…end" of whole first words of a line."""

    def __init__(self, rules: Dict[str, Any]) -> None:
        self._closers = {pair[1]: pair[0] for pair in rules.get("brackets", [])}
        self._openers = {pair[0]: pair[1] for pair in rules.get("brackets", [])}
        self._strings: str = "".join(rules.get("strings", []))
        self._escape: str = rules.get("escape", "")
        self._comments: List[str] = rules.get("comments", [])
        self._blocks: List[List[str]] = rules.get("blocks", [])
        self._characters: str = rules.get("characters", "")

    def judge(self, code: str) -> Verdict:
        """Complete, incomplete or invalid."""
        open_brackets: List[str] = []
        place = 0
        while place < len(code):
            letter = code[place]
            skipped = self._skip(code, place)
            if skipped is not None:
                end, what = skipped
                if end < 0:
                    return Verdict("incomplete", what)
                place = end
                continue
            if letter in self._openers:
                open_brackets.append(letter)
            elif letter in self._closers:
                if not open_brackets:
                    return Verdict("invalid", "'%s' closes nothing" % letter)
                opened = open_brackets.pop()
                if opened != self._closers[letter]:
                    return Verdict("invalid", "'%s' closes '%s'" % (letter, opened))
            place += 1
        if open_brackets:
            return Verdict("incomplete", "'%s' is open" % open_brackets[-1])
        return Verdict("complete")

    def _skip(self, code: str, place: int) -> Optional[Tuple[int, str]]:
        """Behind the comment, string or character that begins here, -1 when it does not end; None: there is none."""
        for opener, closer in self._blocks:
            if code.startswith(opener, place):
                return self._block_end(code, place, opener, closer)
        if self._characters and code.startswith(self._characters, place):
            return min(len(code), place + len(self._characters) + 1), ""
        for comment in self._comments:
            if code.startswith(comment, place):
                end = code.find("\n", place)
                return (len(code) if end < 0 else end), ""
        quote = code[place]
        if quote in self._strings:
            return self._string_end(code, place + 1, quote)
        return None

    def _block_end(self, code: str, place: int, opener: str, closer: str) -> Tuple[int, str]:
        depth = 0
        while place < len(code):
            if code.startswith(closer, place):
                depth -= 1
                place += len(closer)
                if depth == 0:
                    return place, ""
            elif code.startswith(opener, place):
                depth += 1
                place += len(opener)
            else:
                place += 1
        return -1, "the comment after '%s' does not end" % opener

    def _string_end(self, code: str, place: int, quote: str) -> Tuple[int, str]:
        while place < len(code):
            if self._escape and code[place] == self._escape:
                place += 2
            elif code[place] == quote:
                return place + 1, ""
            else:
                place += 1
        return -1, "the string after %s does not end" % quote


class Counter:
    """For a program that counts a pair of brackets line by line, those in strings and comments too, and runs what it
    has as soon as none is open by that count. `prepare` adds comments that make the count come out right."""

    def __init__(self, syntax: Syntax, pair: str, comments: List[str]) -> None:
        self._syntax = syntax
        self._pair = pair
        self._comments = comments

    def prepare(self, code: str) -> Tuple[str, str]:
        """The code as it can be sent, and why it cannot."""
        if not self._pair:
            return code, ""
        opener, closer, comment = self._pair[0], self._pair[1], self._comments[0]
        lines = code.split("\n")
        sent: List[str] = []
        depth = 0
        for number, line in enumerate(lines, 1):
            verdict = self._syntax.judge("\n".join(lines[:number]))
            depth += line.count(opener) - line.count(closer)
            if verdict.status == "incomplete":
                if depth <= 0:
                    if verdict.what.startswith("the string"):
                        return (
                            "",
                            "line %d ends within a string that closes more than it opens: the program would "
                            "end the command there" % number,
                        )
                    line += " %s %s" % (comment, opener * (1 - depth))
                    depth = 1
            else:
                if depth > 0:
                    line += " %s %s" % (comment, closer * depth)
                depth = 0
            sent.append(line)
        return "\n".join(sent), ""
