"""Fewer operations and fewer q-points give what all of them give."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from phonon_replay import Case
from phonopy import Phonopy
from phonopy.harmonic.force_constants import compact_fc_to_full_fc
from phonopy.structure.cells import compute_all_sg_permutations

from nfflr.workflows.lattice.harmonic import to_phonopy
from nfflr.workflows.lattice.spectra import density_of_states
from nfflr.workflows.lattice.supercells import SupercellPhonopy


def crystals():
    rock = bulk("NaCl", "rocksalt", a=5.6)
    alone = ase.Atoms(
        "H3", positions=[[0, 0, 0], [1, 0.4, 0.2], [0.3, 1.7, 0.9]], cell=[3, 3.4, 4.1], pbc=True
    )
    return {
        "silicon": (bulk("Si", cubic=True), np.diag([2, 2, 2])),
        "silicon, primitive": (bulk("Si"), np.diag([3, 3, 3])),
        "rocksalt": (rock, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]),
        "magnesium diboride": (Case("MgB2").unitcell, np.diag([2, 2, 1])),
        "stishovite": (Case("SiO2-HP").unitcell, np.diag([2, 2, 2])),
        "broken by the supercell": (bulk("Cu", cubic=True), np.diag([1, 2, 3])),
        "triclinic": (alone, np.diag([2, 1, 2])),
        "one cell": (bulk("Cu", cubic=False), np.eye(3, dtype=int)),
    }


CRYSTALS = crystals()


def both(name):
    """Ours and phonopy's own, with displacements."""
    atoms, supercell = CRYSTALS[name]
    made = []
    for kind in (SupercellPhonopy, Phonopy):
        phonon = kind(to_phonopy(atoms), supercell_matrix=supercell, primitive_matrix="P")
        phonon.generate_displacements(distance=0.01)
        made.append(phonon)
    return made


@pytest.mark.filterwarnings("ignore:.*Point group symmetries:UserWarning")
@pytest.mark.parametrize("name", CRYSTALS)
def test_displacements_and_force_constants_are_those_of_all_operations(name):
    """Whatever the forces are; theirs need not even be symmetric."""
    ours, theirs = both(name)
    assert len(ours.supercells_with_displacements) == len(theirs.supercells_with_displacements)
    rng = np.random.default_rng(3)
    forces = rng.normal(size=(len(ours.supercells_with_displacements), len(ours.supercell), 3))
    for phonon in (ours, theirs):
        phonon.forces = forces
    for cell, other in zip(
        ours.supercells_with_displacements, theirs.supercells_with_displacements, strict=True
    ):
        assert np.array_equal(cell.positions, other.positions)
    ours.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    theirs.produce_force_constants(show_drift=False)
    expected = theirs.force_constants[theirs.primitive.p2s_map]
    assert np.abs(ours.force_constants - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.array_equal(ours.symmetry.pointgroup_operations, theirs.symmetry.pointgroup_operations)
    full = compact_fc_to_full_fc(ours.primitive, ours.force_constants)
    assert np.abs(full - theirs.force_constants).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["silicon", "rocksalt", "magnesium diboride", "stishovite"])
def test_kept_operations_take_atoms_where_phonopy_finds_them(name):
    ours, theirs = both(name)
    kept = ours.symmetry.symmetry_operations
    cell = ours.supercell
    expected = compute_all_sg_permutations(
        cell.scaled_positions, *kept.values(), np.array(cell.cell.T, order="C"), 1e-5, cell.numbers
    )
    assert np.array_equal(ours.symmetry.atomic_permutations, expected)
    if name == "silicon":
        assert len(kept["rotations"]) < len(theirs.symmetry.symmetry_operations["rotations"]) / 5


@pytest.mark.parametrize("name", ["silicon", "rocksalt", "magnesium diboride", "stishovite"])
def test_densities_from_irreducible_points_are_those_of_the_whole_mesh(name):
    """The whole mesh, cut into tetrahedra along one diagonal, differs by what the cut does to symmetry."""
    ours, _ = both(name)
    n = len(ours.supercell)
    distance = ours.supercell.scaled_positions[:, None] - ours.supercell.scaled_positions
    distance = np.linalg.norm((distance - np.rint(distance)) @ ours.supercell.cell, axis=2)
    bond = np.exp(-((distance / distance[distance > 0.1].min()) ** 2))[..., None, None] * np.eye(3)
    bond[range(n), range(n)] = 0.0
    bond[range(n), range(n)] = -bond.sum(axis=1)
    ours.force_constants = -bond  # isotropic springs, as symmetric as the crystal
    mesh = ours.run_mesh((6, 6, 6), is_gamma_center=True, with_eigenvectors=True)
    found = density_of_states(ours, mesh)
    width = np.diff(found["dos_frequencies"])[0]
    assert found["dos"].sum() * width == pytest.approx(3 * len(ours.primitive), rel=0.05)
    assert found["projected_dos"].sum(axis=0) == pytest.approx(found["dos"])

    ours.run_mesh((6, 6, 6), is_gamma_center=True, with_eigenvectors=True, is_mesh_symmetry=False)
    whole = ours.run_projected_dos()
    assert found["dos_frequencies"] == pytest.approx(whole.frequency_points, abs=1e-6)
    symbols = np.array(ours.primitive.symbols)
    for element, ours_of in zip(found["dos_elements"], found["projected_dos"], strict=True):
        theirs_of = whole.projected_dos[symbols == element].sum(axis=0)
        cumulative = np.abs(np.cumsum(ours_of - theirs_of)) * width
        assert cumulative.max() < 0.02 * 3 * len(ours.primitive), element
