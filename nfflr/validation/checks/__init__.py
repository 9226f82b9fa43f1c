"""Checks of a calculator that need no reference: derivatives, symmetries, cutoff, dimers, drift, precision.

Works with any ASE calculator::

    from ase.calculators.emt import EMT
    from nfflr.validation.checks import check, make_samples

    report = check({"float64": EMT()}, make_samples(["Cu"]))
    print(report.passed, [result for result in report.results if result.status == "fail"])
"""

from .check_suite import CheckReport, check
from .result import LIMITS, CheckResult, Limits
from .samples import Samples, make_samples

__all__ = ["LIMITS", "CheckReport", "CheckResult", "Limits", "Samples", "check", "make_samples"]
