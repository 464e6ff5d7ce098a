"""The dashboard, a client of the daemon like any other: `omegactl tui`."""
