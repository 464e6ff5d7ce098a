"""The entry of a host process, started by path: PYTHON main.py LAUNCH_FILE LISTEN_FD TROUBLE_FD. Started with
--fork-server CONNECTION_FD, it waits until a host is wanted, and each time a fork of it goes on as that host.

Runs in the user's interpreter, so it hides itself: its directory leaves sys.path, its modules leave sys.modules, and
`__main__` becomes the user's. Everything the host needs is imported here, for an upgrade replaces the files under it.
"""

from __future__ import annotations

import sys

_HAS_SCRIPT_DIRECTORY = not getattr(sys.flags, "safe_path", False)
if _HAS_SCRIPT_DIRECTORY:
    del sys.path[0]  # this directory: nothing here may stand for a module of the same name

import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
from importlib import import_module  # noqa: E402
from importlib.util import module_from_spec, spec_from_file_location  # noqa: E402
from typing import Any, Callable  # noqa: E402

PACKAGE = "omega_sessiond"
KINDS = ("python", "lines", "jupyter")
"""Of engines: the names of their modules here."""

EXIT_USAGE = 2
FORK_SERVER = "--fork-server"
DATA_BYTES = 64 * 1024 * 1024
"""Of one execution's rich results, where a launch file of before there were any does not say."""


def load_package(kind: str, *, with_fork_server: bool = False) -> tuple[Any, Any, Any]:
    """Import the host's modules without a trace: the user's own `import omega_sessiond` is the user's. Returns the
    host's loop, what makes an engine of this kind of the host and its options (no other kind's code is loaded), and
    the fork server's module if that is wanted."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location(PACKAGE, os.path.join(root, "__init__.py"), submodule_search_locations=[root])
    assert spec is not None and spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)

    from omega_sessiond.hosts import border, loop

    engine = import_module("omega_sessiond.hosts." + kind)
    forkserver: Any = None
    if with_fork_server:
        before = set(sys.modules)
        forkserver = import_module("omega_sessiond.hosts.forkserver")
        for name in set(sys.modules) - before - {forkserver.__name__}:
            del sys.modules[name]  # what it alone needs is seen in no session
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    border.own([sys.modules.pop(name) for name in names] + [sys.modules["__main__"]])
    return loop, engine.make, forkserver


def main(arguments: list[str]) -> int:
    """Be the host of one session until it ends."""
    if len(arguments) != 3:
        sys.stderr.write("usage: main.py LAUNCH_FILE LISTEN_FD TROUBLE_FD\n")
        return EXIT_USAGE
    if arguments[0] == FORK_SERVER:
        kind = "python"
        loop, make, forkserver = load_package(kind, with_fork_server=True)
        server = forkserver.ForkServer(int(arguments[1]))
        server.begin()
        host = loop.Host()  # made here, they take no memory of the children's own
        engine = make(host, {})

        def become(spare: Any, guard: Callable[[], None]) -> None:
            host.listen(engine)
            birth = spare.wait()
            guard()
            try:
                occupy(host, birth.launch, birth.listener, birth.trouble)
            except Exception as error:  # the outermost edge of a process whose sys.stderr is the session's by now
                birth.fail(error)
            host.helper.welcome(spare.connections, birth.hello)
            birth.show(spare.title)
            sys.argv = [""]

        rehearsal = forkserver.Rehearsal(host, engine, lambda ends: become(server.spare(ends), lambda: None))
        spare = server.serve(rehearsal)  # returns in a child alone, which is to be a session's
        become(spare, loop.border.guard)
    else:
        with open(arguments[0], encoding="utf-8") as file:
            launch = json.load(file)
        listener = int(arguments[1])
        os.set_inheritable(listener, False)
        trouble = os.dup(int(arguments[2]))  # not inheritable, and no descriptor that is about to be replaced
        if int(arguments[2]) > 2:
            os.close(int(arguments[2]))
        kind = launch.get("kind", "python")
        if kind not in KINDS:
            sys.stderr.write("no engine of kind %r in this host\n" % kind)
            return EXIT_USAGE
        loop, make, _ = load_package(kind)
        host = loop.Host()
        occupy(host, launch, listener, trouble)
        sys.argv = [""]
        if kind != "python":  # whose code may want this for its own event loop
            host.bell.ring_at_signals()
        host.start(make(host, launch.get("options", {})))
    if _HAS_SCRIPT_DIRECTORY and kind == "python":
        sys.path.insert(0, "")  # last: what lies in the session's directory is run when its code asks for it
    try:
        host.serve()
    except BaseException:  # the outermost edge: a defect, or descriptors that the session's code closed
        import traceback

        host.collapse("the host failed: %s" % traceback.format_exc())
    return 0


def occupy(host: Any, launch: dict[str, Any], listener: int, trouble: int) -> None:
    """Have the host be this session's."""
    restore_limit(launch.get("nofile"))
    bounds = launch["head_bytes"], launch["tail_bytes"], launch.get("data_bytes", DATA_BYTES)
    host.take(launch["session"], launch["log"], listener, trouble, *bounds)


def restore_limit(nofile: list[int] | None) -> None:
    """Give the user's code the soft limit on descriptors that the user had."""
    if nofile:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = nofile[0] if hard == resource.RLIM_INFINITY else min(nofile[0], hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
