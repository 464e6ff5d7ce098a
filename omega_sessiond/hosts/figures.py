"""matplotlib's figures as pictures, where nobody has chosen a backend: what is shown is presented at once, what is left
open when its command ends is presented then; both are closed, as in a notebook.

Watches for the import of matplotlib and offers a backend by matplotlib's own mechanism, in place of windows or of
nothing. Never imports matplotlib by itself, and leaves alone who has chosen: MPLBACKEND, matplotlibrc, use().
"""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from typing import Any, Callable, Iterator, List, Optional

from omega_sessiond.hosts import border, mime
from omega_sessiond.hosts.imports import Imports

BACKEND = "omega_sessiond_figures"
"""What the backend's module is called."""

Present = Callable[[mime.Bundle], None]


class Figures:
    """The figures of one session's pyplot."""

    def __init__(self, imports: Imports, present: Present) -> None:
        self._present = present
        self._canvas: Optional[type] = None
        self.are_used = False
        """Whether there may be figures to close."""
        imports.watch("matplotlib", _choose_backend)
        imports.offer(BACKEND, self._make_backend)

    def _make_backend(self, module: Any) -> None:
        """Agg, whose windows are parts of the execution."""
        chosen = os.environ.get("MPLBACKEND")
        registry: Any = sys.modules.get("matplotlib.backends.registry")
        if chosen and registry is not None:  # it was preloaded, where this session's variables were not known
            vars(module).update(vars(border.call_user(registry.backend_registry.load_backend_module, chosen)))
            return
        agg: Any = border.call_user(border.import_late, "matplotlib.backends.backend_agg")
        bases: Any = border.call_user(border.import_late, "matplotlib.backend_bases")
        figures = self

        class FigureManager(bases.FigureManagerBase):  # type: ignore[misc]
            def show(self) -> None:
                figures._show([self])

        class FigureCanvas(agg.FigureCanvasAgg):  # type: ignore[misc]
            manager_class = FigureManager

        def show(*args: object, **options: object) -> None:
            """Present all open figures, and close them."""
            figures._show(list(figures._managers()))

        module.FigureCanvas, module.FigureManager, module.show = FigureCanvas, FigureManager, show
        self._canvas = FigureCanvas
        self.are_used = True

    # ---- figures ----

    def describe(self, value: object) -> Optional[mime.Bundle]:
        """The picture of a figure that is displayed; it counts as shown. None for anything else."""
        kind = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
        if not isinstance(kind, type) or not issubclass(type(value), kind):
            return None
        for manager in list(self._managers()):
            if manager.canvas.figure is value:
                _close(manager)
        return self._drawn(value)

    def present_open(self) -> None:
        """What a command has left open."""
        for manager in list(self._managers()):
            figure = manager.canvas.figure
            _close(manager)
            bundle = self._drawn(figure)
            if bundle is not None:
                self._present(bundle)

    def _show(self, managers: List[Any]) -> None:
        for manager in managers:
            figure = manager.canvas.figure
            _close(manager)  # first: what cannot be drawn now cannot be drawn when the command ends
            if _has_content(figure):
                self._present({"image/png": _png(figure)})

    def _managers(self) -> Iterator[Any]:
        """Of the open figures that are ours."""
        helpers: Any = sys.modules.get("matplotlib._pylab_helpers")
        if helpers is not None and self._canvas is not None:
            for manager in helpers.Gcf.get_all_fig_managers():
                if type(manager.canvas) is self._canvas:
                    yield manager

    def _drawn(self, figure: Any) -> Optional[mime.Bundle]:
        try:
            return {"image/png": _png(figure)} if _has_content(figure) else None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's artists, fonts, TeX
            return {"image/png": mime.Broken(mime.told("drawing it", error))}


def _choose_backend(matplotlib: Any) -> None:
    setup: Any = sys.modules.get("matplotlib.rcsetup")
    automatic = getattr(setup, "_auto_backend_sentinel", None)
    if automatic is not None and dict.__getitem__(matplotlib.rcParams, "backend") is automatic:
        matplotlib.rcParams["backend"] = "module://" + BACKEND


def _has_content(figure: Any) -> bool:
    return len(figure.get_children()) > 1  # its own background is one


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    border.call_user(partial(figure.savefig, file, format="png", bbox_inches="tight"))
    return file.getvalue()


def _close(manager: Any) -> None:
    helpers: Any = sys.modules["matplotlib._pylab_helpers"]
    border.call_user(helpers.Gcf.destroy, manager.num)
