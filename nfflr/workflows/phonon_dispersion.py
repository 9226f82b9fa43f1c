"""Phonons: bands, density of states, thermal properties, stability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import kB
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from phonopy import Phonopy
from pydantic import Field
from spglib import SpglibDataset

from ..errors import NumericsError
from ..storage.archives import Archive
from ..units import Unit
from .framework.contract import workflow
from .framework.interface import Array, Progress, Text, symmetry_of
from .framework.results import Result, overlay
from .framework.scores import Score, field_score
from .lattice.harmonic import (
    Mode,
    at_rest,
    displaced,
    lowest_mode,
    modulated,
    set_force_constants,
    supercells,
    thermal,
)
from .lattice.spectra import (
    SUBJECT,
    WIDTH,
    BandPath,
    band_path,
    density_of_states,
    draw_path,
    name_of,
    path_fields,
)
from .lattice.supercells import ThermalSettings, diagonal_supercell, shortest_image, supercell_matrix

TOPIC = "Vibrations and heat"
PLACE = 1
EXAMPLES = ("nff phonons si.cif --supercell 4 4 4 --relax cell",)

KM_PER_S = 0.1  # per THz Å
REACH = 4  # times the cutoff: twice the range of force constants, see _is_open
MOST_ATOMS = 3000  # in a supercell that nobody asked for
BANDS = ("band_qpoints", "band_frequencies")
SAME = 1e-4  # fractional; far below the distance of neighbours on any path


class PhononsSettings(ThermalSettings):
    """Options of a phonon calculation."""

    band_points: int = Field(51, ge=2, description="q-points on the longest piece of the band path")
    tolerance: Annotated[float, Unit("THz")] = Field(
        0.05, ge=0, description="imaginary frequencies beyond this make a crystal unstable"
    )
    modulation: Annotated[float, Unit("Å")] = Field(
        0.1, gt=0, description="largest displacement in the structure that follows an imaginary mode"
    )


class PhononsResult(Result):
    """Phonons; ``cell`` in a unit or name is the primitive cell, imaginary frequencies are negative.

    Shapes: Q points on the path, B bands, S pieces of the path, F frequencies, T temperatures, E elements.
    """

    stable: bool
    open: bool  # whether a larger supercell may change the verdict of an unstable crystal
    lowest_frequency: Annotated[float, Unit("THz")]
    lowest_qpoint: Array  # (3,) fractional
    highest_frequency: Annotated[float, Unit("THz")]
    zero_point_energy: Annotated[float, Unit("eV/cell")]
    displacements: int
    supercell_matrix: Array  # (3, 3)
    space_group: str
    cell: Annotated[Array, Unit("Å")]  # (3, 3)
    scaled_positions: Array  # (N, 3)
    symbols: list[str]
    band_labels: list[str]
    band_label_distances: Annotated[Array, Unit("1/Å")]
    band_pieces: Array  # (S,) where each piece starts
    band_qpoints: Array  # (Q, 3)
    band_distances: Annotated[Array, Unit("1/Å")]  # (Q,)
    band_frequencies: Annotated[Array, Unit("THz")]  # (Q, B)
    band_velocities: Annotated[Array, Unit("km/s")]  # (Q, B, 3)
    mesh: list[int]
    dos_frequencies: Annotated[Array, Unit("THz")]  # (F,)
    dos: Annotated[Array, Unit("1/(THz cell)")]  # (F,)
    dos_elements: list[str]
    projected_dos: Annotated[Array, Unit("1/(THz cell)")]  # (E, F)
    temperatures: Annotated[Array, Unit("K")]  # (T,)
    free_energy: Annotated[Array, Unit("eV/cell")]  # (T,)
    entropy: Annotated[Array, Unit("eV/(K cell)")]  # (T,)
    heat_capacity: Annotated[Array, Unit("eV/(K cell)")]  # (T,)
    phonopy: Annotated[str, Text(".yaml")]
    modulated: ase.Atoms | None


@workflow
def phonons(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: PhononsSettings,
    progress: Progress,
    archive: Archive = Archive(),
) -> PhononsResult:
    """Harmonic phonons by finite displacements (phonopy; Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)).

    ``atoms`` is left as it is. An unstable crystal is a result: ``stable`` and ``message`` say so, and
    ``modulated`` follows the imaginary mode. Where that mode is interpolated and the range of the potential
    is known, the verdict is checked in a supercell that holds all of its force constants, unless the
    supercell was given; where it cannot be checked it is ``open``.

    Args:
        atoms: periodic along three axes; constraints are ignored.
        calculator: any ASE calculator with forces, and stress if the cell is relaxed.
        archive: keeps the relaxed structure and finished displacements.

    Raises:
        StructureError: not periodic along three axes, or of a Bravais lattice that is not recognised.
        ConfigError: the BORN file does not fit.
        NumericsError: the relaxation did not converge, or forces are not finite.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> result = phonons(bulk("Cu", a=3.59), EMT(), PhononsSettings(supercell=(2, 2, 2)))
        >>> result.stable
        True
    """
    unitcell = at_rest(atoms, calculator, settings, progress, archive)

    def in_supercell(matrix: np.ndarray, before: str = "") -> PhononsResult:
        phonon = displaced(unitcell, matrix, settings)
        path = band_path(phonon, settings.band_points)
        set_force_constants([phonon], calculator, settings, progress, archive)
        return _result(phonon, path, settings, reach, before)

    reach = REACH * (getattr(calculator, "cutoff", None) or np.inf)  # of the forces, doubled: see below
    matrix = supercell_matrix(unitcell, settings)
    result = in_supercell(matrix)
    is_free = settings.supercell is None and settings.supercell_matrix is None
    if result.open and is_free and np.isfinite(reach):
        larger = diagonal_supercell(unitcell, reach, settings.symprec)
        if len(unitcell) * np.linalg.det(larger) <= MOST_ATOMS:
            return in_supercell(larger, f"{result.lowest_frequency:.3f} THz in the smaller supercell")
    return result


def _result(
    phonon: Phonopy, path: BandPath, settings: PhononsSettings, reach: float = np.inf, before: str = ""
) -> PhononsResult:
    """The result for these force constants; ``before`` says what a smaller supercell gave."""
    mesh = phonon.run_mesh(
        settings.mesh or settings.mesh_length, is_gamma_center=True, with_eigenvectors=True
    )
    heat = thermal(phonon, settings.temperatures())
    zero_point = thermal(phonon, np.zeros(1)).free_energy[0]
    bands = _bands(phonon, path)
    qpoints = np.concatenate([mesh.qpoints, bands["band_qpoints"]])
    mode = lowest_mode(phonon, qpoints, settings.tolerance)
    stable = mode.frequency >= -settings.tolerance
    follower = None if stable else modulated(phonon, mode, settings.modulation, settings.tolerance)
    space_group = phonon.symmetry.dataset
    return PhononsResult(
        converged=True,
        message=_message(phonon, mode, stable, path, reach, before),
        stable=stable,
        open=_is_open(phonon, mode, stable, reach),
        lowest_frequency=mode.frequency,
        lowest_qpoint=mode.qpoint,
        highest_frequency=max(mesh.frequencies.max(), bands["band_frequencies"].max()),
        zero_point_energy=zero_point,
        displacements=len(supercells(phonon)),
        supercell_matrix=phonon.supercell_matrix,
        # Unequal masses on equivalent sites leave no symmetry to phonopy.
        space_group=space_group.international if isinstance(space_group, SpglibDataset) else "P1",
        cell=phonon.primitive.cell,
        scaled_positions=phonon.primitive.scaled_positions,
        symbols=phonon.primitive.symbols,
        **bands,
        mesh=[int(n) for n in mesh.mesh_numbers],
        **density_of_states(phonon, mesh),
        temperatures=settings.temperatures(),
        free_energy=heat.free_energy,
        entropy=heat.entropy,
        heat_capacity=heat.heat_capacity,
        phonopy=str(phonon.to_phonopy_yaml()),
        modulated=follower,
    )


def _bands(phonon: Phonopy, path: BandPath) -> dict:
    bands = phonon.run_band_structure(path.qpoints, with_group_velocities=True)
    assert bands.group_velocities is not None  # asked for
    return {
        **path_fields(path, bands.distances),
        "band_frequencies": np.concatenate(bands.frequencies),
        "band_velocities": np.concatenate(bands.group_velocities) * KM_PER_S,
    }


def _is_open(phonon: Phonopy, mode: Mode, stable: bool, reach: float) -> bool:
    """Whether an imaginary mode may be an artefact of interpolation.

    Waves that fit into the supercell are exact. Between them force constants are interpolated, which is exact
    once images are as far apart as twice the range of force constants; of a potential whose atomic energies
    end at the cutoff that range is twice the cutoff, since two atoms can meet in the energy of a third.
    """
    return not stable and not mode.exact and shortest_image(phonon.supercell.cell) < reach - 1e-6


def _message(phonon: Phonopy, mode: Mode, stable: bool, path: BandPath, reach: float, before: str) -> str:
    name = name_of(mode.qpoint, phonon, path.points)
    place = f"q = ({', '.join(f'{x:.4g}' for x in mode.qpoint)}){f', {name}' if name else ''}"
    length = shortest_image(phonon.supercell.cell)
    checked = f"; checked in {len(phonon.supercell)} atoms, {length:.3g} Å ({before})" if before else ""
    if stable:
        return f"dynamically stable: no imaginary mode{checked}"
    left_out = f"{checked}; thermal properties leave imaginary modes out"
    if not _is_open(phonon, mode, stable, reach):
        return f"dynamically unstable: {mode.frequency:.3f} THz at {place}{left_out}"
    longer = reach if np.isfinite(reach) else 1.5 * length
    return (
        f"open: {mode.frequency:.3f} THz at {place} is interpolated, and images in the supercell are only "
        f"{length:.3g} Å apart; a larger one decides, try --supercell-length {np.ceil(longer):g}{left_out}"
    )


def _frequencies(result: PhononsResult, reference: PhononsResult, settings: PhononsSettings) -> np.ndarray:
    """Differences of frequencies (Q, B), THz, at the reference's q-points or equivalent ones."""
    theirs = np.sort(reference.band_frequencies, axis=1)
    rows = rows_of(reference.band_qpoints, result)
    ours = np.sort(result.band_frequencies[rows], axis=1)
    if ours.shape != theirs.shape:
        raise NumericsError(f"frequencies: {ours.shape[1]} bands, the reference has {theirs.shape[1]}")
    difference: np.ndarray = np.abs(ours - theirs)
    return difference


SCORES = {
    "frequency_mae": Score("THz", lambda *a: float(_frequencies(*a).mean()), BANDS),
    "frequency_max": Score("THz", lambda *a: float(_frequencies(*a).max()), BANDS),
    "zero_point_energy_error": field_score("zero_point_energy", "eV/cell"),
}


def plot(result: PhononsResult, others: Mapping[str, PhononsResult] = {}, label: str = "") -> Figure:
    """Bands and density of states side by side, thermal properties beside them; others in colour."""
    curves = overlay(result, others, label, SUBJECT)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.3, 1])[0]
    bands, dos = left.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    for name, item, colour in reversed(curves):  # the subject on top
        draw_path(bands, item, item.band_frequencies, result, color=colour, lw=WIDTH, label=name)
    bands.axhline(0, color="0.6", lw=0.8, zorder=0)
    bands.set_ylabel("frequency (THz)")
    items = [item for _, item, _ in curves]
    lowest = 0 if all(i.stable for i in items) else 1.1 * min(i.band_frequencies.min() for i in items)
    bands.set_ylim(lowest, 1.04 * max(item.highest_frequency for item in items))
    if others:
        bands.legend(fontsize="small", loc="best")
        for _, item, colour in curves:
            dos.plot(item.dos / len(item.symbols), item.dos_frequencies, lw=WIDTH, color=colour)
    else:
        _draw_elements(dos, result)
    dos.axhline(0, color="0.6", lw=0.8, zorder=0)
    dos.set_xlim(left=0)
    dos.set_xlabel("states (1/THz/atom)")
    free, heat = right.subplots(2, 1, sharex=True)
    _draw_thermal(free, heat, curves)
    return figure


def _draw_elements(axes: Axes, result: PhononsResult) -> None:
    """The total as an area, the share of each element as a line."""
    atoms = len(result.symbols)
    axes.fill_betweenx(result.dos_frequencies, result.dos / atoms, color="0.85", label="total")
    axes.plot(result.dos / atoms, result.dos_frequencies, lw=0.8, color="0.4")
    if len(result.dos_elements) > 1:
        for element, dos in zip(result.dos_elements, result.projected_dos, strict=True):
            axes.plot(dos / atoms, result.dos_frequencies, lw=WIDTH, label=element)
        axes.legend(frameon=False, fontsize="small", loc="best")


def _draw_thermal(free: Axes, heat: Axes, curves: list) -> None:
    for _, item, colour in reversed(curves):
        atoms, t = len(item.symbols), item.temperatures
        free.plot(t, 1000 * item.free_energy / atoms, color=colour, lw=WIDTH)
        heat.plot(t, item.entropy / atoms / kB, color=colour, lw=WIDTH)
        heat.plot(t, item.heat_capacity / atoms / kB, "--", color=colour, lw=WIDTH)
    heat.plot([], [], color=SUBJECT, label="S")
    heat.plot([], [], "--", color=SUBJECT, label=r"$C_V$")
    heat.axhline(3, color="0.6", lw=0.8, ls=":", zorder=0)  # Dulong and Petit
    free.set_ylabel("F (meV/atom)")
    heat.set(xlabel="temperature (K)", ylabel=r"S, $C_V$ ($k_\mathrm{B}$/atom)")
    heat.set_xlim(curves[0][1].temperatures[[0, -1]])
    heat.legend(frameon=False)


def rows_of(qpoints: np.ndarray, result: PhononsResult) -> np.ndarray:
    """Index of a point on the path for each q-point (n, 3) at which frequencies are the same by symmetry."""
    operations, path = _operations(result), result.band_qpoints
    rows = []
    for q in np.asarray(qpoints, dtype=float):
        candidates = (_row(path, points) for points in (q[None], operations @ q))
        row = next((row for row in candidates if row is not None), None)
        if row is None:
            place = ", ".join(f"{x:g}" for x in q)
            raise NumericsError(f"q-point ({place}): is not on the band path; give references on the path")
        rows.append(row)
    return np.array(rows, dtype=int)


def _operations(result: PhononsResult) -> np.ndarray:
    """(R, 3, 3) point group and inversion, acting on fractional reciprocal coordinates."""
    atoms = ase.Atoms(result.symbols, cell=result.cell, scaled_positions=result.scaled_positions, pbc=True)
    direct = np.unique(symmetry_of(atoms, 1e-3).rotations, axis=0)
    reciprocal = direct.transpose(0, 2, 1)  # the transposes are those of the inverses, which are in the group
    return np.concatenate([reciprocal, -reciprocal])


def _row(path: np.ndarray, candidates: np.ndarray) -> int | None:
    """The first point of the path (Q, 3) that is one of the candidates (n, 3)."""
    difference = path[:, None] - candidates  # (Q, n, 3)
    same = (np.abs(difference - np.rint(difference)) < SAME).all(axis=2).any(axis=1)
    return int(same.argmax()) if same.any() else None
