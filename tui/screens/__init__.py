"""The dashboard's screens, one a module."""
