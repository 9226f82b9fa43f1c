"""The figure of a run."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.figure
import numpy as np

GREY = {"color": "0.6", "linewidth": 0.8, "zorder": 0}

SET = {"color": "k", "linewidth": 1, "linestyle": ":"}


def draw(result, others: Mapping, label: str) -> matplotlib.figure.Figure:
    """Temperature, energies, radial distribution, displacements, autocorrelation and spectrum of a run.

    Pressure and volume come below if a barostat holds them. Others lie over the four panels after the traces
    as dashed lines, of all atoms; their traces stay in tables of their own.
    """
    rows = 3 if result.pressure_target is None else 4
    figure = matplotlib.figure.Figure(figsize=(7.2, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2)
    _trace(axes[0, 0], result, "temperature", "K", "tab:red", result.temperature_target)
    _energy(axes[0, 1], result)
    _distances(axes[1, 0], result)
    _displacements(axes[1, 1], result)
    _autocorrelation(axes[2, 0], result)
    _spectrum(axes[2, 1], result)
    if result.pressure_target is not None:
        _trace(axes[3, 0], result, "pressure", "GPa", "tab:cyan", result.pressure_target)
        _trace(axes[3, 1], result, "volume", "Å^3", "tab:brown", None)
    for k, (name, other) in enumerate(others.items()):
        _overlay(axes, other, {"color": f"C{k}", "linewidth": 1, "linestyle": "--", "label": name})
    if others:
        axes[1, 0].plot([], [], color="k", label=label)
        axes[1, 0].legend(frameon=False, fontsize=8)
    for letter, panel in zip("abcdefgh", axes.flat, strict=False):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=10)
        panel.tick_params(direction="in", top=True, right=True)
    return figure


def _overlay(axes, other, style: dict) -> None:
    if other.rdf:
        axes[1, 0].plot(other.rdf_distance, other.rdf["all"], **style)
    if other.msd:
        axes[1, 1].plot(other.msd_time, other.msd["all"], **style)
    if other.vacf is not None:
        axes[2, 0].plot(other.vacf_time, other.vacf, **style)
        axes[2, 1].plot(other.frequency, other.vdos, **style)


def _trace(panel, result, name: str, unit: str, color: str, target: tuple[float, float] | None) -> None:
    """A quantity over time, its mean, and what it was set to."""
    time, values = result.table.columns["time (ps)"], result.table.columns[f"{name} ({unit})"]
    panel.plot(time, values, color=color, linewidth=0.8)
    mean, error = getattr(result, name), getattr(result, f"{name}_error")
    unit = unit.replace("^3", "³")
    text = "" if mean is None else f"mean {_number(mean, error)} {unit}"
    if mean is not None:
        panel.axhline(mean, **GREY, linestyle="--")
    if target is not None:
        panel.plot([0, max(result.time, time[-1])], target, **SET)
        ends = f"{target[0]:g}" if target[0] == target[1] else f"{target[0]:g} to {target[1]:g}"
        text += f", set to {ends} {unit}"
    panel.axvspan(time[0], result.equilibration_time, color="0.92", zorder=-1)
    panel.set(xlabel="time (ps)", ylabel=f"{name} ({unit})")
    panel.margins(x=0)
    _note(panel, text)


def _energy(panel, result) -> None:
    columns, n = result.table.columns, len(result.symbols)
    time = columns["time (ps)"]
    curves = {"potential energy (eV)": "tab:blue", "total energy (eV)": "tab:orange", "conserved (eV)": "k"}
    if np.array_equal(columns["total energy (eV)"], columns["conserved (eV)"]):
        del curves["total energy (eV)"]
    for name, color in curves.items():
        energy = 1000 * (columns[name] - columns[name][0]) / n
        if np.isfinite(energy).all():
            panel.plot(time, energy, color=color, label=name.split()[0], linewidth=0.8)
    panel.set(xlabel="time (ps)", ylabel="energy − start (meV/atom)")
    panel.margins(x=0)
    style = {"frameon": False, "fontsize": 8, "ncol": 3, "handlelength": 1.2, "columnspacing": 1.0}
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, **style)


def _distances(panel, result) -> None:
    for name, g in (result.rdf or {}).items():
        style = {"color": "k"} if name == "all" else {"linewidth": 1}
        panel.plot(result.rdf_distance, g, label=name, **style)
    if not result.rdf:
        _absent(panel, "defined with three periodic axes only")
    elif len(result.rdf) > 1:
        panel.legend(frameon=False, fontsize=8)
    panel.axhline(1, **GREY, linestyle=":")
    panel.set(xlabel="distance (Å)", ylabel="radial distribution g(r)")
    panel.set(xlim=(0, result.rdf_distance[-1] if result.rdf else None), ylim=(0, None))


def _displacements(panel, result) -> None:
    if result.msd is None:
        _absent(panel, "too few frames")
    for name, msd in (result.msd or {}).items():
        if name == "all" and len(result.msd) == 2:
            continue
        style = {"color": "k"} if name == "all" or len(result.msd) == 2 else {"linewidth": 1}
        panel.plot(result.msd_time, msd, label=name, **style)
    if result.msd:
        panel.legend(frameon=False, fontsize=8)
        panel.set(xlim=(0, result.msd_time[-1]), ylim=(0, None))
    if result.diffusion:
        number = _number(result.diffusion["all"], result.diffusion_error["all"])
        _note(panel, f"D = {number} Å²/ps")
    panel.set(xlabel="lag (ps)", ylabel="mean sq. displacement (Å²)")


def _autocorrelation(panel, result) -> None:
    if result.vacf is None:
        _absent(panel, "too few frames")
    else:
        panel.plot(result.vacf_time, result.vacf, color="tab:green", linewidth=1)
        panel.set_xlim(0, min(result.vacf_time[-1], 1.0))
    panel.axhline(0, **GREY)
    panel.set(xlabel="lag (ps)", ylabel="velocity autocorrelation")


def _spectrum(panel, result) -> None:
    if result.vdos is None:
        _absent(panel, "too few frames")
    else:
        panel.fill_between(result.frequency, result.vdos, color="tab:purple", alpha=0.25, linewidth=0)
        panel.plot(result.frequency, result.vdos, color="tab:purple", linewidth=1)
        share = np.cumsum(result.vdos) / result.vdos.sum()
        panel.set_xlim(0, 1.15 * result.frequency[min(np.searchsorted(share, 0.995), len(share) - 1)])
        panel.set_ylim(0, None)
    panel.set(xlabel="frequency (THz)", ylabel="density of states (1/THz)")


def _note(panel, text: str) -> None:
    panel.set_title(text, loc="right", fontsize=8)


def _number(value: float, error: float | None) -> str:
    """A value to the digit its error allows."""
    if not error:
        return f"{value:.4g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _absent(panel, why: str) -> None:
    panel.text(0.5, 0.5, why, ha="center", va="center", transform=panel.transAxes, color="0.4", fontsize=9)
    panel.set(xticks=[], yticks=[])
