"""All checks of a calculator, one after another; a check that breaks down is one that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ase.calculators.calculator import Calculator

from ...errors import is_lack_of_resources
from .cutoff_smoothness import check_smoothness
from .derivatives import check_conservative, check_forces, check_stress
from .dimers import Dimer, check_minima, dimer_curves
from .invariances import (
    check_lattice_translation,
    check_permutation,
    check_reflection,
    check_rotation,
    check_translation,
)
from .precision import Drift, check_batch, check_drift, check_rounding, measure_speed, nve_run
from .result import LIMITS, CheckResult
from .samples import Samples, make_samples
from .size import check_isolated_atoms, check_resolution, check_small_cell, check_supercells
from .wall import check_wall_in_crystal, check_wall_of_dimers

INVARIANCES = (
    check_rotation,
    check_reflection,
    check_translation,
    check_lattice_translation,
    check_permutation,
    check_supercells,
)


@dataclass
class CheckReport:
    """Results in their order, and the curves to draw."""

    results: list[CheckResult] = field(default_factory=list)
    dimers: list[Dimer] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no required check failed."""
        return not any(result.status == "fail" for result in self.results)


def check(
    calculators: Calculator | Mapping[str, Calculator],
    samples: Samples | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> CheckReport:
    """Check a calculator against physics; no reference is needed.

    Args:
        calculators: one, or one for each precision, ``"float64"`` and ``"float32"``: then all is checked with
            the more precise one; resolution and drift with each. One that does not say its ``dtype`` is taken
            for float64.
        samples: what to check on; default: crystals of the calculator's ``elements``.
        progress: called with the name of each step before it begins.

    Returns:
        every result. A check that raises is a failed one that carries the error's message.

    Raises:
        ConfigError: no samples, and the calculator does not say which elements it covers.

    Example:
        >>> from ase.calculators.emt import EMT
        >>> from nfflr.validation.checks import make_samples
        >>> check(EMT(), make_samples(["Cu"])).passed
        True
    """
    if not isinstance(calculators, Mapping):
        calculators = {getattr(calculators, "dtype", "float64"): calculators}
    if samples is None:
        known = next(iter(calculators.values()))
        samples = make_samples(getattr(known, "elements", ()), cutoff=getattr(known, "cutoff", None))
    dtype = "float64" if "float64" in calculators else "float32"
    main, limits, report = calculators[dtype], LIMITS[dtype], CheckReport()
    for name, work in _work(calculators, main, limits, samples, report):
        progress(name)
        try:
            found = work()
        except Exception as error:  # of any calculator: what it raises is its finding
            if is_lack_of_resources(error):
                raise
            found = CheckResult(
                name, False, message=f"{type(error).__name__}: {' '.join(str(error).split())}"
            )
        report.results += found if isinstance(found, list) else [found]
    return report


def _work(calculators, main, limits, samples, report) -> Iterator[tuple[str, Callable]]:
    some, reach = samples.rattled, samples.reach
    for one in (check_forces, check_stress, check_conservative, *INVARIANCES):
        yield one.__name__.removeprefix("check_"), lambda one=one: one(main, some, limits)
    yield "small cell", lambda: check_small_cell(main, samples.small, reach, limits)
    yield "smoothness", lambda: check_smoothness(main, some[0], reach, limits)
    yield "isolated atoms", lambda: check_isolated_atoms(main, samples.elements, reach, limits)
    yield "wall", lambda: check_wall_in_crystal(main, some)
    yield "dimers", lambda: _dimers(main, samples, report)
    large = samples.sized(500)
    for dtype, calculator in calculators.items():
        yield (
            f"energy resolution, {dtype}",
            lambda c=calculator, d=dtype: check_resolution(c, large, LIMITS[d], d),
        )
        yield f"NVE drift, {dtype}", lambda c=calculator, d=dtype: _drift(c, d, samples, report)
    yield "float32 against float64", lambda: check_rounding(calculators, large, some)
    yield "batch", lambda: check_batch(main, [*some, samples.small], limits)
    fastest = calculators.get("float32", main)
    yield "speed", lambda: measure_speed(fastest, [samples.sized(n) for n in (60, 250, 1000)])


def _dimers(calculator: Calculator, samples: Samples, report: CheckReport) -> list[CheckResult]:
    report.dimers += dimer_curves(calculator, samples.elements, samples.reach)
    return check_wall_of_dimers(report.dimers) + check_minima(report.dimers)


def _drift(calculator: Calculator, dtype: str, samples: Samples, report: CheckReport) -> CheckResult:
    drift = nve_run(calculator, samples.sized(32), dtype)
    report.drifts.append(drift)
    return check_drift(drift, LIMITS[dtype])
