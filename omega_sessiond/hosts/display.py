"""display(): objects with all they have to show, as a notebook shows them. The built-in of a session, and what
IPython's own does where no IPython runs."""

from __future__ import annotations

import sys
from functools import partial, wraps
from typing import Any, Callable, Dict, Optional, Tuple

from omega_sessiond.hosts import border, mime
from omega_sessiond.hosts.output import Output

Describe = Callable[[object, mime.Run], Optional[Tuple[mime.Bundle, mime.Bundle]]]


def text_of(value: object, data: mime.Bundle, run: mime.Run) -> str:
    """The text of a value that has a bundle: the bundle's own if there is one."""
    text = data.get(mime.TEXT)
    return text if type(text) is str else run(repr, value)


def make_display(output: Output, describe: Describe) -> Callable[..., None]:
    def display(*objects: Any, raw: bool = False, metadata: Optional[Dict[str, Any]] = None, **options: Any) -> None:
        """Show objects with all they have to show: pictures, HTML and the like beside their text.

        With `raw` they are dicts of such by MIME type; `metadata` goes with every object. The other options of
        IPython's display() are taken, and mean nothing here.
        """
        for value in objects:
            if raw:
                data: mime.Bundle = border.call_user(partial(dict, value))
                described: mime.Bundle = {}
                text = str(data.get(mime.TEXT, ""))
            else:
                data, described = describe(value, border.call_user) or ({}, {})
                text = text_of(value, data, border.call_user)
            if text or not raw:
                border.call_user(sys.stdout.write, text + "\n")
            output.present(data, {**described, **(metadata or {})})
        if border.pending:
            border.release()

    return display


def stand_in(module: Any, display: Callable[..., None]) -> None:
    """Have IPython's display() show as this one does, unless a shell of its own is there to do it."""
    theirs = module.display

    @wraps(theirs)
    def ours_or_theirs(*objects: Any, **options: Any) -> Any:
        shell: Any = sys.modules.get("IPython.core.interactiveshell")
        has_shell = shell is not None and shell.InteractiveShell.initialized()
        return border.call_user(partial(theirs if has_shell else display, *objects, **options))

    module.display = ours_or_theirs
