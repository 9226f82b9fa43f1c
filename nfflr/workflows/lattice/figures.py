"""Panels of phonon figures; several results lie over one another, each in its colour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np
from ase.units import kB
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 1.2

R = TypeVar("R")


def curves(result: R, others: Mapping[str, R], label: str) -> list[tuple[str, R, str]]:
    """Name, result and colour: the subject in black, what it is compared with in colours."""
    return [(label, result, "0.15"), *((name, one, f"C{k}") for k, (name, one) in enumerate(others.items()))]


def phonon_figure(result, others: Mapping, label: str) -> Figure:
    """Bands, densities of states, and thermal properties of ``PhononsResult``s."""
    drawn = curves(result, others, label)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.3, 1])[0]
    bands, dos = left.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    for name, one, colour in reversed(drawn):  # the subject on top
        draw_path(bands, one, one.band_frequencies, result, color=colour, lw=WIDTH, label=name)
    bands.axhline(0, color="0.6", lw=0.8, zorder=0)
    bands.set_ylabel("frequency (THz)")
    lowest = min(one.band_frequencies.min() for _, one, _ in drawn)
    stable = all(one.stable for _, one, _ in drawn)
    bands.set_ylim(0 if stable else 1.1 * lowest, 1.04 * max(one.highest_frequency for _, one, _ in drawn))
    if others:
        bands.legend(fontsize="small", loc="best")
        for _, one, colour in drawn:
            dos.plot(one.dos / len(one.symbols), one.dos_frequencies, lw=WIDTH, color=colour)
    else:
        _draw_elements(dos, result)
    dos.axhline(0, color="0.6", lw=0.8, zorder=0)
    dos.set_xlim(left=0)
    dos.set_xlabel("states (1/THz/atom)")
    free, heat = right.subplots(2, 1, sharex=True)
    _draw_thermal(free, heat, drawn)
    return figure


def draw_path(axes: Axes, result, values: np.ndarray, frame=None, label: str = "", **style) -> None:
    """Lines of (Q, B) values along the band path, with the names of its points.

    Args:
        axes: where.
        result: has the ``band_`` fields.
        values: what is drawn.
        frame: another result whose axis is used, so that points of the same name meet although the cells
            differ in size; default: the result itself. One with other points is not drawn.
        label: for the legend.
    """
    frame = result if frame is None else frame
    if result.band_labels != frame.band_labels:
        axes.plot([], [], **style, label=f"{label} (along another path)")
        return
    edges = [*result.band_pieces, len(result.band_distances)]
    along = np.interp(result.band_distances, result.band_label_distances, frame.band_label_distances)
    for k, (start, end) in enumerate(pairwise(edges)):
        lines = axes.plot(along[start:end], values[start:end], **style)
        if k == 0 and label:
            lines[0].set_label(label)
    axes.set_xticks(frame.band_label_distances, [_typeset(point) for point in frame.band_labels])
    for place in frame.band_label_distances:
        axes.axvline(place, color="0.8", lw=0.8, zorder=0)
    axes.set_xlim(0, frame.band_distances[-1])
    axes.tick_params(axis="x", length=0)


def _typeset(label: str) -> str:
    """``X1`` with its number below the line."""
    return re.sub(r"([A-ZΓ])(\d+)", r"$\\mathrm{\1}_{\2}$", label)


def _draw_elements(axes: Axes, result) -> None:
    """The total as an area, the share of each element as a line."""
    atoms = len(result.symbols)
    axes.fill_betweenx(result.dos_frequencies, result.dos / atoms, color="0.85", label="total")
    axes.plot(result.dos / atoms, result.dos_frequencies, lw=0.8, color="0.4")
    if len(result.dos_elements) > 1:
        for element, dos in zip(result.dos_elements, result.projected_dos, strict=True):
            axes.plot(dos / atoms, result.dos_frequencies, lw=WIDTH, label=element)
        axes.legend(frameon=False, fontsize="small", loc="best")


def _draw_thermal(free: Axes, heat: Axes, drawn: list) -> None:
    for _, one, colour in reversed(drawn):
        atoms, t = len(one.symbols), one.temperatures
        free.plot(t, 1000 * one.free_energy / atoms, color=colour, lw=WIDTH)
        heat.plot(t, one.entropy / atoms / kB, color=colour, lw=WIDTH)
        heat.plot(t, one.heat_capacity / atoms / kB, "--", color=colour, lw=WIDTH)
    heat.plot([], [], color="0.15", label="S")
    heat.plot([], [], "--", color="0.15", label=r"$C_V$")
    heat.axhline(3, color="0.6", lw=0.8, ls=":", zorder=0)  # Dulong and Petit
    free.set_ylabel("F (meV/atom)")
    heat.set(xlabel="temperature (K)", ylabel=r"S, $C_V$ ($k_\mathrm{B}$/atom)")
    heat.set_xlim(drawn[0][1].temperatures[[0, -1]])
    heat.legend(frameon=False)
