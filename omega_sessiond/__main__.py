"""`python -m omega_sessiond` is `omega-sessiond`."""

import sys

from omega_sessiond.server import main

if __name__ == "__main__":
    sys.exit(main())
