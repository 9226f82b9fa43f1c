"""``nff``: the command line. Nothing imports it.

A command is a file with ``command``, ``TOPIC``, ``PLACE`` and ``EXAMPLES``; see ``LazyGroup`` in ``main.py``.
"""

from .main import main

__all__ = ["main"]
