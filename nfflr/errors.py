"""Errors that a user can act on, each with the exit code the command line returns for it.

A message is one line: ``<file or item>: <what is wrong; what was expected; what to do>``.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

# Torch raises a plain RuntimeError, C++ libraries what they throw; only the text tells.
ALLOCATION = re.compile(
    r"(can't|cannot|could not|unable to) allocate|not enough memory|out of memory|bad_alloc", re.IGNORECASE
)


class NFFLrError(Exception):
    """Base of all errors raised for bad input; ``exit_code`` is what ``nff`` exits with.

    Attributes:
        item: the file, structure or option that the message is about, which stands before the first colon.
        problem: what is wrong with it, the rest of the message.
    """

    exit_code = 1

    def __init__(self, message: str):
        text = " ".join(str(message).split())  # one line, whatever was quoted in it
        super().__init__(text)
        item, colon, problem = text.partition(": ")
        self.item, self.problem = (item, problem) if colon else ("", text)

    def named(self, item: str) -> Self:
        """The same error about ``item``: of many structures, it says which one failed."""
        return type(self)(f"{item}: {self.problem}")


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


def as_nfflr_error(error: BaseException) -> NFFLrError:
    """The same error as one line with an exit code, whatever raised it; itself if it is one of ours.

    Example:
        >>> as_nfflr_error(KeyError("x")).exit_code
        1
    """
    if isinstance(error, NFFLrError):
        return error
    if isinstance(error, MemoryError) or ALLOCATION.search(str(error)):
        return ResourceError(
            f"memory: not enough for this structure{_size_of_request(str(error))}; use fewer atoms or a "
            "machine with more"
        )
    if isinstance(error, OSError):
        reason = error.strerror or error
        return ResourceError(f"{error.filename or 'I/O'}: {reason}; check the path and the disk")
    # A defect of ours: the traceback is one flag away.
    return NFFLrError(f"internal: {type(error).__name__}: {error}; rerun with --debug and report it")


def _size_of_request(reason: str) -> str:
    """How much memory was asked for at once, where the allocator says it."""
    match = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", reason)
    if match is None:
        return ""
    amount, unit = match.groups()
    return f" ({float(amount) / 2**30:.1f} GiB more)" if unit == "bytes" else f" ({amount} {unit} more)"


def plain_reason(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, from an entry of pydantic's ``ValidationError.errors()``.

    Example:
        >>> plain_reason({"type": "int_parsing", "msg": "Input should be a valid integer", "input": "ten"})
        "should be a whole number, got 'ten'"
    """
    if error["type"] == "missing":
        return "is missing, and required"
    reason = PLAIN.get(error["type"]) or str(error["msg"])
    reason = reason.removeprefix("Value error, ").replace("Input should", "should")
    return f"{reason}, got {reprlib.repr(error['input'])}"


PLAIN = {  # by pydantic's type of error, where its words are those of programs
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    "finite_number": "should be a finite number",
    "string_type": "should be a text",
    "path_type": "should be a path",
    "tuple_type": "should be several values",
}


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option that ``name`` stands for, or an empty string.

    That is one that is spelt the same apart from capitals, dashes and underscores, or else begins with
    ``name`` (the shortest), or else is the nearest by spelling.

    Example:
        >>> did_you_mean("temprature", ["temperature", "pressure"])
        "; did you mean 'temperature'?"
        >>> did_you_mean("--temp", ["--steps", "--temperature-end", "--temperature"])
        "; did you mean '--temperature'?"
    """
    forms: dict[str, str] = {}  # plain form → the option
    for option in options:
        forms.setdefault(_plain(option), option)
    word = _plain(name)
    longer = sorted((form for form in forms if len(word) > 2 and form.startswith(word)), key=len)
    nearest = longer or difflib.get_close_matches(word, list(forms), n=1, cutoff=0.6)
    return f"; did you mean {forms[nearest[0]]!r}?" if nearest else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").lstrip("-")
