"""The box: what each key means, and that nothing runs that nobody asked to run."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from dashboard import Driver, driven, run
from life import FOREVER, Life
from tui.prompt import Answer, Prompt


async def prompt_of(dashboard: Driver, name: str = "work") -> Prompt:
    await dashboard.selects(name)
    await dashboard.press("i")
    await dashboard.until(lambda: isinstance(dashboard.app.focused, Prompt), "the box has the focus")
    assert isinstance(dashboard.app.focused, Prompt)
    return dashboard.app.focused


def test_enter_runs_what_is_whole_and_opens_a_line_otherwise(life: Life) -> None:
    """The engine judges: an open block gets a new line with its indent, a closed one runs."""
    life.execute("work", "x = 41")

    async def story() -> None:
        async with driven() as dashboard:
            prompt = await prompt_of(dashboard)
            await dashboard.write("def f():")
            await dashboard.press("enter")
            await dashboard.until(lambda: prompt.text == "def f():\n    ", "a new line, indented")
            await dashboard.write("return x + 1")
            await dashboard.press("enter")
            await dashboard.until(lambda: prompt.text.count("\n") == 2, "another one: the block may go on")
            await dashboard.press("enter")
            await dashboard.until(lambda: prompt.text == "", "it is run")
            await dashboard.write("f()")
            await dashboard.press("enter")
            await dashboard.sees("42")

    run(story())


def test_footer_shows_the_keys_of_the_box(life: Life) -> None:
    """While one writes, the last line names the keys that the box has, the one that leaves it at any width; else those
    of the list."""
    life.execute("work", "x = 41")

    async def story() -> None:
        async with driven(size=(60, 30)) as dashboard:
            await prompt_of(dashboard)
            await dashboard.sees("Esc Leave")
            await dashboard.press("escape")
            await dashboard.sees("q Quit")

    run(story())


def test_control_j_runs_at_once(life: Life) -> None:
    """^J hands over what is written, whole or not."""
    life.execute("work", "x = 41")

    async def story() -> None:
        async with driven() as dashboard:
            await prompt_of(dashboard)
            await dashboard.write("def f(:")
            await dashboard.press("ctrl+j")
            await dashboard.sees("SyntaxError")

    run(story())


def test_paste_waits_for_a_key(life: Life) -> None:
    """Pasted lines are written, not run, and what a terminal would obey is not among them."""
    life.execute("work", "x = 41")

    async def story() -> None:
        async with driven() as dashboard:
            prompt = await prompt_of(dashboard)
            dashboard.app.post_message(events.Paste("x = 1\r\nprint('pasted')\r\n\x1b]52;c;aGk=\x07"))
            await dashboard.until(lambda: "pasted" in prompt.text, "the paste arrives")
            assert prompt.text == "x = 1\nprint('pasted')\n"
            assert life.get("/api/sessions/work")["execution_count"] == 1

    run(story())


def test_history_at_the_edges(life: Life) -> None:
    """Up goes back through the session's commands and down forth again, to what was being written."""
    for command in ("first = 1", "second = (\n    2)"):
        life.execute("work", command)

    async def story() -> None:
        async with driven() as dashboard:
            prompt = await prompt_of(dashboard)
            await dashboard.write("draft")
            await dashboard.press("up")
            assert prompt.text == "second = (\n    2)"
            await dashboard.press("up", "up")
            assert prompt.text == "first = 1"
            await dashboard.press("down", "down", "down")
            assert prompt.text == "draft"

    run(story())


def test_completion_from_the_session(life: Life) -> None:
    """Tab completes names of the session, as far as they agree, and indents where there is nothing to complete."""
    life.execute("work", "elephant_one = elephant_two = 1")

    async def story() -> None:
        async with driven() as dashboard:
            prompt = await prompt_of(dashboard)
            await dashboard.write("eleph")
            await dashboard.press("tab")
            await dashboard.until(lambda: prompt.text == "elephant_", "the common part")
            await dashboard.sees("elephant_one, elephant_two")
            await dashboard.write("t")
            await dashboard.press("tab")
            await dashboard.until(lambda: prompt.text == "elephant_two", "the only one")
            prompt.clear_run()
            await dashboard.press("tab")
            assert prompt.text == "    "

    run(story())


def test_control_c_copies_or_interrupts(life: Life) -> None:
    """^C copies what is selected; where nothing is, it interrupts what runs."""
    life.execute("work", "x = 41")
    life.begin_running("work", FOREVER)

    async def story() -> None:
        async with driven() as dashboard:
            prompt = await prompt_of(dashboard)
            await dashboard.write("word")
            prompt.select_all()
            await dashboard.press("ctrl+c")
            await dashboard.until(lambda: dashboard.app.clipboard == "word", "it is copied")
            assert life.get("/api/sessions/work")["state"] == "busy"
            prompt.clear_run()
            await dashboard.press("ctrl+c")
            await dashboard.sees("interrupted (user)")

    run(story())


def test_answers(life: Life) -> None:
    """What a session asks is answered in the box; secrets are not shown and not logged; ^D is end of file."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            command = "import getpass\na = input('name? ')\nb = getpass.getpass('secret? ')\ntry: input('more? ')\n"
            life.begin("work", command + "except EOFError: print('got', a, b)")
            await dashboard.sees("? input")
            await dashboard.selects("work")
            await dashboard.press("i")
            await dashboard.until(lambda: isinstance(dashboard.app.focused, Answer), "the answer's box has the focus")
            box = dashboard.app.focused
            assert isinstance(box, Input)
            assert not box.password
            await dashboard.write("Bob")
            await dashboard.press("enter")
            await dashboard.sees("name? Bob")
            await dashboard.sees("asks: secret?")
            await dashboard.until(lambda: box.password, "the answer is hidden")
            await dashboard.write("hunter2")
            assert "hunter2" not in dashboard.shown()
            await dashboard.press("enter")
            await dashboard.sees("asks: more?")
            await dashboard.press("ctrl+d")
            await dashboard.sees("got Bob hunter2")
            lines = [command.line for command in dashboard.app.command_log]
            assert lines == ["omegactl input work Bob", "omegactl input work", "omegactl input work --eof"]
            await dashboard.until(lambda: isinstance(dashboard.app.focused, Prompt), "code is written again")

    run(story())


def test_question_of_unknown_kind_is_taken_for_a_secret(life: Life) -> None:
    """A session that asked before the dashboard came gets its answer unseen: it may be a password."""
    life.begin("work", "print('got', input('who? '))")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.sees("? input")
            await dashboard.selects("work")
            await dashboard.press("i")
            await dashboard.until(lambda: isinstance(dashboard.app.focused, Answer), "the answer's box has the focus")
            await dashboard.write("Bob")
            assert "Bob" not in dashboard.shown()
            await dashboard.press("enter")
            await dashboard.sees("got Bob")

    run(story())
