"""Neighbour graphs: directed edges between atoms and periodic images within a radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ase
import numpy as np
import torch
import vesin
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list as matscipy_neighbours

from ..atoms import Atoms, batch, unbatch
from ..errors import ConfigError, StructureError
from ..structures.checks import check_cell

COINCIDENT = 1e-3  # Å; two atoms nearer than this are one: no model means it, and powers of 1/r overflow


@dataclass(frozen=True)
class Graph:
    """Atoms with directed edges, sorted by ``dst``, so that sums over neighbours are CSR segment sums.

    Attributes:
        atoms: the structure or batch; N atoms.
        src: (E,) int64, neighbour j of each edge.
        dst: (E,) int64, centre i of each edge, ascending.
        shift: (E, 3) float64, Å: the lattice translation added to x_j.
        cutoff: Å; no bond up to this length is missing. Infinite where that is not known.
        n_local: energies of the first ``n_local`` atoms count, of a single structure; the others are there
            for these, as in a part of space that one of several processes has. None: all.
    """

    atoms: Atoms
    src: torch.Tensor
    dst: torch.Tensor
    shift: torch.Tensor
    cutoff: float = math.inf
    n_local: int | None = None

    def vectors(self) -> torch.Tensor:
        """Bond vectors r_ij = x_j + S·cell − x_i, (E, 3) float64, Å."""
        x = self.atoms.positions
        return x.index_select(0, self.src) - x.index_select(0, self.dst) + self.shift

    def degree(self) -> torch.Tensor:
        """Number of neighbours of each atom, (N,)."""
        return torch.bincount(self.dst, minlength=len(self.atoms))

    def shorter_than(self, cutoff: float) -> Graph:
        """Without the bonds that are not.

        Raises:
            StructureError: two atoms coincide.
        """
        square = self.vectors().square().sum(1)  # (E,)
        refuse_coincident(self, square)
        keep = (square < cutoff**2).nonzero().squeeze(1)
        src, dst, shift = (edge.index_select(0, keep) for edge in (self.src, self.dst, self.shift))
        return replace(self, src=src, dst=dst, shift=shift, cutoff=cutoff)

    def to(self, device: torch.device | str) -> Graph:
        moved = {name: getattr(self, name).to(device) for name in ("atoms", "src", "dst", "shift")}
        return replace(self, **moved)


def neighbor_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ordered pairs (i, j, S) with \\|x_j + S·cell − x_i\\| < cutoff, sorted by i.

    Args:
        positions: (N, 3), Å; atoms may lie outside the cell.
        cell: (3, 3), Å. Vectors along non-periodic axes may be anything, zero included.
        pbc: (3,) bool.
        cutoff: Å; may exceed the cell many times over.
        backend: ``"vesin"``, ``"matscipy"``, or ``"auto"`` for the faster: matscipy where some axes are
            periodic and some open (vesin slows down there with the open extent), vesin elsewhere.

    Returns:
        i (E,), j (E,) int64 and S (E, 3) int64, the lattice translation for the positions as given.

    Raises:
        StructureError: a periodic axis has no cell vector, or a number is not finite.
        ConfigError: unknown backend, or a cutoff that is no length.
    """
    pbc = np.asarray(pbc, dtype=bool)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise StructureError("structure: a coordinate or the cell is not finite; check the file")
    check_cell(np.asarray(cell), pbc)
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ConfigError(f"neighbor_list: cutoff {cutoff}; expected a positive length (Å)")
    if backend == "auto":
        backend = "matscipy" if pbc.any() and not pbc.all() else "vesin"
    if backend not in BACKENDS:
        raise ConfigError(
            f"neighbor_list: unknown backend {backend!r}; expected auto or one of {sorted(BACKENDS)}"
        )
    if not len(positions):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    # Wrapping inside the search keeps its cost independent of where the atoms are; the shifts are
    # translated back, so the caller's coordinates are never touched.
    box, wrapped, image = _wrap(np.asarray(positions, float), np.asarray(cell, float), pbc)
    wrapped, box = _narrow_gaps(wrapped, box, pbc, cutoff)
    i, j, shift = BACKENDS[backend](wrapped, box, pbc, cutoff)
    if image.any():
        shift = shift + image[i] - image[j]
    return i, j, shift


def complete_box(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell (3, 3) in Å with a unit normal for each axis that is not periodic."""
    box: np.ndarray = complete_cell(np.where(pbc[:, None], cell, 0.0))
    return box


def _wrap(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, ...]:
    """Box, see ``complete_box``, wrapped positions, and integer images (N, 3)."""
    box = complete_box(cell, pbc)
    image = np.floor(positions @ np.linalg.inv(box))
    image[:, ~pbc] = 0
    wrapped = positions - image @ box
    if not pbc.all() and len(positions):
        wrapped = wrapped - wrapped.min(axis=0)  # a cluster far from the origin costs nothing extra
    return box, wrapped, image.astype(np.int64)


def _narrow_gaps(
    positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and box with every empty layer wider than two cutoffs narrowed to that width.

    No bond crosses such a layer, so none changes. Searches need memory for the cells that they lay over
    empty space (and vesin ends the process where there are too many): an atom that has flown off, or a cell
    given in the wrong unit, must cost nothing.
    """
    inverse = np.linalg.inv(box)
    widest = 2 * cutoff * np.linalg.norm(inverse, axis=0)  # (3,) in fractions of the box
    fractions = positions @ inverse  # (N, 3)
    for k in range(3):
        order = np.argsort(fractions[:, k])
        place = fractions[order, k]
        steps = np.append(place, place[0] + 1) if pbc[k] else place
        excess = np.maximum(np.diff(steps) - widest[k], 0)  # the last is across the boundary if periodic
        if not excess.any():
            continue
        back = np.concatenate([[0.0], excess.cumsum()])  # (N,), and the whole box's if periodic
        moved = np.empty_like(positions)
        moved[order] = positions[order] - back[: len(order), None] * box[k]
        positions = moved
        if pbc[k]:
            box = np.where(np.arange(3)[:, None] == k, box * (1 - back[-1]), box)
    return positions, box


Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # i, j, S


def _vesin(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> Found:
    # One thread: callers that want more run more structures, and nobody's cores are taken unasked.
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    try:
        i, j, shift = search.compute(positions, box, pbc, quantities="ijS")
    except RuntimeError:
        del search._neighbors  # after a failed allocation its own clean-up ends the process: rather leak
        raise
    return i.view(np.int64), j.view(np.int64), shift.astype(np.int64)


def _matscipy(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> Found:
    span = np.ptp(positions, axis=0) + 2 * cutoff  # its cell must hold the atoms along open axes
    box = np.where(pbc[:, None], box, box * np.linalg.norm(span))
    i, j, shift = matscipy_neighbours("ijS", cutoff=cutoff, positions=positions, cell=box, pbc=pbc)
    order = np.argsort(i, kind="stable")
    return i[order].astype(np.int64), j[order].astype(np.int64), shift[order].astype(np.int64)


BACKENDS = {"vesin": _vesin, "matscipy": _matscipy}


def periodic_radius_graph(
    atoms: Atoms | ase.Atoms | Sequence[Atoms | ase.Atoms], r: float = 5.0, backend: str = "auto"
) -> Graph:
    """Build the graph of all pairs closer than ``r`` (Å), periodic images included, self-images too.

    Args:
        atoms: one structure, a batch, or a list of structures.
        r: cutoff radius, Å.
        backend: neighbour search, see ``neighbor_list``.

    Raises:
        StructureError: two atoms coincide, or a periodic axis has no cell vector.

    Example:
        >>> from ase.build import bulk
        >>> graph = periodic_radius_graph(bulk("Si", a=5.43), r=2.5)
        >>> graph.degree().tolist()  # diamond
        [4, 4]
        >>> round(float(graph.vectors().norm(dim=1).max()), 3)  # Å
        2.351
    """
    if isinstance(atoms, ase.Atoms):
        atoms = Atoms.from_ase(atoms)
    elif not isinstance(atoms, Atoms):
        atoms = batch(atoms)
    edges = [_edges(single, r, backend) for single in unbatch(atoms)]
    sizes = torch.tensor([0, *[len(single) for single in unbatch(atoms)][:-1]]).cumsum(0)
    graph = Graph(
        atoms,
        src=torch.cat([e[0] + offset for e, offset in zip(edges, sizes, strict=True)]),
        dst=torch.cat([e[1] + offset for e, offset in zip(edges, sizes, strict=True)]),
        shift=torch.cat([e[2] for e in edges]),
        cutoff=r,
    )
    check_distances(graph)
    return graph


def _edges(atoms: Atoms, r: float, backend: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cell = atoms.cell
    x, h = (tensor.detach().cpu().numpy() for tensor in (atoms.positions, cell))
    i, j, shift = neighbor_list(x, h, atoms.pbc.cpu().numpy(), r, backend)
    # Bonds follow the cell, for a model that takes ``Atoms`` and is differentiated for its stress.
    translation = torch.from_numpy(shift.astype(np.float64)).to(cell.device) @ cell  # (E, 3)
    return torch.from_numpy(j).to(cell.device), torch.from_numpy(i).to(cell.device), translation


def check_distances(graph: Graph) -> None:
    """Refuse coincident atoms: the energy has no derivative there.

    Raises:
        StructureError: naming both atoms.
    """
    refuse_coincident(graph, graph.vectors().square().sum(1))


def refuse_coincident(graph: Graph, square: torch.Tensor) -> None:
    """As ``check_distances``, for squared bond lengths (E,) in Å² that are there already."""
    if square.numel() and square.min() < COINCIDENT**2:
        edge = int(square.argmin())
        raise coincident(int(graph.dst[edge]), int(graph.src[edge]))


def coincident(i: int, j: int) -> StructureError:
    """The error that names two atoms at one place."""
    return StructureError(f"structure: atoms {i} and {j} coincide; move or remove one of them")


def batch_graphs(graphs: Sequence[Graph]) -> Graph:
    """Concatenate graphs of single structures into the graph of their batch."""
    counts = torch.tensor([0, *[len(g.atoms) for g in graphs][:-1]])
    offsets = counts.cumsum(0).tolist()
    return Graph(
        batch([g.atoms for g in graphs]),
        src=torch.cat([g.src + k for g, k in zip(graphs, offsets, strict=True)]),
        dst=torch.cat([g.dst + k for g, k in zip(graphs, offsets, strict=True)]),
        shift=torch.cat([g.shift for g in graphs]),
        cutoff=min(g.cutoff for g in graphs),
    )
