"""What values have to show beside their text, in a real host process: methods, bundles, bounds, misbehaviour."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from hostdriver import INTERPRETERS, HostProcess, Hosts, Run
from isolation import Place

OTHERS: list[Any] = [version for version in INTERPRETERS if version != "default"]

PNG = "b'\\x89PNG\\r\\n\\x1a\\n' + bytes(range(256))"
PNG_BYTES = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture
def hosts(place: Place) -> Iterator[Hosts]:
    """Starts hosts, and ends them with the test."""
    started = Hosts(place.base)
    yield started
    started.close()


@pytest.fixture
def host(hosts: Hosts) -> HostProcess:
    """A host in the default interpreter."""
    return hosts()


@pytest.fixture(params=OTHERS or [pytest.param("", marks=pytest.mark.skip("only the default Python here"))])
def any_host(request: pytest.FixtureRequest, hosts: Hosts) -> HostProcess:
    """A host in each interpreter of this machine."""
    return hosts(python=INTERPRETERS[request.param])


def shown(run: Run) -> dict[str, Any]:
    """What each part holds, text as text; for an omitted one the reason."""
    return {
        part["mime"]: part.get("omitted") or (part["bytes"].decode() if part["enc"] == "text" else part["bytes"])
        for part in run.parts
    }


def show(host: HostProcess, *methods: str) -> Run:
    """Display an object of a class with these lines for a body."""
    body = "".join(f"    {line}\n" for line in methods)
    return host.run(f"class Thing:\n    def __repr__(self): return 'thing'\n{body}Thing()")


def test_each_method_of_the_protocol_gives_a_part(any_host: HostProcess) -> None:
    """An object is shown in every way it offers, its text beside; pictures as bytes, in one bundle."""
    run = show(
        any_host,
        "def _repr_html_(self): return '<b>grün</b>'",
        "def _repr_markdown_(self): return '**x**'",
        "def _repr_svg_(self): return '<svg/>'",
        f"def _repr_png_(self): return {PNG}",
        "def _repr_jpeg_(self): return b'\\xff\\xd8'",
        "def _repr_pdf_(self): return b'%PDF'",
        "def _repr_latex_(self): return '$x$'",
        "def _repr_json_(self): return {'a': [1, None]}",
    )
    assert run.value == "thing"
    assert shown(run) == {
        "text/html": "<b>grün</b>",
        "text/markdown": "**x**",
        "image/svg+xml": "<svg/>",
        "image/png": PNG_BYTES,
        "image/jpeg": b"\xff\xd8",
        "application/pdf": b"%PDF",
        "text/latex": "$x$",
        "application/json": b'{"a":[1,null]}',
    }
    assert {(part["role"], part["bundle"], part["place"]) for part in run.parts} == {("result", 0, len("thing\n"))}
    assert [part["n"] for part in run.parts] == list(range(8))
    assert [part["size"] for part in run.parts] == [len(part["bytes"]) for part in run.parts]


def test_a_bundle_comes_first_and_may_bring_its_own_text(host: HostProcess) -> None:
    """`_repr_mimebundle_` decides its types and the text, the other methods the rest; metadata goes with its part."""
    run = show(
        host,
        "def _repr_mimebundle_(self, include, exclude):",
        "    return {'text/plain': 'mine', 'image/png': 'iVBORw0K\\nGgo=', 'application/vnd.x.v1+json': [1]},"
        " {'image/png': {'width': 7}, 'isolated': True}",
        "def _repr_png_(self): raise AssertionError",
        "def _repr_latex_(self): return '$x$', {'size': 2}",
    )
    assert run.value == "mine"
    assert shown(run) == {
        "image/png": b"\x89PNG\r\n\x1a\n",
        "application/vnd.x.v1+json": b"[1]",
        "text/latex": "$x$",
    }
    assert [json.loads(part["meta"]) for part in run.parts] == [
        {"isolated": True, "width": 7},
        {"isolated": True},
        {"isolated": True, "size": 2},
    ]


def test_a_failing_representation_costs_nothing_but_itself(host: HostProcess) -> None:
    """What raises, or returns what it should not, is told as omitted; what returns None is nothing."""
    run = show(
        host,
        "def _repr_html_(self): raise ValueError('no html')",
        "def _repr_markdown_(self): return 7",
        "def _repr_svg_(self): return None",
        "def _repr_png_(self): return 'not base64!'",
        "def _repr_pdf_(self): raise NotImplementedError",
        "def _repr_latex_(self): raise SystemExit(3)",
        "def _repr_json_(self): return {'x': float('nan')}",
        "@property",
        "def _repr_jpeg_(self): raise OSError('gone')",
    )
    assert (run.status, run.value, run.result.get("should_exit")) == ("ok", "thing", None)
    found = shown(run)
    assert found.pop("application/json").startswith("sending it raised ValueError: Out of range float")
    assert found == {
        "text/html": "_repr_html_ raised ValueError: no html",
        "text/markdown": "_repr_markdown_ returned int",
        "image/png": "sending it raised ValueError: a str stands for base64 here, and this is none",
        "text/latex": "_repr_latex_ raised SystemExit: 3",
        "image/jpeg": "_repr_jpeg_ raised OSError: gone",
    }


@pytest.mark.parametrize(
    "body",
    [
        "def _repr_mimebundle_(self, include, exclude): return {'image/png': None}",
        "def __getattr__(self, name): return lambda *a, **k: '<b>everything</b>'",
        "def __getattr__(self, name): raise RuntimeError(name)",
        "def __getattr__(self, name): return self",
        "def _repr_mimebundle_(self, include, exclude): return None",
        "_repr_html_ = 'no method'",
        "__class__ = property(lambda self: 1 / 0)",
    ],
)
def test_an_object_without_anything_to_show_shows_its_text(host: HostProcess, body: str) -> None:
    """An object whose attributes mean nothing by the protocol is text, and its command ends well."""
    run = show(host, body)
    assert (run.status, run.value, run.parts) == ("ok", "thing", [])


def test_a_class_is_not_its_instances(host: HostProcess) -> None:
    """Displaying a class asks none of the methods of its instances."""
    assert host.run("class A:\n    def _repr_html_(self=None): return 'x'\nA").parts == []


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        ("'text'", "_repr_mimebundle_ returned str"),
        ("{'html': 'x'}", "'html' is no MIME type"),
        ("{3: 'x'}", "'int' is no MIME type"),
        ("{'../x\\r\\nSet-Cookie: a': 'x'}", "'../x\\r\\nset-cookie: a' is no MIME type"),
        ("{'application/octet-stream': 1}", "sending it raised TypeError: neither text nor bytes, but int"),
        ("1/0", "_repr_mimebundle_ raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_bundle_is_told(host: HostProcess, bundle: str, reason: str) -> None:
    """A bundle that is none, or names no types, becomes a part that says so."""
    run = show(host, f"def _repr_mimebundle_(self, **kw): return {bundle}")
    assert run.status == "ok"
    assert shown(run) == {"application/octet-stream": reason}


def test_a_representation_that_hangs_is_interrupted(host: HostProcess) -> None:
    """^C reaches a method that computes for ever."""
    host.run("class Slow:\n    def _repr_html_(self):\n        print('in it', flush=True)\n        while True: pass")
    running = host.start("Slow()")
    host.daemon.wait_for_output("in it")
    host.interrupt()
    run = host.daemon.result(running)
    assert run.status == "interrupted"
    assert host.run("6 * 7").value == "42"


def test_a_large_part_comes_in_pieces_and_too_large_ones_are_told(hosts: Hosts) -> None:
    """A part beyond one frame is put together from several; one beyond the execution's bound is omitted, and what is
    smaller still fits."""
    host = hosts(data_bytes=1_000_000)
    run = host.run(
        "class Big:\n"
        "    def _repr_png_(self): return bytes(600_000)\n"
        "    def _repr_jpeg_(self): return b'j' * 500_000\n"
        "    def _repr_pdf_(self): return b'p' * 400_000\n"
        "Big()"
    )
    assert [(part["mime"], len(part["bytes"]), part["size"]) for part in run.parts] == [
        ("image/png", 600_000, 600_000),
        ("application/pdf", 400_000, 400_000),
        ("image/jpeg", 0, 500_000),
    ]
    assert "larger than the 0 bytes that were left of 1000000" in run.parts[2]["omitted"]
    assert max(len(json.dumps(frame)) for frame in run.frames) < 300_000
    assert host.run("Big()").parts[0]["bytes"] == bytes(600_000)


def test_parts_have_a_number_beyond_which_they_are_counted(host: HostProcess) -> None:
    """A loop that shows without end gives the first parts, and one that says how many more there were."""
    run = host.run(
        "class Note:\n    def _repr_latex_(self): return '$x$'\n    def __repr__(self): return '.'\n"
        "for _ in range(250): display(Note())"
    )
    assert [part["n"] for part in run.parts] == list(range(201))
    assert run.parts[-1]["omitted"] == "50 more parts: an execution keeps 200"
    assert run.stdout == ".\n" * 250


def test_what_a_thread_shows_between_commands_is_told(host: HostProcess) -> None:
    """A part of no execution is dropped, and late output says so."""
    os.mkfifo(host.work / "go")
    host.run(
        "import threading\nclass Note:\n    def _repr_latex_(self): return '$x$'\n"
        "    def __repr__(self): return 'note'\n"
        "threading.Thread(target=lambda: (open('go').read(), display(Note()))).start()"
    )
    with open(host.work / "go", "w"):
        pass
    said = host.daemon.wait_for_output("dropped]", 0)
    assert "note\n[text/latex: shown when no command ran, and dropped]" in said
    assert not [frame for frame in host.daemon.frames if frame["t"] == "data"]


def test_large_parts_do_not_keep_children_and_daemons_waiting(host: HostProcess) -> None:
    """While a large part goes out, what is printed after it comes after it, whole."""
    run = host.run(
        "import subprocess\nclass Big:\n    def _repr_png_(self): return bytes(20_000_000)\n"
        "    def __repr__(self): return 'big'\n"
        "display(Big()); subprocess.run(['echo', 'child']); print('last')"
    )
    assert run.output == "big\nchild\nlast\n"
    kinds = [kind for kind, _ in groupby(frame["t"] for frame in run.frames if frame["t"] in ("data", "output"))]
    assert kinds == ["output", "data", "output"]
    assert run.parts[0]["bytes"] == bytes(20_000_000)


def test_a_session_from_before_there_was_rich_data_has_it_when_it_wakes(hosts: Hosts) -> None:
    """A launch file that names no bound means the usual one."""
    run = show(hosts(data_bytes=None), "def _repr_latex_(self): return '$x$'")
    assert shown(run) == {"text/latex": "$x$"}
