"""Nudged elastic band: path of least energy, and its barrier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep.neb import NEB, idpp_interpolate
from ase.utils.forcecurve import fit_images
from matplotlib.figure import Figure
from pydantic import Field

from ..errors import NumericsError, StructureError
from ..structures.cells import displacements, exchanged, nearest_order
from ..structures.constraints import kind_of, labels_by_atom, listed, moved_while_held
from ..units import Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Settings, silent
from .framework.results import Result, overlay
from .relaxation import EXPLODED, OPTIMIZERS, RelaxSettings, relax_each

TOPIC = "Defects, surfaces, paths"
PLACE = 3
EXAMPLES = ("nff neb initial.cif final.cif --images 7",)

SAME = 1e-2  # Å; ends nearer than this, over all atoms, are one minimum
COARSE = 5.0  # the band settles to this times fmax before its top image climbs


class NebSettings(Settings):
    """Options of a nudged elastic band."""

    images: int = Field(7, ge=1, description="images between the two ends")
    climb: bool = Field(True, description="drive the highest image up to the saddle")
    relax: bool = Field(True, description="relax both ends first")
    order: Literal["check", "match", "keep"] = Field(
        "check",
        description="check refuses final atoms that change places, match puts each nearest to an initial "
        "one, keep takes an exchange as meant",
    )
    interpolation: Literal["idpp", "linear"] = Field("idpp", description="how the first path is made")
    spring: Annotated[float, Unit("eV/Å^2")] = Field(0.1, gt=0, description="constant of the springs")
    fmax: Annotated[float, Unit("eV/Å")] = Field(0.02, gt=0, description="stop when no force exceeds this")
    steps: int = Field(500, ge=1, description="give up after this many steps of the band")
    optimizer: Literal["fire", "bfgs", "lbfgs"] = Field("fire", description="how to step downhill")


class NebResult(Result):
    """The path and its barrier; arrays hold one number per image, both ends included."""

    barrier: Annotated[float, Unit("eV")]
    reverse_barrier: Annotated[float, Unit("eV")]
    reaction_energy: Annotated[float, Unit("eV")]
    fmax: Annotated[float, Unit("eV/Å")]
    steps: int
    saddle_image: int
    distances: Annotated[Array, Unit("Å")]  # (M,) along the path
    energies: Annotated[Array, Unit("eV")]  # (M,) from the initial structure's
    curve_distances: Annotated[Array, Unit("Å")]  # cubic through energies and forces along the path
    curve_energies: Annotated[Array, Unit("eV")]
    saddle: ase.Atoms
    path: list[ase.Atoms]


class Band(NEB):
    """ASE's band, its images evaluated together."""

    def __init__(self, images: list[ase.Atoms], calculator: Calculator, spring: float):
        super().__init__(images, k=spring, method="improvedtangent")
        self.calculator = calculator

    def get_forces(self) -> np.ndarray:
        """Forces on the band; images that moved since the last call are evaluated first."""
        moved = [i for i in self.images[1:-1] if i.calc is None or i.calc.check_state(i)]
        results = evaluate(self.calculator, moved) if moved else []
        for image, values in zip(moved, results, strict=True):
            largest = np.linalg.norm(values["forces"], axis=1).max()
            if not largest <= EXPLODED:  # true of NaN as well
                raise NumericsError("structure: an image of the path has no sound forces; check both ends")
            image.calc = SinglePointCalculator(image, energy=values["energy"], forces=values["forces"])
        forces: np.ndarray = super().get_forces()
        return forces

    def has_top(self) -> bool:
        """Whether an image is higher than both ends: on a slope, one that climbs would leave the path."""
        assert self.energies is not None  # the forces were asked for
        return bool(self.energies[1:-1].max() > max(self.energies[0], self.energies[-1]))


@workflow
def neb(
    initial: ase.Atoms, final: ase.Atoms, calculator: Calculator, settings: NebSettings, progress: Progress
) -> NebResult:
    """Find the path of least energy between two minima.

    Improved tangents (Henkelman, Jónsson, J. Chem. Phys. 113, 9978 (2000)) and a climbing image (Henkelman,
    Uberuaga, Jónsson, J. Chem. Phys. 113, 9901 (2000)), from ASE; the first path is interpolated through pair
    distances (IDPP: Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)). The barrier is the energy of the
    climbing image, or of the curve's top without one. Images are evaluated together if the calculator can.

    Args:
        initial: (N atoms), near a minimum; its charges and magnetic moments are those of all images.
        final: the same atoms in the same order and cell, near another minimum, with the same constraints and
            masses; periodic images are taken as near to the initial atoms as can be.

    Raises:
        StructureError: the structures do not match, list their atoms in another order, or are the same.
        NumericsError: the forces of the first path are not sound.
    """
    _check_alike(initial, final)
    final = _in_order(initial, final, settings.order)
    _check_held(initial, final)
    _check_distinct(initial, final)
    ends, reason = _ends(initial, final, calculator, settings)
    images = [ends[0], *(ends[0].copy() for _ in range(settings.images)), ends[1]]
    first = NEB(images, method="improvedtangent")
    first.interpolate("linear", apply_constraint=False)
    if settings.interpolation == "idpp":
        idpp_interpolate(first, traj=None, log=None, mic=bool(initial.pbc.any()))
    fmax, steps, failure = _settle(Band(images, calculator, settings.spring), settings, progress)
    return _result(images, settings, fmax, steps, reason or failure)


def _check_alike(initial: ase.Atoms, final: ase.Atoms) -> None:
    if len(initial) != len(final):
        raise StructureError(
            f"structure: initial has {len(initial)} atoms, final has {len(final)}; expected the same atoms"
        )
    if initial.symbols.formula.count() != final.symbols.formula.count():
        k = int(np.flatnonzero(initial.numbers != final.numbers)[0])
        raise StructureError(
            f"structure: atom {k} is {initial.symbols[k]} in initial ({initial.get_chemical_formula()}) and "
            f"{final.symbols[k]} in final ({final.get_chemical_formula()}); expected the same atoms"
        )
    if (initial.pbc != final.pbc).any() or not np.allclose(initial.cell, final.cell, rtol=0, atol=1e-6):
        raise StructureError("structure: initial and final differ in cell or periodicity; make them equal")


def _in_order(initial: ase.Atoms, final: ase.Atoms, order: str) -> ase.Atoms:
    """The final structure, its atoms in the order of the initial one."""
    if order == "match":
        return final[nearest_order(initial, final)]
    other = np.flatnonzero(initial.numbers != final.numbers)
    if len(other):
        k = other[0]
        raise StructureError(
            f"structure: atom {k} is {initial.symbols[k]} in initial and {final.symbols[k]} in final; "
            "expected the same order, or use --order match"
        )
    groups = exchanged(initial, final) if order == "check" else []
    if groups:
        more = f", and so do {len(groups) - 1} other groups of atoms" if len(groups) > 1 else ""
        raise StructureError(
            f"structure: {listed(groups[0])} change places between initial and final{more}; "
            "expected the same order: use --order match to put the final atoms in order, "
            "or --order keep for an exchange"
        )
    return final


def _check_held(initial: ase.Atoms, final: ase.Atoms) -> None:
    """Refuse ends that are held in different ways: images between them would be a mixture."""
    labels = zip(labels_by_atom(initial), labels_by_atom(final), strict=True)
    atoms = [k for k, (first, last) in enumerate(labels) if first != last]
    if atoms:
        _refuse(f"constraints of {listed(atoms)}", "give both the same, or none")
    first, last = ([c.todict() for c in a.constraints if kind_of(c) == "other"] for a in (initial, final))
    if str(first) != str(last):
        _refuse("constraints", "give both the same")
    atoms = np.flatnonzero(initial.get_masses() != final.get_masses()).tolist()
    if atoms:
        _refuse(f"masses of {listed(atoms)}", "give both the same")
    atoms = moved_while_held(initial, initial.positions + displacements(initial, final), SAME)
    if atoms:
        _refuse(f"positions of fixed {listed(atoms)}", "give both the same there, or set these atoms free")


def _refuse(what: str, advice: str) -> NoReturn:
    raise StructureError(f"structure: {what} differ between initial and final; {advice}")


def _check_distinct(initial: ase.Atoms, final: ase.Atoms) -> None:
    if np.linalg.norm(displacements(initial, final)) < SAME:
        raise StructureError("structure: initial and final are the same; expected two minima")


def _ends(
    initial: ase.Atoms, final: ase.Atoms, calculator: Calculator, settings: NebSettings
) -> tuple[list[ase.Atoms], str]:
    """Both ends with their energies and forces, and why one did not relax."""
    # Cells equal within rounding become equal, and the path does not jump by a lattice vector at its end.
    final = final.copy()
    final.cell = initial.cell
    final.positions = initial.positions + displacements(initial, final)
    if not settings.relax:
        frames = [initial.copy(), final]
        for frame, values in zip(frames, evaluate(calculator, frames), strict=True):
            frame.calc = SinglePointCalculator(frame, energy=values["energy"], forces=values["forces"])
        return frames, ""
    options = RelaxSettings(fmax=settings.fmax, steps=settings.steps, optimizer=settings.optimizer)
    results, reason = relax_each([initial, final], ["initial", "final"], calculator, options, silent)
    _check_distinct(*(result.relaxed for result in results))
    return [result.relaxed for result in results], reason


def _settle(band: Band, settings: NebSettings, progress: Progress) -> tuple[float, int, str]:
    """Move the band to its path; returns the largest force, the steps, and why it stopped if it had to."""
    stages = [(False, COARSE * settings.fmax), (True, settings.fmax)]
    if not settings.climb:
        stages = [(False, settings.fmax)]
    done, fmax = 0, np.inf
    sound: list = []  # positions and results of each image at the last sound step
    try:
        for climb, target in stages:
            band.climb = climb and band.has_top()
            optimizer = OPTIMIZERS[settings.optimizer](band, logfile=None)
            for _ in optimizer.irun(fmax=target, steps=settings.steps - done):
                fmax = float(np.linalg.norm(band.get_forces(), axis=1).max())
                sound = [(image.positions.copy(), image.calc) for image in band.images]
                step, top = done + optimizer.nsteps, band.images[band.imax]
                progress(step, settings.steps, {"fmax (eV/Å)": fmax}, top)
            done += optimizer.nsteps
    except (NumericsError, StructureError) as error:
        if not sound:
            raise
        for image, (positions, calc) in zip(band.images, sound, strict=True):
            image.positions, image.calc = positions, calc
        return fmax, done, f"stopped at step {done}: {str(error).removeprefix('structure: ')}"
    if fmax > settings.fmax:
        return fmax, done, f"fmax is still above {settings.fmax:g} eV/Å after {done} steps; raise --steps"
    return fmax, done, ""


def _result(
    images: list[ase.Atoms], settings: NebSettings, fmax: float, steps: int, failure: str
) -> NebResult:
    fit = fit_images(images)
    energies = np.asarray(fit.energies)
    top = int(np.argmax(energies))
    inside = 0 < top < len(images) - 1
    barrier = float(energies[top] if settings.climb or not inside else fit.fit_energies.max())
    verdict = f"barrier {barrier:.4g} eV at image {top}"
    if not inside:
        verdict = "no barrier: an end is the highest point"
    return NebResult(
        converged=not failure,
        message=failure or verdict,
        barrier=barrier,
        reverse_barrier=barrier - float(energies[-1]),
        reaction_energy=float(energies[-1]),
        fmax=fmax,
        steps=steps,
        saddle_image=top,
        distances=np.asarray(fit.path),
        energies=energies,
        curve_distances=np.asarray(fit.fit_path),
        curve_energies=np.asarray(fit.fit_energies),
        saddle=images[top],
        path=images,
    )


def plot(result: NebResult, others: Mapping[str, NebResult] = {}, label: str = "") -> Figure:
    """Energy along the path: images, and the curve through their energies and forces."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, item, colour in overlay(result, others, label):
        axes.plot(item.curve_distances, item.curve_energies, color=colour, lw=1.2)
        text = f"{name}: {item.barrier:.3g} eV" if name else f"barrier {item.barrier:.3g} eV"
        axes.plot(item.distances, item.energies, "o", color=colour, label=text)
    axes.axhline(0, color="grey", lw=0.6)
    axes.set(xlabel="distance along the path (Å)", ylabel="E − E(initial) (eV)")
    axes.margins(y=0.12)
    axes.legend()
    return figure
