"""Judging calculators: tasks in suites, checks without a reference, speed. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .check_suite import CheckReport, check
    from .reading import read_suite
    from .samples import make_samples
    from .speed import Contestant, measure_speed
    from .suite import Outcome, Report, Suite, Task

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
