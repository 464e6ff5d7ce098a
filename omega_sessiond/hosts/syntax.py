"""Whether code is whole, judged by brackets, strings and comments: for REPLs that wait for the rest of a command.

The rules are data. Knows characters; nothing of any language beyond its rules.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple


class Verdict(NamedTuple):
    """`status` as in an IsCompleteReply; `what` says what is open, or what closes nothing."""

    status: str
    what: str = ""


class Syntax:
    """`brackets` are pairs like "()"; `strings` quotes, in which `escape` takes the next character; `comments` run to
    the line's end; `blocks` pairs of delimiters around comments; `characters` is a prefix (Lisp's `#\\`) that makes
    the next character a plain one."""

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

    def spans(self, code: str) -> Iterator[Tuple[int, int]]:
        """Where comments, strings and single characters begin and end, as far as they do."""
        place = 0
        while place < len(code):
            skipped = self._skip(code, place)
            if skipped is None:
                place += 1
                continue
            end = len(code) if skipped[0] < 0 else skipped[0]
            yield place, end
            place = end

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
    """For a program that reads line by line: it counts a pair of brackets, those in strings and comments too, and runs
    what it has as soon as none is open by that count. It passes over lines that are blank or begin with a comment, and
    obeys at once those that begin with what its own commands begin with, wherever they stand. `prepare` makes of code
    what such a program reads as it is meant."""

    def __init__(self, syntax: Syntax, options: Dict[str, Any]) -> None:
        self._syntax = syntax
        self._pair: str = options["balance"]
        self._comment: str = options["syntax"]["comments"][0] if self._pair else ""
        self._skips: bool = options.get("skips_lines", False)
        self._commands: str = options.get("commands", "")
        self._newline: str = options.get("newline", "")

    def prepare(self, code: str) -> Tuple[str, str]:
        """The code as it can be sent, and why it cannot."""
        if not self._pair:
            return code, ""
        opener, closer = self._pair[0], self._pair[1]
        sent: List[str] = []
        form: List[str] = []  # the lines so far of what is open
        in_string = False
        depth = 0
        for number, line in enumerate(self._clear(code).split("\n"), 1):
            is_skipped, is_command = self._is_skipped(line), self._is_command(line)
            if in_string and (is_skipped or is_command):
                return "", "line %d is within a string, and the program would leave it out" % number
            if is_command and form:
                return "", "line %d is within a form, and the program would take it for a command" % number
            if is_command and self._syntax.judge(line).status == "incomplete":
                return "", "line %d is a command of the program's, which ends with its line, and is not whole" % number
            if is_skipped or is_command:
                sent.append(line)
                continue
            form.append(line)
            verdict = self._syntax.judge("\n".join(form))
            in_string = verdict.what.startswith("the string")
            depth += line.count(opener) - line.count(closer)
            if verdict.status != "incomplete":
                sent.append("%s %s %s" % (line, self._comment, closer * depth) if depth > 0 else line)
                form, depth = [], 0
            elif depth > 0:
                sent.append(line)
            elif in_string:
                return "", (
                    "line %d ends within a string that closes more than it opens: the program would end the command "
                    "there" % number
                )
            else:
                sent.append("%s %s %s" % (line, self._comment, opener * (1 - depth)))
                depth = 1
        return "\n".join(sent), ""

    def _is_skipped(self, line: str) -> bool:
        return self._skips and (not line.strip() or line.lstrip().startswith(self._comment))

    def _is_command(self, line: str) -> bool:
        return bool(self._commands) and line.lstrip().startswith(self._commands)

    def _clear(self, code: str) -> str:
        """Without comments that would be counted, and with each string on one line."""
        parts: List[str] = []
        place = 0
        for start, end in self._syntax.spans(code):
            span = code[start:end]
            if span.startswith(self._comment):
                begins_line = not code[code.rfind("\n", 0, start) + 1 : start].strip()
                is_counted = any(letter in span for letter in self._pair) and not (self._skips and begins_line)
                replaced = "" if is_counted else span
            elif self._newline:
                replaced = span.replace("\n", self._newline)
            else:
                continue
            parts += code[place:start], replaced
            place = end
        return "".join(parts) + code[place:]
