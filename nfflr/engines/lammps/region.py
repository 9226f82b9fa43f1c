"""What one rank of LAMMPS sees of the system: its own atoms, and ghosts that are images of others.

The energies of a rank's own atoms are its share of the energy. Their gradient acts on ghosts as well: what
acts on an image of an own atom is that atom's, and what acts on another rank's atom is sent there. So ghosts
are needed as far as the energies of own atoms reach, and no energy is computed twice. On one rank all ghosts
are images of its own atoms, and the graph is the one of the periodic system.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...atoms import Atoms
from ...data.graph import Graph, periodic_radius_graph
from ...models.assemble import differentiate
from ...models.base import Potential
from ...models.evaluator import Evaluator
from ...structures.neighbours import neighbor_list

MOST = 12  # hops that can be told apart
SPACINGS = (0.45, 0.7)  # of the cutoff: with and without second neighbours


def hops(model: Evaluator) -> int:
    """Number of bonds, each as long as the cutoff at most, over which an atomic energy reaches.

    1 for a strictly local potential, and one or more for each layer of message passing. It is not taken from
    what a model says of itself: it is found from the bonds that have a part in the gradient of the energy
    at the end of a crumpled chain.

    Args:
        model: any potential; its weights should be trained ones, since a weight of zero passes nothing.
    """
    if model.parts:
        return max(map(hops, model.parts))
    assert isinstance(model, Potential)  # as all that take parts of space, and combine no others
    return max(_seen(model, _chain(model, spacing)) for spacing in SPACINGS)


def _chain(model: Potential, spacing: float) -> Graph:
    """A chain without straight or right angles, of all elements in turn."""
    n = 2 * MOST + 2
    random = torch.Generator().manual_seed(1)
    side = 0.25 * torch.rand(n, 2, generator=random, dtype=torch.float64) + 0.05
    side[::2] *= -1
    along = torch.arange(n, dtype=torch.float64)[:, None]
    positions = spacing * model.cutoff * torch.cat([along, side], dim=1)  # (n, 3)
    numbers = model.numbers.cpu().repeat(n)[:n]
    atoms = Atoms(
        positions, numbers, torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    )
    return periodic_radius_graph(atoms, model.cutoff).to(model.device)


def _seen(model: Potential, graph: Graph) -> int:
    with torch.inference_mode(False), torch.enable_grad():
        inputs = model.inputs(graph)
        inputs.vectors.requires_grad_()
        slopes = differentiate(model, inputs, n_local=1)[1]
    assert slopes is not None  # the model gives forces
    used = slopes.abs().sum(1) > 0  # (E,)
    farthest = max([1, *graph.src[used].tolist(), *graph.dst[used].tolist()])  # along the chain
    distance = {0: 0}  # breadth first; an atom's neighbours have the numbers around its own
    for atom in range(1, farthest + 1):
        near = graph.src[graph.dst == atom].tolist()
        distance[atom] = 1 + min((distance[j] for j in near if j in distance), default=0)
    return distance[farthest]


OPEN = np.zeros(3, dtype=bool)


class Region:
    """Neighbours of one rank's atoms, kept while atoms move less than half a skin (see ``data/verlet.py``).

    Args:
        comm: the MPI communicator of LAMMPS.
        numbers: (types + 1,) atomic number of each atom type of LAMMPS, which count from 1.
        cutoff, skin: Å.
        layers: hops over which an atomic energy reaches; above one, ghosts have neighbours too.
    """

    def __init__(self, comm: Any, numbers: np.ndarray, cutoff: float, skin: float, layers: int):
        self.comm, self.numbers, self.cutoff, self.skin, self.layers = comm, numbers, cutoff, skin, layers
        self.builds = 0
        self._tags = np.zeros(0, dtype=np.int64)
        self._start = np.zeros((0, 3))
        self._n_local = 0

    def graph(self, n_local: int, tags: np.ndarray, types: np.ndarray, x: np.ndarray) -> Graph:
        """Own atoms and those of others nearby, all candidates for bonds; every rank has to ask.

        Args:
            n_local: own atoms, which come first.
            tags, types: (N + ghosts,) as LAMMPS has them.
            x: (N + ghosts, 3) Å.
        """
        if self.comm.allreduce(self._is_stale(n_local, tags, x)):
            self._search(n_local, tags, types, x)
        shift = x[self._image] - x[self._image_of]  # (images, 3) Å, which follow the cell
        if not np.array_equal(shift, self._shift):
            self._keep_shift(shift)
        positions = torch.from_numpy(np.concatenate([x[:n_local], x[self._foreign]]))
        atoms = Atoms(positions, self._numbers, torch.eye(3, dtype=torch.float64), torch.from_numpy(OPEN))
        return Graph(atoms, self._src, self._dst, self._translation, self.cutoff, n_local)

    def _is_stale(self, n_local: int, tags: np.ndarray, x: np.ndarray) -> bool:
        if n_local != self._n_local or not np.array_equal(tags, self._tags):
            return True  # LAMMPS has given atoms to other ranks, sorted them, or made other ghosts
        moved = x - self._start
        return bool(4 * np.einsum("ij,ij->i", moved, moved).max(initial=0.0) >= self.skin**2)

    def _search(self, n_local: int, tags: np.ndarray, types: np.ndarray, x: np.ndarray) -> None:
        owner = self._owners(tags, n_local)
        own = owner == self.comm.rank
        own[:n_local] = False  # left are images of own atoms
        self._image = own.nonzero()[0]
        self._image_of = _find(tags[:n_local], tags[self._image])
        self._foreign = n_local + (~own[n_local:]).nonzero()[0]
        place = np.arange(len(tags))  # in the graph
        place[self._image] = self._image_of
        place[self._foreign] = n_local + np.arange(len(self._foreign))

        i, j, _ = neighbor_list(x, np.zeros((3, 3)), OPEN, self.cutoff + self.skin)
        keep = i < n_local if self.layers == 1 else ~own[i]
        i, j = i[keep], j[keep]
        self._dst, self._src = (torch.from_numpy(place[k]) for k in (i, j))
        rank_of = np.full(len(tags), -1)  # of images among images
        rank_of[self._image] = np.arange(len(self._image))
        self._crossing = (rank_of[j] >= 0).nonzero()[0]  # bonds to images, …
        self._crossed = rank_of[j[self._crossing]]  # … and to which
        self._keep_shift(x[self._image] - x[self._image_of])
        kept = np.concatenate([types[:n_local], types[self._foreign]])
        self._numbers = torch.from_numpy(self.numbers[kept])
        self._plan_returns(owner[self._foreign], tags, n_local)
        self._n_local, self._tags, self._start = n_local, tags.copy(), x.copy()
        self.builds += 1

    def _keep_shift(self, shift: np.ndarray) -> None:
        self._shift = shift
        translation = np.zeros((len(self._src), 3))  # (E, 3) Å
        translation[self._crossing] = shift[self._crossed]
        self._translation = torch.from_numpy(translation)

    def _owners(self, tags: np.ndarray, n_local: int) -> np.ndarray:
        """Rank of each atom, (N + ghosts,)."""
        if self.comm.size == 1:
            return np.zeros(len(tags), dtype=np.int64)
        everybody = self.comm.allgather(tags[:n_local].copy())
        owner = np.zeros(1 + max(int(t.max(initial=0)) for t in everybody), dtype=np.int64)
        for rank, theirs in enumerate(everybody):
            owner[theirs] = rank
        return owner[tags]

    def _plan_returns(self, owner: np.ndarray, tags: np.ndarray, n_local: int) -> None:
        """Tell every rank which of its atoms are ghosts here, in the order in which forces will come."""
        self._order = np.argsort(owner, kind="stable")
        ghosts = tags[self._foreign][self._order]
        self._sent = np.bincount(owner, minlength=self.comm.size)
        asked = self.comm.alltoall(np.split(ghosts, self._sent.cumsum()[:-1]))
        self._received = np.array([len(part) for part in asked])
        self._targets = _find(tags[:n_local], np.concatenate(asked))

    def gather(self, forces: np.ndarray) -> np.ndarray:
        """Forces (n_local, 3) from a graph's (N, 3): those on ghosts are sent to whose they are."""
        n = self._n_local
        total = forces[:n]
        if self.comm.size > 1:
            out = np.ascontiguousarray(forces[n:][self._order])
            back = np.empty((self._received.sum(), 3))
            self.comm.Alltoallv([out, 3 * self._sent], [back, 3 * self._received])
            for axis in range(3):
                total[:, axis] += np.bincount(self._targets, back[:, axis], minlength=n)[:n]
        return total


def _find(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of ``wanted`` in ``known``, which holds each of them once."""
    order = np.argsort(known)
    found: np.ndarray = order[np.searchsorted(known, wanted, sorter=order)]
    return found
