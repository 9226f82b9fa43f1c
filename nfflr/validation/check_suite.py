"""Checks of a calculator that need no reference: derivatives, symmetries, cutoff, dimers, drift, precision.

Works with any ASE calculator::

    from ase.calculators.emt import EMT
    from nfflr.validation import check, make_samples

    report = check({"float64": EMT()}, make_samples(["Cu"]))
    print(report.passed, [result for result in report.results if result.status == "fail"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from ase.calculators.calculator import Calculator
from matplotlib.figure import Figure

from ..errors import is_lack_of_resources
from .distances import (
    Dimer,
    check_minima,
    check_smoothness,
    check_wall_in_crystal,
    check_wall_of_dimers,
    dimer_curves,
)
from .exactness import (
    GUISES,
    Drift,
    check_batch,
    check_conservative,
    check_drift,
    check_forces,
    check_invariance,
    check_isolated_atoms,
    check_resolution,
    check_rounding,
    check_small_cell,
    check_stress,
    check_supercells,
    measure_speed,
    nve_run,
)
from .samples import LIMITS, CheckResult, Samples, make_samples


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
        >>> from nfflr.validation import make_samples
        >>> check(EMT(), make_samples(["Cu"])).passed
        True
    """
    if not isinstance(calculators, Mapping):
        calculators = {getattr(calculators, "dtype", "float64"): calculators}
    if samples is None:
        first = next(iter(calculators.values()))
        samples = make_samples(getattr(first, "elements", ()), cutoff=getattr(first, "cutoff", None))
    dtype = "float64" if "float64" in calculators else "float32"
    main, limits, report = calculators[dtype], LIMITS[dtype], CheckReport()
    for name, work in _work(calculators, main, limits, samples, report):
        progress(name)
        try:
            outcome = work()
        except Exception as error:  # of any calculator: what it raises is its finding
            if is_lack_of_resources(error):
                raise
            outcome = CheckResult(
                name, False, message=f"{type(error).__name__}: {' '.join(str(error).split())}"
            )
        report.results += outcome if isinstance(outcome, list) else [outcome]
    return report


def _work(calculators, main, limits, samples, report) -> Iterator[tuple[str, Callable]]:
    rattled, reach = samples.rattled, samples.reach
    yield "forces", lambda: check_forces(main, rattled, limits)
    yield "stress", lambda: check_stress(main, rattled, limits)
    yield "conservative", lambda: check_conservative(main, rattled, limits)
    for name in GUISES:
        yield name, lambda name=name: check_invariance(name, main, rattled, limits)
    yield "supercells", lambda: check_supercells(main, rattled, limits)
    yield "small cell", lambda: check_small_cell(main, samples.small, reach, limits)
    yield "smoothness", lambda: check_smoothness(main, rattled[0], reach, limits)
    yield "isolated atoms", lambda: check_isolated_atoms(main, samples.elements, reach, limits)
    yield "wall", lambda: check_wall_in_crystal(main, rattled)
    yield "dimers", lambda: _dimers(main, samples, report)
    large = samples.sized(500)
    for dtype, calculator in calculators.items():
        yield (
            f"energy resolution, {dtype}",
            lambda c=calculator, d=dtype: check_resolution(c, large, LIMITS[d], d),
        )
        yield f"NVE drift, {dtype}", lambda c=calculator, d=dtype: _drift(c, d, samples, report)
    yield "float32 against float64", lambda: check_rounding(calculators, large, rattled)
    yield "batch", lambda: check_batch(main, [*rattled, samples.small], limits)
    fastest = calculators.get("float32", main)
    yield "speed", lambda: measure_speed(fastest, [samples.sized(n) for n in (60, 250, 1000)])


def _dimers(calculator: Calculator, samples: Samples, report: CheckReport) -> list[CheckResult]:
    report.dimers += dimer_curves(calculator, samples.elements, samples.reach)
    return check_wall_of_dimers(report.dimers) + check_minima(report.dimers)


def _drift(calculator: Calculator, dtype: str, samples: Samples, report: CheckReport) -> CheckResult:
    drift = nve_run(calculator, samples.sized(32), dtype)
    report.drifts.append(drift)
    return check_drift(drift, LIMITS[dtype])


def plot(report: CheckReport, title: str = "") -> Figure:
    """Dimer curves, with the wall on a scale of its own, and total energies of the NVE runs."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    wall, well, drift = panels = figure.subplots(1, 3)
    for panel in (wall, well):
        panel.set(xlabel="distance (Å)", ylabel="energy of two atoms (eV)")
        panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        for k, dimer in enumerate(report.dimers):
            panel.plot(dimer.distance, dimer.energy, color=f"C{k % 10}", label=dimer.label, linewidth=1.2)
    wall.set_yscale("symlog", linthresh=1.0)
    depth = max([0.2, *(-float(np.nanmin(dimer.energy)) for dimer in report.dimers)])
    well.set_ylim(-1.15 * depth, depth)
    for k, dimer in enumerate(report.dimers):
        for r, energy in dimer.minima():
            well.plot(r, energy, "o", color=f"C{k % 10}", markersize=4)
    drift.set(xlabel="time (ps)", ylabel="total energy (meV/atom)")
    for run, style in zip(report.drifts, ("k-", "r--"), strict=False):  # equal curves stay visible
        drift.plot(run.time, run.energy, style, label=f"NVE, {run.label}", linewidth=1)
    if report.dimers:
        wall.legend(fontsize=7, ncols=1 + len(report.dimers) // 12, frameon=False)
    if report.drifts:
        drift.legend(fontsize=8, frameon=False)
    for label, panel in zip("abc", panels, strict=True):
        panel.set_title(label, loc="left", fontweight="bold", fontsize=10)
        panel.tick_params(direction="in", top=True, right=True)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
