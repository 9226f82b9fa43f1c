"""Figures that show how a training went: the learning curve and parity plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from ..train.evaluation import Predictions
from ..train.objective import Column, higher_is_better
from ..train.properties import MISSING_CLASS, PropertyPredictions
from ..units import GPA


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
    """Predicted against labelled energies, force components and stress components, coloured by group.

    What is not labelled at all has no panel.
    """
    groups = sorted(set(predictions.groups))
    errors = predictions.errors()
    per_atom = predictions.groups[predictions.owner]
    panels = [
        ("energy", "eV/atom", predictions.energy, predictions.groups, 1.0, 1e3, "meV/atom"),
        ("forces", "eV/Å", predictions.forces, per_atom, 1.0, 1e3, "meV/Å"),
        ("stress", "GPa", predictions.stress, predictions.groups, 1 / GPA, 1 / GPA, "GPa"),
    ]
    panels = [panel for panel in panels if np.isfinite(panel[2][..., 1]).any()] or panels[:1]
    figure = matplotlib.figure.Figure(figsize=(4 * len(panels), 4.2), layout="constrained")
    figure.suptitle(literal(title))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        name, unit, pairs, owners, factor, error_factor, error_unit = panel
        for k, group in enumerate(groups):
            chosen = pairs[owners == group].reshape(-1, 2) * factor
            axes.plot(chosen[:, 1], chosen[:, 0], ".", ms=3, alpha=0.6, color=f"C{k}", label=literal(group))
        finite = pairs[np.isfinite(pairs)] * factor
        if finite.size:
            ends = [finite.min(), finite.max()]
            axes.plot(ends, ends, color="0.3", lw=0.8, zorder=0)
        mae = errors[f"{name}_mae"] * error_factor
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))  # energies are long numbers
        axes.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted {name} ({unit})")
        axes.set_title(f"MAE {mae:.3g} {error_unit}", fontsize=10)
    figure.axes[0].legend(markerscale=3, fontsize=8)
    return figure


def property_parity(
    predictions: PropertyPredictions, classes: Mapping[str, Sequence[str]], title: str = ""
) -> matplotlib.figure.Figure:
    """Predicted against labelled values of each target; a class as its confusion matrix."""
    names = [*predictions.values, *predictions.scores]
    figure = matplotlib.figure.Figure(figsize=(4.2 * len(names), 4.2), layout="constrained")
    figure.suptitle(literal(title))
    errors = predictions.errors()
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        if name in predictions.scores:
            confusion(axes, predictions.scores[name].argmax(1), predictions.classes[name], classes[name])
            axes.set_title(f"{name}: {errors[f'{name}_accuracy']:.1%} right", fontsize=10)
            continue
        pairs = predictions.values[name].reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs[:, 1])]
        axes.plot(pairs[:, 1], pairs[:, 0], ".", ms=4, alpha=0.6)
        if len(pairs):
            ends = [pairs.min(), pairs.max()]
            axes.plot(ends, ends, color="0.3", lw=0.8, zorder=0)
        axes.set(xlabel=f"reference {name}", ylabel=f"predicted {name}")
        axes.set_title(f"MAE {errors[f'{name}_mae']:.3g}", fontsize=10)
    return figure


def confusion(axes, predicted: np.ndarray, labelled: np.ndarray, classes: Sequence[str]) -> None:
    """Draw how often each class was taken for which, (S,) each."""
    known = labelled != MISSING_CLASS
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labelled[known], predicted[known]), 1)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, count, ha="center", va="center", color="k" if 2 * count <= counts.max() else "w"
        )
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes)
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="reference")
