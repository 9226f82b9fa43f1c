"""Panels of phonon figures."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from ase.units import kB
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = {"lw": 1.2, "color": "tab:blue"}


def phonon_figure(result) -> Figure:
    """Bands, densities of states, and thermal properties of a ``PhononsResult``."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1])
    bands, dos = left.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    draw_path(bands, result, result.band_frequencies, color="0.15")
    bands.axhline(0, color="0.6", lw=0.8, zorder=0)
    bands.set_ylabel("frequency (THz)")
    top = 1.04 * result.highest_frequency
    bands.set_ylim(0 if result.stable else min(0, 1.1 * result.band_frequencies.min()), top)
    _draw_dos(dos, result)
    free, heat = right.subplots(2, 1, sharex=True)
    _draw_thermal(free, heat, result)
    return figure


def draw_path(axes: Axes, result, values: np.ndarray, **style) -> None:
    """Lines of (Q, B) values along the band path, with the names of its points."""
    edges = [*result.band_pieces, len(result.band_distances)]
    for start, end in pairwise(edges):
        axes.plot(result.band_distances[start:end], values[start:end], **{**STYLE, **style})
    axes.set_xticks(result.band_label_distances, [_typeset(label) for label in result.band_labels])
    for place in result.band_label_distances:
        axes.axvline(place, color="0.8", lw=0.8, zorder=0)
    axes.set_xlim(0, result.band_distances[-1])
    axes.tick_params(axis="x", length=0)


def _typeset(label: str) -> str:
    """``X1`` with its number below the line."""
    return re.sub(r"([A-ZΓ])(\d+)", r"$\\mathrm{\1}_{\2}$", label)


def _draw_dos(axes: Axes, result) -> None:
    atoms = len(result.symbols)
    axes.fill_betweenx(result.dos_frequencies, result.dos / atoms, color="0.85", label="total")
    axes.plot(result.dos / atoms, result.dos_frequencies, lw=0.8, color="0.4")
    if len(result.dos_elements) > 1:
        for element, dos in zip(result.dos_elements, result.projected_dos, strict=True):
            axes.plot(dos / atoms, result.dos_frequencies, lw=1.2, label=element)
        axes.legend(frameon=False, fontsize="small", loc="best")
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("states (1/THz/atom)")


def _draw_thermal(free: Axes, heat: Axes, result) -> None:
    atoms = len(result.symbols)
    free.plot(result.temperatures, 1000 * result.free_energy / atoms, **STYLE)
    free.set_ylabel("F (meV/atom)")
    heat.plot(result.temperatures, result.entropy / atoms / kB, color="tab:orange", label="S")
    heat.plot(result.temperatures, result.heat_capacity / atoms / kB, color="tab:green", label=r"$C_V$")
    heat.axhline(3, color="0.6", lw=0.8, ls=":", zorder=0)  # Dulong and Petit
    heat.set(xlabel="temperature (K)", ylabel=r"S, $C_V$ ($k_\mathrm{B}$/atom)")
    heat.set_xlim(result.temperatures[0], result.temperatures[-1])
    heat.legend(frameon=False)
