"""`python -m omega_sessiond`, and the command omega-sessiond: first of all the process that sessions are forked from,
then everything else, side by side."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """The command. Its exit status is server.main's."""
    gc.disable()  # what is loaded stays, and looking through it again and again takes a tenth of the start
    first = None
    if all(argument == "--tcp" for argument in sys.argv[1:]):
        from omega_sessiond import birthplace

        first = birthplace.start_first()
    from omega_sessiond import server

    return server.main(first=first)


if __name__ == "__main__":
    sys.exit(main())
