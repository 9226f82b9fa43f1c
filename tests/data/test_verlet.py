"""The kept neighbour list gives the graph of a new search, and is searched only when it must be."""

import ase
import numpy as np
import pytest
import torch

from nfflr.data.graph import periodic_radius_graph
from nfflr.data.verlet import VerletList
from nfflr.errors import StructureError

CUTOFF, SKIN = 4.0, 0.6
NAMES = ["crystal", "triclinic", "slab", "cluster"]


def assert_same_graph(kept, fresh):
    """Equal edges with equal bond vectors; an edge is known by its ends and its translation."""
    assert len(kept.src) == len(fresh.src)
    rows = []
    for graph in (kept, fresh):
        shift = graph.shift.numpy().round(6) + 0.0
        order = np.lexsort([*shift.T, graph.src.numpy(), graph.dst.numpy()])
        assert graph.dst.tolist() == sorted(graph.dst.tolist())  # as segment sums need it
        rows.append((graph.dst.numpy()[order], graph.src.numpy()[order], graph.vectors().numpy()[order]))
    (dst, src, vectors), (fresh_dst, fresh_src, fresh_vectors) = rows
    assert np.array_equal(dst, fresh_dst) and np.array_equal(src, fresh_src)
    assert vectors == pytest.approx(fresh_vectors, abs=1e-12)


def check(neighbours: VerletList, atoms: ase.Atoms) -> None:
    assert_same_graph(neighbours.graph(atoms), periodic_radius_graph(atoms, r=CUTOFF))


@pytest.mark.parametrize("name", NAMES)
def test_the_list_is_kept_below_half_the_skin_and_searched_above(structures, name):
    atoms = getattr(structures, name)()
    start = atoms.positions.copy()
    neighbours = VerletList(CUTOFF, SKIN)
    check(neighbours, atoms)
    for moved, builds in ((0.0, 1), (0.499 * SKIN, 1), (-0.499 * SKIN, 1), (0.501 * SKIN, 2)):
        atoms.positions = start
        atoms.positions[-1, 2] = start[-1, 2] + moved
        check(neighbours, atoms)
        assert neighbours.builds == builds
    check(neighbours, atoms)  # the new list counts from the new positions
    assert neighbours.builds == 2


def test_the_distance_that_counts_is_in_space_not_along_axes(structures):
    atoms = structures.crystal()
    neighbours = VerletList(CUTOFF, SKIN)
    neighbours.graph(atoms)
    atoms.positions[0] += 0.45 * SKIN  # 0.78 of the skin along the diagonal
    check(neighbours, atoms)
    assert neighbours.builds == 2


def test_two_atoms_that_approach_by_almost_the_skin_are_seen(structures):
    # The worst case: a pair just outside the stored reach, each moving half the skin towards the other.
    atoms = ase.Atoms("Si2", positions=[[0, 0, 0], [CUTOFF + SKIN + 1e-6, 0, 0]])
    neighbours = VerletList(CUTOFF, SKIN)
    assert len(neighbours.graph(atoms).src) == 0
    atoms.positions[:, 0] += np.array([0.51, -0.51]) * SKIN
    assert len(neighbours.graph(atoms).src) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_random_walk_has_the_edges_of_a_new_search_in_every_step(structures, name):
    atoms = getattr(structures, name)()
    rng = np.random.default_rng(0)
    neighbours = VerletList(CUTOFF, SKIN)
    counts = []
    for _ in range(100):
        check(neighbours, atoms)
        counts.append(len(neighbours.graph(atoms).src))
        atoms.positions += 0.05 * rng.normal(size=(len(atoms), 3))
    assert 3 < neighbours.builds < 40  # neither never nor always
    assert len(set(counts)) > 2  # edges came and went, or the walk tested nothing


def test_wrapping_by_the_caller_changes_nothing(structures):
    atoms = structures.triclinic()
    neighbours = VerletList(CUTOFF, SKIN)
    before = neighbours.graph(atoms).vectors().norm(dim=1).sort().values
    atoms.positions[2] += atoms.cell[0] - 2 * atoms.cell[1]
    check(neighbours, atoms)
    after = neighbours.graph(atoms).vectors().norm(dim=1).sort().values
    assert torch.allclose(before, after, atol=1e-12, rtol=0)


def change_cell(atoms):
    atoms.cell[0, 0] += 1e-9  # even so little moves far images


def change_cell_and_positions(atoms):
    atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)


def change_pbc(atoms):
    atoms.pbc[0] = not atoms.pbc[0]


def change_numbers(atoms):
    atoms.numbers[[0, 1]] = 14, 6


def add_atom(atoms):
    atoms.append(ase.Atom("Si", (1.3, 0.4, 2.2)))


def remove_atom(atoms):
    del atoms[0]


CHANGES = [change_cell, change_cell_and_positions, change_pbc, change_numbers, add_atom, remove_atom]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_of_cell_periodicity_or_atoms_is_searched_anew(structures, change):
    atoms = structures.triclinic()
    neighbours = VerletList(CUTOFF, SKIN)
    neighbours.graph(atoms)
    change(atoms)
    check(neighbours, atoms)
    assert neighbours.builds == 2


def test_without_a_skin_every_call_searches(structures):
    atoms = structures.crystal()
    neighbours = VerletList(CUTOFF, 0.0)
    for _ in range(3):
        check(neighbours, atoms)
    assert neighbours.builds == 3


def test_the_graph_holds_the_positions_of_now_and_shares_no_memory(structures):
    atoms = structures.crystal()
    neighbours = VerletList(CUTOFF, SKIN)
    neighbours.graph(atoms)
    atoms.positions[0, 0] += 0.01
    graph = neighbours.graph(atoms)
    assert graph.atoms.positions.numpy() == pytest.approx(atoms.positions, abs=0)
    graph.atoms.positions.zero_()
    check(neighbours, atoms)


@pytest.mark.parametrize("skin", [0.0, SKIN])
def test_coincident_atoms_are_refused_by_index_and_leave_the_list_usable(structures, skin):
    atoms = structures.crystal()
    start = atoms.positions.copy()
    neighbours = VerletList(CUTOFF, skin)
    neighbours.graph(atoms)
    atoms.positions[5] = atoms.positions[2]
    with pytest.raises(StructureError, match=r"atoms (2 and 5|5 and 2) coincide"):
        neighbours.graph(atoms)
    atoms.positions = start
    check(neighbours, atoms)


def test_a_failed_search_does_not_leave_half_a_list(structures):
    atoms = structures.crystal()
    neighbours = VerletList(CUTOFF, SKIN)
    neighbours.graph(atoms)
    cell = atoms.cell.array.copy()
    atoms.cell[1] = 0
    for _ in range(2):  # the second time too
        with pytest.raises(StructureError, match="axis b"):
            neighbours.graph(atoms)
    atoms.cell = cell
    check(neighbours, atoms)
