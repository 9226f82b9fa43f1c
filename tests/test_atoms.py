"""Structures as tensors: to and from ASE, batching, and the refusal of unusable input."""

from itertools import product

import ase
import numpy as np
import pytest
import torch

from nfflr.atoms import Atoms, batch, unbatch
from nfflr.errors import StructureError
from nfflr.structures.checks import check_structure


def equal(a: ase.Atoms, b: ase.Atoms) -> bool:
    arrays = ("positions", "numbers", "pbc")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    return same and np.array_equal(a.cell.array, b.cell.array)


@pytest.mark.parametrize("pbc", list(product((False, True), repeat=3)), ids=str)
def test_ase_round_trip_is_exact_for_each_periodicity(structures, pbc):
    original = structures.triclinic()
    original.pbc = pbc
    original.positions += 50.0  # outside the cell: nothing may be wrapped
    assert equal(Atoms.from_ase(original).to_ase(), original)


def test_dtypes_and_shapes_are_those_of_the_docstring(structures):
    single = Atoms.from_ase(structures.triclinic())
    assert single.positions.shape == (4, 3) and single.positions.dtype == torch.float64
    assert single.numbers.shape == (4,) and single.numbers.dtype == torch.int64
    assert single.cell.shape == (3, 3) and single.cell.dtype == torch.float64
    assert single.pbc.shape == (3,) and single.pbc.dtype == torch.bool
    assert len(single) == 4 and not single.is_batch and single.n_structures == 1
    assert single.structure_index().tolist() == [0] * 4


def test_from_ase_copies_and_leaves_the_original_alone(structures):
    original = structures.triclinic()
    kept = original.copy()
    tensors = Atoms.from_ase(original)
    tensors.positions.add_(1.0)
    tensors.numbers.zero_()
    tensors.cell.zero_()
    tensors.pbc.zero_()
    assert equal(original, kept)


def test_to_ase_does_not_share_memory_with_the_tensors(structures):
    tensors = Atoms.from_ase(structures.triclinic())
    before = tensors.positions.clone()
    tensors.to_ase().positions += 1.0
    assert torch.equal(tensors.positions, before)


def test_batch_and_unbatch_are_inverse(structures):
    members = [structures.triclinic(), ase.Atoms("H"), structures.slab(), structures.cluster()]
    joined = batch(members)
    assert joined.is_batch and joined.n_structures == 4 and len(joined) == 14
    assert joined.counts().tolist() == [4, 1, 4, 5]
    assert joined.structure.tolist() == [0] * 4 + [1] + [2] * 4 + [3] * 5
    assert joined.cell.shape == (4, 3, 3) and joined.pbc.shape == (4, 3)
    parts = unbatch(joined)
    assert not any(part.is_batch for part in parts)
    assert all(equal(part.to_ase(), member) for part, member in zip(parts, members, strict=True))
    assert all(equal(a, b) for a, b in zip(joined.to_ase(), members, strict=True))


def test_batch_takes_ase_and_tensors_together(structures):
    members = [structures.slab(), structures.cluster()]
    mixed = batch([members[0], Atoms.from_ase(members[1])])
    assert all(equal(a, b) for a, b in zip(mixed.to_ase(), members, strict=True))


def test_unbatch_of_a_single_structure_is_a_list_of_itself(structures):
    single = Atoms.from_ase(structures.slab())
    assert unbatch(single) == [single]


def test_a_batch_of_one_is_still_a_batch(structures):
    joined = batch([structures.slab()])
    assert joined.is_batch and joined.n_structures == 1 and len(joined.to_ase()) == 1


def test_batch_refuses_a_nested_batch(structures):
    with pytest.raises(StructureError, match="already a batch; unbatch it first"):
        batch([structures.slab(), batch([structures.cluster()])])


def test_batch_refuses_an_empty_list():
    with pytest.raises(StructureError, match="no structures; expected at least one"):
        batch([])


def test_volumes_are_positive_for_left_handed_cells_and_zero_without_a_cell(structures):
    right = structures.triclinic()
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0
    volumes = batch([right, left, structures.cluster()]).volumes()
    assert volumes.tolist() == pytest.approx([right.get_volume(), right.get_volume(), 0.0], rel=1e-14)


def test_to_moves_every_tensor(structures):
    moved = batch([structures.slab(), structures.cluster()]).to("meta")
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
    assert Atoms.from_ase(structures.slab()).to("meta").structure is None


def test_every_element_from_hydrogen_on_is_one():
    check_structure(ase.Atoms(range(1, 119), np.arange(118)[:, None] * [2.0, 0, 0]))
    for number in (0, 119, -1):
        with pytest.raises(StructureError, match="atom 1"):
            check_structure(ase.Atoms([1, number], [[0, 0, 0], [2, 0, 0]]))


@pytest.mark.parametrize("name", ["crystal", "triclinic", "slab", "cluster"])
def test_check_structure_accepts_good_structures_and_does_not_touch_them(structures, name):
    atoms = getattr(structures, name)()
    kept = atoms.copy()
    check_structure(atoms)
    assert equal(atoms, kept)


def test_check_structure_refuses_an_empty_structure():
    with pytest.raises(StructureError, match=r"^si\.cif: the structure has no atoms"):
        check_structure(ase.Atoms(), "si.cif")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_structure_names_the_atom_with_a_bad_coordinate(structures, value):
    atoms = structures.crystal()
    atoms.positions[5, 1] = value
    with pytest.raises(StructureError, match="atom 5 has a coordinate that is not finite"):
        check_structure(atoms)


@pytest.mark.parametrize("number", [0, 119, -1])
def test_check_structure_names_the_atom_with_an_unknown_number(structures, number):
    atoms = structures.crystal()
    atoms.numbers[3] = number
    with pytest.raises(StructureError, match=f"atom 3 has atomic number {number}; expected an element"):
        check_structure(atoms)


def test_check_structure_refuses_a_cell_that_is_not_finite(structures):
    atoms = structures.crystal()
    atoms.cell[1, 2] = np.nan
    with pytest.raises(StructureError, match="cell is not finite"):
        check_structure(atoms)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_check_structure_names_the_periodic_axis_without_a_cell_vector(structures, axis):
    atoms = structures.crystal()
    atoms.cell[axis] = 0.0
    with pytest.raises(StructureError, match=f"axis {'abc'[axis]} is periodic but its cell vector is zero"):
        check_structure(atoms)
    atoms.pbc[axis] = False
    check_structure(atoms)


def test_check_structure_names_parallel_periodic_axes(structures):
    atoms = structures.crystal()
    atoms.cell[2] = -2.5 * atoms.cell[0]
    atoms.pbc = (True, False, True)
    with pytest.raises(StructureError, match="periodic axes a, c are linearly dependent"):
        check_structure(atoms)
    atoms.pbc = (True, True, False)  # the parallel vector does no harm along an open axis
    check_structure(atoms)


def test_check_structure_refuses_three_coplanar_axes(structures):
    atoms = structures.crystal()
    atoms.cell[2] = atoms.cell[0] + atoms.cell[1]
    with pytest.raises(StructureError, match="periodic axes a, b, c are linearly dependent"):
        check_structure(atoms)
