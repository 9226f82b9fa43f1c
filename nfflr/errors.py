"""Errors that a user can act on, each with the exit code the command line returns for it.

A message is one line: ``<file or item>: <what is wrong; what was expected; what to do>``.
"""

import difflib
import re
from collections.abc import Iterable

# Torch raises a plain RuntimeError, C++ libraries what they throw; only the text tells.
ALLOCATION = re.compile(
    r"(can't|cannot|could not|unable to) allocate|not enough memory|out of memory|bad_alloc", re.IGNORECASE
)


class NFFLrError(Exception):
    """Base of all errors raised for bad input; ``exit_code`` is what ``nff`` exits with."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))  # one line, whatever was quoted in it


class ConfigError(NFFLrError, ValueError):
    """Wrong usage, option, or configuration file."""

    exit_code = 2


class StructureError(NFFLrError, ValueError):
    """A structure or a data set that cannot be used as it is."""

    exit_code = 3


class CheckpointError(NFFLrError, ValueError):
    """A checkpoint that is damaged, unknown, or not to be trusted."""

    exit_code = 4


class NumericsError(NFFLrError, ArithmeticError):
    """A calculation that produced NaN, exploded, or did not converge."""

    exit_code = 5


class ResourceError(NFFLrError, OSError):
    """Input/output failed or a resource ran out."""

    exit_code = 6


class StoppedError(KeyboardInterrupt):
    """A signal ended a run; what the run needs to be continued is on disk.

    It is an interrupt, so that ``except Exception`` lets it pass. ``exit_code`` is 128 + ``signum``.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum, self.exit_code = signum, 128 + signum


def is_lack_of_resources(error: BaseException) -> bool:
    """Whether memory, disk or network failed: the same work may succeed later, or on another machine.

    Code that takes any error of a calculator for a result has to let these pass. A missing file does not
    count, as programs that crash leave no output.
    """
    if isinstance(error, NFFLrError | FileNotFoundError):
        return isinstance(error, ResourceError)
    return isinstance(error, MemoryError | OSError) or ALLOCATION.search(str(error)) is not None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option nearest to ``name``, or an empty string.

    Example:
        >>> did_you_mean("temprature", ["temperature", "pressure"])
        "; did you mean 'temperature'?"
    """
    nearest = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
