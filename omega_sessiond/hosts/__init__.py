"""What runs inside a host process: the loop that speaks to daemons, and the engines.

Standard library only, Python 3.9. The daemon starts `main.py` by path and never imports this package.
"""
