"""Neighbour graphs against an O(N²·images) brute force, and what must not change them."""

from collections import Counter
from itertools import product

import ase
import numpy as np
import pytest
import torch
from brute_force import brute_force

from nfflr.atoms import Atoms, batch
from nfflr.data.graph import batch_graphs, periodic_radius_graph
from nfflr.errors import ConfigError, StructureError
from nfflr.structures.neighbours import BACKENDS, neighbor_list

PER_MASK = 400  # compared cells for each of the eight periodicities: 3200 in all


def draw(rng, pbc):
    """A random case: positions, cell, cutoff, and the names of what is special about it."""
    kind = rng.choice(["skewed", "tiny", "cubic", "sheared"])
    n = int(rng.integers(1, 6))
    cell = rng.normal(size=(3, 3)) * rng.uniform(1, 4)
    cutoff = rng.uniform(0.5, 4.0)
    if kind == "tiny":
        cell = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.8, 1.2, size=(3, 1))
        cutoff = rng.uniform(3.7, 4.5)  # more than three cells along each axis
        n = min(n, 2)
    elif kind == "cubic":
        cell = np.eye(3) * rng.uniform(1, 3)
    elif kind == "sheared":
        cell = np.eye(3) * rng.uniform(2, 4)
        cell[1, 0], cell[2, 1] = rng.uniform(-9, 9, size=2)
    tags = [kind]
    positions = rng.normal(size=(n, 3)) * rng.uniform(0.5, 4)
    if rng.random() < 0.4:
        lattice_steps = rng.integers(-200, 201, size=(n, 3)) * pbc
        positions += lattice_steps @ cell + 500 * rng.normal(size=3)
        tags.append("far outside")
    if n == 1:
        tags.append("one atom")
    if np.linalg.det(cell) < 0:
        tags.append("left-handed")
    if not pbc.all() and rng.random() < 0.3:
        cell = np.where(pbc[:, None], cell, 0.0)
        tags.append("zero open vectors")
    return positions, cell, cutoff, tags


@pytest.mark.parametrize(
    "pbc", list(product((False, True), repeat=3)), ids=lambda p: "".join("FT"[x] for x in p)
)
def test_both_backends_equal_the_brute_force_on_random_cells(pbc):
    pbc = np.array(pbc)
    rng = np.random.default_rng(int(pbc @ [1, 2, 4]))
    compared, edges, seen = 0, 0, Counter()
    while compared < PER_MASK:
        case = draw(rng, pbc)
        expected = brute_force(case[0], case[1], pbc, case[2])
        if expected is None:
            continue
        positions, cell, cutoff, tags = case
        rows, vectors = expected
        structure = ase.Atoms(np.ones(len(positions)), positions=positions, cell=cell, pbc=pbc)
        for backend in BACKENDS:
            i, j, shift = neighbor_list(positions, cell, pbc, cutoff, backend)
            assert i.dtype == j.dtype == shift.dtype == np.int64
            assert (np.diff(i) >= 0).all(), backend
            found = np.column_stack([i, j, shift])
            order = np.lexsort(found.T[::-1])
            assert np.array_equal(found[order], rows), (backend, tags, positions, cell, cutoff)
            graph = periodic_radius_graph(structure, cutoff, backend)
            assert np.array_equal(graph.dst, i) and np.array_equal(graph.src, j)
            assert np.abs(graph.vectors().numpy()[order] - vectors).max(initial=0) < 1e-10
        compared += 1
        edges += len(rows)
        seen.update(tags)
    # The draws are only worth something if each special case was really among them.
    wanted = ["skewed", "tiny", "cubic", "sheared", "one atom", "left-handed", "far outside"]
    wanted += [] if pbc.all() else ["zero open vectors"]
    assert all(seen[tag] >= 20 for tag in wanted), seen
    assert edges > PER_MASK


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["crystal", "triclinic", "slab", "cluster"])
def test_edges_are_sorted_by_centre_and_come_in_opposite_pairs(structures, name, backend):
    graph = periodic_radius_graph(getattr(structures, name)(), 5.0, backend)
    assert (graph.dst.diff() >= 0).all()
    assert graph.src.dtype == graph.dst.dtype == torch.int64 and graph.shift.dtype == torch.float64
    assert torch.equal(graph.degree(), torch.bincount(graph.dst, minlength=len(graph.atoms)))
    rows = torch.cat([graph.src[:, None], graph.dst[:, None], graph.vectors()], 1).numpy()
    back = torch.cat([graph.dst[:, None], graph.src[:, None], -graph.vectors()], 1).numpy()
    rows, back = (x[np.lexsort(np.round(x, 6).T)] for x in (rows, back))
    assert np.abs(rows - back).max() < 1e-12


def test_vectors_follow_the_positions_they_are_differentiated_by(structures):
    atoms = Atoms.from_ase(structures.triclinic())
    graph = periodic_radius_graph(atoms, 5.0)
    atoms.positions.requires_grad_()
    weights = torch.linspace(-1, 1, len(graph.src), dtype=torch.float64)[:, None]
    (gradient,) = torch.autograd.grad((weights * graph.vectors()).sum(), atoms.positions)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected.index_add_(0, graph.src, weights.expand(-1, 3)).index_add_(0, graph.dst, -weights.expand(-1, 3))
    assert torch.allclose(gradient, expected, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_graphs_equals_the_graph_of_the_batch(structures, backend):
    # An isolated atom between the others: its row of neighbours is empty.
    members = [structures.triclinic(), ase.Atoms("H"), structures.slab(), structures.cluster()]
    joined = batch_graphs([periodic_radius_graph(m, 5.0, backend) for m in members])
    for whole in (
        periodic_radius_graph(members, 5.0, backend),
        periodic_radius_graph(batch(members), 5.0, backend),
    ):
        for name in ("src", "dst", "shift"):
            assert torch.equal(getattr(joined, name), getattr(whole, name)), name
        for name, value in vars(joined.atoms).items():
            assert torch.equal(value, getattr(whole.atoms, name)), name
    assert joined.degree()[4] == 0
    same = joined.atoms.structure[joined.src] == joined.atoms.structure[joined.dst]
    assert same.all() and (joined.dst.diff() >= 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_coincident_atoms_are_refused_with_both_indices(structures, backend):
    atoms = structures.crystal()
    atoms.positions[6] = atoms.positions[2] + atoms.cell.array[1]  # an image of atom 2
    with pytest.raises(StructureError, match=r"atoms (2 and 6|6 and 2) coincide"):
        periodic_radius_graph(atoms, 5.0, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_atoms_by_a_thousand_lattice_vectors_changes_no_bond(structures, backend):
    for atoms in (structures.triclinic(), structures.slab()):
        here = periodic_radius_graph(atoms, 5.0, backend)
        steps = np.random.default_rng(5).choice([-1000, 0, 1000], size=(len(atoms), 3))
        moved = atoms.copy()
        moved.positions += (steps * atoms.pbc) @ atoms.cell.array
        there = periodic_radius_graph(moved, 5.0, backend)
        rows = [torch.cat([g.dst[:, None], g.src[:, None], g.vectors()], 1).numpy() for g in (here, there)]
        rows = [x[np.lexsort(np.round(x, 6).T)] for x in rows]
        assert np.abs(rows[0] - rows[1]).max() < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cluster_far_from_the_origin_keeps_its_bonds(structures, backend):
    here = structures.cluster()
    there = here.copy()
    there.positions += 5000.0
    near, far = (periodic_radius_graph(a, 5.0, backend) for a in (here, there))
    rows = [torch.cat([g.dst[:, None], g.src[:, None], g.vectors()], 1).numpy() for g in (near, far)]
    rows = [x[np.lexsort(np.round(x, 6).T)] for x in rows]
    assert np.abs(rows[0] - rows[1]).max() < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_the_caller_is_changed(structures, backend):
    atoms = structures.slab()
    atoms.positions += 40.0  # outside the cell, where a search would like to wrap
    kept = atoms.copy()
    arrays = atoms.positions, atoms.cell.array, atoms.pbc
    for array in arrays:
        array.setflags(write=False)
    neighbor_list(*arrays, 5.0, backend)
    periodic_radius_graph(atoms, 5.0, backend)
    tensors = Atoms.from_ase(kept)
    graph = periodic_radius_graph(tensors, 5.0, backend)
    assert graph.atoms is tensors
    for changed in (atoms, tensors.to_ase()):
        assert np.array_equal(changed.positions, kept.positions) and np.array_equal(changed.pbc, kept.pbc)
        assert np.array_equal(changed.cell.array, kept.cell.array)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pair_exactly_at_the_cutoff_is_outside(backend):
    graph = periodic_radius_graph(ase.Atoms("Si2", [[0, 0, 0], [2.5, 0, 0]]), 2.5, backend)
    assert len(graph.src) == 0 and graph.vectors().shape == (0, 3)


def test_unknown_backend_is_refused_with_the_known_ones(structures):
    with pytest.raises(
        ConfigError, match=r"unknown backend 'vesim'; expected auto or one of \['matscipy', 'vesin'\]"
    ):
        periodic_radius_graph(structures.crystal(), 5.0, backend="vesim")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_periodic_axis_without_a_vector_is_refused(structures, backend):
    atoms = structures.slab()
    atoms.cell[2] = 0.0
    assert len(periodic_radius_graph(atoms, 5.0, backend).src)
    atoms.pbc = True
    with pytest.raises(StructureError, match="axis c is periodic but its cell vector is zero"):
        periodic_radius_graph(atoms, 5.0, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_empty_has_the_shapes_of_what_is_not(backend):
    for positions in (np.zeros((0, 3)), np.zeros((1, 3))):
        i, j, shift = neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 3.0, backend)
        assert i.shape == j.shape == (0,) and shift.shape == (0, 3)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_pairs_of_very_many_atoms_are_sorted_by_centre(backend):
    n = 2**16 + 10  # more than 16 bits count
    positions = np.zeros((n, 3))
    positions[:, 0] = np.random.default_rng(0).permutation(n)  # a chain in no order
    i, j, shift = neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 1.5, backend)
    assert len(i) == 2 * (n - 1) and (np.diff(i) >= 0).all() and not shift.any()
    assert (np.abs(positions[i, 0] - positions[j, 0]) == 1).all()
