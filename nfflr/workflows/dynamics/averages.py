"""Averages of correlated series, with errors from blocks."""

from __future__ import annotations

import numpy as np
from scipy.stats import linregress

BLOCKS = 10


def mean_and_error(series: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float | None]:
    """Mean of a series (n,), and its standard error from the means of equal blocks.

    Blocks much longer than the correlation time are independent (H. Flyvbjerg and H. G. Petersen,
    J. Chem. Phys. 91, 461 (1989)). The error is None where a block would have fewer than two values.
    """
    if len(series) < 2 * blocks:
        return float(np.mean(series)), None
    means = [float(part.mean()) for part in np.array_split(series, blocks)]
    return float(np.mean(series)), float(np.std(means, ddof=1) / np.sqrt(blocks))


def slope_and_error(x: np.ndarray, y: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float] | None:
    """Slope of a straight line through the block means of y(x), with its standard error.

    None where a block would have fewer than two values.
    """
    if len(x) < 2 * blocks:
        return None
    centres = [[part.mean() for part in np.array_split(values, blocks)] for values in (x, y)]
    fit = linregress(*centres)
    return float(fit.slope), float(fit.stderr)
