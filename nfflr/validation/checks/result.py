"""What a check found, and how much error each precision may make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["required", "advice", "information"]


@dataclass(frozen=True)
class CheckResult:
    """One row of the table.

    Args:
        name: of the check, with what it was done on.
        passed: whether ``value`` is not above ``limit`` (not below it with ``at_least``).
        value: the number measured, None if there was nothing to measure.
        unit: of value and limit.
        limit: None for what is only told.
        message: what else to know; for a failure, what it means.
        kind: a ``required`` check that fails makes the whole fail; ``advice`` is a warning only.
        at_least: the limit is a lower one.
    """

    name: str
    passed: bool
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    message: str = ""
    kind: Kind = "required"
    at_least: bool = False

    @property
    def status(self) -> str:
        """``pass``, ``fail``, ``warn``, ``info`` or ``skip``."""
        if self.kind == "information":
            return "info"
        if self.passed:
            return "skip" if self.value is None else "pass"
        return "fail" if self.kind == "required" else "warn"


@dataclass(frozen=True)
class Limits:
    """Steps of the differences and the largest error that passes, for one precision.

    ==============  ========  ========  ==================================================================
    field           float64   float32   reason
    ==============  ========  ========  ==================================================================
    step            0.002 Å   0.03 Å    Truncation h⁴E⁽⁵⁾/30 and rounding of E over h are about equal.
    strain          0.0005    0.005     As the step, for a bond of 3 to 5 Å.
    forces          1e-6      1e-3      Relative to the largest force. Left of truncation and rounding at
                                        that step: 1e-8 in float64, 1e-4 in float32.
    stress          1e-6      2e-3      Relative to the largest component; every bond crosses its range at
                                        once, hence a factor of two in float32.
    symmetry        1e-8      1e-3      eV, eV/Å. Rounding of coordinates by 1e-15 (float64) or 1e-6
                                        relative, times stiffnesses up to some 100 eV/Å².
    extensivity     1e-8      1e-3      eV/atom, eV/Å. As above: other images, other orders of sums.
    jump            1e-4      1e-3      eV. A crossing that gives 0.1 meV is lost in kT/250 of 300 K;
                                        potentials in wide use leave 2e-5 (ASE's EMT). In float32 rounding.
    force_jump      1e-3      1e-3      eV/Å. An integrator loses F v Δt at a crossing, 1e-5 eV with atoms
                                        that move 0.01 Å in a step: less than ``jump`` allows.
    loop            1e-7      1e-5      eV. Work of a curl of 3e-6 eV/Å² around 0.03 Å². Left of quadrature
                                        on 64 points: 1e-8; of rounding in float32: 1e-6.
    isolated_force  1e-8      1e-5      eV/Å. Nothing is there to pull.
    resolution      1e-8      2e-5      eV, of a cell of about 500 atoms. Rounding of 500 atomic energies of
                                        some eV leaves 5e-6 in float32. A total kept in float32 has steps of
                                        2e-4 eV at 3 keV: displacements, drift and barriers drown in them.
    drift           0.5       1.0       meV/atom/ps at 300 K. Heats by 4 K per ps at most; the fluctuation
                                        of a run this short does not resolve less.
    batch           1e-8      1e-4      eV/atom, eV/Å. Same sums, other order.
    ==============  ========  ========  ==================================================================
    """

    step: float
    strain: float
    forces: float
    stress: float
    symmetry: float
    extensivity: float
    jump: float
    force_jump: float
    loop: float
    isolated_force: float
    resolution: float
    drift: float
    batch: float


LIMITS = {
    "float64": Limits(2e-3, 5e-4, 1e-6, 1e-6, 1e-8, 1e-8, 1e-4, 1e-3, 1e-7, 1e-8, 1e-8, 0.5, 1e-8),
    "float32": Limits(3e-2, 5e-3, 1e-3, 2e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-5, 1e-5, 2e-5, 1.0, 1e-4),
}
# float32 against float64, whatever the checked precision: a tenth of what energy differences and forces of
# electronic structure codes are converged to.
ROUNDING_ENERGY = 1e-5  # eV/atom
ROUNDING_FORCE = 1e-3  # eV/Å


def measured(name: str, value: float, unit: str, limit: float, message: str = "", **more) -> CheckResult:
    """A value that passes at or below its limit; NaN never does."""
    return CheckResult(name, bool(value <= limit), float(value), unit, limit, message, **more)


def skipped(name: str, reason: str) -> CheckResult:
    """A check that does not apply."""
    return CheckResult(name, True, message=reason)
