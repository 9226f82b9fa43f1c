"""A neighbour list kept while atoms move less than half a skin (Verlet, Phys. Rev. 159, 98 (1967))."""

from __future__ import annotations

import ase
import numpy as np
import torch

from ..atoms import Atoms
from .graph import Graph, check_distances, neighbor_list


class VerletList:
    """Graphs of one structure that changes step by step.

    Args:
        cutoff: Å.
        skin: Å added to the cutoff of the stored list; 0 rebuilds it for every call.
        device: where the graph's tensors live.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device | str = "cpu"):
        self.cutoff, self.skin, self.device = cutoff, skin, torch.device(device)
        self.builds = 0
        self._built: tuple[np.ndarray, ...] | None = None
        self._candidates: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of _build

    def graph(self, atoms: ase.Atoms) -> Graph:
        """All pairs closer than the cutoff; the stored candidates are searched again when they must be.

        Raises:
            StructureError: two atoms coincide, or a periodic axis has no cell vector.
        """
        if not self._reusable(atoms):
            self._build(atoms)
        current = Atoms.from_ase(atoms).to(self.device)
        candidates = Graph(current, *self._candidates)
        if self.skin == 0:
            check_distances(candidates)
            return candidates
        near = candidates.vectors().square().sum(1) < self.cutoff**2  # (E,)
        keep = near.nonzero().squeeze(1)
        src, dst, shift = (edge.index_select(0, keep) for edge in self._candidates)
        graph = Graph(current, src, dst, shift)
        check_distances(graph)
        return graph

    def forget(self) -> None:
        """Search anew for the next structure, whatever it is."""
        self._built = None

    def _reusable(self, atoms: ase.Atoms) -> bool:
        if self._built is None or self.skin == 0:
            return False
        positions, cell, pbc, numbers = self._built
        if len(numbers) != len(atoms) or not np.array_equal(numbers, atoms.numbers):
            return False
        if not np.array_equal(cell, atoms.cell.array) or not np.array_equal(pbc, atoms.pbc):
            return False
        moved = np.square(atoms.positions - positions).sum(axis=1).max(initial=0.0)
        return bool(moved < (self.skin / 2) ** 2)

    def _build(self, atoms: ase.Atoms) -> None:
        self._built = None  # stays so if the search fails
        reach = self.cutoff + self.skin
        i, j, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        translation = shift.astype(float) @ atoms.cell.array  # (E, 3)
        src, dst, shifts = (torch.from_numpy(x).to(self.device) for x in (j, i, translation))
        self._candidates = src, dst, shifts
        self._built = tuple(x.copy() for x in (atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers))
        self.builds += 1
