"""Vacancy formation energy, with the atoms clamped and relaxed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from matplotlib.figure import Figure
from pydantic import Field

from ..errors import StructureError
from ..structures.cells import heights
from ..units import Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Repeats, Settings, check_crystal, stress_note, symmetry_of
from .framework.results import Result, overlay
from .relaxation import RelaxSettings, relax_each

TOPIC = "Defects, surfaces, paths"
PLACE = 1
EXAMPLES = ("nff vacancy si.cif --supercell 3 3 3",)


class VacancySettings(Settings):
    """Options of a vacancy formation energy."""

    supercell: Repeats | None = Field(
        None, description="repeats along each axis; default: so many that --length is reached"
    )
    length: Annotated[float, Unit("Å")] = Field(
        10.0, gt=0, description="least distance of a vacancy from its periodic images"
    )
    site: int | None = Field(
        None, ge=0, description="index of the atom to remove; default: one of each symmetry-distinct kind"
    )
    chemical_potential: Annotated[float | None, Unit("eV")] = Field(
        None, description="energy of the removed atom; default: of an atom of the crystal, if of one element"
    )
    cell: bool = Field(
        False, description="relax the cell too: the vacancy at zero pressure, not fixed volume"
    )
    rattle: Annotated[float, Unit("Å")] = Field(
        0.02, ge=0, description="random displacements before relaxing, so that symmetry can break"
    )
    seed: int = Field(0, ge=0, description="seed of these displacements")
    fmax: Annotated[float, Unit("eV/Å")] = Field(
        0.005, gt=0, description="largest force left by a relaxation"
    )
    steps: int = Field(500, ge=1, description="give up a relaxation after this many steps")
    optimizer: Literal["fire", "bfgs", "lbfgs"] = Field("fire", description="how to step downhill")
    symprec: Annotated[float, Unit("Å")] = Field(1e-3, gt=0, description="tolerance of the symmetry")


class VacancyResult(Result):
    """Formation energies of each site; the scalars are those of the site that is lowest when relaxed."""

    formation_energy: Annotated[float, Unit("eV")]
    formation_energy_unrelaxed: Annotated[float, Unit("eV")]
    chemical_potential: Annotated[float, Unit("eV")]
    atoms_per_supercell: int
    sites: list[int]
    symbols: list[str]
    relaxed_energies: Annotated[Array, Unit("eV")]  # (n sites,) formation energies
    unrelaxed_energies: Annotated[Array, Unit("eV")]  # (n sites,)
    vacancy: ase.Atoms


@workflow
def vacancy(
    atoms: ase.Atoms, calculator: Calculator, settings: VacancySettings, progress: Progress
) -> VacancyResult:
    """Energy to take one atom out of a crystal: E(supercell without it) − E(supercell) + μ.

    μ is the energy per atom of the crystal itself where it holds one element; anything else is a choice of
    reference that only the user can make. Atoms start a little displaced, since the symmetric geometry can
    be a saddle (as in silicon). The result still depends on the size of the supercell.

    Args:
        atoms: (N atoms), periodic along three axes, relaxed: a residual stress enters the result.

    Raises:
        StructureError: not a crystal, no such site, or a compound without ``chemical_potential``, ``site``.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> result = vacancy(bulk("Cu", a=3.59, cubic=True), EMT(), VacancySettings(supercell=(2, 2, 2)))
        >>> 0.5 < result.formation_energy < 2  # eV
        True
    """
    check_crystal(atoms, "a vacancy formation energy")
    sites = _sites(atoms, settings)
    bulk = atoms.repeat(settings.supercell or repeats(atoms, settings.length))
    frames = [bulk[np.arange(len(bulk)) != site] for site in sites]  # the first of the repeats comes first
    perfect, *values = evaluate(calculator, [bulk, *frames])
    mu = settings.chemical_potential
    if mu is None:
        mu = perfect["energy"] / len(bulk)

    def formation(energies: Any) -> Any:
        return energies - perfect["energy"] + mu

    options = RelaxSettings(
        fmax=settings.fmax, steps=settings.steps, optimizer=settings.optimizer, cell=settings.cell
    )
    for frame in frames:
        frame.rattle(settings.rattle, seed=settings.seed)
    names = [f"site {site}" for site in sites]
    relaxed, reason = relax_each(
        frames, names, calculator, options, progress, lambda r: {"E_f (eV)": formation(r.energy)}
    )
    energies = formation(np.array([r.energy for r in relaxed]))
    clamped = formation(np.array([results["energy"] for results in values]))
    lowest = int(np.argmin(energies))
    return VacancyResult(
        converged=not reason,
        message=reason
        or "; ".join([f"{len(sites)} site(s), supercell of {len(bulk)} atoms", *stress_note(perfect)]),
        formation_energy=float(energies[lowest]),
        formation_energy_unrelaxed=float(clamped[lowest]),
        chemical_potential=float(mu),
        atoms_per_supercell=len(bulk),
        sites=sites,
        symbols=[atoms.symbols[site] for site in sites],
        relaxed_energies=energies,
        unrelaxed_energies=clamped,
        vacancy=relaxed[lowest].relaxed,
    )


def repeats(atoms: ase.Atoms, length: float) -> tuple[int, int, int]:
    """Fewest repeats along each axis that put the faces of the cell ``length`` Å apart."""
    a, b, c = np.ceil(length / heights(atoms.cell.array) - 1e-6).clip(1)
    return int(a), int(b), int(c)


def _sites(atoms: ase.Atoms, settings: VacancySettings) -> list[int]:
    """Indices of the atoms to remove, in turn."""
    elements = sorted(set(atoms.symbols))
    if len(elements) > 1 and settings.chemical_potential is None:
        raise StructureError(
            f"structure: holds {', '.join(elements)}, so the energy of the removed atom is a choice; "
            "give --chemical-potential and --site"
        )
    if settings.site is not None:
        if settings.site >= len(atoms):
            raise StructureError(
                f"structure: has no site {settings.site}; expected 0 to {len(atoms) - 1} for --site"
            )
        return [settings.site]
    if len(elements) > 1:
        raise StructureError(f"structure: holds {', '.join(elements)}; give --site, the atom to remove")
    return [int(k) for k in np.unique(symmetry_of(atoms, settings.symprec).equivalent_atoms)]


def plot(result: VacancyResult, others: Mapping[str, VacancyResult] = {}, label: str = "") -> Figure:
    """Formation energy of each site, before and after relaxation."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    curves = overlay(result, others, label)
    for k, (name, item, colour) in enumerate(curves):
        x = np.arange(len(item.sites)) + 0.5 * ((k + 0.5) / len(curves) - 0.5)
        axes.vlines(x, item.relaxed_energies, item.unrelaxed_energies, color=colour, lw=1)
        axes.plot(x, item.unrelaxed_energies, "o", color=colour, mfc="white")
        axes.plot(x, item.relaxed_energies, "o", color=colour, label=name)
    axes.plot([], [], "o", color="grey", mfc="white", label="clamped")
    axes.plot([], [], "o", color="grey", label="relaxed")
    names = [f"{symbol} {site}" for symbol, site in zip(result.symbols, result.sites, strict=True)]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set(xlabel="site", ylabel="vacancy formation energy (eV)")
    axes.margins(y=0.15)
    axes.legend()
    return figure
