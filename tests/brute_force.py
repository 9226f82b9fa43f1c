"""Neighbours by trying every periodic image, and energies, forces and stress by autograd through them.

Nothing of the package's neighbour search, force or stress code is used: only a model's atomic energies.
"""

from __future__ import annotations

import ase
import numpy as np
import torch

from nfflr.atoms import Atoms
from nfflr.data.graph import Graph

MAX_IMAGES = 100_000


def brute_force(positions, cell, pbc, cutoff, max_images=MAX_IMAGES):
    """Rows (i, j, S) of all pairs and their vectors, or None where the search would be too long.

    Each pair is looked up among the images around its own nearest one. With P the periodic rows of the
    cell and P⁺ their pseudo-inverse, |((x_j + S·P − x_i) P⁺)_k| ≤ cutoff·|P⁺_k| bounds S along axis k.
    """
    lattice = cell[pbc]  # (p, 3)
    inverse = np.linalg.pinv(lattice) if pbc.any() else np.zeros((3, 0))
    reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0)).astype(int) + 1
    n_images = int(np.prod(2 * reach + 1))
    if n_images > max_images:
        return None
    offsets = np.indices(2 * reach + 1).reshape(len(reach), n_images).T - reach  # (images, p)
    rows, vectors = [], []
    for i, centre in enumerate(positions):
        apart = positions - centre  # (N, 3)
        nearest = np.rint(apart @ inverse).astype(int)  # (N, p)
        # A generous choice by |d + t|² = |d|² + 2 d·t + |t|², which rounds badly, then the exact one.
        base, steps = apart - nearest @ lattice, offsets @ lattice
        square = (base**2).sum(1)[:, None] + 2 * base @ steps.T + (steps**2).sum(1)  # (N, images)
        j, image = np.nonzero(square < cutoff**2 * (1 + 1e-6) + 1e-6 * (1 + square.max(initial=0) * 1e-6))
        images = offsets[image] - nearest[j]
        bonds = apart[j] + images @ lattice
        near = (bonds**2).sum(1) < cutoff**2
        near &= (j != i) | images.any(1)  # an atom is no neighbour of itself, only of its images
        shifts = np.zeros((near.sum(), 3), int)
        shifts[:, pbc] = images[near]
        rows.append(np.column_stack([np.full(len(shifts), i), j[near], shifts]))
        vectors.append(bonds[near])
    rows, vectors = np.concatenate(rows), np.concatenate(vectors)
    order = np.lexsort(rows.T[::-1])
    return rows[order], vectors[order]


def reference(model, atoms: ase.Atoms, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """``energies``, ``energy``, ``forces`` and ``stress`` (3, 3): derivatives of positions and strain.

    Args:
        model: a potential in float64.
        atoms: the structure.
        rows: (E, 5) pairs (i, j, S) of ``brute_force`` within the model's cutoff; sought if not given.
    """
    if rows is None:
        found = brute_force(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
        assert found is not None, "too many images for a brute force"
        rows = found[0]
    tensors = Atoms.from_ase(atoms)
    positions = tensors.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    dst, src = (torch.from_numpy(rows[:, k].copy()) for k in (0, 1))
    shift = torch.from_numpy(rows[:, 2:].astype(float)) @ tensors.cell  # (E, 3)
    bonds = positions[src] - positions[dst] + shift
    bonds = bonds @ (torch.eye(3, dtype=torch.float64) + (strain + strain.T) / 2)
    raw = model.energies(model.inputs(Graph(tensors, src, dst, shift, model.cutoff), bonds))  # (N,)
    energies = raw * model.scale + model.reference_energies[model.species(tensors.numbers)]
    slope, pull = torch.zeros_like(positions), torch.zeros_like(strain)
    if energies.requires_grad and len(rows):
        slope, pull = torch.autograd.grad(energies.sum(), [positions, strain], allow_unused=True)
    volume = abs(np.linalg.det(atoms.cell.array))
    return {
        "energies": energies.detach().numpy(),
        "energy": energies.detach().sum().item(),
        "forces": -slope.numpy(),
        "stress": pull.numpy() / volume if volume > 0 else np.zeros((3, 3)),
    }
