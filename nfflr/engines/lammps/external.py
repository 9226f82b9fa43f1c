"""A potential behind LAMMPS's ``fix external``: forces of own atoms, global energy and virial.

The energies of a rank's own atoms are its share of the energy. Their gradient acts on ghosts as well: a force
on the image of an own atom belongs to that atom, and a force on another rank's atom is sent there. So ghosts
are needed as far as the energies of own atoms reach, and no energy is computed twice. On one rank all ghosts
are images of its own atoms, and the graph is the one of the periodic system.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from ...atoms import Atoms
from ...calculator import NFFLrCalculator
from ...compiled import kernel
from ...data.graph import Graph, periodic_radius_graph
from ...errors import ConfigError, NumericsError, StructureError
from ...models.assemble import differentiate
from ...models.base import Potential
from ...models.evaluator import NO_CUTOFF, Evaluator
from ...structures.neighbours import neighbor_list
from .abort import end_all_ranks

FIX = "nfflr"
SKIN = 0.5  # Å
VOIGT = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])  # LAMMPS: xx, yy, zz, xy, xz, yz
MOST = 12  # hops that a chain can show
SPACINGS = (0.45, 0.7)  # of the cutoff: with and without second neighbours
OPEN = np.zeros(3, dtype=bool)


def attach(
    lmp: Any,
    calculator: NFFLrCalculator,
    species: Sequence[str],
    *,
    fix: str = FIX,
    skin: float = SKIN,
    compile: bool = True,
) -> External:
    """Let a potential act on all atoms of a LAMMPS instance from the next ``run`` or ``minimize`` on.

    Every rank calls it, when the box exists. It uses or defines ``fix <fix> all external``, adds its energy
    and virial to LAMMPS's own, and sets the ghost cutoff, the skin and the rule for new neighbour lists;
    later ``neighbor``, ``neigh_modify`` and ``comm_modify`` commands must not change these. An error in a
    force call ends all ranks, with the error's exit code.

    Args:
        lmp: a ``lammps.lammps`` in ``metal`` units.
        calculator: of one of NFFLr's own potentials, on each rank.
        species: chemical symbol of each atom type, in order.
        fix: name of the fix.
        skin: Å that neighbour lists reach beyond the cutoff.
        compile: use the model's hand-written kernel, where it has one.

    Raises:
        ConfigError: the units or the number of species are wrong, or the model gives no atomic energies.
        StructureError: an element that the model does not cover.
    """
    model = potential_of(calculator)
    check_species(model, species)
    n_types = lmp.extract_global("ntypes")
    if n_types != len(species):
        raise ConfigError(
            f"species: got {len(species)} ({', '.join(species)}) for {n_types} atom types; name each"
        )
    if lmp.extract_global("units") != "metal":
        raise ConfigError(f"units {lmp.extract_global('units')}: expected units metal (eV, Å, ps, bar)")
    external = External(lmp, model, species, fix, skin, compile)
    if not lmp.has_id("fix", fix):
        lmp.command(f"fix {fix} all external pf/callback 1 1")
    for command in external.needs():
        lmp.command(command)
    lmp.set_fix_external_callback(fix, external, lmp)
    return external


def potential_of(calculator: NFFLrCalculator) -> Evaluator:
    """The model of a calculator, if it gives the energies of some atoms alone."""
    model = calculator.model
    if not (model.takes_parts and model.gives("forces")):
        raise ConfigError(
            f"{type(model).__name__}: ranks need atomic energies of a part of the system; "
            "expected NFFLr's own potentials, not a model from elsewhere"
        )
    return model


def check_species(model: Evaluator, species: Sequence[str]) -> None:
    """Refuse unknown symbols, and elements that a model does not cover."""
    elements = model.elements or ()
    for symbol in species:
        if symbol not in atomic_numbers:
            raise ConfigError(f"species: {symbol!r} is no chemical symbol; expected e.g. {elements[0]}")
    missing = sorted(set(species) - set(elements))
    if missing:
        raise StructureError(
            f"species: {', '.join(missing)} is not covered by this model; it knows {', '.join(elements)}"
        )


class External:
    """The function that LAMMPS calls for forces; made by ``attach``."""

    def __init__(
        self, lmp: Any, model: Evaluator, species: Sequence[str], fix: str, skin: float, compile: bool
    ):
        from mpi4py import MPI

        self.comm = lmp.comm if lmp.has_mpi4py and lmp.comm is not None else MPI.COMM_WORLD
        self.lmp, self.fix, self.skin = lmp, fix, skin
        self.model = model
        self.layers = hops(self.model)
        # Of the compiled forms only kernels can leave out ghosts.
        self.form = (kernel(model) if compile else None) or model
        numbers = np.array([0, *(atomic_numbers[symbol] for symbol in species)])
        self.cutoff = model.cutoff or NO_CUTOFF
        self.region = Region(self.comm, numbers, self.cutoff, skin, self.layers)

    def needs(self) -> list[str]:
        """Commands for LAMMPS."""
        reach = self.layers * (self.cutoff + self.skin)
        return [
            f"comm_modify mode single cutoff {reach:.6f}",
            f"neighbor {self.skin} bin",
            "neigh_modify every 1 delay 0 check yes",
            f"fix_modify {self.fix} energy yes virial yes",
        ]

    def __call__(self, lmp: Any, step: int, n_local: int, *arrays: np.ndarray) -> None:
        """LAMMPS's callback with tags, positions and forces (n_local, 3): fills in the last."""
        try:
            self._act(n_local, arrays[-1])
        except BaseException as error:  # an exception cannot pass through LAMMPS
            end_all_ranks(self.comm, f"LAMMPS step {step}: {error}", getattr(error, "exit_code", 1))

    def _act(self, n_local: int, f: np.ndarray) -> None:
        n = n_local + self.lmp.extract_setting("nghost")
        tags, types, x = (self._extract(name, n) for name in ("id", "type", "x"))
        graph = self.region.graph(n_local, tags, types, x)
        energy, forces, virial = 0.0, np.zeros((len(graph.atoms), 3)), np.zeros(6)
        if n_local:
            energy, forces, virial = self._evaluate(graph)
        own = self.region.gather(forces)
        if n_local:
            f[:] = own
        total = self.comm.allreduce(np.array([energy, *virial]))
        if not np.isfinite(total).all():
            raise NumericsError("the energy is not finite; the structure is outside what the model knows")
        self.lmp.fix_external_set_energy_global(self.fix, total[0])
        self.lmp.fix_external_set_virial_global(self.fix, total[1:])

    def _evaluate(self, graph) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy (eV), forces (N, 3) and LAMMPS's virial (6,) of the own atoms' energies."""
        if not self.form.takes_candidates:
            graph = graph.shorter_than(self.cutoff)
        output = self.form(graph)
        stress = output["stress"].double().numpy(force=True)  # of a cell of 1 Å³: the derivative by strain
        forces = output["forces"].double().numpy(force=True)
        return float(output["total_energy"]), forces, -stress[VOIGT]

    def _extract(self, name: str, n: int) -> np.ndarray:
        if not n:  # LAMMPS has no array
            return np.zeros((0, 3)) if name == "x" else np.zeros(0, dtype=np.int64)
        return np.asarray(self.lmp.numpy.extract_atom(name, nelem=n))


def hops(model: Evaluator) -> int:
    """Number of bonds, each as long as the cutoff at most, over which an atomic energy reaches.

    1 for a strictly local potential, and one or more for each layer of message passing. It follows from the
    gradient of the energy at the end of a crumpled chain: which bonds have a part in it.

    Args:
        model: any potential with trained weights; a weight of zero would pass nothing.
    """
    if model.parts:
        return max(map(hops, model.parts))
    assert isinstance(model, Potential)  # as all that take parts of space, and combine no others
    return max(_reach(model, _chain(model, spacing)) for spacing in SPACINGS)


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


def _reach(model: Potential, graph: Graph) -> int:
    """Bonds between the first atom of a chain and the farthest one in its energy."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = model.inputs(graph)
        inputs.vectors.requires_grad_()
        slopes = differentiate(model, inputs, n_local=1)[1]
    assert slopes is not None  # the model gives forces
    acts = slopes.abs().sum(1) > 0  # (E,)
    farthest = max([1, *graph.src[acts].tolist(), *graph.dst[acts].tolist()])  # along the chain
    distance = {0: 0}  # breadth first; an atom's neighbours have the numbers around its own
    for atom in range(1, farthest + 1):
        near = graph.src[graph.dst == atom].tolist()
        distance[atom] = 1 + min((distance[j] for j in near if j in distance), default=0)
    return distance[farthest]


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
        """Own atoms, ghosts of other ranks, and all candidates for bonds; every rank has to call it.

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
        own[:n_local] = False  # images of own atoms remain
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
        own_and_foreign = np.concatenate([types[:n_local], types[self._foreign]])
        self._numbers = torch.from_numpy(self.numbers[own_and_foreign])
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
        tags_of = self.comm.allgather(tags[:n_local].copy())  # by rank
        owner = np.zeros(1 + max(int(array.max(initial=0)) for array in tags_of), dtype=np.int64)
        for rank, array in enumerate(tags_of):
            owner[array] = rank
        return owner[tags]

    def _plan_returns(self, owner: np.ndarray, tags: np.ndarray, n_local: int) -> None:
        """Tell every rank which of its atoms are ghosts here, in the order in which forces will come."""
        self._order = np.argsort(owner, kind="stable")
        ghosts = tags[self._foreign][self._order]
        self._sent = np.bincount(owner, minlength=self.comm.size)
        requests = self.comm.alltoall(np.split(ghosts, self._sent.cumsum()[:-1]))
        self._received = np.array([len(part) for part in requests])
        self._targets = _find(tags[:n_local], np.concatenate(requests))

    def gather(self, forces: np.ndarray) -> np.ndarray:
        """Forces (n_local, 3) from a graph's (N, 3), with the forces on ghosts at other ranks."""
        n = self._n_local
        total = forces[:n]
        if self.comm.size > 1:
            out = np.ascontiguousarray(forces[n:][self._order])
            back = np.empty((self._received.sum(), 3))
            self.comm.Alltoallv([out, 3 * self._sent], [back, 3 * self._received])
            for axis in range(3):
                total[:, axis] += np.bincount(self._targets, back[:, axis], minlength=n)[:n]
        return total


def _find(tags: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions of ``values`` in ``tags``, which hold each of them once."""
    order = np.argsort(tags)
    positions: np.ndarray = order[np.searchsorted(tags, values, sorter=order)]
    return positions
