"""A small line REPL with the habits of OmegaLLM's piped one, and programs that are no REPLs at all, as real children.

    python linerepl.py [HABIT]

It prints no prompt, runs a form as soon as its lines hold as many `)` as `(` (in strings and comments too), skips
lines that begin with `;`, takes lines that begin with `:` for commands, dies of SIGINT, and saves what was evaluated
into $OMEGA_SESSION_DIR. `:defs` names what forms of their own have defined since it was started, not what was loaded.
HABIT makes it forget `(volatile NAME VALUE)` when it loads, and save nothing of what comes after ("forgets"), repeat
each line ("echoes"), die when it is to save ("dies of saving"), or be no REPL: "silent", "exits", "password", "screen".
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

TOKEN = re.compile(r'\s+|;[^\n]*|("(?:\\.|[^"\\])*"|[()]|[^\s()";]+)')


class LispError(Exception):
    """What `error: …` tells of."""


class Symbol(str):
    """A name, as opposed to a string."""


class Function:
    def __init__(self, names: list[Symbol], body: Any, repl: Repl) -> None:
        self.names, self.body, self.repl = names, body, repl

    def __call__(self, *values: Any) -> Any:
        return self.repl.evaluate(self.body, dict(zip(self.names, values, strict=True)))


class Repl:
    def __init__(self, directory: Path) -> None:
        self.values: dict[str, Any] = {}
        self.defined: list[str] = []
        self.log: list[str] = []
        self.loaded: list[str] = []
        self.forgets = self.echoes = self.dies_of_saving = False
        self.directory = directory

    # ---- reading ----

    def run(self) -> None:
        buffer, depth = "", 0
        for line in sys.stdin:
            if self.echoes:
                print(line, end="", flush=True)
            line = line.rstrip("\n")
            if not line.strip() or line.strip().startswith(";"):
                continue
            if line.strip().startswith(":"):
                if line.strip() in (":quit", ":q"):
                    return
                self.command(line.strip())
                continue
            buffer += ("\n" if buffer else "") + line
            depth += line.count("(") - line.count(")")
            if depth <= 0:
                self.form(buffer)
                buffer, depth = "", 0

    def command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        verb, _, name = rest.partition(" ")
        file = self.directory / "sessions" / f"{name}.jsonl"
        if word == ":help":
            print("Commands:\n  :help, :h      — show this help")
        elif word == ":defs":
            print("\n".join(self.defined))
        elif word == ":env":
            found = self.values.get(rest, None)
            print(f"{rest} = {show(found)}" if rest in self.values else f"(binding '{rest}' not found)")
        elif (word, verb) == (":session", "save") and self.dies_of_saving:
            os.kill(os.getpid(), 9)
        elif (word, verb) == (":session", "save"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(self.log))
            (file.parent / f"{name}.index.json").write_text("{}")
            print(f"Session saved as '{name}'")
        elif (word, verb) == (":session", "load"):
            self.loaded = json.loads(file.read_text()) if file.exists() else []
            print(f"Loaded session '{name}'" if file.exists() else f"Session '{name}' not found")
        elif (word, verb) == (":session", "goto"):
            for source in self.loaded[: int(name)]:
                self.form(source, quiet=True)
            print(f"Jumped to seq {name}")
        else:
            print(f"Unknown command: {line}. Type :help for commands.")
        sys.stdout.flush()

    def form(self, source: str, quiet: bool = False) -> None:
        try:
            tokens = [found.group(1) for found in TOKEN.finditer(source) if found.group(1)]
            value: Any = None
            while tokens:
                value = self.evaluate(self.parse(tokens), {})
            if source.startswith("(define") and not quiet:
                self.defined.append(source)
            if quiet or not (self.loaded and self.forgets):
                self.log.append(source)
            text = f"=> {show(value)}"
        except LispError as error:
            text = f"error: {error}"
        if not quiet:
            print(text, flush=True)

    def parse(self, tokens: list[str]) -> Any:
        token = tokens.pop(0)
        if token == "(":
            items = []
            while tokens and tokens[0] != ")":
                items.append(self.parse(tokens))
            del tokens[:1]
            return items
        if token == ")":
            raise LispError("unexpected )")
        if token.startswith('"'):
            return json.loads(token, strict=False)
        return int(token) if re.fullmatch(r"-?\d+", token) else Symbol(token)

    # ---- evaluating ----

    def evaluate(self, form: Any, local: dict[Any, Any]) -> Any:
        if isinstance(form, Symbol):
            if form in local:
                return local[form]
            if form not in self.values:
                raise LispError(f"unbound var {form}")
            return self.values[form]
        if not isinstance(form, list):
            return form
        match form:
            case ["define", [name, *names], body]:
                self.values[name] = Function(names, body, self)
                return name
            case ["define", name, value]:
                self.values[name] = self.evaluate(value, local)
                return name
            case ["volatile", name, value]:
                if not (self.loaded and self.forgets):
                    self.values[name] = self.evaluate(value, local)
                self.defined.append(f"(define {name} {show(value)})")
                return name
            case [Symbol() as name, *rest] if name in FUNCTIONS and name not in self.values:
                return FUNCTIONS[name](*(self.evaluate(part, local) for part in rest))
            case [head, *rest]:
                return self.evaluate(head, local)(*(self.evaluate(part, local) for part in rest))
        raise LispError("nothing to call")


def car(pair: Any) -> Any:
    if not isinstance(pair, list):
        raise LispError("car: expected pair")
    return pair[0]


def display(value: Any) -> None:
    print(value if isinstance(value, str) else show(value), end="", flush=True)


def touch_and_wait(path: str) -> str:
    """Make a file and wait until there is one beside it."""
    Path(path).touch()
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    return "done"


FUNCTIONS: dict[str, Any] = {
    "+": lambda *values: sum(values),
    "list": lambda *values: list(values),
    "begin": lambda *values: values[-1],
    "car": car,
    "display": display,
    "string-append": lambda *values: "".join(values),
    "repeat": lambda text, count: text * count,
    "touch-and-wait": touch_and_wait,
    "die": lambda: os.kill(os.getpid(), 9),
}


def show(value: Any) -> str:
    match value:
        case None:
            return "null"
        case Symbol():
            return value
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return "(" + " ".join(map(show, value)) + ")"
        case Function():
            return "<closure>"
    return str(value)


def main(habit: str) -> None:
    if habit == "exits":
        sys.exit("no licence found")
    if habit == "silent":
        print("welcome", flush=True)
        time.sleep(3600)
    if habit == "password":
        print("Password for ada: ", end="", flush=True)
        sys.stdin.readline()
    if habit == "screen":
        print("\x1b[?1049h\x1b[2J", end="", flush=True)
        time.sleep(3600)
    repl = Repl(Path(os.environ.get("OMEGA_SESSION_DIR", ".omega-session")))
    repl.forgets, repl.echoes = habit == "forgets", habit == "echoes"
    repl.dies_of_saving = habit == "dies of saving"
    repl.run()


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main(sys.argv[1] if len(sys.argv) > 1 else "")
