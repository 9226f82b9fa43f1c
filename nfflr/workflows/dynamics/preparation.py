"""What is done to a structure before the first step: supercell, minimisation, an estimate for a barostat."""

from __future__ import annotations

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.constraints import FixCom
from ase.units import kB

from ...errors import NFFLrError, StructureError
from ...notes import note
from ...storage.archives import Archive
from ...units import GPA
from ..relaxation import RelaxSettings, relax
from .md_settings import MdSettings

FEW_ATOMS, SHORT = 20, 8.0  # a periodic cell with fewer, or shorter (Å), than this is called small
MINIMISATION = RelaxSettings(fmax=0.05, steps=100)
STRAIN = 0.01  # of the volume, for the bulk modulus
COMPRESSIBILITY = 0.01  # 1/GPa, where the structure does not give one


def repeated(atoms: ase.Atoms, supercell: tuple[int, int, int] | None) -> ase.Atoms:
    """The supercell, in which copies of an atom have its mass, its velocity and its constraints.

    Raises:
        StructureError: an axis is not periodic, or a constraint cannot be repeated.
    """
    if supercell is None:
        return atoms.copy()
    for axis, count, periodic in zip("abc", supercell, atoms.pbc, strict=True):
        if count > 1 and not periodic:
            raise StructureError(
                f"structure: axis {axis} is not periodic, --supercell repeats it {count} times; give 1 there"
            )
    whole = [c for c in atoms.constraints if type(c) is FixCom]  # holds the centre of any number of copies
    others = [c for c in atoms.constraints if type(c) is not FixCom]
    result = atoms.copy()
    result.set_constraint(others)
    try:
        result *= supercell
    except NotImplementedError as error:
        names = ", ".join(type(c).__name__ for c in others)
        raise StructureError(f"structure: --supercell cannot repeat its constraints ({names})") from error
    result.set_constraint([*result.constraints, *whole])
    return result


def note_small_cell(atoms: ase.Atoms) -> None:
    """Say that a periodic cell is so small that its size shows in what is averaged."""
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        return
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)  # (3,) Å
    shortest = heights[atoms.pbc].min()
    if len(atoms) >= FEW_ATOMS and shortest >= SHORT:
        return
    counts = np.where(atoms.pbc, np.ceil(SHORT / heights - 1e-6), 1).astype(int)
    while len(atoms) * counts.prod() < FEW_ATOMS:
        k = np.where(atoms.pbc, heights * counts, np.inf).argmin()
        counts[k] += 1
    size = f"{len(atoms)} atom{'s' * (len(atoms) > 1)} and is {shortest:.1f} Å thick"
    note(
        f"structure: the periodic cell has {size}, so that atoms move with their own images; "
        f"give --supercell {' '.join(map(str, counts))}"
    )


def prepared(
    atoms: ase.Atoms, calculator: Calculator, settings: MdSettings, archive: Archive
) -> tuple[ase.Atoms, MdSettings]:
    """The structure at the start, and settings without gaps; from the archive where a run is continued.

    Raises:
        NumericsError, StructureError: the structure cannot be evaluated.
    """
    if not (settings.minimise or _wants_compressibility(settings)):
        return atoms, settings
    record = archive.load("start")
    if record is None:
        start, value = atoms, COMPRESSIBILITY
        if settings.minimise:
            start = relax(atoms, calculator, MINIMISATION).relaxed
        if _wants_compressibility(settings):
            value = compressibility(start, calculator, settings) or COMPRESSIBILITY
        record = {"positions": start.get_positions(), "compressibility": np.array(value)}
        archive.save("start", record)
    atoms = atoms.copy()
    atoms.arrays["positions"][:] = record["positions"]
    if _wants_compressibility(settings):
        settings = settings.model_copy(update={"compressibility": float(record["compressibility"])})
    return atoms, settings


def _wants_compressibility(settings: MdSettings) -> bool:
    return settings.ensemble == "npt-berendsen" and settings.compressibility is None


def compressibility(atoms: ase.Atoms, calculator: Calculator, settings: MdSettings) -> float | None:
    """1/B in 1/GPa from the pressures of two volumes, to which atoms follow; None if that is not positive.

    To the modulus at rest comes the ideal gas's N kT/V. Of a liquid, in which atoms do not follow, it is too
    stiff by a small factor, which a barostat's time constant does not mind.
    """
    pressures = []
    volume = atoms.get_volume()
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_constraint()
        strained.set_cell(atoms.cell.array * (1 + sign * STRAIN) ** (1 / 3), scale_atoms=True)
        calculator.reset()
        try:
            stress = calculator.get_property("stress", strained)
        except NFFLrError:
            return None
        pressures.append(-float(np.mean(stress[:3])) / GPA)
    modulus = (pressures[1] - pressures[0]) / (2 * STRAIN)
    modulus += len(atoms) * kB * settings.temperature / volume / GPA
    return 1 / modulus if np.isfinite(modulus) and modulus > 0 else None
