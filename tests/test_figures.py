"""matplotlib in a real host process: figures become pictures where nobody chose a backend, and are left alone else.

With the development environment's matplotlib, numpy and pandas.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from hostdriver import HostProcess, Hosts, Run
from isolation import Place

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where matplotlib keeps its list of fonts, which takes seconds to make: in HOME it would be made for each test."""
    return str(tmp_path_factory.mktemp("matplotlib"))


@pytest.fixture
def hosts(place: Place, fonts: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Starts hosts, and ends them with the test."""
    monkeypatch.setenv("MPLCONFIGDIR", fonts)
    started = Hosts(place.base)
    yield started
    started.close()


@pytest.fixture
def host(hosts: Hosts) -> HostProcess:
    """A host in the interpreter that has matplotlib, with a display that it must not use."""
    return hosts(python=sys.executable, env={**os.environ, "DISPLAY": ":99"})


def pictures(run: Run) -> list[tuple[str, str]]:
    """MIME type and role of each part; each is a picture, whole."""
    assert run.status == "ok", run.traceback
    for part in run.parts:
        assert part["bytes"].startswith(PNG) and len(part["bytes"]) == part["size"], part.get("omitted")
    return [(part["mime"], part["role"]) for part in run.parts]


def test_a_figure_left_open_is_shown_when_its_command_ends(host: HostProcess) -> None:
    """Plotting without a word of showing gives the picture, once; the next command draws a new one."""
    run = host.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('done')")
    assert pictures(run) == [("image/png", "display")]
    assert (run.output, run.stderr) == ("done\n", "")
    assert run.parts[0]["place"] == len("done\n")
    assert pictures(host.run("1 + 1")) == []
    assert host.run("plt.get_fignums()").value == "[]"
    assert (
        pictures(host.run("plt.figure(); plt.plot([3]); plt.figure(); plt.plot([4])")) == [("image/png", "display")] * 2
    )
    assert pictures(host.run("import pandas as pd\npd.Series([1, 3, 2]).plot()")) == [("image/png", "display")]


def test_show_presents_at_once_without_a_warning(host: HostProcess) -> None:
    """plt.show() and figure.show() give the picture where they stand in the output, and it is not given again."""
    run = host.run(
        "import matplotlib.pyplot as plt\n"
        "for n in range(2):\n"
        "    plt.plot([n]); print('before', n); plt.show(); print('after', n)\n"
        "figure, _ = plt.subplots()\n"
        "figure.show()"
    )
    assert pictures(run) == [("image/png", "display")] * 3
    assert run.output == "before 0\nafter 0\nbefore 1\nafter 1\n"
    assert [part["place"] for part in run.parts] == [
        len("before 0\n"),
        len("before 0\nafter 0\nbefore 1\n"),
        len(run.output),
    ]


def test_a_displayed_figure_is_a_result(host: HostProcess) -> None:
    """A figure that is the last value is its picture, whether pyplot knows it or not, and only once."""
    run = host.run("import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1])\nfigure")
    assert pictures(run) == [("image/png", "result")]
    assert run.value == "<Figure size 640x480 with 1 Axes>"
    assert pictures(host.run("figure")) == [("image/png", "result")]
    bare = "from matplotlib.figure import Figure\nbare = Figure()\nbare.subplots().plot([1])\nbare"
    assert pictures(host.run(bare)) == [("image/png", "result")]


def test_a_figure_is_shown_though_its_command_failed(host: HostProcess) -> None:
    """What was drawn before an exception is not lost with it."""
    run = host.run("import matplotlib.pyplot as plt\nplt.plot([1])\n1 / 0")
    assert run.status == "error"
    assert [part["mime"] for part in run.parts] == ["image/png"]


def test_empty_figures_are_closed_unseen(host: HostProcess) -> None:
    """A figure with nothing in it gives no picture."""
    assert pictures(host.run("import matplotlib.pyplot as plt\nplt.figure()\nplt.figure()\nplt.show()")) == []


def test_a_figure_that_cannot_be_drawn_is_told(host: HostProcess) -> None:
    """At the end of a command the failure is the part's; in show() it is the caller's."""
    code = (
        "import matplotlib.pyplot as plt\nfrom matplotlib.artist import Artist\n"
        "class Bad(Artist):\n    def draw(self, renderer): raise ValueError('bad ink')\n"
        "def bad(): plt.figure().add_artist(Bad())\n"
    )
    host.run(code)
    run = host.run("bad(); 7")
    assert (run.status, run.value) == ("ok", "7")
    assert [part["omitted"] for part in run.parts] == ["drawing it raised ValueError: bad ink"]
    run = host.run("bad(); plt.show()")
    assert (run.result["error"]["message"], run.parts) == ("bad ink", [])


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ({"MPLBACKEND": "agg"}, ""),
        ({}, "import matplotlib; matplotlib.use('svg')\n"),
        ({}, "import matplotlib.pyplot as plt; plt.switch_backend('agg')\n"),
    ],
)
def test_whoever_chose_a_backend_has_it(hosts: Hosts, env: dict[str, str], code: str) -> None:
    """MPLBACKEND and matplotlib.use() keep their meaning: figures stay open, and nothing is shown of them."""
    host = hosts(python=sys.executable, env={**os.environ, **env})
    assert host.run(code + "import matplotlib.pyplot as plt\nplt.plot([1])\nNone").parts == []
    assert host.run("plt.get_fignums()").value == "[1]"


def test_a_matplotlibrc_decides_too(hosts: Hosts) -> None:
    """The backend of a matplotlibrc is the user's choice."""
    host = hosts(python=sys.executable, files={"matplotlibrc": "backend: pdf\n"})
    assert host.run("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.get_backend()").parts == []


def test_importing_is_as_elsewhere(host: HostProcess) -> None:
    """matplotlib has its own loader and source, and no module of ours stands for one of its own."""
    run = host.run(
        "import inspect, matplotlib\n"
        "vars(matplotlib.__loader__).keys() & {'exec_module'}, 'def use' in inspect.getsource(matplotlib),"
        " matplotlib.__spec__.name"
    )
    assert run.value == "(set(), True, 'matplotlib')"
    run = host.run("import matplotlib.pyplot as plt, importlib\nimportlib.reload(plt) is plt")
    assert run.value == "True"
    assert pictures(host.run("plt.plot([1]); plt.show()")) == [("image/png", "display")]


def test_drawing_is_interrupted(host: HostProcess) -> None:
    """^C ends a drawing that takes for ever, at the end of a command as in show()."""
    host.run(
        "import matplotlib.pyplot as plt\nfrom matplotlib.artist import Artist\n"
        "class Slow(Artist):\n    def draw(self, renderer):\n        print('drawing', flush=True)\n"
        "        while True: pass\n"
    )
    for command in ("plt.figure().add_artist(Slow()); None", "plt.figure().add_artist(Slow()); plt.show()"):
        running = host.start(command)
        host.daemon.wait_for_output("drawing", running)
        host.interrupt()
        assert host.daemon.result(running).status == "interrupted"
        host.run("plt.close('all')")
    assert pictures(host.run("plt.plot([1])")) == [("image/png", "display")]


def test_a_table_has_its_html(host: HostProcess) -> None:
    """A DataFrame is text and HTML; an array of numpy is text."""
    run = host.run("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert run.value == "   a\n0  1\n1  2"
    assert [(part["mime"], b"<table" in part["bytes"]) for part in run.parts] == [("text/html", True)]
    assert host.run("import numpy as np\nnp.arange(3)").parts == []


def test_display_shows_any_number_of_objects(host: HostProcess) -> None:
    """display() prints the text and presents the rest, in order with what is printed; each call's objects apart."""
    run = host.run(
        "import pandas as pd\nframe = pd.DataFrame({'a': [1]})\n"
        "print('one'); display(frame, 7); print('two'); display(frame)"
    )
    assert run.output == "one\n   a\n0  1\n7\ntwo\n   a\n0  1\n"
    assert [(part["role"], part["bundle"], part["place"]) for part in run.parts] == [
        ("display", 0, len("one\n   a\n0  1\n")),
        ("display", 1, len(run.output)),
    ]
    assert run.result.get("displayed") is None


def test_a_forked_child_shows_nothing(host: HostProcess) -> None:
    """Children print, and their pictures go with them."""
    run = host.run(
        "import os, matplotlib.pyplot as plt\n"
        "if os.fork() == 0:\n    plt.plot([1]); plt.show(); display(1); plt.plot([2])\nelse:\n    os.wait()\n    None"
    )
    assert (run.status, run.parts, run.stdout) == ("ok", [], "1\n")


def test_display_of_ipython_shows_as_ours_does(host: HostProcess) -> None:
    """Code from a notebook that imports display() is shown in full, though no IPython runs."""
    run = host.run(
        "from IPython.display import display, HTML, Markdown\nimport inspect\n"
        "display(HTML('<b>x</b>'), metadata={'isolated': True})\ndisplay({'text/plain': 'mine', 'text/latex': '$x$'},"
        " raw=True, display_id='a')\ninspect.signature(display).parameters['raw'].default"
    )
    assert run.stdout == "<IPython.core.display.HTML object>\nmine\n"
    assert [(part["mime"], part["bytes"].decode(), part.get("meta")) for part in run.parts] == [
        ("text/html", "<b>x</b>", '{"isolated":true}'),
        ("text/latex", "$x$", None),
    ]
    assert run.value == "False"
