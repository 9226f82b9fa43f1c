"""Judging calculators: tasks in suites, checks without a reference, speed. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # for editors and type checkers
    from .checks import CheckReport, check, make_samples
    from .reading import read_suite
    from .speed import Contestant, measure_speed
    from .suite import Outcome, Report, Suite, Task

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".checks": ("CheckReport", "check", "make_samples"),
        ".reading": ("read_suite",),
        ".speed": ("Contestant", "measure_speed"),
        ".suite": ("Outcome", "Report", "Suite", "Task"),
    },
)
