"""``nff``: the command line. Nothing imports it."""

from .main import main

__all__ = ["main"]
