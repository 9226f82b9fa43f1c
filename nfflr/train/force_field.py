"""The force-field task: energies, forces and stresses, each with a weight and a scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..compiled.training_graph import TrainingGraph, compile_training
from ..data.dataset import AtomsDataset
from ..errors import ConfigError
from ..models.base import Potential
from ..nn.losses import KEYS, label_errors, scaled_loss, weighted_loss
from ..reports.columns import COLUMNS, Column
from .config import TrainingConfig
from .evaluation import Predictions, predict
from .objective import Labels

LABELS = {"energy": "total_energy", "forces": "forces", "stress": "stress"}


class ForceFieldObjective:
    """See the module's text; ``nfflr.train.objective.Objective`` says what each method does.

    Raises:
        ConfigError: settings of properties are given.
    """

    keys: tuple[str, ...] = KEYS
    columns: tuple[Column, ...] = COLUMNS

    def __init__(self, config: TrainingConfig):
        if isinstance(config.criterion, dict):
            raise ConfigError("criterion: a dict is for properties; give one criterion and energy_weight, …")
        if config.target_weights:
            raise ConfigError("target_weights: is for properties; set energy_weight, force_weight, …")
        self.config, self.criterion = config, config.criterion
        # The training step's forward pass, once it is known to be wanted.
        self._compiled: TrainingGraph | Potential | None = None
        self.scales = config.scales()
        self.with_stress = any(config.weights(progress)["stress"] for progress in (0.0, 1.0))

    def output(self, model: Potential, x) -> dict[str, torch.Tensor]:
        if self.config.compile and self._compiled is None:
            self._compiled = compile_training(model) or model
        return (self._compiled or model)(x, stress=self.with_stress)

    def counts(self, labels: Labels) -> torch.Tensor:
        return torch.stack([torch.isfinite(labels[LABELS[key]]).sum() for key in KEYS]).double()

    def terms(self, output: dict[str, torch.Tensor], labels: Labels) -> torch.Tensor:
        errors = label_errors(output, labels)
        nothing = labels["n_atoms"].new_zeros(0, dtype=torch.float64)
        terms = [scaled_loss(errors.get(key, nothing), self.scales[key], self.criterion) for key in KEYS]
        return torch.stack(terms)

    def weights(self, progress: float) -> torch.Tensor:
        return torch.tensor(list(self.config.weights(progress).values()), dtype=torch.float64)

    def predict(self, model: Potential, dataset: AtomsDataset, indices: Sequence[int]) -> Predictions:
        return predict(model, dataset, indices)

    def loss(self, pairs: Predictions) -> float:
        parts = {"energy": pairs.energy, "forces": pairs.forces, "stress": pairs.stress}
        known = {key: pair[np.isfinite(pair[..., 1])] for key, pair in parts.items()}
        errors = {key: torch.from_numpy(pair[:, 0] - pair[:, 1]) for key, pair in known.items()}
        return float(weighted_loss(errors, self.config.weights(1.0), self.scales, self.criterion))

    def join(self, parts: Sequence[Predictions]) -> Predictions:
        return Predictions.join(parts)
