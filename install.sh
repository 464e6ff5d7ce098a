#!/bin/sh
# Installs omega-sessiond for one user, upgrades it, and removes it again. See --help.
set -eu

usage() {
  cat <<'END'
Usage: ./install.sh [options]              install, or upgrade what is installed
       ./install.sh --uninstall [--purge]  remove it

Installs for your own user, without root: a private Python environment in $XDG_DATA_HOME/omega-sessiond, the commands
omegactl and omega-sessiond in ~/.local/bin and, where a systemd user manager answers, units that start the daemon when
it is asked for. Then runs a first command in a first session. Running it again is safe; running sessions live on.

  --python PATH   the Python (3.11 or later) to install with; otherwise the first suitable one is taken
  --with EXTRA    also install an extra; later upgrades keep it. There is one: jupyter, for sessions in Jupyter kernels
  --no-systemd    install no units: omegactl starts the daemon itself (units of an earlier installation are removed)
  --tcp           also listen on 127.0.0.1, on the port of the setting 'port' (3000), with a bearer token; needs systemd
  --uninstall     remove the program and its units. Sessions and history are state: asked about on a terminal, else kept
  --purge         with --uninstall: end the sessions and remove state and settings too, without asking
  -y, --yes       answer yes to every question
  --root          install for root although sudo says who you are
  -h, --help      show this

Exit codes: 0 done, 1 something failed, 2 usage, 3 no suitable Python, 4 Python lacks a module, 5 packages could not be
installed, 6 installed but the first command failed.
END
}

say() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: %s\n' "$*" >&2; }
# fail CODE LINE…: the first line says what is wrong, the others what to do.
fail() {
  code=$1
  shift
  warn "$1"
  shift
  for line; do printf '  %s\n' "$line" >&2; done
  exit "$code"
}

# ---- what is asked for ----

action=install
chosen_python=
extras=
use_systemd=yes
tcp=no
purge=no
yes=no
for_root=no
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --python)
      [ $# -ge 2 ] || fail 2 "--python needs a path"
      chosen_python=$2
      shift
      ;;
    --python=*) chosen_python=${1#--python=} ;;
    --with)
      [ $# -ge 2 ] || fail 2 "--with needs the name of an extra: jupyter"
      extras="$extras $2"
      shift
      ;;
    --with=*) extras="$extras ${1#--with=}" ;;
    --no-systemd) use_systemd=no ;;
    --tcp) tcp=yes ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    -y | --yes) yes=yes ;;
    --root) for_root=yes ;;
    *) fail 2 "unknown argument '$1'" "./install.sh --help lists what it takes." ;;
  esac
  shift
done
for extra in $extras; do
  [ "$extra" = jupyter ] || fail 2 "there is no extra '$extra'" "--with takes: jupyter"
done
[ "$purge" = no ] || [ "$action" = uninstall ] || fail 2 "--purge goes with --uninstall"
[ "$tcp" = no ] || [ "$use_systemd" = yes ] ||
  fail 2 "--tcp needs systemd" "Without it, start the daemon yourself: omega-sessiond --tcp"

# ---- where things go ----

uid=$(id -u)
if [ "$uid" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "${SUDO_USER:-}" != root ] && [ "$for_root" = no ]; then
  fail 2 "you are root by sudo: this would install for root, not for $SUDO_USER" \
    "Run ./install.sh without sudo; it needs no privileges." \
    "To install for root itself: ./install.sh --root"
fi
case ${HOME:-} in
  /*) ;;
  *) fail 2 "HOME is not set to an absolute path" "Set it to your home directory and run this again." ;;
esac
# A relative XDG path is to be ignored, says their specification.
xdg() {
  case $1 in
    /*) printf %s "$1" ;;
    *) printf %s "$2" ;;
  esac
}
data_home=$(xdg "${XDG_DATA_HOME:-}" "$HOME/.local/share")
config_home=$(xdg "${XDG_CONFIG_HOME:-}" "$HOME/.config")
state_home=$(xdg "${XDG_STATE_HOME:-}" "$HOME/.local/state")
app=$data_home/omega-sessiond
bin=$HOME/.local/bin
units=$data_home/systemd/user # where systemd.unit(5) has packages in a home; ~/.config is for the user's own
unit_names="omega-sessiond.socket omega-sessiond.service omega-sessiond-tcp.socket app-omega-sessions.slice"
source=$(cd "$(dirname "$0")" && pwd -P)
made_by="Made by omega-sessiond's install.sh" # as systemd/render.py writes it

# Why no user manager can be asked, or nothing.
why_no_manager() {
  if [ "$use_systemd" = no ]; then
    echo "--no-systemd"
  elif ! command -v systemctl >/dev/null 2>&1 || ! [ -d /run/systemd/system ]; then
    echo "there is no systemd here"
  elif [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    echo "XDG_RUNTIME_DIR is not set, so this is no login session of yours"
  elif ! systemctl --user show-environment >/dev/null 2>&1; then
    echo "your systemd user manager does not answer"
  fi
}

is_ours() { [ ! -e "$1" ] && [ ! -L "$1" ] || grep -q "$made_by" "$1" 2>/dev/null; }

installed_python() { [ -x "$app/venv/bin/python" ] && printf %s "$app/venv/bin/python"; }

# ---- removal ----

state_directory() {
  python=$(installed_python) &&
    "$python" -I -c 'from omega_sessiond.config import load; print(load().state_dir)' 2>/dev/null ||
    printf '%s\n' "$state_home/omega-sessiond"
}

# Prints the pids of the sessions' processes of a state directory.
running_hosts() {
  for launch in "$1"/sessions/*/launch.json; do
    [ -e "$launch" ] || continue
    # By standard input: the pattern must not stand in a command line itself.
    for process in $(printf '%s\n' "$launch" | grep -lFf - /proc/[0-9]*/cmdline 2>/dev/null); do
      if grep -qF hosts/main.py "$process" 2>/dev/null; then
        process=${process#/proc/}
        printf '%s\n' "${process%/cmdline}"
      fi
    done
  done
}

# Ends the sessions that go on without daemon and systemd, when the program that could end them is gone already.
end_hosts() {
  tries=100
  for pid in $(running_hosts "$1"); do kill -s TERM "$pid" 2>/dev/null || true; done
  while [ -n "$(running_hosts "$1")" ]; do
    if [ "$tries" = 0 ]; then
      for pid in $(running_hosts "$1"); do kill -s KILL -- "-$pid" 2>/dev/null || true; done
      return
    fi
    tries=$((tries - 1))
    sleep 0.1
  done
}

# By name and no more: SESSION_DIR may be a directory that holds other things too.
remove_state() {
  for name in journal.db journal.db-wal journal.db-shm daemon.lock hosts-directory daemon.log token sessions run; do
    rm -rf "${1:?}/$name"
  done
  rmdir "$1" 2>/dev/null || [ ! -e "$1" ] || warn "$1 holds files that are not omega-sessiond's: left there"
  [ -z "${XDG_RUNTIME_DIR:-}" ] || rm -rf "$XDG_RUNTIME_DIR/omega-sessiond"
  rm -f "$config_home/omega-sessiond/config.toml"
  rmdir "$config_home/omega-sessiond" 2>/dev/null || true
}

remove_units() {
  found=no
  for name in $unit_names; do
    [ ! -e "$units/$name" ] || found=yes
  done
  [ "$found" = yes ] || return 0
  if [ -z "$(use_systemd=yes; why_no_manager)" ]; then
    systemctl --user disable --now --quiet omega-sessiond.socket omega-sessiond-tcp.socket 2>/dev/null || true
    systemctl --user stop omega-sessiond.service 2>/dev/null || true
  else # what `disable` would have removed
    rm -f "$config_home/systemd/user/sockets.target.wants/omega-sessiond.socket" \
      "$config_home/systemd/user/sockets.target.wants/omega-sessiond-tcp.socket"
  fi
  for name in $unit_names; do rm -f "$units/$name"; done
  rmdir "$units" "$data_home/systemd" 2>/dev/null || true
  if [ -z "$(use_systemd=yes; why_no_manager)" ]; then
    systemctl --user daemon-reload || true
    systemctl --user reset-failed 'omega-sessiond*' 2>/dev/null || true
  fi
}

uninstall_program() {
  state=$(state_directory)
  if [ "$purge" = no ] && [ -e "$state" ]; then
    if [ "$yes" = yes ]; then
      purge=yes
    elif [ -t 0 ] && [ -t 1 ]; then
      say "Sessions, their history and settings are in $state."
      printf 'End all sessions and remove them too? [y/N] '
      read -r answer || answer=
      case $answer in
        [yY] | [yY][eE][sS]) purge=yes ;;
      esac
    fi
  fi
  if [ -x "$bin/omegactl" ] && is_ours "$bin/omegactl"; then
    if [ "$purge" = yes ]; then
      told=$("$bin/omegactl" service stop --sessions 2>&1) || warn "could not end every session: $told"
    else
      told=$("$bin/omegactl" service stop 2>&1) || warn "could not stop the daemon: $told"
    fi
  fi
  if [ "$purge" = yes ] && [ -z "$(why_no_manager)" ]; then
    systemctl --user stop app-omega-sessions.slice 2>/dev/null || true
  fi
  remove_units
  for name in omegactl omega-sessiond; do
    if is_ours "$bin/$name"; then rm -f "$bin/$name"; else warn "$bin/$name was not made by install.sh: left there"; fi
  done
  rm -rf "$app"
  say "omega-sessiond is removed."
  if [ "$purge" = yes ]; then
    end_hosts "$state"
    remove_state "$state"
    say "Its sessions, state and settings are removed too."
  elif [ -e "$state" ]; then
    say "Kept: sessions and history in $state. Running sessions keep running;"
    say "./install.sh takes them up again, ./install.sh --uninstall --purge ends and removes them."
  fi
}

# ---- the interpreter ----

# Prints the interpreter behind a virtual environment, if it is in one: the environment may go away.
probe='
import sys
if sys.version_info < (3, 11):
    sys.exit("is %d.%d, and 3.11 is needed" % sys.version_info[:2])
for module in "venv", "ensurepip", "sqlite3", "ssl":
    try:
        __import__(module)
    except ImportError:
        print("lacks the module %r" % module, file=sys.stderr)
        sys.exit(4)
import sqlite3
if sqlite3.sqlite_version_info < (3, 37):
    sys.exit("has SQLite %s, and 3.37 is needed" % sqlite3.sqlite_version)
print(getattr(sys, "_base_executable", None) or sys.executable)
'

# The one in use already, so that an upgrade does not depend on the shell it is run from; then every interpreter on PATH,
# the plain name first: the first python3 may be an old one before a good one.
candidates() {
  if [ -n "$chosen_python" ]; then
    command -v "$chosen_python" || true
    return
  fi
  installed_python && echo
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    printf '%s\n' "${PATH:-/usr/bin:/bin}" | tr ':' '\n' | while read -r directory; do
      [ ! -x "$directory/$name" ] || printf '%s\n' "$directory/$name"
    done
  done
}

# Sets $python, or leaves with what was found instead.
find_python() {
  candidates >"$scratch/candidates"
  lacking=no
  while read -r path; do
    status=0
    answer=$("$path" -I -c "$probe" 2>&1 </dev/null) || status=$?
    if [ "$status" = 0 ]; then
      python=$answer
      return
    fi
    [ "$status" != 4 ] || lacking=yes
    # A broken interpreter answers with pages: its last line says it best.
    printf '  %s %s\n' "$path" "$(printf '%s\n' "$answer" | tail -n 1)" >>"$scratch/unsuitable"
  done <"$scratch/candidates"
  [ ! -s "$scratch/unsuitable" ] || {
    warn "no suitable Python among these:"
    cat "$scratch/unsuitable" >&2
  }
  if [ "$lacking" = yes ]; then
    fail 4 "a Python 3.11 is here, but a part of it is missing" \
      "Debian, Ubuntu: sudo apt install python3-venv" \
      "pyenv and the like: install the headers of SQLite and OpenSSL and build Python again." \
      "Or name another one: ./install.sh --python /path/to/python3"
  fi
  [ -z "$chosen_python" ] || fail 3 "$chosen_python is no Python 3.11 or later that works"
  fail 3 "Python 3.11 or later is needed" \
    "Debian, Ubuntu: sudo apt install python3 python3-venv. Fedora: sudo dnf install python3. macOS: brew install python" \
    "Or name it: ./install.sh --python /path/to/python3"
}

# ---- the environment ----

# Which sources, dependencies, extras and interpreter an environment was made from.
fingerprint() {
  {
    printf '%s\n' "$extras"
    "$python" -I -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version)'
    cat "$source/pyproject.toml" "$source/constraints.txt"
    find "$source/omega_sessiond" "$source/tui" -name '*.py' -o -name '*.tcss' | LC_ALL=C sort | while read -r file; do
      printf '%s\n' "${file#"$source"}"
      cat "$file"
    done
  } | cksum
}

new=
scratch=
cleanup() {
  [ -z "$scratch" ] || rm -rf "$scratch"
  # An environment that was not finished is of no use to anyone.
  [ -z "$new" ] || [ -e "$new/.complete" ] || rm -rf "$new"
}

# Sets $venv to the environment to use. Each version has a directory of its own, so that what runs keeps its files.
build_environment() {
  # What was asked for once is kept, in order of names and each once.
  extras=$({
    for extra in $extras; do printf '%s\n' "$extra"; done
    cat "$app/venv/.extras" 2>/dev/null || true
  } | sort -u)
  wanted=$(fingerprint)
  if current=$(cd "$app/venv" 2>/dev/null && pwd -P) && [ "$(cat "$current/.complete" 2>/dev/null)" = "$wanted" ] &&
    "$current/bin/python" -I -c 'import omega_sessiond.server' 2>/dev/null; then
    venv=$current
    say "The environment is up to date: $venv"
    return
  fi
  version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$source/omega_sessiond/__init__.py")
  new=$app/versions/$version-$(date -u +%Y%m%dT%H%M%S)-$$
  say "Installing omega-sessiond $version with $python into $new"
  mkdir -p "$app/versions" || fail 1 "cannot make $app/versions" "Is your home directory writable?"
  log=$scratch/log
  "$python" -m venv "$new" >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    fail 4 "Python could not make a virtual environment" "Debian, Ubuntu: sudo apt install python3-venv"
  }
  # From a copy: setuptools writes beside the sources, and this may be a checkout that others write to or none can.
  mkdir "$scratch/source"
  cp -R "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" "$source/omega_sessiond" "$source/tui" \
    "$scratch/source"
  chmod -R u+w "$scratch/source"
  PIP_RETRIES=${PIP_RETRIES:-2} "$new/bin/python" -I -m pip install --no-input --no-user \
    --disable-pip-version-check --progress-bar off -c "$source/constraints.txt" \
    "$scratch/source${extras:+[$(printf %s "$extras" | tr '\n' ,)]}" \
    >"$log" 2>&1 </dev/null || {
    grep -v '^ ' "$log" | tail -n 6 >&2
    if grep -qE 'NewConnectionError|ConnectTimeout|Connection|Temporary failure|No matching distribution|SSLError' "$log"
    then
      fail 5 "pip could not fetch the packages" \
        "Is there a network? pip obeys its own settings: PIP_INDEX_URL for a mirror, HTTPS_PROXY for a proxy," \
        "PIP_NO_INDEX=1 PIP_FIND_LINKS=DIRECTORY to install from files. Nothing was changed."
    fi
    fail 5 "pip could not install the packages" "What it said is above. Nothing was changed."
  }
  # Also where PYTHONDONTWRITEBYTECODE is set: omegactl is as fast as its imports.
  "$new/bin/python" -I -m compileall -q -x '/(pip|setuptools)/' "$new/lib" >/dev/null 2>&1 || true
  "$new/bin/python" -I -m omega_sessiond --help >/dev/null || fail 5 "the installed daemon does not start"
  [ -z "$extras" ] || printf '%s\n' "$extras" >"$new/.extras"
  printf '%s\n' "$wanted" >"$new/.complete"
  venv=$new
}

# Remove the versions that nothing runs from. A host of an old version has loaded all it needs, but what it has open or
# shows in a traceback is better left while it lives.
remove_old_versions() {
  for old in "$app"/versions/*; do
    [ "$old" != "$venv" ] || continue
    # One that is not finished may be another install.sh's at this moment, but not for hours.
    [ -e "$old/.complete" ] || [ -n "$(find "$old" -prune -mmin +60)" ] || continue
    # By standard input: the pattern must not stand in a command line itself.
    if printf '%s/\n' "$old" | grep -qFf - /proc/[0-9]*/cmdline 2>/dev/null; then continue; fi
    [ -d /proc/self ] || [ "$old" != "$before" ] || continue # who cannot look keeps the last one
    rm -rf "$old"
  done
}

# ---- installation ----

install_units() { # the names of units whose text changed
  systemctl --user daemon-reload || fail 1 "systemctl --user daemon-reload failed" "Try ./install.sh --no-systemd"
  loaded=$(systemctl --user show --value -p FragmentPath omega-sessiond.socket)
  [ "$loaded" = "$units/omega-sessiond.socket" ] ||
    warn "systemd takes omega-sessiond.socket from '${loaded:-nowhere}', not from $units: is XDG_DATA_HOME the same there?"
  systemctl --user reset-failed 'omega-sessiond*' 2>/dev/null || true
  sockets=omega-sessiond.socket
  if [ "$tcp" = yes ] || systemctl --user --quiet is-enabled omega-sessiond-tcp.socket 2>/dev/null; then
    sockets="$sockets omega-sessiond-tcp.socket"
  fi
  for socket in $sockets; do
    # A listener can be had only while the daemon is down. It owns nothing: the next request starts it again.
    case " $* $(systemctl --user is-active "$socket") " in
      *" $socket "* | *" inactive "*) # without its warning that another socket may start it again: that is wanted
        systemctl --user stop omega-sessiond.service "$socket" 2>/dev/null || true
        ;;
    esac
  done
  # shellcheck disable=SC2086 # a list
  systemctl --user enable --now --quiet $sockets ||
    fail 1 "systemd could not start $sockets" "What it says: systemctl --user status $sockets"
  [ "$upgraded" = no ] || systemctl --user try-restart omega-sessiond.service ||
    warn "the daemon could not be restarted; see: systemctl --user status omega-sessiond"
}

install_program() {
  for name in pyproject.toml constraints.txt README.md LICENSE omega_sessiond tui systemd; do
    [ -e "$source/$name" ] || fail 1 "$source/$name is missing" "Run install.sh from a whole checkout."
  done
  for name in omegactl omega-sessiond; do
    is_ours "$bin/$name" ||
      fail 2 "$bin/$name exists and was not made by install.sh" "Move it away, or uninstall what brought it."
  done
  no_manager=$(why_no_manager)
  [ "$tcp" = no ] || [ -z "$no_manager" ] || fail 2 "--tcp needs a systemd user manager: $no_manager"
  [ "$uid" != 0 ] || say "You are root: this installs for root alone, in $HOME."
  scratch=$(mktemp -d)
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  find_python
  mkdir -p "$app"
  before=$(cd "$app/venv" 2>/dev/null && pwd -P) || before=
  build_environment
  upgraded=no
  [ -z "$before" ] || [ "$before" = "$venv" ] || upgraded=yes

  [ "$use_systemd" = yes ] || remove_units
  # Units of an earlier installation name its environment: they are kept right even when no manager answers now.
  port=
  wanted_units=
  if [ -z "$no_manager" ] || [ -e "$units/omega-sessiond.socket" ]; then
    wanted_units=$units
    port=$("$venv/bin/python" -I -c 'from omega_sessiond.config import load; print(load().port)') ||
      fail 1 "the settings cannot be read" "Correct what is named above."
  fi
  changed=$("$venv/bin/python" -IB "$source/systemd/render.py" "$venv" "$bin" "$wanted_units" "$port") ||
    fail 1 "could not write the commands into $bin or the units into $units"
  "$venv/bin/python" -I -c '
import os, sys
target, link = sys.argv[1:]
new = f"{link}.{os.getpid()}.new"
os.symlink(target, new)
os.replace(new, link)
' "$venv" "$app/venv"

  if [ -z "$no_manager" ]; then
    # shellcheck disable=SC2086 # lines become words
    install_units $changed
  elif [ "$upgraded" = yes ]; then
    told=$("$bin/omegactl" service restart 2>&1) || warn "the daemon of the earlier version could not be restarted: $told"
  fi
  remove_old_versions

  say ""
  say "A first command in a first session:"
  say "  \$ omegactl exec first -c '6 * 7'"
  if ! answer=$(cd "$HOME" && "$bin/omegactl" exec first -c '6 * 7' 2>"$scratch/trouble"); then
    cat "$scratch/trouble" >&2
    fail 6 "omega-sessiond is installed, but its first command failed" "Find out why: $bin/omegactl doctor"
  fi
  say "  $answer"
  [ "$answer" = 42 ] || fail 6 "that should have been 42" "Find out why: $bin/omegactl doctor"
  advise
}

advise() {
  say ""
  if [ -z "$no_manager" ]; then
    say "systemd starts the daemon when it is asked for: systemctl --user status omega-sessiond.socket"
    if [ "$(loginctl show-user --value -p Linger "$(id -un)" 2>/dev/null)" = no ]; then
      say "Sessions end some seconds after your last logout, as all your processes do. To keep them:"
      say "  loginctl enable-linger"
    fi
    [ "$tcp" = no ] || say "It also listens on 127.0.0.1:$port; the token is in $(state_directory)/token"
  else
    say "Without systemd ($no_manager): omegactl starts the daemon itself when it is needed."
    case $no_manager in
      XDG_RUNTIME_DIR* | your*)
        say "To have it started by systemd, log in as this user (not by su or sudo) and run ./install.sh again."
        ;;
    esac
  fi
  prefix=
  case ":${PATH:-}:" in
    *":$bin:"*) ;;
    *)
      say "$bin is not on your PATH. Add it, in ~/.profile or your shell's own file:"
      # shellcheck disable=SC2016 # for the reader's shell to expand
      say '  export PATH="$HOME/.local/bin:$PATH"'
      prefix='~/.local/bin/'
      ;;
  esac
  say ""
  say "Try next:"
  say "  ${prefix}omegactl exec first -c 'x = 41'"
  say "  ${prefix}omegactl exec first -c 'x + 1'"
  say "  ${prefix}omegactl ls"
  say "  ${prefix}omegactl --help"
}

"${action}_program"
