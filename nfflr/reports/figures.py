"""Figures: how a training went, predictions against labels, and what is in a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from ..data.quality.survey import Survey
from ..data.targets import MISSING_CLASS
from .evaluation import Comparison, Predictions, higher_is_better
from .run_record import Column

MOST_GROUPS = 8  # colours and bars that an eye can distinguish


def learning_curve(history: list[dict[str, float]], columns: Sequence[Column]) -> matplotlib.figure.Figure:
    """Loss and validation errors against epoch, of what is labelled."""
    panels = [("loss", [("train/loss", "training", 1.0), ("val/loss", "validation", 1.0)])]
    panels += [
        (c.label, [(f"val/{c.key}", "validation", c.factor)])
        for c in columns
        if c.panel and not all(math.isnan(row[f"val/{c.key}"]) for row in history)
    ]
    rows = math.ceil(len(panels) / 2)
    figure = matplotlib.figure.Figure(figsize=(9, 3 * rows), layout="constrained")
    epochs = [row["epoch"] for row in history]
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for axes, (label, curves) in zip(grid.flat, panels, strict=False):
        for key, name, factor in curves:
            style = {"color": "tab:orange" if name == "training" else "tab:blue", "marker": ".", "ms": 4}
            axes.plot(epochs, [row[key] * factor for row in history], label=name, **style)
        axes.set(ylabel=label)
        positive = all(row[key] > 0 for row in history for key, _, _ in curves)
        if positive and not higher_is_better(curves[0][0]):
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            digits = (2, 5) if high > 4 * low else range(2, 10)  # as many as have room
            axes.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=digits))
            for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                axis(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.grid(alpha=0.3, which="both")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid.flat[0].legend()
    for axes in grid.flat[: len(panels)][-2:]:  # the lowest of each column
        axes.set_xlabel("epoch")
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    return figure


def literal(text: str) -> str:
    """Text of users for a figure: a dollar sign would start a formula, a first underscore hide a legend."""
    shown = str(text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def parity(predictions: Predictions, title: str = "") -> matplotlib.figure.Figure:
    """Predicted against labelled values of each labelled quantity, by group; a class as confusion matrix."""
    comparisons = list(predictions.comparisons.values())
    comparisons = [c for c in comparisons if c.labelled.any()] or comparisons[:1]
    figure = matplotlib.figure.Figure(figsize=(4 * len(comparisons), 4.2), layout="constrained")
    figure.suptitle(literal(title))
    for axes, comparison in zip(
        figure.subplots(1, len(comparisons), squeeze=False).flat, comparisons, strict=True
    ):
        q, (error, *_) = comparison.quantity, comparison.errors().values()
        if q.classes is not None:
            confusion(axes, comparison.predicted.argmax(1), comparison.reference, q.classes)
            axes.set_title(f"{literal(q.name)}: {error:.1%} right", fontsize=10)
            continue
        scatter(axes, comparison, predictions.groups_of(q.name))
        unit, factor = q.error_display
        axes.set_title(f"MAE {error * factor:.3g} {unit}".rstrip(), fontsize=10)
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.axes[0].legend(markerscale=3, fontsize=8)
    return figure


def scatter(axes, comparison: Comparison, groups: np.ndarray) -> None:
    """Draw every component as a dot, in a colour for each group, and the line where both are equal."""
    unit, factor = comparison.quantity.value_display
    for k, group in enumerate(sorted(set(groups))):
        part = comparison.rows(groups == group)
        x, y = np.ravel(part.reference) * factor, np.ravel(part.predicted) * factor
        axes.plot(x, y, ".", ms=3, alpha=0.6, color=f"C{k}", label=literal(group))
    both = np.stack([comparison.predicted, comparison.reference])
    finite = both[np.isfinite(both)] * factor
    if finite.size:
        ends = [finite.min(), finite.max()]
        axes.plot(ends, ends, color="0.3", lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))  # energies are long numbers
    name = literal(comparison.quantity.key) + (f" ({unit})" if unit else "")
    axes.set(xlabel=f"reference {name}", ylabel=f"predicted {name}")


def confusion(axes, predicted: np.ndarray, labelled: np.ndarray, classes: Sequence[str]) -> None:
    """Draw how often each class was taken for which, (S,) each."""
    rows = labelled != MISSING_CLASS
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labelled[rows], predicted[rows]), 1)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, count, ha="center", va="center", color="k" if 2 * count <= counts.max() else "w"
        )
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes)
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="reference")


def data_figure(survey: Survey, title: str = "") -> matplotlib.figure.Figure:
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
    """What classifies the structures, groups if there are several, else compositions; its values (S,)."""
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
    title = "Forces"
    if len(norms):
        zero = len(survey.force_norms) - len(norms)
        title += f", median {np.median(norms):.2g} eV/Å (line)" + (f"; {zero} are zero" if zero else "")
    axes.set(xlabel="|F| (eV/Å)", ylabel="atoms", title=title)
    _empty(axes, len(norms) > 0, "no forces")


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
