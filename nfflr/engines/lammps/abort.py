"""The end of all MPI ranks when one has failed."""

from __future__ import annotations

import sys
import time
from typing import Any

FORWARDING = 0.5  # s, in which the launcher of the ranks passes on what they have printed


def end_all_ranks(communicator: Any, message: str, code: int) -> None:
    """Print an error and abort all ranks with an exit code.

    A launcher collects what its ranks print, and an abort drops what it has not passed on yet. So the message
    gets a moment.
    """
    print(f"error: {message}", file=sys.stderr, flush=True)
    time.sleep(FORWARDING)
    communicator.Abort(code)
