"""Surface energy of any Miller index, from slabs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import ase
import ase.build
import ase.units
import numpy as np
from ase.calculators.calculator import Calculator
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from ..errors import StructureError
from ..units import Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Settings, check_crystal, stress_note, symmetry_of
from .framework.results import Result, overlay
from .relaxation import RelaxSettings, relax_each

TOPIC = "Defects, surfaces, paths"
PLACE = 2
EXAMPLES = ("nff surface cu.cif --miller 1 1 1",)

J_PER_M2 = ase.units.J / ase.units.m**2  # eV/Å² per J/m²
LEAST_RANGE = 0.02  # of the value, to either side of the middle of the figure's axis
SAME_PLANE = 0.05  # Å; atoms closer along the normal are in one atomic plane


class SurfaceSettings(Settings):
    """Options of a surface energy."""

    miller: tuple[int, int, int] = Field(
        (1, 1, 1), description="indices of the plane, of the conventional cell"
    )
    thickness: Annotated[float, Unit("Å")] = Field(
        12.0, gt=0, description="least thickness of the thinnest slab"
    )
    slabs: int = Field(4, ge=3, description="number of thicknesses for the linear fit")
    step: Annotated[float, Unit("Å")] = Field(3.0, gt=0, description="least growth from slab to slab")
    vacuum: Annotated[float, Unit("Å")] = Field(15.0, gt=0, description="gap between a slab and its image")
    termination: int = Field(0, ge=0, description="where to cut: 0 is the widest gap between atomic planes")
    relax: bool = Field(True, description="also relax the atoms, on both sides of the slab")
    fmax: Annotated[float, Unit("eV/Å")] = Field(0.01, gt=0, description="largest force left by a relaxation")
    steps: int = Field(500, ge=1, description="give up a relaxation after this many steps")
    optimizer: Literal["fire", "bfgs", "lbfgs"] = Field("fire", description="how to step downhill")
    symprec: Annotated[float, Unit("Å")] = Field(1e-3, gt=0, description="tolerance of the symmetry")

    @field_validator("miller")
    @classmethod
    def _is_a_plane(cls, miller: tuple[int, int, int]) -> tuple[int, int, int]:
        if not any(miller):
            raise ValueError("0 0 0 is not a plane")
        return miller


class SurfaceResult(Result):
    """Surface energies, and the slabs they were fitted to; the relaxed ones are None with ``--no-relax``."""

    surface_energy: Annotated[float, Unit("J/m^2")]
    surface_energy_error: Annotated[float, Unit("J/m^2")]
    surface_energy_unrelaxed: Annotated[float, Unit("J/m^2")]
    surface_energy_per_area: Annotated[float, Unit("eV/Å^2")]
    bulk_energy: Annotated[float, Unit("eV")]  # per atom, of the crystal itself
    bulk_energy_fitted: Annotated[float, Unit("eV")]  # per atom, of the clamped slabs' inner layers
    area: Annotated[float, Unit("Å^2")]
    symmetric: bool
    terminations: int
    atoms_per_slab: list[int]
    thicknesses: Annotated[Array, Unit("Å")]  # (n,)
    unrelaxed: Annotated[Array, Unit("J/m^2")]  # (n,) of each slab, against the fitted bulk energy
    relaxed: Annotated[Array | None, Unit("J/m^2")]  # (n,)
    slab: ase.Atoms


@workflow
def surface(
    atoms: ase.Atoms, calculator: Calculator, settings: SurfaceSettings, progress: Progress
) -> SurfaceResult:
    """Surface energy γ from E(slab of N atoms) = 2 γ A + N e, fitted over N.

    The slope e, not a separate calculation, is the energy of the bulk, so that γ converges with thickness
    (Fiorentini, Methfessel, J. Phys. Condens. Matter 8, 6525 (1996)). Slabs are whole numbers of bulk
    cells, so of the bulk's composition, cut from the primitive cell with one lattice point per plane: no
    reconstruction that needs a larger cell can occur. γ is the mean of both sides, which are equal where
    ``symmetric`` is true.

    Args:
        atoms: (N atoms), periodic along three axes, relaxed; primitive or not, Miller indices are those of
            its conventional cell (spglib).

    Raises:
        StructureError: not a crystal, or there is no such termination.
    """
    check_crystal(atoms, "a surface energy")
    cell, slabs, cuts = _slabs(atoms, settings)
    bulk, *values = evaluate(calculator, [cell, *slabs])
    clamped = np.array([f["energy"] for f in values])
    final, thickest, reason = clamped, slabs[-1], ""
    if settings.relax:
        options = RelaxSettings(fmax=settings.fmax, steps=settings.steps, optimizer=settings.optimizer)
        names = [f"slab of {len(slab)} atoms" for slab in slabs]
        relaxed, reason = relax_each(slabs, names, calculator, options, progress)
        final, thickest = np.array([result.energy for result in relaxed]), relaxed[-1].relaxed

    counts = np.array([len(slab) for slab in slabs])
    area = float(np.linalg.norm(np.cross(*slabs[0].cell[:2])))
    bulk_energy = bulk["energy"] / len(cell)
    gamma, error, slope = _fit(counts, final, area)
    clamped_gamma, _, clamped_slope = _fit(counts, clamped, area)
    rotations = symmetry_of(slabs[0], settings.symprec).rotations
    symmetric = bool((rotations[:, 2, 2] == -1).any())  # one turns one side into the other
    sides = "both sides alike" if symmetric else "mean of two different sides"
    return SurfaceResult(
        converged=not reason,
        message=reason or "; ".join([sides, f"cut {settings.termination} of {cuts}", *stress_note(bulk)]),
        surface_energy=gamma / J_PER_M2,
        surface_energy_error=error / J_PER_M2,
        surface_energy_unrelaxed=clamped_gamma / J_PER_M2,
        surface_energy_per_area=gamma,
        bulk_energy=float(bulk_energy),
        bulk_energy_fitted=clamped_slope,
        area=area,
        symmetric=symmetric,
        terminations=cuts,
        atoms_per_slab=counts.tolist(),
        thicknesses=np.array([np.ptp(slab.positions[:, 2]) for slab in slabs]),
        unrelaxed=(clamped - counts * clamped_slope) / (2 * area) / J_PER_M2,
        relaxed=(final - counts * slope) / (2 * area) / J_PER_M2 if settings.relax else None,
        slab=thickest,
    )


def oriented(atoms: ase.Atoms, miller: tuple, symprec: float) -> tuple[ase.Atoms, np.ndarray, float]:
    """The primitive cell, the plane's indices in it, and the spacing (Å) of its lattice planes.

    ``miller`` is of the conventional cell. With rows as lattice vectors, indices change as the vectors do.
    """
    symmetry = symmetry_of(atoms, symprec)
    _, first = np.unique(symmetry.mapping_to_primitive, return_index=True)
    cell = ase.Atoms(atoms.numbers[first], atoms.positions[first], cell=symmetry.primitive_lattice, pbc=True)
    cell.wrap()
    conventional = np.linalg.inv(symmetry.transformation_matrix).T @ atoms.cell.array
    # Reciprocal vectors have the coordinates of the plane's normal, which no choice of cell changes.
    normal = np.linalg.inv(conventional) @ (np.array(miller) // np.gcd.reduce(miller))
    fractions = symmetry.primitive_lattice @ normal
    indices = np.rint(12 * fractions).astype(int)  # centring makes halves, thirds or whole numbers of them
    indices //= np.gcd.reduce(indices)
    return cell, indices, float(1 / np.linalg.norm(indices @ cell.cell.reciprocal()))


def _normal(cell: ase.Atoms, miller: np.ndarray) -> np.ndarray:
    normal: np.ndarray = miller @ cell.cell.reciprocal()
    normal /= np.linalg.norm(normal)
    return normal


def terminations(cell: ase.Atoms, miller: np.ndarray) -> np.ndarray:
    """Heights (Å) along the normal of the middles of the gaps between atomic planes, widest gap first."""
    spacing = 1 / np.linalg.norm(miller @ cell.cell.reciprocal())
    heights = np.sort((cell.positions @ _normal(cell, miller)) % spacing)
    gaps = np.diff(heights, append=heights[0] + spacing)
    wide = np.flatnonzero(gaps > SAME_PLANE) if len(gaps) > 1 else np.array([0])
    order = wide[np.argsort(-gaps[wide].round(3), kind="stable")]
    middles: np.ndarray = heights[order] + gaps[order] / 2
    return middles


def _slabs(atoms: ase.Atoms, settings: SurfaceSettings) -> tuple[ase.Atoms, list[ase.Atoms], int]:
    """The primitive cell, slabs with a gap to their images along z, and the number of terminations.

    Slabs are periodic along z too, for any calculator.
    """
    cell, miller, spacing = oriented(atoms, settings.miller, settings.symprec)
    cuts = terminations(cell, miller)
    if settings.termination >= len(cuts):
        raise StructureError(
            f"structure: plane {settings.miller} can be cut in {len(cuts)} place(s); "
            f"expected --termination below that, got {settings.termination}"
        )
    cell.positions -= cuts[settings.termination] * _normal(cell, miller)
    thinnest, growth = (int(np.ceil(x / spacing - 1e-6)) for x in (settings.thickness, settings.step))
    slabs = []
    for k in range(settings.slabs):
        slab = ase.build.surface(cell, miller, thinnest + k * max(1, growth))
        slab.center(vacuum=settings.vacuum / 2, axis=2)
        slab.pbc = True
        slabs.append(slab)
    return cell, slabs, len(cuts)


def _fit(counts: np.ndarray, energies: np.ndarray, area: float) -> tuple[float, float, float]:
    """γ and its standard error in eV/Å², and the bulk energy per atom in eV."""
    mean = energies.mean() / counts.mean()  # taken off, lest a large energy swamp a small difference
    design = np.stack([np.full(len(counts), 2 * area), counts], axis=1)
    values, residual, *_ = np.linalg.lstsq(design, energies - mean * counts, rcond=None)
    variance = float(residual.sum()) / (len(counts) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(values[0]), float(np.sqrt(variance)), float(values[1] + mean)


def plot(result: SurfaceResult, others: Mapping[str, SurfaceResult] = {}, label: str = "") -> Figure:
    """Surface energy of each slab, and the fitted ones as lines."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, item, colour in overlay(result, others, label):
        axes.plot(item.thicknesses, item.unrelaxed, "o", color=colour, mfc="white")
        axes.axhline(item.surface_energy_unrelaxed, color=colour, lw=1, ls="--")
        if item.relaxed is not None:
            axes.plot(item.thicknesses, item.relaxed, "o", color=colour)
            axes.axhline(item.surface_energy, color=colour, lw=1)
        if name:
            axes.plot([], [], "o", color=colour, label=name)
    axes.plot([], [], "o--", color="grey", mfc="white", label="clamped (line: fit over slabs)")
    if result.relaxed is not None:
        axes.plot([], [], "o-", color="grey", label="relaxed")
    axes.set(xlabel="slab thickness (Å)", ylabel="surface energy (J/m$^2$)")
    axes.margins(y=0.3)
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, LEAST_RANGE * abs(low + high) / 2)
    axes.set_ylim(middle - half, middle + half)  # a smaller spread between slabs is convergence, not news
    axes.legend()
    axes.ticklabel_format(axis="y", useOffset=False)
    return figure
