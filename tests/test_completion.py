"""The completion scripts, in the shells that they are for: what TAB offers of a real daemon's sessions."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from conftest import unavailable
from ctl import COMMAND, Omegactl, Terminal, whatever_it_starts
from isolation import Place
from omega_sessiond.cli import SERVICE_VERBS, SORT_KEYS, parser
from omega_sessiond.screen import FORMATS

Completed = Callable[..., list[str]]


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        launcher = place.home / "bin" / "omegactl"
        launcher.parent.mkdir()
        launcher.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        launcher.chmod(0o755)
        yield command


def environment(place: Place) -> dict[str, str]:
    return {**place.env, "PATH": f"{place.home}/bin:{os.environ['PATH']}"}


@pytest.fixture
def completed(omegactl: Omegactl, place: Place) -> Completed:
    """What bash's function offers for the last of the words, which are taken apart as readline does."""
    (place.home / "script").write_text(omegactl("completion", "bash").out)

    def complete(*words: str, breaks: str = ":=") -> list[str]:
        split = [piece for word in words for piece in (re.findall(rf"[{breaks}]+|[^{breaks}]+", word) or [""])]
        script = (
            f". {place.home}/script; COMP_WORDBREAKS=' {breaks}'; COMP_WORDS=(omegactl {shlex.join(split)})\n"
            f"COMP_CWORD={len(split)}; _omegactl; [[ ! $COMPREPLY ]] || printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(
            ["bash", "-c", script], env=environment(place), cwd=place.home, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return complete


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid(omegactl: Omegactl, place: Place, shell: str) -> None:
    """Each shell's script names every command, and its shell can read it."""
    script = omegactl("completion", shell).out
    for action in parser()._actions:
        if action.dest == "command":
            assert all(re.search(rf"\b{name}\b", script) for name in action.choices or ())
    _need(shell)
    (place.home / "script").write_text(script)
    subprocess.run([shell, "-n", str(place.home / "script")], check=True)


def _need(shell: str) -> None:
    if shutil.which(shell) is None:
        unavailable(f"there is no {shell} here")


def test_bash_completes_commands_options_and_choices(completed: Completed, place: Place) -> None:
    """What --help lists is offered: commands, a command's options, and the words that an option or an argument may be;
    also behind options that come first. No daemon is started for it."""
    assert completed("hist") == ["history"]
    assert completed("--color", "never", "hist") == ["history"]
    assert completed("exec", "--det") == ["--detach"]
    assert completed("--no-st") == ["--no-start"]
    assert completed("service", "sta") == ["status", "start"]
    assert completed("service", "") == list(SERVICE_VERBS)
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert completed("ls", "--format", "") == list(FORMATS)
    assert completed("exec", "work", "--format", "j") == ["json", "jsonl"]
    assert completed("ls", "--sort", "") == list(SORT_KEYS)
    assert completed("--color", "a") == ["auto", "always"] == completed("ls", "--color", "a")
    assert completed("ls", "--sort=cr") == ["created"]
    assert completed("ls", "--sort=cr", breaks=":") == ["--sort=created"]
    assert completed("exec", "work", "-c", "") == []
    assert "--engine" in completed("exec", "work", "")
    assert completed("show", "") == completed("exec", "x", "--engine", "") == []
    assert not (place.state_dir / "daemon.lock").exists()


def test_bash_completes_what_there_is(completed: Completed, omegactl: Omegactl, place: Place) -> None:
    """Sessions where one is named, and no new one; the snapshots of that session; engines."""
    omegactl("exec", "workshop", "-c", "x = 1")
    omegactl("new", "other")
    omegactl("snapshot", "workshop", "before-fit")
    assert completed("show", "wor") == completed("wait", "wor") == completed("-s", "wor") == ["workshop"]
    assert completed("events", "--session", "w") == completed("--session=w") == ["workshop"]
    assert completed("rm", "other", "w") == ["workshop"]
    assert completed("new", "wor") == completed("fork", "other", "wor") == completed("import", "f", "wor") == []
    assert completed("-s", "workshop", "--js") == ["--json"]
    assert completed("restore", "workshop", "") == completed("restore", "--json", "workshop", "b") == ["before-fit"]
    assert completed("restore", "other", "b") == []
    assert completed("snapshot", "workshop", "b") == []
    assert completed("snapshot", "--delete", "workshop", "b") == ["before-fit"]
    assert completed("new", "x", "--engine", "pyth") == ["python"]


def test_bash_completes_engines_with_a_colon(completed: Completed, place: Place) -> None:
    """bash takes jupyter:NAME apart: what is offered continues the word."""
    (place.home / "bin" / "omegactl").write_text("#!/bin/sh\necho jupyter:python3; echo jupyter:ir")
    assert completed("new", "x", "--engine", "jupyter:p") == ["python3"]
    assert completed("new", "x", "--engine", "jupyter:") == ["python3", "ir"]
    assert completed("new", "x", "--engine=jupyter:p") == ["python3"]
    assert completed("new", "x", "--engine", "jup", breaks="=") == ["jupyter:python3", "jupyter:ir"]


def test_bash_completes_files(completed: Completed, omegactl: Omegactl, place: Place) -> None:
    """Where a FILE stands in --help files are offered, where a directory is meant directories; -f is a flag where it
    is one."""
    (place.home / "notes one").touch()
    (place.home / "notes").mkdir()
    for words in (
        ("exec", "work", "-f"), ("export", "work", "-o"), ("import",), ("output", "work", "--save"), ("ls", "--socket"),
        ("--socket",), ("-s", "work", "-f"), ("new", "x", "--python"),
    ):  # fmt: skip
        assert sorted(completed(*words, "no")) == ["notes", "notes one"], words
    assert completed("new", "x", "--cwd", "no") == ["notes"]
    omegactl("new", "noon")
    assert completed("history", "-f", "no") == ["noon"] == completed("events", "-f", "--session", "no")


def test_bash_at_a_terminal(omegactl: Omegactl, place: Place) -> None:
    """TAB in an interactive bash completes a session, a word behind = and a file whose name has a blank."""
    omegactl("new", "workshop")
    (place.home / "my notes").touch()
    (place.home / "rc").write_text(". <(omegactl completion bash)\nPS1='ready> '\n")
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(place.home)
        bash = ["bash", "--noprofile", "--rcfile", str(place.home / "rc"), "-i"]
        os.execvpe("bash", bash, {**environment(place), "TERM": "dumb", "INPUTRC": "/dev/null"})
    terminal = Terminal(pid, descriptor)
    try:
        terminal.until("ready> ")
        terminal.type("omegactl sho\twor\t--format=na\t\n")
        terminal.until("omegactl show workshop --format=name ")
        terminal.until("workshop\r\n")
        terminal.type("omegactl exec -f my\t")
        terminal.until(r"my\\ notes ")
    finally:
        terminal.close()


def test_fish_completes(omegactl: Omegactl, place: Place) -> None:
    """fish offers the same."""
    _need("fish")
    omegactl("exec", "workshop", "-c", "x = 1")
    omegactl("snapshot", "workshop", "before-fit")
    (place.home / "notes").touch()
    (place.home / "script").write_text(omegactl("completion", "fish").out)

    def completed(line: str) -> list[str]:
        script = f"source {place.home}/script; complete -C {shlex.quote('omegactl ' + line)}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            env=environment(place),
            cwd=place.home,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    assert completed("hist") == ["history"]
    assert set(completed("ls --format ")) == set(FORMATS)
    assert completed("show wor") == completed("-s wor") == completed("rm x wor") == ["workshop"]
    assert completed("exec --format json wor") == ["workshop"]
    assert completed("restore workshop ") == completed("snapshot --delete workshop b") == ["before-fit"]
    assert completed("snapshot workshop b") == completed("new wor") == completed("show workshop wor") == []
    assert completed("history -n 5 wor") == completed("history -f wor") == ["workshop"]
    assert completed("exec workshop -f no") == completed("import no") == completed("-s workshop -f no") == ["notes"]
    assert completed("new x --engine pyth") == ["python"]
