"""Loss on energies, forces and stresses, with missing labels masked."""

from __future__ import annotations

import torch
from torch import nn

KEYS = ("energy", "forces", "stress")


def label_errors(output: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Prediction minus label of everything that is both predicted and labelled, flattened.

    Returns:
        ``energy`` in eV/atom, ``forces`` in eV/Å, ``stress`` in eV/Å³ (nine components per structure).
    """
    errors = {"energy": (output["total_energy"] - labels["total_energy"]) / labels["n_atoms"]}
    errors |= {key: output[key] - labels[key] for key in ("forces", "stress") if key in output}
    known = {"energy": labels["total_energy"], "forces": labels["forces"], "stress": labels["stress"]}
    return {key: error[torch.isfinite(known[key])] for key, error in errors.items()}


def scaled_loss(error: torch.Tensor, scale: float, criterion: nn.Module) -> torch.Tensor:
    """criterion(error / scale, 0), () float64, of errors of any shape; zero without any."""
    if not error.numel():
        return error.new_zeros((), dtype=torch.float64)
    return criterion(error / scale, torch.zeros_like(error)).double()


def weighted_loss(
    errors: dict[str, torch.Tensor],
    weights: dict[str, float],
    scales: dict[str, float],
    criterion: nn.Module,
) -> torch.Tensor:
    """Σ_key weight · criterion(error / scale, 0); a key without labels adds nothing.

    Args:
        errors: as ``label_errors`` returns them.
        weights, scales: per key; scales carry the error's unit.
        criterion: a loss of (input, target) that averages, such as ``nn.HuberLoss()``.
    """
    terms = [
        weights[key] * scaled_loss(error, scales[key], criterion)
        for key, error in errors.items()
        if weights[key]
    ]
    return sum(terms[1:], terms[0]) if terms else torch.zeros(())
