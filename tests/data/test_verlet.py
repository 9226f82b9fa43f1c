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


@pytest.mark.parametrize("name", ["crystal", "triclinic"])
def test_a_strained_cell_keeps_the_list_up_to_the_bound_and_not_beyond(structures, name):
    atoms = getattr(structures, name)()
    cell = atoms.cell.array.copy()
    limit = CUTOFF / (CUTOFF + SKIN)  # a pair just out of reach is at the cutoff then
    for factor, builds in ((1.0, 1), (limit + 1e-3, 1), (1.3, 1), (limit - 1e-3, 2)):
        neighbours = VerletList(CUTOFF, SKIN)
        atoms.set_cell(cell, scale_atoms=True)
        neighbours.graph(atoms)
        atoms.set_cell(cell * factor, scale_atoms=True)
        check(neighbours, atoms)
        assert neighbours.builds == builds


@pytest.mark.parametrize("shear", [0.06, -0.12])
def test_strain_and_displacement_share_the_skin(structures, shear):
    atoms = structures.crystal()
    deformation = np.eye(3) + shear * np.eye(3, k=1)
    least = np.linalg.svd(deformation, compute_uv=False)[-1]
    allowance = least * (CUTOFF + SKIN) - CUTOFF
    start, cell = atoms.positions.copy(), atoms.cell.array.copy()
    assert 0 < allowance < 0.8 * SKIN
    for moved, builds in ((0.499 * allowance, 1), (0.501 * allowance, 2)):
        neighbours = VerletList(CUTOFF, SKIN)
        atoms.set_cell(cell)
        atoms.positions = start
        neighbours.graph(atoms)
        atoms.set_cell(cell @ deformation)
        atoms.positions = start @ deformation
        atoms.positions[3, 1] += moved
        check(neighbours, atoms)
        assert neighbours.builds == builds


def test_the_bound_on_strain_is_no_looser_than_the_worst_case():
    # A pair just outside the stored reach, along the axis that is compressed, with both atoms moving inwards.
    length = 3 * (CUTOFF + SKIN)
    pair = [[0, 1, 1], [CUTOFF + SKIN + 1e-9, 1, 1]]
    start = ase.Atoms("Si2", positions=pair, cell=[length, 9, 9], pbc=True)
    for strain in (0.0, 0.03, 0.08, 0.12):
        for inward in (0.48, 0.52):
            atoms = start.copy()
            neighbours = VerletList(CUTOFF, SKIN)
            before = len(neighbours.graph(atoms).src)
            atoms.set_cell([length * (1 - strain), 9, 9], scale_atoms=True)
            allowance = (1 - strain) * (CUTOFF + SKIN) - CUTOFF
            atoms.positions[:, 0] += np.array([1, -1]) * inward * allowance
            check(neighbours, atoms)
            assert neighbours.builds == (1 if inward < 0.5 else 2)
            assert len(neighbours.graph(atoms).src) == before + (0 if inward < 0.5 else 2)  # it was needed


@pytest.mark.parametrize("name", ["crystal", "triclinic", "slab"])
def test_a_walk_of_cell_and_atoms_has_the_edges_of_a_new_search_in_every_step(structures, name):
    atoms = getattr(structures, name)()
    rng = np.random.default_rng(0)
    neighbours = VerletList(CUTOFF, SKIN)
    for _ in range(100):
        check(neighbours, atoms)
        strain = np.eye(3) + 0.004 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += 0.02 * rng.normal(size=(len(atoms), 3))
    assert 3 < neighbours.builds < 50


def test_an_open_axis_may_have_any_vector(structures):
    atoms = structures.slab()
    neighbours = VerletList(CUTOFF, SKIN)
    neighbours.graph(atoms)
    axis = int(np.flatnonzero(~atoms.pbc)[0])
    for vector in ([0, 0, 0], [3, -2, 50]):
        atoms.cell[axis] = vector
        check(neighbours, atoms)
        assert neighbours.graph(atoms).atoms.cell[axis].tolist() == vector
    assert neighbours.builds == 1


def test_graphs_made_before_keep_their_cell(structures):
    atoms = structures.triclinic()
    neighbours = VerletList(CUTOFF, SKIN)
    old = neighbours.candidates(atoms)
    cell, shift = old.atoms.cell.clone(), old.shift.clone()
    atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
    new = neighbours.candidates(atoms)
    assert neighbours.builds == 1
    assert torch.equal(old.atoms.cell, cell) and torch.equal(old.shift, shift)
    assert torch.allclose(new.shift, 1.01 * shift, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_candidates_hold_the_graph_and_nothing_beyond_the_reach(structures, name):
    atoms = getattr(structures, name)()
    neighbours = VerletList(CUTOFF, SKIN)
    candidates, graph = neighbours.candidates(atoms), neighbours.graph(atoms)
    length = candidates.vectors().norm(dim=1)
    assert (length < CUTOFF).sum() == len(graph.src) < len(length)
    assert length.max() < CUTOFF + SKIN


def change_pbc(atoms):
    atoms.pbc[0] = not atoms.pbc[0]


def change_numbers(atoms):
    atoms.numbers[[0, 1]] = 14, 6


def add_atom(atoms):
    atoms.append(ase.Atom("Si", (1.3, 0.4, 2.2)))


def remove_atom(atoms):
    del atoms[0]


CHANGES = [change_pbc, change_numbers, add_atom, remove_atom]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_of_periodicity_or_atoms_is_searched_anew(structures, change):
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
