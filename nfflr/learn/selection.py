"""Which structures to label next: those the committee disagrees on, far from each other and the known."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
import torch

from ..models.moment import MomentNetwork


def choose(
    disagreement: np.ndarray, points: np.ndarray, known: np.ndarray, count: int, share: float = 0.5
) -> list[int]:
    """Indices of candidates: of the ``share`` with the largest disagreement, the farthest apart.

    Args:
        disagreement: (C,) of the committee.
        points: (C, D) descriptors.
        known: (K, D) descriptors of what is labelled.
    """
    most = max(count, int(np.ceil(share * len(disagreement))))
    uncertain = np.argsort(-disagreement, kind="stable")[:most]
    return [int(uncertain[k]) for k in farthest_points(points[uncertain], known, count)]


def farthest_points(points: np.ndarray, known: np.ndarray, count: int) -> list[int]:
    """Greedy choice of ``count`` points (C, D), each the farthest from ``known`` (K, D) and those before.

    Gonzalez, Theor. Comput. Sci. 38, 293 (1985). Copies of what is known or chosen are never taken.
    """
    distance = np.full(len(points), np.inf)
    for point in known:
        distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
    chosen: list[int] = []
    while len(chosen) < count and len(points) and distance.max() > 0:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


@torch.no_grad()
def describe(model: MomentNetwork, frames: Sequence[ase.Atoms]) -> np.ndarray:
    """Mean and standard deviation over a structure's atoms of the network's invariants, (F, D) float64."""
    seen: list[torch.Tensor] = []
    handle = model.layers[0].hidden.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for atoms in frames:
            model(atoms, stress=False)
    finally:
        handle.remove()
    rows = [torch.cat([x.mean(0), x.std(0, correction=0)]) for x in seen]  # (2 F·C,) each
    return torch.stack(rows).double().cpu().numpy() if rows else np.zeros((0, 1))
