"""Peak of resident memory of this process, since a chosen moment.

``ru_maxrss`` will not do: a child starts with the peak of the process that made it, and it cannot be reset,
so that whatever grows below an earlier peak is not seen.
"""

from pathlib import Path

STATUS = Path("/proc/self/status")


def reset_peak() -> int:
    """Let the peak begin anew; returns it, which is what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """In bytes, since the last reset or else the start."""
    lines = STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
