"""``python -m nfflr``: the command line, as ``nff``."""

from .cli import main

main()
