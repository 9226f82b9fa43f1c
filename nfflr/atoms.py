"""``Atoms``: one structure, or a batch of structures, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ase
import torch

from .errors import StructureError


@dataclass(frozen=True)
class Atoms:
    """Structures as a struct of arrays; batching is concatenation.

    Attributes:
        positions: (N, 3) float64, Å. Never wrapped into the cell.
        numbers: (N,) int64 atomic numbers.
        cell: (3, 3) float64, Å, rows are lattice vectors; (B, 3, 3) in a batch.
        pbc: (3,) bool, one flag per lattice vector; (B, 3) in a batch.
        structure: None for a single structure; (N,) int64 index of each atom's structure in a batch.
    """

    positions: torch.Tensor
    numbers: torch.Tensor
    cell: torch.Tensor
    pbc: torch.Tensor
    structure: torch.Tensor | None = None

    @classmethod
    def from_ase(cls, atoms: ase.Atoms) -> Atoms:
        """Copy an ``ase.Atoms``; the original is left as it is."""
        return cls(
            positions=torch.tensor(atoms.positions, dtype=torch.float64),
            numbers=torch.tensor(atoms.numbers, dtype=torch.int64),
            cell=torch.tensor(atoms.cell.array, dtype=torch.float64),
            pbc=torch.tensor(atoms.pbc, dtype=torch.bool),
        )

    def to_ase(self) -> ase.Atoms | list[ase.Atoms]:
        """Return an ``ase.Atoms``, or a list of them for a batch."""
        if self.is_batch:
            return [single._single_to_ase() for single in unbatch(self)]
        return self._single_to_ase()

    def _single_to_ase(self) -> ase.Atoms:
        return ase.Atoms(
            numbers=self.numbers.cpu().numpy(),
            positions=self.positions.detach().cpu().numpy(),
            cell=self.cell.detach().cpu().numpy(),
            pbc=self.pbc.cpu().numpy(),
        )

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def is_batch(self) -> bool:
        return self.structure is not None

    @property
    def n_structures(self) -> int:
        return self.cell.shape[0] if self.is_batch else 1

    def structure_index(self) -> torch.Tensor:
        """Index of each atom's structure, (N,), zeros for a single structure."""
        if self.structure is not None:
            return self.structure
        return torch.zeros(len(self), dtype=torch.int64, device=self.positions.device)

    def counts(self) -> torch.Tensor:
        """Number of atoms of each structure, (B,)."""
        return torch.bincount(self.structure_index(), minlength=self.n_structures)

    def volumes(self) -> torch.Tensor:
        """Cell volumes, (B,), Å³; zero where a cell vector is missing."""
        return cell_volumes(self.cell.reshape(-1, 3, 3))

    def to(self, device: torch.device | str) -> Atoms:
        tensors: dict[str, Any] = {k: value for k, value in vars(self).items() if value is not None}
        return replace(self, **{k: value.to(device) for k, value in tensors.items()})


def cell_volumes(cells: torch.Tensor) -> torch.Tensor:
    """Volumes (…) in Å³ of cells (…, 3, 3); zero where a cell vector is missing."""
    # Far quicker than torch's determinant, and part of a traced graph.
    volumes: torch.Tensor = (
        (cells[..., 0, :] * torch.linalg.cross(cells[..., 1, :], cells[..., 2, :])).sum(-1).abs()
    )
    # Rounding leaves a flat cell some volume: what is tiny beside its edges is none.
    flat = volumes <= 1e-9 * cells.norm(dim=-1).prod(-1)
    return torch.where(flat, torch.zeros_like(volumes), volumes)


def batch(structures: Sequence[Atoms | ase.Atoms]) -> Atoms:
    """Concatenate single structures into one batch.

    Raises:
        StructureError: if there is nothing to concatenate, or an item is itself a batch.

    Example:
        >>> from ase.build import molecule
        >>> both = batch([Atoms.from_ase(molecule("H2O")), Atoms.from_ase(molecule("CO"))])
        >>> both.counts().tolist(), both.structure.tolist()
        ([3, 2], [0, 0, 0, 1, 1])
    """
    singles = [s if isinstance(s, Atoms) else Atoms.from_ase(s) for s in structures]
    if not singles:
        raise StructureError("batch: no structures; expected at least one")
    if any(s.is_batch for s in singles):
        raise StructureError("batch: an item is already a batch; unbatch it first")
    index = torch.arange(len(singles), device=singles[0].positions.device)
    counts = torch.tensor([len(s) for s in singles], device=index.device)
    return Atoms(
        positions=torch.cat([s.positions for s in singles]),
        numbers=torch.cat([s.numbers for s in singles]),
        cell=torch.stack([s.cell for s in singles]),
        pbc=torch.stack([s.pbc for s in singles]),
        structure=index.repeat_interleave(counts),
    )


def unbatch(atoms: Atoms) -> list[Atoms]:
    """Split a batch into its single structures; a single structure gives a list of one."""
    if not atoms.is_batch:
        return [atoms]
    sizes = atoms.counts().tolist()
    parts = zip(atoms.positions.split(sizes), atoms.numbers.split(sizes), atoms.cell, atoms.pbc, strict=True)
    return [Atoms(*part) for part in parts]
