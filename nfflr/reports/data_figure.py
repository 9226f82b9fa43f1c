"""One figure of what is in a data set."""

from __future__ import annotations

from collections import Counter

import matplotlib.figure
import numpy as np

from ..data.quality.survey import Survey
from .curves import literal

MOST_GROUPS = 8  # colours and bars that can be told apart


def draw(survey: Survey, title: str = "") -> matplotlib.figure.Figure:
    """Structures per group or composition, energy residuals, forces, and nearest distances."""
    figure = matplotlib.figure.Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(literal(title))
    counts, residuals, forces, distances = figure.subplots(2, 2).flat
    _counts(counts, survey)
    _residuals(residuals, survey)
    _forces(forces, survey)
    _distances(distances, survey)
    return figure


def kinds(survey: Survey) -> tuple[str, np.ndarray]:
    """What tells structures apart, groups if there are several, else compositions; and it for each, (S,)."""
    if len(set(survey.groups)) > 1:
        return "group", np.array(survey.groups)
    return "composition", np.array(survey.compositions)


def _shown(names: np.ndarray) -> np.ndarray:
    """The names, the rarer of many joined as ``others``."""
    common = [name for name, _ in Counter(names.tolist()).most_common()]
    if len(common) <= MOST_GROUPS:
        return names
    return np.where(np.isin(names, common[: MOST_GROUPS - 1]), names, "others")


def _counts(axes, survey: Survey) -> None:
    what, names = kinds(survey)
    shown = Counter(_shown(names).tolist()).most_common()[::-1]
    labels = [literal(name) for name, _ in shown]
    bars = axes.barh(labels, [count for _, count in shown], color=[f"C{k}" for k in range(len(shown))][::-1])
    axes.set_ylim(-0.6, max(len(shown), 4) - 0.4)  # a single bar need not fill the panel
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.margins(x=0.15)
    low, high = survey.sizes.min(), survey.sizes.max()
    sizes = f"{low}" if low == high else f"{low} to {high}"
    axes.set(xlabel="structures", title=f"{len(survey)} structures of {sizes} atoms, by {what}")


def _residuals(axes, survey: Survey) -> None:
    _, names = kinds(survey)
    shown = _shown(names)
    finite = np.isfinite(survey.residuals)
    for k, (name, _) in enumerate(Counter(shown.tolist()).most_common()):
        own = finite & (shown == name)
        axes.plot(np.flatnonzero(own), 1e3 * survey.residuals[own], ".", ms=4, alpha=0.7, color=f"C{k}")
    axes.axhline(0, color="0.3", lw=0.8, zorder=0)
    sizes = np.abs(survey.residuals[finite])
    if len(sizes) and sizes.max() > 50 * np.median(sizes):
        axes.set_yscale("symlog", linthresh=10 * max(0.1, 1e3 * np.median(sizes)))
    axes.set(
        xlabel="place in the file", ylabel="meV/atom", title="Energy left by the fit of element energies"
    )
    _empty(axes, finite.any(), "no energies")


def _forces(axes, survey: Survey) -> None:
    norms = survey.force_norms[survey.force_norms > 1e-4]
    if len(norms):
        edges = np.geomspace(max(norms.min(), norms.max() * 1e-4), norms.max() * 1.001, 50)
        axes.hist(norms, edges, color="tab:blue")
        axes.axvline(np.median(norms), color="0.2", lw=1)
        axes.set_xscale("log")
    axes.set(xlabel="|F| (eV/Å)", ylabel="atoms", title="Forces" + _force_note(survey, norms))
    _empty(axes, len(norms) > 0, "no forces")


def _force_note(survey: Survey, norms: np.ndarray) -> str:
    if not len(norms):
        return ""
    zero = len(survey.force_norms) - len(norms)
    return f", median {np.median(norms):.2g} eV/Å (line)" + (f"; {zero} are zero" if zero else "")


def _distances(axes, survey: Survey) -> None:
    distances = {f"{a}–{b}": d[np.isfinite(d)] for (a, b), d in survey.pairs.items()}
    distances = {name: d for name, d in distances.items() if len(d)}
    order = sorted(distances, key=lambda name: distances[name].min())[:12][::-1]
    for k, name in enumerate(order):
        values, least = distances[name], distances[name].min()
        axes.plot(values, np.full(len(values), k), "|", ms=12, alpha=0.35, color="tab:blue")
        axes.plot(least, k, "o", ms=5, color="tab:red")
        place = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(f"{least:.2f}", (least, k), fontsize=8, **place)
    axes.set_yticks(range(len(order)), order)
    axes.margins(x=0.15, y=0.1)
    axes.set(xlabel="Å", title="Shortest distance in each structure, by pair")
    _empty(axes, bool(order), "no neighbours")


def _empty(axes, is_drawn: bool, text: str) -> None:
    if not is_drawn:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="0.4")
