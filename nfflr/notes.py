"""Notes: what a user should know although nothing failed.

A note is one line through the logger ``nfflr``. Python prints it to stderr unless the user's program handles
that logger otherwise; the command line prints it there as ``note: ...``, each note once.
"""

import logging

LOGGER = logging.getLogger("nfflr")


def note(message: str) -> None:
    """Give a note; the message is written on one line and begins with the file or item that it is about."""
    LOGGER.warning("%s", " ".join(message.split()))
