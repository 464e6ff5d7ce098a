"""Completion scripts for bash, zsh and fish, made from the grammar of the command line; session names are asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from omega_sessiond.invocation import Invocation

NAMED = ("name", "names", "what")
"""The arguments that are sessions."""


class _Command(NamedTuple):
    name: str
    help: str
    options: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    takes_session: bool


def run(call: Invocation) -> int:
    """omegactl completion."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    call.screen.write(scripts[call.args.shell](list(_commands())))
    return 0


def _commands() -> Iterator[_Command]:
    from omega_sessiond.cli import parser

    subcommands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in subcommands._choices_actions}
    for name, command in subcommands.choices.items():
        options, words, takes_session = [], [], False
        for action in command._actions:
            options += [(option, action.help or "") for option in action.option_strings]
            if not action.option_strings:
                words += [str(choice) for choice in action.choices or ()]
                takes_session = takes_session or (action.dest in NAMED and name != "new")
        yield _Command(name, helps.get(name, ""), tuple(options), tuple(words), takes_session)


def _bash(commands: list[_Command]) -> str:
    cases = []
    for command in commands:
        words = " ".join([*(option for option, _ in command.options), *command.words])
        sessions = " $(omegactl --no-start ls -q 2>/dev/null)" if command.takes_session else ""
        cases.append(f'    {command.name}) words="{words}{sessions}" ;;')
    names = " ".join(command.name for command in commands)
    return f"""# omegactl completion for bash: source <(omegactl completion bash)
_omegactl() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words="{names}" at
  case $previous in
    -f | --cwd | --python | --save | --socket) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
  esac
  for ((at = 1; at < COMP_CWORD; at++)); do
    case ${{COMP_WORDS[at]}} in
{chr(10).join("    " + case for case in cases)}
      *) continue ;;
    esac
    break
  done
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -F _omegactl omegactl
"""


def _zsh(commands: list[_Command]) -> str:
    described = "\n".join(f"    {_quoted(f'{command.name}:{command.help}')}" for command in commands)
    cases = []
    for command in commands:
        options = " ".join(
            _quoted(f"{option}[{text.replace('[', '(').replace(']', ')').replace(':', ' -')}]")
            for option, text in command.options
        )
        rest = []
        if command.takes_session:
            rest.append("'*:session:_omegactl_sessions'")
        elif command.words:
            rest.append(f"'1:word:({' '.join(command.words)})'")
        cases.append(f"    {command.name}) _arguments {' '.join([options, *rest])} ;;")
    return f"""#compdef omegactl
# omegactl completion for zsh: omegactl completion zsh > "${{fpath[1]}}/_omegactl"
_omegactl_sessions() {{
  local -a sessions
  sessions=(${{(f)"$(omegactl --no-start ls -q 2>/dev/null)"}})
  compadd -a sessions
}}
_omegactl() {{
  local -a commands
  commands=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{chr(10).join(cases)}
  esac
}}
if [ "$funcstack[1]" = _omegactl ]; then _omegactl "$@"; else compdef _omegactl omegactl; fi
"""


def _fish(commands: list[_Command]) -> str:
    lines = ["# omegactl completion for fish: omegactl completion fish | source", "complete -c omegactl -f"]
    for command in commands:
        lines.append(f"complete -c omegactl -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}")
        seen = f"'__fish_seen_subcommand_from {command.name}'"
        for option, text in command.options:
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"complete -c omegactl -n {seen} {flag} -d {_quoted(text)}")
        if command.takes_session:
            lines.append(f"complete -c omegactl -n {seen} -a '(omegactl --no-start ls -q 2>/dev/null)'")
        if command.words:
            lines.append(f"complete -c omegactl -n {seen} -a {_quoted(' '.join(command.words))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
