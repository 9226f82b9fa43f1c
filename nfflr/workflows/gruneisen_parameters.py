"""Grüneisen parameters: how phonon frequencies follow the volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import kB
from matplotlib.figure import Figure
from phonopy import Phonopy
from phonopy.physical_units import get_physical_units
from pydantic import Field

from ..storage.archives import Archive
from ..units import Unit
from .framework.contract import workflow
from .framework.interface import Array, Progress
from .framework.results import Result, overlay
from .lattice.harmonic import at_rest, at_volumes, displaced, lowest_mode, set_force_constants
from .lattice.spectra import SUBJECT, WIDTH, BandPath, band_path, draw_path, mode_gruneisen, path_fields
from .lattice.supercells import ThermalSettings, supercell_matrix

TOPIC = "Vibrations and heat"
PLACE = 3
EXAMPLES = ("nff gruneisen si.cif --supercell 2 2 2",)


class GruneisenSettings(ThermalSettings):
    """Options of Grüneisen parameters."""

    strain: float = Field(0.01, gt=0, lt=0.5, description="relative change of volume, to either side")
    band_points: int = Field(51, ge=2, description="q-points on the longest piece of the band path")
    tolerance: Annotated[float, Unit("THz")] = Field(
        0.05, ge=0, description="modes below this frequency have no parameter"
    )


class GruneisenResult(Result):
    """γ = −d ln ν / d ln V; NaN (null in JSON) where a frequency is zero or imaginary.

    Shapes: Q points on the path, B bands, S pieces of the path, K irreducible points of the mesh,
    T temperatures.
    """

    stable: bool
    mean: float  # at the last temperature
    temperatures: Annotated[Array, Unit("K")]  # (T,)
    mean_gruneisen: Array  # (T,), weighted by the heat capacity of the modes
    cell: Annotated[Array, Unit("Å")]  # (3, 3)
    band_labels: list[str]
    band_label_distances: Annotated[Array, Unit("1/Å")]
    band_pieces: Array  # (S,)
    band_qpoints: Array  # (Q, 3)
    band_distances: Annotated[Array, Unit("1/Å")]  # (Q,)
    band_frequencies: Annotated[Array, Unit("THz")]  # (Q, B)
    band_gruneisen: Array  # (Q, B)
    mesh: list[int]
    mesh_weights: Array  # (K,)
    mesh_frequencies: Annotated[Array, Unit("THz")]  # (K, B)
    mesh_gruneisen: Array  # (K, B)


@workflow
def gruneisen(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: GruneisenSettings,
    progress: Progress,
    archive: Archive = Archive(),
) -> GruneisenResult:
    """Mode Grüneisen parameters by first-order perturbation between two volumes.

    The mean at a temperature weights each mode by its heat capacity, which makes it the parameter of
    γ = β B V / C_V. The cell is scaled evenly.

    Args:
        atoms: periodic along three axes.
        calculator: any ASE calculator with forces, and stress if the cell is relaxed.
        archive: keeps relaxed structures and finished displacements.

    Raises:
        StructureError: not periodic along three axes, or of a Bravais lattice that is not recognised.
        NumericsError: a relaxation did not converge, or forces are not finite.
    """
    start = at_rest(atoms, calculator, settings, progress, archive)
    ratios = [1.0, 1 + settings.strain, 1 - settings.strain]
    cells = at_volumes(start, ratios, calculator, settings, progress, archive)
    matrix = supercell_matrix(start, settings)
    phonons = [displaced(cell, matrix, settings) for cell in cells]
    path = band_path(phonons[0], settings.band_points)
    set_force_constants(phonons, calculator, settings, progress, archive)
    return _result(phonons, path, settings)


def _result(phonons: list[Phonopy], path: BandPath, settings: GruneisenSettings) -> GruneisenResult:
    mesh = phonons[0].run_mesh(settings.mesh or settings.mesh_length, is_gamma_center=True)
    frequencies, values = mode_gruneisen(phonons, mesh.qpoints)
    distances = phonons[0].run_band_structure(path.qpoints).distances
    pieces = [mode_gruneisen(phonons, piece, piece[0] - piece[-1]) for piece in path.qpoints]
    band_frequencies, band_values = map(np.concatenate, zip(*pieces, strict=True))
    mode = lowest_mode(phonons[0], mesh.qpoints, settings.tolerance)
    stable = mode.frequency >= -settings.tolerance
    values = np.where(frequencies > settings.tolerance, values, np.nan)
    temperatures = settings.temperatures()
    mean = _mean(temperatures, mesh.weights, frequencies, values)
    return GruneisenResult(
        converged=True,
        message="" if stable else f"dynamically unstable: {mode.frequency:.3f} THz; see nff phonons",
        stable=stable,
        mean=float(mean[-1]),
        temperatures=temperatures,
        mean_gruneisen=mean,
        cell=phonons[0].primitive.cell,
        **path_fields(path, distances),
        band_frequencies=band_frequencies,
        band_gruneisen=np.where(band_frequencies > settings.tolerance, band_values, np.nan),
        mesh=[int(n) for n in mesh.mesh_numbers],
        mesh_weights=mesh.weights,
        mesh_frequencies=frequencies,
        mesh_gruneisen=values,
    )


def _mean(
    temperatures: np.ndarray, weights: np.ndarray, frequencies: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Average over modes, weighted by their heat capacity; NaN at 0 K, where there is none."""
    valid = np.isfinite(values)
    quanta = frequencies[valid] * get_physical_units().THzToEv
    count = np.broadcast_to(weights[:, None], values.shape)[valid]
    mean = np.full(len(temperatures), np.nan)
    for k, t in enumerate(temperatures):
        x = quanta / (kB * max(t, 1e-9))
        heat = count * x**2 * np.exp(-x) / np.expm1(-x) ** 2  # in k_B
        if heat.sum() > 0:
            mean[k] = (heat * values[valid]).sum() / heat.sum()
    return mean


def plot(result: GruneisenResult, others: Mapping[str, GruneisenResult] = {}, label: str = "") -> Figure:
    """Parameters along the path, against frequency, and their mean against temperature; others in colour."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    along, modes, mean = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    dots = {"ls": "", "marker": ".", "ms": 3}
    for name, item, colour in reversed(overlay(result, others, label, SUBJECT)):
        draw_path(along, item, item.band_gruneisen, result, label=name, color=colour, **dots)
        modes.plot(item.mesh_frequencies.ravel(), item.mesh_gruneisen.ravel(), color=colour, **dots)
        mean.plot(item.temperatures, item.mean_gruneisen, color=colour, lw=WIDTH)
    along.set_ylabel("Grüneisen parameter")
    modes.set(xlabel="frequency (THz)", ylabel="Grüneisen parameter")
    modes.set_xlim(left=0)
    mean.set(xlabel="temperature (K)", ylabel="mean Grüneisen parameter")
    mean.set_xlim(result.temperatures[0], result.temperatures[-1])
    for axes in (along, modes):
        axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    if others:
        along.legend(fontsize="small")
    return figure
