"""Force constants of a crystal, and what follows from them: thermal properties and stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from phonopy import Phonopy
from phonopy.exception import BORNFileParseError
from phonopy.file_IO import parse_BORN
from phonopy.harmonic.dynamical_matrix import NacParams
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.harmonic.force_constants import compact_fc_to_full_fc
from phonopy.physical_units import get_physical_units
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import get_primitive_matrix_with_auto

from ...errors import ConfigError, NumericsError
from ...storage.archives import Archive
from ..framework.evaluations import digest, evaluate
from ..framework.interface import Progress, check_crystal, symmetry_of
from ..relaxation import RelaxSettings, relax
from .supercells import LatticeSettings, SupercellPhonopy


def to_phonopy(atoms: ase.Atoms) -> PhonopyAtoms:
    """Structure as phonopy has it; masses are phonopy's unless the structure brings its own."""
    return PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )


def from_phonopy(cell: PhonopyAtoms) -> ase.Atoms:
    """Structure as ASE has it, periodic along all axes, with the very positions phonopy holds."""
    return ase.Atoms(cell.symbols, positions=cell.positions, cell=cell.cell, pbc=True)


def at_rest(
    atoms: ase.Atoms, calculator: Calculator, settings: LatticeSettings, progress: Progress, archive: Archive
) -> ase.Atoms:
    """The structure about which atoms vibrate; constraints are dropped, since every atom does."""
    check_crystal(atoms, "a phonon calculation", "give a slab, chain or molecule a cell with vacuum")
    # Positions and masses alone: what else a structure carries has no place in displaced supercells.
    # phonopy takes right-handed cells only: the lattice of -a, -b, -c is the same, and so are its multiples.
    cell = atoms.cell.array * atoms.cell.handedness
    start = ase.Atoms(atoms.numbers, positions=atoms.positions, cell=cell, pbc=True)
    if atoms.has("masses"):
        start.set_masses(atoms.get_masses())
    if settings.relax == "none":
        return start
    cell_moves = settings.relax == "cell"
    options = RelaxSettings(
        fmax=settings.fmax, steps=settings.steps, optimizer="bfgs", cell=cell_moves, symmetry=True
    )
    name = f"relaxed-{digest(calculator, [start], options.model_dump_json())}"
    record = archive.load(name)
    if record is None:
        result = relax(start, calculator, options, progress)
        if not result.converged:
            raise NumericsError(
                f"structure: the relaxation before the phonons did not converge ({result.message}); "
                "raise --steps or --fmax, or give a relaxed structure and --relax none"
            )
        record = {"cell": result.cell, "positions": result.positions}
        archive.save(name, record)
    start.set_cell(record["cell"])
    start.positions = record["positions"]
    return start


def displaced(unitcell: ase.Atoms, supercell: np.ndarray, settings: LatticeSettings) -> Phonopy:
    """Phonopy with its symmetry-reduced displacements, without forces yet."""
    cell = to_phonopy(unitcell)
    # phonopy's symmetry sees elements: atoms that it takes as equal would all get the mass of one isotope.
    symmetric = masses_keep_symmetry(unitcell, settings.symprec)
    primitive = get_primitive_matrix_with_auto(cell, "auto" if symmetric else "P", symprec=settings.symprec)
    phonon = SupercellPhonopy(
        cell,
        supercell_matrix=supercell,
        primitive_matrix=primitive,
        is_symmetry=symmetric,
        symprec=settings.symprec,
        log_level=0,
    )
    if settings.born is not None:
        phonon.nac_params = _born(phonon, settings.born, settings.symprec)
    phonon.generate_displacements(distance=settings.displacement)
    return phonon


def masses_keep_symmetry(atoms: ase.Atoms, symprec: float) -> bool:
    """Whether atoms that the space group (of the elements) makes equivalent have equal masses."""
    masses = atoms.get_masses()
    if all(np.ptp(masses[atoms.numbers == number]) == 0 for number in np.unique(atoms.numbers)):
        return True
    return np.allclose(masses, masses[symmetry_of(atoms, symprec).equivalent_atoms], rtol=1e-6, atol=0)


def supercells(phonon: Phonopy) -> list[PhonopyAtoms]:
    """The supercells with displaced atoms of a phonopy object that ``displaced`` made."""
    assert phonon.supercells_with_displacements is not None
    return phonon.supercells_with_displacements


def _born(phonon: Phonopy, file: Path, symprec: float) -> NacParams:
    try:
        return parse_BORN(phonon.primitive, symprec=symprec, filename=file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a BORN file") from error
    except (BORNFileParseError, ValueError, IndexError, RuntimeError, UnicodeDecodeError) as error:
        atoms = " ".join(phonon.primitive.symbols)
        raise ConfigError(
            f"{file}: not a BORN file for the primitive cell {atoms} ({error}); phonopy expects a "
            "line of units, nine numbers of the dielectric tensor, nine per independent atom"
        ) from error


def set_force_constants(
    phonons: Sequence[Phonopy],
    calculator: Calculator,
    settings: LatticeSettings,
    progress: Progress,
    archive: Archive,
) -> None:
    """Evaluate the displaced supercells of all ``phonons`` together and make their force constants.

    The space group enters where phonopy completes the force constants from the reduced displacements;
    translation and permutation symmetry are imposed after that, so that acoustic modes at Γ are zero.
    """
    cells = [from_phonopy(c) for phonon in phonons for c in supercells(phonon)]

    def finished(done: int, total: int) -> None:
        progress(done, total, {"displacements": done}, cells[done - 1])

    try:
        results = evaluate(calculator, cells, ("forces",), archive=archive, finished=finished)
    except NumericsError as error:
        raise NumericsError(str(error).replace("structure", "structure: displacement", 1)) from error
    forces = iter([result["forces"] for result in results])
    for phonon in phonons:
        phonon.forces = np.array([next(forces) for _ in supercells(phonon)])
        # Those of the primitive cell's atoms first: the others follow by translations, far faster.
        phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
        assert phonon.force_constants is not None  # just produced
        phonon.force_constants = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
        if settings.symmetrize:
            phonon.symmetrize_force_constants(level=2, show_drift=False)


def at_volumes(
    start: ase.Atoms,
    ratios: Sequence[float] | np.ndarray,
    calculator: Calculator,
    settings: LatticeSettings,
    progress: Progress,
    archive: Archive,
) -> list[ase.Atoms]:
    """Evenly scaled copies, ``ratios`` times the volume; positions relaxed unless ``relax`` is ``"none"``."""
    fixed = settings.model_copy(update={"relax": "none" if settings.relax == "none" else "positions"})
    cells = []
    for ratio in ratios:
        scaled = start.copy()
        scaled.set_cell(start.cell.array * ratio ** (1 / 3), scale_atoms=True)
        cells.append(at_rest(scaled, calculator, fixed, progress, archive))
    return cells


@dataclass(frozen=True)
class Thermal:
    """Per primitive cell, at each temperature: ``free_energy`` eV, ``entropy`` and ``heat_capacity`` eV/K."""

    free_energy: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray


def thermal(phonon: Phonopy, temperatures: np.ndarray) -> Thermal:
    """Helmholtz energy, entropy and heat capacity at constant volume from the mesh that was run last.

    The translations at Γ are left out: their frequencies are zero but for rounding, and would add a term
    that depends on it. Imaginary modes are left out too, which makes the numbers of an unstable crystal
    incomplete.
    """
    heat = phonon.run_thermal_properties(temperatures=temperatures, exclude_gamma_acoustic=True)
    assert heat.free_energy is not None and heat.entropy is not None and heat.heat_capacity is not None
    kilojoule = 1 / get_physical_units().EvTokJmol  # per mole, in eV
    entropy, heat_capacity = (x * kilojoule / 1000 for x in (heat.entropy, heat.heat_capacity))
    return Thermal(heat.free_energy * kilojoule, entropy, heat_capacity)


LARGEST_PERIOD = 6  # primitive cells along an axis of a modulated structure


@dataclass(frozen=True)
class Mode:
    """A phonon mode: THz (negative if imaginary), fractional q-point (3,), band from 0 by frequency.

    It is ``exact`` if the wave fits into the supercell, so that nothing was interpolated.
    """

    frequency: float
    qpoint: np.ndarray
    band: int
    exact: bool


def lowest_mode(phonon: Phonopy, qpoints: np.ndarray, tolerance: float) -> Mode:
    """The mode of lowest frequency, the three rigid translations at Γ left out.

    Waves that fit into the supercell come first: an imaginary one among them is taken before those at
    ``qpoints`` (Q, 3). A frequency below minus ``tolerance`` (THz) is imaginary.
    """
    repeats = np.rint(np.linalg.inv(phonon.primitive.primitive_matrix)).astype(int)
    mode = _lowest(phonon, get_commensurate_points(repeats), exact=True)
    if mode.frequency < -tolerance:
        return mode
    return min(mode, _lowest(phonon, qpoints, exact=False), key=lambda m: m.frequency)


def modulated(phonon: Phonopy, mode: Mode, size: float, tolerance: float) -> ase.Atoms | None:
    """The structure displaced by up to ``size`` (Å) along an imaginary mode, in a supercell that holds it.

    None if the nearest wave with periods up to ``LARGEST_PERIOD`` is not imaginary within ``tolerance``.
    """
    fractions = [Fraction(float(x)).limit_denominator(LARGEST_PERIOD) for x in mode.qpoint]
    q = np.array([float(f) for f in fractions])
    if phonon.run_qpoints(q[None]).frequencies[0][mode.band] >= -tolerance:
        return None
    repeats = [f.denominator for f in fractions]

    def modulation(amplitude: float):
        return phonon.run_modulations(repeats, [[q, mode.band, amplitude, 0.0]])

    largest = np.linalg.norm(modulation(1.0).modulations[0].real, axis=1).max()
    return from_phonopy(modulation(size / largest).modulated_supercell)


def _lowest(phonon: Phonopy, qpoints: np.ndarray, exact: bool) -> Mode:
    frequencies = phonon.run_qpoints(qpoints).frequencies.copy()  # (Q, B)
    for k in np.flatnonzero(np.abs(qpoints).max(axis=1) < 1e-9):
        translations = np.argsort(np.abs(frequencies[k]))[:3]
        frequencies[k, translations] = np.inf
    k, band = np.unravel_index(np.argmin(frequencies), frequencies.shape)
    return Mode(float(frequencies[k, band]), np.array(qpoints[k]), int(band), exact)
