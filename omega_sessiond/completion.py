"""Completion scripts for bash, zsh and fish, made from the grammar of the command line: commands, options, and what may
stand behind each. Names of sessions, snapshots and engines are asked for, quietly, and no daemon is started for them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from omega_sessiond.invocation import Invocation

KINDS = {
    "NAME": "session",
    "NAME|ID": "session",
    "ID|NAME": "session",
    "SNAPSHOT": "snapshot",
    "E": "engine",
    "FILE": "file",
    "PATH": "file",
    "P": "file",
    "D": "directory",
}
"""What a value is, by what --help calls it; of any other nobody knows what it may be."""

UNBORN = (("new", "name"), ("import", "name"))
"""The names of sessions that are to be made."""

ASKED = {
    "session": "omegactl --no-start ls -q 2>/dev/null",
    "engine": "omegactl --no-start engines --format name 2>/dev/null",
}
"""What lists the values of a kind. Those of a snapshot depend on the session."""
SNAPSHOTS = 'omegactl --no-start snapshots "$session" --format name 2>/dev/null'

OMEGALLM = "-s"
"""Stands for the command where OmegaLLM's own command line is used."""


class _Value(NamedTuple):
    """What may stand in a place: a word of `choices`, or what is of this kind; anything where there is neither."""

    kind: str
    choices: tuple[str, ...]
    repeats: bool

    @property
    def told(self) -> str:
        return self.kind or ("word" if self.choices else "value")


class _Option(NamedTuple):
    names: tuple[str, ...]
    help: str
    value: _Value | None
    """None where it takes none."""
    repeats: bool


class _Command(NamedTuple):
    name: str
    help: str
    options: list[_Option]
    arguments: list[_Value]

    @property
    def valued(self) -> list[str]:
        """The options that take a value."""
        return [name for option in self.options if option.value is not None for name in option.names]


class _Grammar(NamedTuple):
    """The commands, and what may stand in place of one or before it."""

    commands: list[_Command]
    top: _Command
    omegallm: _Command


def run(call: Invocation) -> int:
    """omegactl completion."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    call.screen.write(scripts[call.args.shell](_grammar()))
    return 0


# ---- the grammar ----


def _grammar() -> _Grammar:
    from omega_sessiond.cli import omegallm_parser, parser

    top = parser()
    subcommands = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in subcommands._choices_actions}
    commands = [_command(name, helps.get(name, ""), command) for name, command in subcommands.choices.items()]
    omegallm = _command(OMEGALLM, "", omegallm_parser())
    words = _Value("", tuple(subcommands.choices), False)
    options = [*_command("", "", top).options, *(option for option in omegallm.options if OMEGALLM in option.names)]
    return _Grammar(commands, _Command("", "", options, [words]), omegallm)


def _command(name: str, help: str, command: argparse.ArgumentParser) -> _Command:
    options = [
        _Option(
            tuple(action.option_strings),
            action.help or "",
            None if action.nargs == 0 else _value(name, action),
            isinstance(action, argparse._AppendAction),
        )
        for action in command._actions
        if action.option_strings
    ]
    arguments = [
        _value(name, action)
        for action in command._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
    ]
    if any("--delete" in option.names for option in options):
        arguments = [value._replace(kind="doomed") if value.kind == "snapshot" else value for value in arguments]
    return _Command(name, help, options, arguments)


def _value(command: str, action: argparse.Action) -> _Value:
    kind = "" if action.choices or (command, action.dest) in UNBORN else KINDS.get(str(action.metavar), "")
    choices = tuple(str(choice) for choice in action.choices or () if choice != "-")
    return _Value(kind, choices, action.nargs == "+")


# ---- bash ----


def _bash(grammar: _Grammar) -> str:
    cases = "\n".join(f"    {_bash_case(command)}" for command in (grammar.top, grammar.omegallm, *grammar.commands))
    return f"""# omegactl completion for bash: source <(omegactl completion bash)
_omegactl_takes() {{ # what a command takes: its options, what is the value of which, and its arguments
  case $1 in
{cases}
    *) options="" values=" " arguments="" ;;
  esac
}}
_omegactl() {{
  local -a words=() kinds=() list=()
  local at piece last value kind kept breaks="" command="" awaits="" session="" count=0 options values arguments
  # Bash takes words apart at : and =, which stand in an engine's name and between an option and its value.
  for ((at = 1; at <= COMP_CWORD; at++)); do
    piece=${{COMP_WORDS[at]}}
    if ((at > 1)) && [[ $piece == [:=]* || ${{COMP_WORDS[at - 1]}} == [:=]* ]]; then
      words[-1]+=$piece
    else
      words+=("$piece")
    fi
  done
  last=${{words[-1]}} value=$last
  unset 'words[-1]'
  _omegactl_takes ""
  for piece in "${{words[@]}}"; do
    if [[ $awaits ]]; then
      awaits=""
      continue
    fi
    case $piece in
      -s | --session | --session=*) [[ $command ]] || command={OMEGALLM} && _omegactl_takes "$command" ;;&
      --*=*) ;;
      -?*) [[ $values == *" $piece:"* ]] && awaits=$piece ;;
      *) if [[ ! $command ]]; then
        command=$piece
        _omegactl_takes "$command"
      else
        session=${{session:-$piece}} count=$((count + 1))
      fi ;;
    esac
  done
  if [[ ! $awaits && $last == --*=* ]]; then
    awaits=${{last%%=*}} value=${{last#*=}}
  fi
  if [[ $awaits ]]; then
    kind=@
    [[ $values == *" $awaits:"* ]] && kind=${{values#* "$awaits":}} kind=${{kind%% *}}
  elif [[ $last == -* ]]; then
    kind=${{options// /,}}
  else
    read -ra kinds <<<"$arguments"
    kind=${{kinds[count]-}}
    if [[ ! $kind && $arguments == *+ ]]; then kind=${{kinds[-1]}}; fi
    kind=${{kind%+}}
    if [[ ! $last && ( ! $kind || $kind == @ ) ]]; then kind=${{options// /,}}; fi
  fi
  if [[ $kind == @doomed && " ${{COMP_WORDS[*]}} " == *" --delete "* ]]; then kind=@snapshot; fi
  case $kind in
    @file) compopt -o filenames 2>/dev/null; mapfile -t list < <(compgen -f -- "$value") ;;
    @directory) compopt -o filenames 2>/dev/null; mapfile -t list < <(compgen -d -- "$value") ;;
    @session) mapfile -t list < <({ASKED["session"]}) ;;
    @engine) mapfile -t list < <({ASKED["engine"]}) ;;
    @snapshot) mapfile -t list < <({SNAPSHOTS}) ;;
    @*) ;;
    *) IFS=, read -ra list <<<"$kind" ;;
  esac
  # For bash only what follows the last : or = is the word, where it takes words apart at them.
  for piece in : =; do [[ $COMP_WORDBREAKS == *$piece* ]] && breaks+=$piece; done
  kept=""
  if [[ $breaks ]]; then kept=${{last%"${{last##*[$breaks]}}"}}; fi
  COMPREPLY=()
  for piece in "${{list[@]}}"; do
    if [[ $piece == "$value"* ]]; then
      piece=${{last%"$value"}}$piece
      COMPREPLY+=("${{piece#"$kept"}}")
    fi
  done
}}
complete -F _omegactl omegactl
"""


def _bash_case(command: _Command) -> str:
    options = " ".join(name for option in command.options for name in option.names)
    values = "".join(
        f"{name}:{_bash_kind(option.value)} "
        for option in command.options
        if option.value is not None
        for name in option.names
    )
    arguments = " ".join(_bash_kind(value) + "+" * value.repeats for value in command.arguments)
    return f'{command.name or _quoted("")}) options="{options}" values=" {values}" arguments="{arguments}" ;;'


def _bash_kind(value: _Value) -> str:
    return ",".join(value.choices) or f"@{value.kind}"


# ---- zsh ----


def _zsh(grammar: _Grammar) -> str:
    described = "\n".join(f"    {_quoted(f'{command.name}:{command.help}')}" for command in grammar.commands)
    cases = "\n".join(f"    {command.name}) _arguments {_zsh_specs(command)} ;;" for command in grammar.commands)
    return f"""#compdef omegactl
# omegactl completion for zsh: omegactl completion zsh > "${{fpath[1]}}/_omegactl"
_omegactl_sessions() {{
  local -a found
  found=(${{(f)"$({ASKED["session"]})"}})
  compadd -a found
}}
_omegactl_engines() {{
  local -a found
  found=(${{(f)"$({ASKED["engine"]})"}})
  compadd -a found
}}
_omegactl_snapshots() {{
  local -a found
  local session=${{${{words[2,-1]:#-*}}[1]}}
  found=(${{(f)"$({SNAPSHOTS})"}})
  compadd -a found
}}
_omegactl_doomed() {{
  (( ${{words[(I)--delete]}} )) && _omegactl_snapshots
}}
_omegactl() {{
  local -a commands
  local steps
  commands=(
{described}
  )
  while (( CURRENT > 2 )) && [[ $words[2] == -* && $words[2] != (-s|--session|--session=*) ]]; do
    steps=1
    [[ $words[2] == ({"|".join(name for name in grammar.top.valued if name.startswith("--"))}) ]] && steps=2
    (( CURRENT - steps >= 2 )) || break
    shift $steps words
    (( CURRENT -= steps ))
  done
  if [[ $words[2] == (-s|--session|--session=*) && $CURRENT -gt 2 ]]; then
    _arguments {_zsh_specs(grammar.omegallm)}
    return
  fi
  if [[ $words[2] == -* ]]; then
    _arguments {_zsh_specs(grammar.top._replace(arguments=[]))}
    return
  fi
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{cases}
  esac
}}
if [ "$funcstack[1]" = _omegactl ]; then _omegactl "$@"; else compdef _omegactl omegactl; fi
"""


def _zsh_specs(command: _Command) -> str:
    specs = [spec for option in command.options for spec in _zsh_options(option)]
    for number, value in enumerate(command.arguments, 1):
        specs.append(f"{'*' if value.repeats else number}:{value.told}:{_zsh_action(value)}")
    return " ".join(map(_quoted, specs))


def _zsh_options(option: _Option) -> Iterator[str]:
    help = option.help.replace("[", "(").replace("]", ")").replace(":", " -")
    for name in option.names:
        spec = "*" * option.repeats + name
        if option.value is None:
            yield f"{spec}[{help}]"
        else:
            spec += "=" * name.startswith("--")
            yield f"{spec}[{help}]:{option.value.told}:{_zsh_action(option.value)}"


def _zsh_action(value: _Value) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    known = {"file": "_files", "directory": "_files -/", "": " "}
    return known.get(value.kind, "_omegactl_doomed" if value.kind == "doomed" else f"_omegactl_{value.kind}s")


# ---- fish ----


def _fish(grammar: _Grammar) -> str:
    lines = [FISH, *_fish_lines("__fish_use_subcommand", map(_fish_option, grammar.top.options))]
    lines += _fish_lines("__omegactl_is_omegallm", map(_fish_option, grammar.omegallm.options))
    for command in grammar.commands:
        lines += _fish_lines("__fish_use_subcommand", [f"-a {command.name} -d {_quoted(command.help)}"])
        lines += _fish_lines(f"__fish_seen_subcommand_from {command.name}", map(_fish_option, command.options))
        for number, value in enumerate(command.arguments):
            if value.choices or value.kind:
                place = f"{number}{'+' * value.repeats}"
                at = f"__omegactl_at {command.name} {place} {' '.join(command.valued)}"
                lines += _fish_lines(at, [_fish_value(value)])
    return "\n".join(lines) + "\n"


def _fish_lines(condition: str, offered: Iterable[str]) -> Iterator[str]:
    return (f"complete -c omegactl -n {_quoted(condition)} {each}" for each in offered)


FISH = f"""# omegactl completion for fish: omegactl completion fish | source
function __omegactl_arguments # the command and its arguments before the cursor; named are the options with a value
  set -l is_value 0
  for word in (commandline -opc)[2..-1]
    if test $is_value = 1
      set is_value 0
    else if contains -- $word $argv
      set is_value 1
    else if not string match -q -- '-?*' $word
      echo $word
    end
  end
end
function __omegactl_at # COMMAND NUMBER OPTIONS…: the cursor is at that argument of the command, with + or a later one
  set -l found (__omegactl_arguments $argv[3..-1])
  set -l number (string trim -rc + $argv[2])
  test "$found[1]" = "$argv[1]" || return 1
  test (count $found) -eq (math $number + 1) && return 0
  test "$number" != "$argv[2]" -a (count $found) -gt $number
end
function __omegactl_is_omegallm
  set -l words (commandline -opc)
  string match -qr -- '^(-s|--session.*)$' "$words[2]"
end
function __omegactl_snapshots
  set -l session (__omegactl_arguments)[2]
  {SNAPSHOTS}
end
function __omegactl_doomed
  contains -- --delete (commandline -opc) && __omegactl_snapshots
end
complete -c omegactl -f"""


def _fish_option(option: _Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = [] if option.value is None else [_fish_value(option.value)]
    return " ".join([*names, *value, f"-d {_quoted(option.help)}"])


def _fish_value(value: _Value) -> str:
    if value.choices:
        return f"-x -a {_quoted(' '.join(value.choices))}"
    match value.kind:
        case "file":
            return "-r -F"
        case "directory":
            return "-x -a '(__fish_complete_directories)'"
        case "snapshot" | "doomed" as kind:
            return f"-x -a '(__omegactl_{'snapshots' if kind == 'snapshot' else kind})'"
        case "":
            return "-x"
        case kind:
            return f"-x -a '({ASKED[kind]})'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
