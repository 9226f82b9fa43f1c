"""Predictions beside labels, and their errors per group of structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

from ..data.dataset import AtomsDataset
from ..models.base import Potential
from ..models.committee import Committee
from .batches import by_atoms

TOTAL_TWIN = "all (group)"


@dataclass(frozen=True)
class Predictions:
    """Predicted and labelled values of structures, NaN where one is missing.

    Attributes:
        energy: (S, 2) eV/atom; column 0 predicted, column 1 labelled, as in the other arrays.
        forces: (ΣN, 3, 2) eV/Å.
        stress: (S, 3, 3, 2) eV/Å³.
        owner: (ΣN,) index of each atom's structure.
        groups: (S,) group names.
        energy_std, forces_std: of an ensemble, (S,) eV/atom and (ΣN,) eV/Å; else None.
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    owner: np.ndarray
    groups: np.ndarray
    energy_std: np.ndarray | None = None
    forces_std: np.ndarray | None = None

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several sets of structures as one, without the spread of an ensemble."""
        first = np.cumsum([0, *(len(part.groups) for part in parts)])
        owner = [part.owner + start for part, start in zip(parts, first[:-1], strict=True)]
        fields = ("energy", "forces", "stress", "groups")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
        return cls(owner=np.concatenate(owner), **arrays)

    def errors(self, group: str | None = None) -> dict[str, float]:
        """MAE and RMSE of energy (eV/atom), forces (eV/Å) and stress (eV/Å³), pooled over components.

        Args:
            group: only structures of this group; default all.
        """
        chosen = np.ones(len(self.groups), bool) if group is None else self.groups == group
        parts = {"energy": self.energy[chosen], "forces": self.forces[chosen[self.owner]]}
        parts["stress"] = self.stress[chosen]
        table = {}
        for name, pair in parts.items():
            known = pair[np.isfinite(pair[..., 1])]  # a prediction that is not finite must show
            error = known[:, 0] - known[:, 1]
            table[f"{name}_mae"] = float(np.abs(error).mean()) if error.size else float("nan")
            table[f"{name}_rmse"] = float(np.sqrt(np.square(error).mean())) if error.size else float("nan")
        return table


def predict(model: Potential | Committee, dataset: AtomsDataset, indices: Sequence[int]) -> Predictions:
    """Evaluate structures of a data set; the model's train/eval mode is restored afterwards."""
    dataset = dataset.within(model.cutoff)
    was_training = model.training
    model.eval()
    energy, forces, stress, sizes = [], [], [], []
    spread: dict[str, list[torch.Tensor]] = {"energy_std": [], "forces_std": []}
    for graph, labels in by_atoms(dataset, indices):
        output = {name: value.detach().cpu().double() for name, value in model(graph).items()}
        for name in {"forces", "stress"} - output.keys():  # what a model does not predict, it gets not wrong
            output[name] = labels[name] = torch.full_like(labels[name], torch.nan)
        output["stress"] = output["stress"].view_as(labels["stress"])  # a DGL batch of one has no batch axis
        n = labels["n_atoms"]
        for name in spread.keys() & output.keys():
            spread[name].append(output[name] / n if name == "energy_std" else output[name])
        energy.append(torch.stack([output["total_energy"] / n, labels["total_energy"] / n], -1))
        forces.append(torch.stack([output["forces"], labels["forces"]], -1))
        stress.append(torch.stack([output["stress"], labels["stress"]], -1))
        sizes.append(n)
    model.train(was_training)
    return Predictions(
        energy=torch.cat(energy).numpy(),
        forces=torch.cat(forces).numpy(),
        stress=torch.cat(stress).numpy(),
        owner=np.repeat(np.arange(len(indices)), torch.cat(sizes).numpy()),
        groups=np.array([dataset.records[k].group for k in indices]),
        **{name: torch.cat(values).numpy() for name, values in spread.items() if values},
    )


def calibration(predictions: Predictions) -> dict[str, float]:
    """How an ensemble's errors compare with its spread; empty without one.

    ``energy_ratio`` and ``forces_ratio``: root mean square error over root mean square spread, one where the
    spread tells the size of errors, and above where it is too confident. ``…_correlation``: of the ranks
    (Spearman's) of errors and spreads, one where the spread tells which are the largest.
    """
    energy = np.abs(predictions.energy[:, 0] - predictions.energy[:, 1])  # (S,)
    forces = np.linalg.norm(predictions.forces[..., 0] - predictions.forces[..., 1], axis=1)  # (ΣN,)
    table = {}
    for name, errors in (("energy", energy), ("forces", forces)):
        spread = getattr(predictions, f"{name}_std")
        known = np.isfinite(errors)
        if spread is None or not known.any():
            continue
        errors, spread = errors[known], spread[known]
        size, varied = np.sqrt(np.square(spread).mean()), len(errors) > 2 and np.ptp(spread) * np.ptp(errors)
        table[f"{name}_ratio"] = float(np.sqrt(np.square(errors).mean()) / size) if size else float("nan")
        table[f"{name}_correlation"] = float(spearmanr(errors, spread)[0]) if varied else float("nan")
    return table


def error_table(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Errors per group and over all structures (``"all"``), with the number of structures and atoms.

    A group that is called ``all`` itself has the row ``TOTAL_TWIN``.
    """
    names = [None, *sorted(set(predictions.groups))]
    table = {}
    for name in names:
        chosen = np.ones(len(predictions.groups), bool) if name is None else predictions.groups == name
        row = "all" if name is None else TOTAL_TWIN if name == "all" else name
        table[row] = {
            "structures": int(chosen.sum()),
            "atoms": int(chosen[predictions.owner].sum()),
            **predictions.errors(name),
        }
    return table
