"""Signals that end a run after a step, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def postponed_signals() -> Iterator[Callable[[], int | None]]:
    """Make SIGINT and SIGTERM wait; gives a function that tells the first that came, None if none did.

    The same signal once more acts at once, as it would have done before. In other threads than the main one,
    to which signals do not come, nothing is changed; nor for a signal that is ignored.
    """
    came: list[int] = []
    before: dict[int, Any] = {}  # handlers, as signal.signal returns them

    def note(signum: int, frame) -> None:
        if signum in came:
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)
        came.append(signum)

    if threading.current_thread() is threading.main_thread():
        for signum in SIGNALS:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                before[signum] = signal.signal(signum, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
