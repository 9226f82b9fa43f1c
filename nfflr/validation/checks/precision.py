"""What precision, batches and time do: drift, rounding, batch against single, speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ...notes import quiet
from ...workflows.dynamics.averages import slope_and_error
from ...workflows.framework.evaluations import evaluate
from ...workflows.molecular_dynamics import MdSettings, md
from .result import ROUNDING_ENERGY, ROUNDING_FORCE, CheckResult, Limits, measured, skipped

TEMPERATURE, STEPS = 300.0, 200
PERIOD = 28.0  # u: an atom of this mass gets a timestep of 1 fs


@dataclass(frozen=True)
class Drift:
    """Total energy of an NVE run: time (n,) in ps, energy (n,) in meV/atom relative to the first."""

    label: str
    time: np.ndarray
    energy: np.ndarray


def nve_run(calculator: Calculator, atoms: ase.Atoms, label: str) -> Drift:
    """200 steps of velocity Verlet at 300 K; the timestep suits the lightest atom."""
    timestep = float(np.clip(np.sqrt(atoms.get_masses().min() / PERIOD), 0.2, 2.0))
    settings = MdSettings(ensemble="nve", temperature=TEMPERATURE, timestep=timestep, steps=STEPS, interval=2)
    with quiet():
        columns = md(atoms, calculator, settings).table.columns
    conserved = columns["conserved (eV)"]
    every = 1e3 * (conserved - conserved[0]) / len(atoms)
    return Drift(label, columns["time (ps)"] - columns["time (ps)"][0], every)


def check_drift(drift: Drift, limits: Limits) -> CheckResult:
    """Slope of the total energy by a straight line, with its error from blocks."""
    name, unit = f"NVE drift, {drift.label}", "meV/atom/ps"
    if len(drift.time) <= STEPS // 4:
        return CheckResult(name, False, None, unit, limits.drift, f"exploded after {drift.time[-1]:.3f} ps")
    fit = slope_and_error(drift.time, drift.energy)
    assert fit is not None  # there are enough points
    slope, error = fit
    message = f"± {error:.2g}; {drift.time[-1]:.2f} ps at {TEMPERATURE:g} K"
    return measured(name, abs(slope), unit, limits.drift, message)


def check_rounding(
    calculators: Mapping[str, Calculator], large: ase.Atoms, structures: Sequence[ase.Atoms]
) -> list[CheckResult]:
    """float32 against float64: the energy of a large cell, per atom, and the forces of all structures."""
    names = ("float32 energy", "float32 forces")
    if not {"float32", "float64"} <= calculators.keys():
        return [skipped(names[0], "one precision only")]
    low, high = (
        evaluate(calculators[dtype], [large, *structures], ("energy", "forces"))
        for dtype in ("float32", "float64")
    )
    energy = abs(low[0]["energy"] - high[0]["energy"]) / len(large)
    forces = max(np.abs(a["forces"] - b["forces"]).max() for a, b in zip(low, high, strict=True))
    against = "against float64"
    return [
        measured(names[0], energy, "eV/atom", ROUNDING_ENERGY, f"{against}, {len(large)} atoms"),
        measured(names[1], forces, "eV/Å", ROUNDING_FORCE, against),
    ]


def check_batch(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """``calculator.evaluate`` of several structures at once against one after another."""
    name = "batch = single"
    if not hasattr(calculator, "evaluate"):
        return skipped(name, "this calculator takes one structure at a time")
    worst = {"energy": 0.0, "forces": 0.0}
    for atoms, batched in zip(structures, calculator.evaluate(structures), strict=True):
        single = {key: calculator.get_property(key, atoms) for key in worst}
        worst["energy"] = max(worst["energy"], abs(batched["energy"] - single["energy"]) / len(atoms))
        worst["forces"] = max(worst["forces"], np.abs(batched["forces"] - single["forces"]).max())
    largest = max(worst, key=worst.__getitem__)
    unit = {"energy": "eV/atom", "forces": "eV/Å"}[largest]
    message = f"a batch of {len(structures)}"
    return measured(name, worst[largest], unit, limits.batch, message)


def measure_speed(calculator: Calculator, sizes: Sequence[ase.Atoms]) -> list[CheckResult]:
    """Time of energy and forces per atom, the better of two; only told."""
    rows = []
    for atoms in sizes:
        times = []
        for seed in range(2):
            moved = atoms.copy()
            moved.rattle(1e-3, seed=seed)
            start = time.perf_counter()
            calculator.get_property("forces", moved)
            times.append(time.perf_counter() - start)
        value = 1e6 * min(times) / len(atoms)
        rows.append(CheckResult(f"speed, {len(atoms)} atoms", True, value, "µs/atom", kind="information"))
    return rows
