"""SIGTERM as an interrupt: what is being written is finished or removed, and one line says what came."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StoppedError


@contextmanager
def heeded_sigterm() -> Iterator[None]:
    """Raise ``StoppedError`` where SIGTERM comes, as Ctrl-C raises ``KeyboardInterrupt``.

    Only in the main thread, to which signals come, and not where somebody else has a say in it.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(signum: int, frame) -> None:
    raise StoppedError("terminated", signum)
