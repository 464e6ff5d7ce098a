"""omegactl with a real daemon: what its commands print, to whom, and their exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from omega_sessiond.amounts import LARGEST
from omega_sessiond.cli import SORT_KEYS, parser
from omega_sessiond.screen import age, duration, size


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def background(place: Place) -> bool:
    return (place.state_dir / "daemon.lock").exists()


# ---- terminals ----


def test_colours_follow_the_conventions(omegactl: Omegactl) -> None:
    """Colours on a terminal, none on a pipe; NO_COLOR, CLICOLOR_FORCE and --color decide otherwise."""
    omegactl("exec", "work", "-c", "1")
    assert "\x1b" not in omegactl("ls").out
    assert "\x1b[" in omegactl("ls", env={"CLICOLOR_FORCE": "1"}).out
    assert "\x1b" not in omegactl("ls", env={"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}).out
    assert "\x1b[" in omegactl("ls", "--color", "always", env={"NO_COLOR": "1"}).out
    for env, has_colors in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with omegactl.at_terminal("ls", env=env) as terminal:
            assert terminal.end() == 0
        assert ("\x1b[" in terminal.seen) == has_colors


def test_long_texts_go_through_the_pager(omegactl: Omegactl, place: Place) -> None:
    """On a terminal history goes through $PAGER, on a pipe it does not."""
    omegactl("exec", "work", "-c", "x = 'needle'")
    pager = {"PAGER": f"cat > {place.home}/paged"}
    with omegactl.at_terminal("history", "work", env=pager) as terminal:
        assert terminal.end() == 0
    assert "needle" in (place.home / "paged").read_text()
    assert "needle" not in terminal.seen
    assert "needle" in omegactl("history", "work", env=pager).out


# ---- sessions ----


def test_ls_in_every_form(omegactl: Omegactl) -> None:
    """table, wide, json, jsonl and name show the same sessions; on a pipe with ISO times and nothing cut."""
    assert omegactl("ls").out == ""
    assert omegactl("ls", "--json").out == "[]\n"
    label = "x" * 200
    for name in ("b", "a"):
        assert omegactl("new", name, "--label", f"k={label}").code == 0
    assert omegactl("ls", "-q").out == "a\nb\n" == omegactl("ls", "--format", "name").out
    assert [row["name"] for row in json.loads(omegactl("ls", "--json").out)] == ["a", "b"]
    assert [json.loads(line)["name"] for line in omegactl("ls", "--format", "jsonl").out.splitlines()] == ["a", "b"]
    table = omegactl("ls").out
    assert table.splitlines()[0].split()[:3] == ["NAME", "STATE", "ENGINE"]
    assert f"k={label}" in table
    assert re.search(r"\d{4}-\d\d-\d\dT", table)
    assert "PYTHON" in omegactl("ls", "-w").out == omegactl("ls", "--format", "wide").out


def test_ls_on_a_terminal_fits_it(omegactl: Omegactl) -> None:
    """On a terminal no line is wider than it, times are ages, and what is cut says so."""
    omegactl("new", "work", "--label", "k=" + "x" * 200)
    with omegactl.at_terminal("ls", env={"COLUMNS": "70", "NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    lines = terminal.seen.splitlines()
    assert all(len(line) <= 70 for line in lines)
    assert "…" in lines[1]
    assert re.search(r" (now|\ds ago) ", lines[1])


def test_ls_fits_where_a_state_has_a_long_reason(omegactl: Omegactl) -> None:
    """Limits that nothing enforces are told in the state; a narrow terminal cuts that and breaks no line."""
    done = omegactl("new", "work", "--mem", "1G", "--label", "k=v")
    assert done.code == 0
    assert "not enforced" in done.err
    with omegactl.at_terminal("ls", env={"COLUMNS": "70", "NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    lines = terminal.seen.splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 70 for line in lines)
    assert "idle" in lines[1]
    assert "…" in lines[1]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "now"), (0.6, "now"), (5.9, "5s ago"), (59.9, "59s ago"), (60, "1m ago"), (90000, "1d ago")],
)
def test_ages(seconds: float, told: str) -> None:
    """A time is told as how long ago it was, in whole units."""
    at = "2026-01-31T12:00:00Z"
    assert age(at, datetime.fromisoformat(at).timestamp() + seconds) == told


def test_ls_filters_and_sorts(omegactl: Omegactl) -> None:
    """--filter narrows by state, name and label, --sort orders; an unknown key is told with the nearest."""
    omegactl("new", "one", "--label", "team=red")
    omegactl("new", "two", "--label", "team=blue")
    assert omegactl("ls", "-q", "--filter", "team=red").out == "one\n"
    assert omegactl("ls", "-q", "--filter", "team").out == "one\ntwo\n"
    assert omegactl("ls", "-q", "--filter", "name=t*", "--filter", "state=idle").out == "two\n"
    assert omegactl("ls", "-q", "--sort", "name", "-r").out == "two\none\n"
    assert {omegactl("ls", "-q", "--sort", key).code for key in SORT_KEYS} == {0}
    for arguments, near in ((("--sort", "nmae"), "name"), (("--filter", "state=bussy"), "busy")):
        done = omegactl("ls", *arguments)
        assert (done.code, f"did you mean '{near}'" in done.err) == (2, True)


def test_new_takes_what_a_session_can_have(omegactl: Omegactl, place: Place) -> None:
    """Directory, environment, interpreter, limits and labels are the session's; a second one of the name conflicts."""
    (place.home / "there").mkdir()
    done = omegactl(
        "new", "work", "--cwd", "there", "--env", "A=b=c", "--python", "python3",
        "--mem", "512M", "--tasks", "64", "--cpu-weight", "50", "--label", "k=v", "--json",
    )  # fmt: skip
    assert done.code == 0, done
    session = json.loads(done.out)
    assert session["limits"] == {"memory_bytes": 512 * 1024 * 1024, "tasks": 64, "cpu_weight": 50}
    assert session["labels"] == {"k": "v"}
    code = "import os; print(os.getcwd(), os.environ['A'])"
    assert omegactl("exec", "work", "-c", code).out == f"{place.home / 'there'} b=c\n"
    again = omegactl("new", "work")
    assert (again.code, "exists" in again.err) == (5, True)
    assert omegactl("new", "other", "--python", "no-such-python").code == 2
    assert omegactl("new", "other", "--mem", "lots").code == 2
    assert omegactl("new", "-bad-").code == 2


def test_set_changes_limits_and_labels(omegactl: Omegactl) -> None:
    """Limits named are set or lifted, labels are added and removed, the rest stays."""
    omegactl("new", "work", "--mem", "1G", "--tasks", "64", "--label", "a=1", "--label", "b=2")
    done = omegactl("set", "work", "--mem", "none", "--cpu-weight", "7", "--label", "c=3", "--unlabel", "a", "--json")
    session = json.loads(done.out)
    assert session["limits"] == {"memory_bytes": None, "tasks": 64, "cpu_weight": 7}
    assert session["labels"] == {"b": "2", "c": "3"}
    assert omegactl("set", "work").code == 2
    several = [omegactl.start("set", "work", "--label", f"k{n}={n}") for n in range(4)]
    for one in several:
        one.communicate()
    assert [one.returncode for one in several] == [0] * 4
    assert json.loads(omegactl("show", "work", "--json").out)["labels"].keys() >= {"k0", "k1", "k2", "k3"}


def test_show_tells_all_of_a_session(omegactl: Omegactl, place: Place) -> None:
    """show prints details for a person and the session's object for a program."""
    omegactl("exec", "work", "-c", "1")
    out = omegactl("show", "work").out
    assert re.search(r"^state: +idle$", out, re.MULTILINE)
    assert re.search(rf"^working directory: +{place.home}$", out, re.MULTILINE)
    assert json.loads(omegactl("show", "work", "--json").out)["name"] == "work"
    assert omegactl("show", "work", "--format", "name").out == "work\n"


def test_show_has_the_figures_of_a_session(omegactl: Omegactl) -> None:
    """How often and when it was used, what its last commands took on average, its size and the most memory it had."""
    omegactl("new", "work")
    assert details(omegactl)["mean time"] == "-"
    for command in ("1", "import time; time.sleep(0.2)", "1 / 0"):
        omegactl("exec", "work", "-c", command)
    omegactl("save", "work")
    took = [row["duration_ms"] for row in json.loads(omegactl("history", "work", "--json").out)]
    session, shown = json.loads(omegactl("show", "work", "--json").out), details(omegactl)
    assert shown["mean time"] == f"{duration(sum(took) / 3000)} over the last 3"
    assert (shown["executions"], shown["last used"]) == ("3", session["last_used_at"])
    assert re.fullmatch(r"\d+(\.\d)?[KMG]", shown["peak memory"])
    assert size(session["checkpoint"]["size_bytes"]) in shown["saved"]


def test_mean_time_of_short_commands_is_no_zero(omegactl: Omegactl) -> None:
    """Of commands shorter than ten milliseconds a tenth of one is told."""
    for _ in range(2):
        omegactl("exec", "work", "-c", "1")
    took = [row["duration_ms"] for row in json.loads(omegactl("history", "work", "--json").out)]
    mean = sum(took) / 2
    told = f"{mean:.1f}ms" if mean < 10 else duration(mean / 1000)  # a busy machine may be slower
    assert details(omegactl)["mean time"] == f"{told} over the last 2"


def details(omegactl: Omegactl) -> dict[str, str]:
    """What show prints of the session work."""
    return dict(re.findall(r"^(\S[^:]*): +(.*)$", omegactl("show", "work").out, re.MULTILINE))


def test_unknown_session_is_4_with_a_suggestion(omegactl: Omegactl) -> None:
    """Every command about a session that is not there ends with 4 and names the nearest."""
    omegactl("new", "work")
    for arguments in (("show", "wrok"), ("history", "wrok"), ("kill", "wrok"), ("wait", "wrok"), ("output", "wrok")):
        done = omegactl(*arguments)
        assert (done.code, done.out) == (4, ""), arguments
        assert (
            done.err
            == "omegactl: no session is called 'wrok'; did you mean 'work'?\n'omegactl ls' lists the sessions.\n"
        )


def test_hints_are_lines_of_omegactl(omegactl: Omegactl) -> None:
    """What the daemon refuses comes with the next step at a shell, and a mistyped snapshot with the nearest."""
    omegactl("exec", "work", "-c", "x = 1")
    omegactl("snapshot", "work", "before-fit")
    done = omegactl("restore", "work", "before-fti")
    assert (done.code, "did you mean 'before-fit'?" in done.err, "omegactl snapshots" in done.err) == (4, True, True)
    done = omegactl("new", "other", "--cpu-weight", "0")
    assert (done.code, "See 'omegactl new --help'." in done.err) == (2, True)


def test_rm_asks_a_person_and_takes_y_from_a_script(omegactl: Omegactl) -> None:
    """Without a terminal -y is needed; on one, anything but yes keeps the session."""
    for name in ("one", "two", "three"):
        omegactl("new", name)
    assert omegactl("rm", "one").code == 2
    assert omegactl("rm", "one", "two", "-y").code == 0
    done = omegactl("rm", "none", "-y")
    assert (done.code, done.err) == (4, "omegactl: no session is called 'none'\n")
    for answer, code, left in (("\n", 130, "three\n"), ("y\n", 0, "")):
        with omegactl.at_terminal("rm", "three") as terminal:
            terminal.until(r"\[y/N\] ")
            terminal.type(answer)
            assert terminal.end() == code
        assert omegactl("ls", "-q").out == left


def test_kill_and_restart_tell_what_they_did(omegactl: Omegactl) -> None:
    """kill ends the process and keeps history; restart has a new one; both say that the variables are gone."""
    omegactl("exec", "work", "-c", "x = 1")
    first = json.loads(omegactl("show", "work", "--json").out)["pid"]
    done = omegactl("kill", "work")
    assert (done.code, done.out, "gone" in done.err) == (0, "", True)
    assert json.loads(omegactl("show", "work", "--json").out)["state"] == "dead"
    assert omegactl("restart", "work", "--json").code == 0
    assert json.loads(omegactl("show", "work", "--json").out)["pid"] not in (None, first)
    assert len(json.loads(omegactl("history", "work", "--json").out)) == 1


def test_interrupt_from_elsewhere(omegactl: Omegactl) -> None:
    """interrupt ends what runs and says so; at rest it is a clear no-op."""
    process = omegactl.start("exec", "work", "-c", "import time; print('on', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    done = omegactl("interrupt", "work")
    assert (done.code, "kept" in done.err) == (0, True)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = omegactl("interrupt", "work")
    assert (done.code, "Nothing is running" in done.err) == (0, True)


# ---- history and output ----


def test_history_lists_what_ran(omegactl: Omegactl) -> None:
    """history is oldest first, with -n only the last; --json has the outputs; a command cannot break its row."""
    for code in ("1", "print('\\x1b[2J')\n2", "1 / 0"):
        omegactl("exec", "work", "-c", code)
    lines = omegactl("history", "work").out.splitlines()
    assert len(lines) == 4
    assert [line.split()[1] for line in lines] == ["STATUS", "ok", "ok", "error"]
    assert omegactl("history", "work", "-n", "1").out.splitlines()[1].endswith("1 / 0")
    assert json.loads(omegactl("history", "work", "--json").out)[0]["output"] == "1\n"
    ids = omegactl("history", "work", "--format", "name").out.split()
    assert ids == sorted(ids, key=int) and len(ids) == 3


def test_history_follows(omegactl: Omegactl) -> None:
    """-f goes on with what ends from now on, also after the daemon was restarted."""
    omegactl("exec", "work", "-c", "1")
    process = omegactl.start("history", "work", "-f", "--format", "jsonl")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["command"] == "1"
    omegactl("exec", "work", "-c", "2")
    assert json.loads(process.stdout.readline())["command"] == "2"
    omegactl("service", "restart")
    omegactl("exec", "work", "-c", "3")
    assert json.loads(process.stdout.readline())["command"] == "3"
    process.terminate()
    process.communicate(timeout=60)


def test_output_in_parts(omegactl: Omegactl) -> None:
    """output has everything, --tail the last lines, --grep those that match, --raw every byte as it was."""
    omegactl("exec", "work", "-c", "for i in range(100_000): print('line', i)")
    id = omegactl("history", "work", "--format", "name").out.strip()
    whole = "".join(f"line {number}\n" for number in range(100_000))
    assert omegactl("output", id).out == whole == omegactl("output", "work").out
    assert omegactl("output", id, "--tail", "3").out == "line 99997\nline 99998\nline 99999\n"
    assert omegactl("output", id, "--tail", "200000").out == whole
    assert omegactl("output", id, "--grep", "^line 4+$").out.split("\n")[:2] == ["line 4", "line 44"]
    assert omegactl("output", id, "--grep", "0$", "--tail", "1").out == "line 99990\n"
    assert omegactl("output", id, "--grep", "(").code == 2
    omegactl("exec", "work", "-c", "print('\\x1b[31mred\\x1b[0m 1%\\r2%')")
    assert omegactl("output", "work").out == "2%d 1%\n"
    assert omegactl("output", "work", "--raw").out == "\x1b[31mred\x1b[0m 1%\r2%\n"


# ---- the rest ----


def test_events_once_and_followed(omegactl: Omegactl) -> None:
    """events prints what is kept; -f goes on; --since and --session narrow it."""
    omegactl("exec", "work", "-c", "1")
    omegactl("exec", "other", "-c", "2")
    events = [json.loads(line) for line in omegactl("events", "--format", "jsonl").out.splitlines()]
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    last = events[-1]["id"]
    assert {event["session"] for event in json.loads(omegactl("events", "--json", "--session", "work").out)} == {"work"}
    assert omegactl("events", "--since", str(last), "--json").out == "[]\n"
    assert len(omegactl("events").out.splitlines()) == len(events)
    done = omegactl("events", "--session", "wrok")
    assert (done.code, "did you mean 'work'?" in done.err) == (4, True)
    process = omegactl.start("events", "-f", "--since", str(last), "--format", "jsonl")
    assert process.stdout is not None
    omegactl("exec", "work", "-c", "3")
    assert json.loads(process.stdout.readline())["command"] == "3"
    process.terminate()
    process.communicate(timeout=60)


def test_engines_names_python(omegactl: Omegactl) -> None:
    """engines shows what can evaluate here."""
    assert "python" in omegactl("engines").out
    assert json.loads(omegactl("engines", "--json").out)[0]["name"] == "python"


def test_version_says_both_sides(omegactl: Omegactl) -> None:
    """version starts no daemon, and names the running one's version when there is one."""
    assert json.loads(omegactl("version", "--json").out)["server"] is None
    omegactl("ls")
    found = json.loads(omegactl("version", "--json").out)
    assert found["server"] == found["client"]
    assert omegactl("--version").out == f"omegactl {found['client']}\n"


def test_logs_are_the_daemons_and_one_sessions(omegactl: Omegactl) -> None:
    """Without systemd logs shows the daemon's file, or its lines about one session, which may be gone; a name that
    neither a session has nor a line is 4."""
    omegactl("exec", "work", "-c", "1")
    assert "serving" in omegactl("logs").out
    assert len(omegactl("logs", "-n", "1").out.splitlines()) == 1
    omegactl("exec", "work", "-c", "import os; os.kill(os.getpid(), 9)")
    about = omegactl("logs", "work").out
    assert about and all("work" in line for line in about.splitlines())
    for options in ((), ("-f",), ("-n", "0")):
        done = omegactl("logs", "wrok", *options)
        assert (done.code, done.out, "did you mean 'work'?" in done.err) == (4, "", True), done
    omegactl("rm", "work", "-y")
    done = omegactl("logs", "work")
    assert (done.code, "work" in done.out, "No session is called 'work' now" in done.err) == (0, True, True), done


def test_omegallm_users_feel_at_home(omegactl: Omegactl, place: Place) -> None:
    """-s NAME with -c or -f behaves as OmegaLLM's own command line: bare output, or session, command and output."""
    assert omegactl("-s", "work", "-c", "x = 20").code == 0
    assert omegactl("-s", "work", "-c", "x + 1").out == "21\n"
    found = json.loads(omegactl("-s", "work", "-c", "x", "--json").out)
    assert found == {"session": "work", "command": "x", "output": "20"}
    (place.home / "code.py").write_text("x * 2")
    assert omegactl("--session=work", "-f", "code.py").out == "40\n"
    assert omegactl("-s", "work", "-c", "1/0").code == 1
    assert omegactl("-s", "work").code == 2


def test_largest_number_is_all_there_is(omegactl: Omegactl) -> None:
    """Where the last N are asked for, the largest N shows everything; only 0 to 9 are digits."""
    omegactl("exec", "work", "-c", "print(1)")
    most = str(LARGEST)
    assert omegactl("history", "work", "-n", most).out.endswith("print(1)\n")
    assert omegactl("output", "work", "--tail", most).out == "1\n"
    assert "serving" in omegactl("logs", "-n", most).out
    for what, code in (("٣", 2), ("9" * 5000, 2), (most, 4)):
        assert omegactl("wait", what).code == code, what


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lss",), "did you mean 'ls'?"),
        (("service", "stat"), "did you mean"),
        (("ls", "--jsno"), "did you mean '--json'?"),
        (("ls", "--format", "jason"), "did you mean 'json'?"),
        (("status",), "did you mean 'service status'?"),
        (("completion", "tcsh"), "one of bash, zsh, fish"),
        (("ls", "--color", "blue"), "one of auto, always, never"),
        (("exec", "work"), "required"),
        (("exec", "work", "x + 1"), "a command comes with -c CODE, -f FILE or -"),
        (("-c", "x + 1"), "omegactl exec NAME -c"),
        (("events", "--since", "noon"), "'noon' is no id of an event"),
        (("new", "work", "--tasks", "few"), "'few' is no count: 200, none"),
        (("new", "work", "--mem", "٣G"), "'٣G' is no size"),
        (("prune", "--keep", "99999999999999999999"), "is no count"),
        (("history", "work", "-n", "99999999999999999999"), "the newest to show: 0 to 9007199254740992"),
        (("output", "work", "--tail", "9" * 5000), "is no number of the newest to show"),
        (("logs", "-n", "99999999999999999999"), "is no number of the newest to show"),
        (("timeline", "work", "-n", "٣"), "'٣' is no number of the newest to show"),
        (("exec", "work", "-c", "1", "-f", "x"), "not allowed"),
        (("wait",), "required"),
        (("--timeout", "soon", "ls"), "duration"),
        ((), "COMMAND"),
    ],
)
def test_wrong_usage_is_2_with_a_way_out(omegactl: Omegactl, arguments: tuple[str, ...], told: str) -> None:
    """Mistakes are told with the nearest right word, on stderr, and start nothing."""
    done = omegactl(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert not background(omegactl.place)


def test_every_command_has_help(omegactl: Omegactl) -> None:
    """--help of the whole and of each command is data, and names the exit codes."""
    assert "exit codes" in omegactl("--help").out
    for action in parser()._actions:
        if action.dest == "command":
            for name in list(action.choices or ())[:3]:
                done = omegactl(name, "--help")
                assert (done.code, done.err) == (0, "")
