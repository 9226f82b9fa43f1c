"""One page about a report: each score against its limit, and each task's own figure."""

from __future__ import annotations

import math

import matplotlib.figure
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from .suite import Outcome, Report

GOOD, BAD, PLAIN = "C0", "C3", "0.6"
COLUMNS = 2
FURTHEST = 3.0  # times the limit; what lies beyond is cut, its value is written beside it


def draw(report: Report, title: str) -> matplotlib.figure.Figure:
    """Bars of score over limit above, the figures of the tasks' results below."""
    shown = [outcome for outcome in report.outcomes if outcome.result is not None]
    pictures = [(o, picture) for o in shown if (picture := _picture(o)) is not None]
    bars = sum(len(outcome.scores) for outcome in report.outcomes)
    rows = math.ceil(len(pictures) / COLUMNS)
    heights = [0.9 + 0.3 * bars, *[3.6 * rows] * bool(rows)]
    figure = matplotlib.figure.Figure(figsize=(10, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(f"{title}: coverage {report.coverage:.0%}", fontsize="large")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _bars(parts[0].add_subplot(), report)
    grid = parts[-1].add_gridspec(max(rows, 1), COLUMNS)
    for k, (outcome, picture) in enumerate(pictures):
        axes = parts[-1].add_subplot(grid[k // COLUMNS, k % COLUMNS])
        axes.imshow(picture, interpolation="antialiased")
        axes.axis("off")
        verdict = outcome.message.partition(";")[0]  # what follows is in the table
        axes.set_title(f"{outcome.task.name}: {verdict}", fontsize="small", loc="left")
    return figure


def _bars(axes, report: Report) -> None:
    labels: list[str] = []
    for outcome in report.outcomes:
        for name, value in outcome.scores.items():
            y, limit, unit = len(labels), outcome.task.limits.get(name), outcome.units[name]
            labels.append(f"{outcome.task.name}  {name}")
            fraction = _fraction(value, limit)
            text = f"{value:.3g} {unit}".rstrip() if math.isfinite(value) else outcome.status
            text += "" if limit is None else f" (limit {limit:g})"
            colour = BAD if outcome.status != "scored" or name in outcome.exceeded else GOOD
            axes.barh(y, fraction, color=colour, height=0.65)
            paper = {"color": "white", "pad": 1, "alpha": 0.8}  # the line does not cross the text
            axes.text(fraction + 0.03, y, text, va="center", fontsize="small", bbox=paper)
    axes.axvline(1, color="black", lw=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    longest = max([1.0, *(bar.get_width() for bar in axes.patches)])
    axes.set(xlim=(0, 1.3 * longest + 0.5), ylim=(len(labels) - 0.4, -0.6), xlabel="score / limit")
    axes.spines[["top", "right"]].set_visible(False)


def _fraction(value: float, limit: float | None) -> float:
    """Length of a bar; none without a limit."""
    if limit is None:
        return 0.0
    if value <= 0:
        return 0.0
    return FURTHEST if limit == 0 else min(FURTHEST, value / limit)


def _picture(outcome: Outcome) -> np.ndarray | None:
    """(H, W, 4) of the workflow's figure, with the reference where all of it is there."""
    task = outcome.task
    if task.workflow.plot is None:
        return None
    others = {}
    needed = task.workflow.result.model_fields.keys()
    if task.workflow.overlays and task.reference is not None:
        others = {"reference": task.reference} if needed <= task.reference.model_fields_set else {}
    arguments = (outcome.result, others, "checkpoint") if others else (outcome.result,)
    canvas = FigureCanvasAgg(task.workflow.plot(*arguments))
    canvas.figure.set_dpi(150)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
