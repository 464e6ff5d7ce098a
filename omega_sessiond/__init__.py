"""omega-sessiond: named, stateful REPL sessions that outlive their clients and their server.

Holds the version and nothing else: hosts load this package in interpreters as old as 3.9.
"""

__version__ = "0.1.0"
