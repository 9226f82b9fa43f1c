"""A neighbour list kept while atoms move less than half a skin (Verlet, Phys. Rev. 159, 98 (1967)).

Let h₀ → h be the change of the cell since the search, F = h₀⁻¹h, and d_i = x_i − x⁰_i F what atom i moved
beside the cell. A bond r₀ of then is r = r₀F + d_j − d_i now, so ``|r| ≥ σ|r₀| − 2 max|d|`` with σ the
least singular value of F. A pair that was no candidate had ``|r₀| ≥ cutoff + skin``; it is out of reach still
while::

    2 max|d| < σ (cutoff + skin) − cutoff,

which is half the skin where the cell is as it was. Along open axes, where no image counts, h is completed by
unit normals: the bound holds for every F that maps the periodic vectors of then to those of now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import ase
import numpy as np
import torch

from ..atoms import Atoms
from ..structures.cells import complete_box
from ..structures.neighbours import neighbor_list
from .graph import Graph, check_distances


@dataclass
class _Search:
    """A structure and its candidate pairs at the time of a search."""

    positions: np.ndarray  # (N, 3) Å
    cell: np.ndarray  # (3, 3) Å
    pbc: np.ndarray  # (3,)
    numbers: np.ndarray  # (N,)
    src: torch.Tensor  # (E,)
    dst: torch.Tensor  # (E,)
    image: torch.Tensor  # (E, 3) int32, cells between the ends of a pair

    @cached_property
    def box(self) -> np.ndarray:
        """(3, 3) Å, the cell with unit normals along open axes."""
        return complete_box(self.cell, self.pbc)


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
        self._search: _Search | None = None

    def graph(self, atoms: ase.Atoms, reusable: bool | None = None) -> Graph:
        """All pairs closer than the cutoff, from the stored candidates while these are complete.

        ``reusable`` is what the method of that name has said of these atoms, if it has been called.
        """
        graph = self.candidates(atoms, reusable)
        if self.skin == 0:
            check_distances(graph)
            return graph
        return graph.shorter_than(self.cutoff)

    def candidates(self, atoms: ase.Atoms, reusable: bool | None = None) -> Graph:
        """As ``graph``, with pairs up to a skin beyond the cutoff; coincident atoms are not noticed.

        Raises:
            StructureError: a periodic axis has no cell vector.
        """
        search = self._search
        if search is None or not (self.reusable(atoms) if reusable is None else reusable):
            search = self._build(atoms)
        if not same_array(self._cell, atoms.cell.array):
            self._keep_cell(atoms.cell.array, search)
        positions = torch.from_numpy(atoms.positions.copy()).to(self.device)  # a copy: the caller moves on
        current = Atoms(positions, self._numbers, self._cell_tensor, self._pbc)
        return Graph(current, search.src, search.dst, self._translation, cutoff=self.cutoff)

    def forget(self) -> None:
        """Search anew for the next structure, whatever it is."""
        self._search = None

    def reusable(self, atoms: ase.Atoms) -> bool:
        """Whether the stored candidates hold all pairs closer than the cutoff."""
        search = self._search
        if search is None or self.skin == 0 or len(search.numbers) != len(atoms):
            return False
        if not (same_array(search.numbers, atoms.numbers) and same_array(search.pbc, atoms.pbc)):
            return False
        allowance, start = self.skin, search.positions
        if not same_array(search.cell, atoms.cell.array):
            deformation = _deformation(atoms, search)
            if deformation is None:
                return False
            least = np.linalg.svd(deformation, compute_uv=False)[-1]
            allowance, start = least * (self.cutoff + self.skin) - self.cutoff, start @ deformation
        moved = atoms.positions - start  # (N, 3)
        return bool(allowance > 0 and 4 * np.einsum("ij,ij->i", moved, moved).max(initial=0.0) < allowance**2)

    def _build(self, atoms: ase.Atoms) -> _Search:
        self._search = None  # stays so if the search fails
        positions, cell, pbc = atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy()
        i, j, shift = neighbor_list(positions, cell, pbc, self.cutoff + self.skin)
        src, dst, image = (
            torch.from_numpy(x).to(self.device) for x in (j, i, shift.astype(np.int32, copy=False))
        )
        numbers = atoms.numbers.copy()
        search = _Search(positions, cell, pbc, numbers, src, dst, image)
        self._search = search
        self._numbers = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        self._pbc = torch.tensor(pbc, device=self.device)
        self._keep_cell(cell, search)
        self.builds += 1
        return search

    def _keep_cell(self, cell: np.ndarray, search: _Search) -> None:
        """Tensors of the cell; new ones, since graphs made before hold the old."""
        self._cell = cell.copy()
        self._cell_tensor = torch.tensor(cell, device=self.device)
        self._translation = search.image.double() @ self._cell_tensor  # (E, 3)


def same_array(first: np.ndarray, second: np.ndarray) -> bool:
    """``np.array_equal`` of arrays of one shape, of which it compares the bytes first: that costs least."""
    return first.tobytes() == second.tobytes() or np.array_equal(first, second)


def _deformation(atoms: ase.Atoms, search: _Search) -> np.ndarray | None:
    """F, (3, 3), with the periodic vectors of the search times F those of now; None without one."""
    cell = atoms.cell.array
    if not np.isfinite(cell).all():
        return None
    box = complete_box(cell, search.pbc)
    if not np.array_equal(box[search.pbc], cell[search.pbc]):
        return None  # a periodic vector is missing, which the search refuses
    return np.linalg.solve(search.box, box)
