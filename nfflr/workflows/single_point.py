"""Energy, forces and stress of a structure as it is."""

from __future__ import annotations

from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ..errors import NumericsError
from ..units import GPA, Unit
from .framework.calling import workflow
from .framework.interface import Array, Progress, Settings, check_atoms, has_stress
from .framework.results import Result

TOPIC = "Relax and move"
PLACE = 1
EXAMPLES = ("nff energy si.cif --model mlearn-si",)

PROPERTIES = ("energy", "energies", "forces", "stress")


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


@workflow
def energy(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: EnergySettings,
    progress: Progress,
) -> EnergyResult:
    """Evaluate a structure once.

    Args:
        atoms: (N atoms), periodic or not; constraints do not act on the forces.
        calculator: any ASE calculator; what it does not implement is None in the result.
        settings: none.
        progress: called once.

    Raises:
        StructureError: there are no atoms.
        NumericsError: the calculator returned something that is not finite.
    """
    check_atoms(atoms)
    atoms = atoms.copy()
    names = [n for n in PROPERTIES if n in calculator.implemented_properties]
    if not has_stress(atoms) and "stress" in names:
        names.remove("stress")
    found = {name: calculator.get_property(name, atoms) for name in names}
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise NumericsError(f"structure: the {name} is not finite; check the geometry")
    forces, stress = found.get("forces"), found.get("stress")
    progress(1, 1, {"E (eV)": float(found["energy"])}, atoms)
    return EnergyResult(
        converged=True,
        formula=atoms.get_chemical_formula(),
        energy=float(found["energy"]),
        energy_per_atom=float(found["energy"]) / len(atoms),
        fmax=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
        net_force=None if forces is None else float(np.linalg.norm(forces.sum(axis=0))),
        pressure=None if stress is None else float(-stress[:3].mean() / GPA),
        volume=float(atoms.get_volume()) if atoms.cell.rank == 3 else None,
        energies=found.get("energies"),
        forces=forces,
        stress=None if stress is None else stress / GPA,
    )
