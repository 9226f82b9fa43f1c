"""Energy, forces, stress and more of a structure as it is."""

from __future__ import annotations

from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from pydantic import Field

from ..errors import NumericsError
from ..quantities import QUANTITIES, STANDARD
from ..units import GPA, Unit
from .framework.contract import workflow
from .framework.interface import Array, Progress, Settings, check_atoms, has_stress
from .framework.results import Result

TOPIC = "Relax and move"
PLACE = 1
EXAMPLES = ("nff energy si.cif --model mlearn-si",)

PROPERTIES = ("energy", "energies", "forces", "stress")
# Uncertainties have a place of their own; the others are the energy and the stress in another form.
LEFT_OUT = {*PROPERTIES, "free_energy", "stresses", "energy_std", "forces_std", "extrapolation"}
UNITS = {q.ase_name: q.unit for q in STANDARD} | {"magmom": QUANTITIES["magmoms"].unit}


class EnergySettings(Settings):
    """There is nothing to choose."""


class EnergyResult(Result):
    """What the calculator offers for the structure; None where it does not."""

    formula: str
    energy: Annotated[float, Unit("eV")]
    energy_per_atom: Annotated[float, Unit("eV")]
    fmax: Annotated[float | None, Unit("eV/Å")]
    net_force: Annotated[float | None, Unit("eV/Å")]
    pressure: Annotated[float | None, Unit("GPa")]
    volume: Annotated[float | None, Unit("Å^3")]
    energies: Annotated[Array | None, Unit("eV")]  # (N,)
    forces: Annotated[Array | None, Unit("eV/Å")]  # (N, 3)
    stress: Annotated[Array | None, Unit("GPa")]  # (6,) xx, yy, zz, yz, xz, xy, tension positive
    quantities: dict[str, float | Array] = Field({}, description="charges, magmoms, …, by ASE's name")
    quantity_units: dict[str, str] = Field({}, description="their units")


@workflow
def energy(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: EnergySettings,
    progress: Progress,
) -> EnergyResult:
    """Evaluate a structure, periodic or not, once; constraints do not act on the forces.

    What the calculator does not implement is None in the result.

    Raises:
        StructureError: there are no atoms.
        NumericsError: the calculator returned something that is not finite.
    """
    check_atoms(atoms)
    atoms = atoms.copy()
    names = [n for n in PROPERTIES if n in calculator.implemented_properties]
    if not has_stress(atoms) and "stress" in names:
        names.remove("stress")
    values = {name: calculator.get_property(name, atoms) for name in names}
    results = {n: np.asarray(v) for n, v in getattr(calculator, "results", {}).items() if v is not None}
    quantities = {n: v for n, v in results.items() if n not in LEFT_OUT and v.dtype.kind in "fiu" and v.size}
    for name, value in {**values, **quantities}.items():
        if not np.isfinite(value).all():
            raise NumericsError(f"structure: the {name} is not finite; check the geometry")
    units = UNITS | getattr(calculator, "quantity_units", {})  # a model may declare quantities of its own
    forces, stress = values.get("forces"), values.get("stress")
    progress(1, 1, {"E (eV)": float(values["energy"])}, atoms)
    return EnergyResult(
        converged=True,
        message="; ".join(_shown(name, value, units.get(name)) for name, value in quantities.items()),
        formula=atoms.get_chemical_formula(),
        energy=float(values["energy"]),
        energy_per_atom=float(values["energy"]) / len(atoms),
        fmax=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
        net_force=None if forces is None else float(np.linalg.norm(forces.sum(axis=0))),
        pressure=None if stress is None else float(-stress[:3].mean() / GPA),
        volume=float(atoms.get_volume()) if atoms.cell.rank == 3 else None,
        energies=values.get("energies"),
        forces=forces,
        stress=None if stress is None else stress / GPA,
        quantities={name: value if value.ndim else float(value) for name, value in quantities.items()},
        quantity_units={name: units[name] for name in quantities if units.get(name)},
    )


def _shown(name: str, value: np.ndarray, unit: str | None) -> str:
    """A short vector in full, the range of a longer array."""
    numbers = [f"{number:.4g}" for number in np.ravel(value)]
    lowest, highest = f"{value.min():.4g}", f"{value.max():.4g}"
    text = " ".join(numbers) if len(numbers) <= 3 else f"{lowest} to {highest}"
    return f"{name} {text} {unit or ''}".rstrip()
