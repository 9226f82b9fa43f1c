"""The figure of a check: curves of all pairs, and the energy of the runs."""

from __future__ import annotations

import matplotlib.figure
import numpy as np

from .check_suite import CheckReport


def plot(report: CheckReport, title: str = "") -> matplotlib.figure.Figure:
    """Dimer curves, with the wall on a scale of its own, and total energies of the NVE runs."""
    figure = matplotlib.figure.Figure(figsize=(10.5, 3.8), layout="constrained")
    wall, well, drift = figure.subplots(1, 3)
    for k, dimer in enumerate(report.dimers):
        for panel in (wall, well):
            panel.plot(dimer.distance, dimer.energy, color=f"C{k % 10}", label=dimer.label, linewidth=1.2)
    _wall(wall, report)
    _well(well, report)
    _drift(drift, report)
    for label, panel in zip("abc", (wall, well, drift), strict=True):
        panel.set_title(label, loc="left", fontweight="bold", fontsize=10)
        panel.tick_params(direction="in", top=True, right=True)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _wall(panel, report: CheckReport) -> None:
    panel.set(xlabel="distance (Å)", ylabel="energy of two atoms (eV)")
    panel.set_yscale("symlog", linthresh=1.0)
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if report.dimers:
        panel.legend(fontsize=7, ncols=1 + len(report.dimers) // 12, frameon=False)


def _well(panel, report: CheckReport) -> None:
    """The same near zero, with each minimum marked."""
    depth = max([0.2, *(-float(np.nanmin(d.energy)) for d in report.dimers)])
    panel.set(xlabel="distance (Å)", ylabel="energy of two atoms (eV)", ylim=(-1.15 * depth, depth))
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for k, dimer in enumerate(report.dimers):
        for r, energy in dimer.minima():
            panel.plot(r, energy, "o", color=f"C{k % 10}", markersize=4)


def _drift(panel, report: CheckReport) -> None:
    panel.set(xlabel="time (ps)", ylabel="total energy (meV/atom)")
    for drift, style in zip(report.drifts, ("k-", "r--"), strict=False):  # equal curves stay visible
        panel.plot(drift.time, drift.energy, style, label=f"NVE, {drift.label}", linewidth=1)
    if report.drifts:
        panel.legend(fontsize=8, frameon=False)
