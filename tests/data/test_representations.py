"""Every input representation gives the same energies and forces."""

from dataclasses import dataclass

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule

import nfflr
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.inputs import as_graph, from_dgl, to_dgl, to_pyg, with_ghosts
from nfflr.errors import StructureError
from nfflr.models.registry import architectures

pytest.importorskip("dgl")
pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data


@dataclass
class MyStructure:
    """A representation of a user's own."""

    symbols: list
    xyz: np.ndarray
    box: np.ndarray


@as_graph.register(MyStructure)
def _(x, r):
    return periodic_radius_graph(ase.Atoms(x.symbols, x.xyz, cell=x.box, pbc=True), r)


def structures():
    crystal = bulk("Si", cubic=True)
    crystal.numbers[::2] = 6
    slab = fcc111("Al", (1, 2, 2), vacuum=4.0)
    slab.numbers[:] = 14
    cluster = molecule("CH3CH2OH")
    cluster = cluster[[a.index for a in cluster if a.symbol == "C"]]
    for k, atoms in enumerate((crystal, slab, cluster)):
        atoms.rattle(0.05, seed=k)
    return [crystal, slab, cluster]


def models():
    found = []
    for key, cls in architectures().items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = cls(cls.Config(elements=("C", "Si"))).double().eval()
        found.append(pytest.param(model, id=key))
    return found


REPRESENTATIONS = {
    "nfflr.Atoms": lambda atoms, r: nfflr.Atoms.from_ase(atoms),
    "Graph": periodic_radius_graph,
    "DGL": lambda atoms, r: to_dgl(periodic_radius_graph(atoms, r)),
    "DGL with more bonds": lambda atoms, r: to_dgl(periodic_radius_graph(atoms, r + 1)),
    "PyG": lambda atoms, r: to_pyg(periodic_radius_graph(atoms, r)),
    "PyG without edges": lambda atoms, r: Data(
        z=torch.tensor(atoms.numbers),
        pos=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array)[None],
        pbc=torch.tensor(atoms.pbc)[None],
    ),
    "ghosts": lambda atoms, r: with_ghosts(nfflr.Atoms.from_ase(atoms), r),
    "ghosts, other bucket": lambda atoms, r: with_ghosts(nfflr.Atoms.from_ase(atoms), r, bucket=7),
}


def same(output, reference):
    for name in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(output[name], reference[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize("model", models())
def test_single_structures(model, name):
    for atoms in structures():
        same(model(REPRESENTATIONS[name](atoms, model.cutoff)), model(atoms))


@pytest.mark.parametrize("model", models())
def test_batches(model):
    r, frames = model.cutoff, structures()
    graphs = [periodic_radius_graph(atoms, r) for atoms in frames]
    reference = model(frames)
    same(model(nfflr.batch(frames)), reference)
    same(model(to_dgl(periodic_radius_graph(frames, r))), reference)
    import dgl

    same(model(dgl.batch([to_dgl(g) for g in graphs])), reference)
    same(model(Batch.from_data_list([to_pyg(g) for g in graphs])), reference)


@pytest.mark.parametrize("model", models())
def test_a_dgl_graph_needs_only_atomic_numbers_and_bonds(model):
    import dgl

    for atoms in structures():
        graph = periodic_radius_graph(atoms, model.cutoff)
        bare = dgl.graph((graph.src, graph.dst), num_nodes=len(atoms))
        bare.ndata["atomic_number"] = graph.atoms.numbers
        bare.edata["r"] = graph.vectors()
        output, reference = model(bare), model(atoms)
        torch.testing.assert_close(output["forces"], reference["forces"], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(output["total_energy"], reference["total_energy"], rtol=1e-10, atol=1e-10)


def test_dgl_round_trip_keeps_everything():
    for frames in (structures()[0], structures()):
        graph = periodic_radius_graph(frames, 5.0)
        again = from_dgl(to_dgl(graph))
        assert torch.equal(again.src, graph.src) and torch.equal(again.dst, graph.dst)
        torch.testing.assert_close(again.shift, graph.shift, rtol=0, atol=1e-12)
        for name in ("positions", "numbers", "cell", "pbc"):
            assert torch.equal(getattr(again.atoms, name), getattr(graph.atoms, name))


def test_a_representation_of_a_users_own():
    atoms = structures()[0]
    mine = MyStructure(list(atoms.symbols), atoms.positions, atoms.cell.array)
    model = models()[0].values[0]
    same(model(mine), model(atoms))


def test_ghost_shapes_repeat_and_padding_has_no_bond():
    frames = [structures()[0] for _ in range(5)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=10 + k)
    padded = [with_ghosts(nfflr.Atoms.from_ase(a), 5.0) for a in frames]
    assert len({len(p.owner) for p in padded}) < 3
    for p in padded:
        assert len(p.owner) % 64 == 0 and (p.owner < 0).any()
        assert torch.isfinite(as_graph(p, 5.0).vectors()).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_graph(3.14, 5.0), "float"),
        (lambda: as_graph(with_ghosts(nfflr.Atoms.from_ase(structures()[0]), 3.0), 5.0), "made for 3.0"),
        (lambda: with_ghosts(nfflr.batch(structures()), 3.0), "batch"),
        (lambda: as_graph(Data(x=torch.zeros(2)), 5.0), "'z'"),
        (lambda: to_pyg(periodic_radius_graph(structures(), 3.0)), "batch"),
    ],
)
def test_what_cannot_be_read_is_named(make, message):
    with pytest.raises(StructureError, match=message):
        make()


def test_a_dgl_graph_without_bonds_vectors_is_refused():
    import dgl

    with pytest.raises(StructureError, match="atomic_number"):
        as_graph(dgl.graph(([0], [1])), 5.0)
