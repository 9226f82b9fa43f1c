"""Group A of what the software must survive: structures, for every registered architecture.

"The reference" is the brute force of ``brute_force.py``: every image tried, forces and stress by autograd
through the positions and a strain; the architectures share only their atomic energies with it.
"""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from brute_force import brute_force, reference
from every_architecture import ELEMENTS, KEYS, assert_equals_reference, assert_results, calculator, potential
from memory import peak, reset_peak

from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.cli.main import run
from nfflr.errors import StructureError
from nfflr.structures.neighbours import BACKENDS, neighbor_list

every_architecture = pytest.mark.parametrize("key", KEYS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / FILE
    save_checkpoint(path, potential("moment"))
    return path


@pytest.fixture
def refused(capsys, tmp_path, checkpoint):
    """``nff energy`` on a file: exit code 3, one line that names what it should, nothing left behind."""

    def check(path, *words):
        out = tmp_path / "out"
        assert run(["energy", str(path), "-m", str(checkpoint), "-o", str(out)]) == 3
        stderr = capsys.readouterr().err.strip()
        last = stderr.splitlines()[-1]
        assert last.startswith("error: ") and "Traceback" not in stderr
        for word in (path, *words):
            assert str(word) in last, last
        assert not out.exists() or not list(out.iterdir())

    return check


def results(key, atoms, **options) -> dict:
    """What a fresh calculator finds."""
    calc = calculator(key, **options)
    calc.calculate(atoms)
    return calc.results


def gas(pbc, seed=0) -> ase.Atoms:
    """Six atoms in a skewed cell of 3 to 5 Å, none nearer than 1.3 Å to another or an image."""
    cell = np.array([[4.3, 0.2, -0.4], [1.1, 3.9, 0.3], [-0.7, 1.6, 5.1]])
    rng = np.random.default_rng(seed)
    chosen = np.zeros((0, 3))
    while len(chosen) < 6:
        tried = np.vstack([chosen, rng.random(3) @ cell])
        _, vectors = brute_force(tried, cell, np.ones(3, bool), 6.0)
        if np.linalg.norm(vectors, axis=1).min() > 1.3:
            chosen = tried
    return ase.Atoms("SiCSiCCSi", chosen, cell=cell, pbc=pbc)


@every_architecture
def test_case_01_one_atom_without_periodicity_has_its_own_energy_and_no_force(key):
    model = potential(key)
    for element, own in zip(ELEMENTS, model.reference_energies.tolist(), strict=True):
        found = results(key, ase.Atoms(element, [[3.0, -7.0, 900.0]]))
        assert not found["forces"].any() and "stress" not in found
        # A network adds a constant of its own to each element's E0; a classical potential adds nothing.
        expected = reference(model, ase.Atoms(element))["energy"]
        assert found["energy"] == pytest.approx(expected, abs=1e-12)
        if not model.fits_references:
            assert found["energy"] == own


@every_architecture
def test_case_02_a_one_atom_cell_of_one_and_a_half_angstrom(key):
    found = assert_equals_reference(key, ase.Atoms("C", [[0.4, 5.0, -0.1]], cell=1.5 * np.eye(3), pbc=True))
    assert np.abs(found["forces"]).max() < 1e-9 and np.abs(found["stress"]).max() > 1e-3


@every_architecture
def test_case_03_a_cutoff_of_three_times_the_cell(key):
    side = potential(key).cutoff / 3.01
    assert_equals_reference(key, ase.Atoms("C", cell=side * np.eye(3), pbc=True))


@pytest.mark.parametrize(
    "pbc",
    [
        pytest.param(mask, id=f"case_{4 + k:02d}_{''.join('FT'[x] for x in mask)}")
        for k, mask in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)])
    ],
)
@every_architecture
def test_case_04_to_09_mixed_periodicity(key, pbc):
    # Two of the atoms are so near to each other that energies reach 5e4 eV, whose rounding counts.
    found = assert_equals_reference(key, gas(pbc), rtol=1e-14)
    assert np.abs(found["forces"]).max() > 1e-2  # else this says nothing


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_case_10_a_periodic_axis_without_a_vector_is_named(refused, tmp_path, axis):
    lattice = 5.0 * np.eye(3)
    lattice[axis] = 0
    path = tmp_path / "flat.xyz"
    cell = " ".join(map(str, lattice.ravel()))
    path.write_text(f'1\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T"\nSi 0 0 0\n')
    refused(path, f"axis {'abc'[axis]}", "zero", "pbc")


def test_case_10_a_singular_cell_is_refused_with_its_axes(refused, tmp_path):
    path = tmp_path / "parallel.xyz"
    cell = "5 0 0 -10 0 0 0 0 5"
    path.write_text(f'1\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T F"\nSi 0 0 0\n')
    refused(path, "axes a, b", "linearly dependent")
    coplanar = ase.Atoms("Si", cell=[[5, 0, 0], [0, 5, 0], [5, 5, 0]], pbc=True)
    with pytest.raises(StructureError, match="axes a, b, c are linearly dependent"):
        results("moment", coplanar)


@every_architecture
def test_case_11_a_dummy_cell_of_a_molecule_changes_nothing(key, structures):
    plain = structures.cluster(ELEMENTS, bond=2.1)
    boxed = plain.copy()
    boxed.set_cell(np.eye(3))
    assert_results(results(key, boxed), assert_equals_reference(key, plain))


@every_architecture
def test_case_12_a_thousand_lattice_vectors_change_nothing(key):
    atoms = gas(True)
    moved = atoms.copy()
    moved.positions += np.random.default_rng(5).choice([-1000, 0, 1000], size=(6, 3)) @ atoms.cell.array
    assert np.abs(moved.positions).max() > 3000
    assert_results(results(key, moved), results(key, atoms), rtol=1e-10)


@every_architecture
def test_case_13_a_cluster_far_away_costs_no_memory_and_gives_the_same(key, structures):
    here = structures.cluster(ELEMENTS, bond=2.1)
    expected = results(key, here)
    there = here.copy()
    there.positions += 5000.0
    before = reset_peak()
    found = results(key, there)
    assert peak() - before < 20e6
    assert_results(found, expected, rtol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (0, 0, 1)], ids=str)
def test_case_13_atoms_ten_thousand_angstrom_apart_cost_no_memory(backend, pbc):
    positions = np.array([[0, 0, 0], [1.5, 0, 0], [1e4, 1e4, 1e4], [1e4, 1e4, 1e4 + 1.5]])
    before = reset_peak()
    i, _, _ = neighbor_list(positions, 8.0 * np.eye(3), np.array(pbc, bool), 3.0, backend)
    assert peak() - before < 50e6
    assert len(i) >= 4


@every_architecture
@pytest.mark.parametrize("coordinate", [-1e-52, -5e-324, -1e-17])
def test_case_14_a_coordinate_just_below_zero_changes_nothing(key, coordinate):
    atoms = ase.Atoms("SiC", [[0, 0, 0], [1.3, 1.9, 2.3]], cell=[3.1, 3.7, 4.9], pbc=True)
    moved = atoms.copy()
    moved.positions[0] = coordinate
    assert_results(results(key, moved), results(key, atoms))


@every_architecture
def test_case_15_a_fractional_coordinate_of_one_is_zero(key):
    cell = gas(True).cell
    scaled = np.array([[0, 0, 0], [0.4, 0.45, 0.55]])
    atoms = ase.Atoms("SiC", scaled_positions=scaled, cell=cell, pbc=True)
    expected = results(key, atoms)
    for corner in ([1, 0, 0], [0, 1, 0], [1, 1, 1]):
        moved = atoms.copy()
        moved.positions[0] = corner @ cell.array
        assert_results(results(key, moved), expected)


@every_architecture
def test_case_16_a_left_handed_cell(key):
    atoms = gas(True)
    left = atoms.copy()
    left.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0
    assert_results(assert_equals_reference(key, left), results(key, atoms))


@every_architecture
@pytest.mark.parametrize("angles", [(90, 90, 5), (5, 90, 90), (5, 5, 5), (90, 90, 175)], ids=str)
def test_case_17_a_cell_angle_of_five_degrees(key, angles):
    # Long enough that no lattice vector, a − b among them, is shorter than 1.5 Å.
    atoms = ase.Atoms("Si", cell=[20.0, 18.0, 22.0, *angles], pbc=True)
    assert_equals_reference(key, atoms, rtol=1e-12)


@every_architecture
@pytest.mark.parametrize("long", [0, 2])
def test_case_18_an_aspect_ratio_of_a_thousand(key, long):
    lengths = np.full(3, 2.0)
    lengths[long] = 2000.0
    positions = np.full((3, 3), 0.3)
    positions[:, long] = [-1.0, 1.0, 700.0]  # the first two are nearest through the boundary or within
    assert_equals_reference(key, ase.Atoms("CSiC", positions, cell=lengths, pbc=True))


def test_case_19_coincident_atoms_are_refused_with_their_indices(refused, tmp_path):
    path = tmp_path / "twins.xyz"
    header = '3\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
    path.write_text(header + "Si 4 4 4\nSi 1 1 1\nC 10 1 1\n")  # an image of the atom before
    refused(path, "1 and 2", "coincide")


@every_architecture
@pytest.mark.parametrize("distance", [0.0, 1e-300, 1e-20, 1e-9, 1e-7, 2e-6, 1e-4, 2e-3, 1e-2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_case_19_atoms_ever_nearer_are_refused_or_finite(key, distance, dtype):
    atoms = ase.Atoms("SiC", [[0, 0, 0], [distance, 0, 0]])
    try:
        found = results(key, atoms, dtype=dtype)
    except (StructureError, ArithmeticError) as error:
        assert "atoms 0 and 1" in str(error)
        # Beyond a thousandth of an ångström they are two atoms, and float32 may end before the repulsion.
        assert error.exit_code == 3 if distance < 1e-3 else dtype == "float32"
    else:
        assert all(np.isfinite(value).all() for value in found.values())


@every_architecture
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_case_20_a_pair_at_a_tenth_of_an_angstrom_is_finite(key, dtype):
    for pair in ("SiC", "C2", "Si2"):
        found = results(key, ase.Atoms(pair, [[0, 0, 0], [0.06, 0.08, 0]]), dtype=dtype)
        assert all(np.isfinite(value).all() for value in found.values())


@every_architecture
def test_case_21_nothing_jumps_where_a_pair_crosses_the_cutoff(key):
    cutoff = potential(key).cutoff
    rest = [[1.1, 2.1, 0.4], [cutoff, 1.9, 0.2]]  # each end has another neighbour, for angles and messages
    sides = []
    for distance in (cutoff - 1e-12, cutoff + 1e-12):
        sides.append(results(key, ase.Atoms("SiCCSi", [[0, 0, 0], [distance, 0, 0], *rest])))
    inside, outside = sides
    assert abs(inside["energy"] - outside["energy"]) < 1e-9
    assert np.abs(inside["forces"] - outside["forces"]).max() < 1e-9


def test_case_22_an_empty_structure(refused, tmp_path):
    path = tmp_path / "empty.xyz"
    path.write_text("0\n\n")
    refused(path)


@pytest.mark.parametrize("coordinate", ["nan", "inf", "-inf"])
def test_case_23_a_coordinate_that_is_not_finite(refused, tmp_path, coordinate):
    path = tmp_path / "bad.xyz"
    path.write_text(f'2\nLattice="5 0 0 0 5 0 0 0 5"\nSi 0 0 0\nSi 1 {coordinate} 0\n')
    refused(path, "atom 1", "not finite")


def test_case_24_an_element_the_model_was_not_trained_on(refused, tmp_path):
    path = tmp_path / "gaas.cif"
    bulk("GaAs", "zincblende", a=5.65).write(path)
    refused(path, "As", "Ga", "C, Si")


def test_case_25_an_atomic_number_of_zero(refused, tmp_path):
    path = tmp_path / "dummy.xyz"
    path.write_text("2\n\nSi 0 0 0\nX 1 1 0\n")
    refused(path, "atom 1", "atomic number 0")


CIF = """data_alloy
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
C1 C 0 0 0 1.0
"""


@pytest.mark.parametrize(
    "sites", ["Si1 Si 0.5 0.5 0.5 0.7\nC2 C 0.5 0.5 0.5 0.3\n", "Si1 Si 0.5 0.5 0.5 0.7\n"], ids=str.split
)
def test_case_26_a_partially_occupied_site(refused, tmp_path, sites):
    path = tmp_path / "alloy.cif"
    path.write_text(CIF + sites)
    refused(path, "partially occupied", "ordered")


@every_architecture
@pytest.mark.parametrize("repeat", [(2, 2, 2), (3, 1, 1)], ids=str)
def test_case_27_supercells_are_extensive(key, repeat, structures):
    cell = structures.triclinic(ELEMENTS)
    n = int(np.prod(repeat))
    one, many = results(key, cell), results(key, cell.repeat(repeat))
    assert abs(many["energy"] / n - one["energy"]) < 1e-10
    tiled = {"energies": np.tile(one["energies"], n), "forces": np.tile(one["forces"], (n, 1))}
    assert_results(many, {"energy": n * one["energy"], "stress": one["stress"], **tiled})


@every_architecture
def test_case_28_a_permutation_of_the_atoms_permutes_the_forces(key):
    atoms = gas(True)
    order = np.array([3, 0, 5, 1, 4, 2])
    expected, found = results(key, atoms), results(key, atoms[order])
    moved = {"energies": expected["energies"][order], "forces": expected["forces"][order]}
    assert_results(found, {**expected, **moved})


@every_architecture
@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_case_29_rotations_and_reflections_turn_the_forces(key, determinant):
    atoms = gas((1, 1, 0))
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    q *= determinant * np.linalg.det(q)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    before, after = results(key, atoms), results(key, turned)
    assert abs(after["energy"] - before["energy"]) < 1e-10 * len(atoms)
    assert np.abs(after["forces"] - before["forces"] @ q.T).max() < 1e-8
    tensors = [r["stress"][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] for r in (before, after)]
    assert np.abs(tensors[1] - q @ tensors[0] @ q.T).max() < 1e-8


@every_architecture
def test_case_30_two_molecules_far_apart_add_up(key, structures):
    near, far = structures.cluster(ELEMENTS, bond=2.1), structures.cluster(ELEMENTS[::-1], bond=2.1, seed=8)
    far.positions += [100.0, 0, 0]
    parts, whole = [results(key, near), results(key, far)], results(key, near + far)
    assert abs(whole["energy"] - sum(part["energy"] for part in parts)) < 1e-10
    assert np.abs(whole["forces"] - np.concatenate([part["forces"] for part in parts])).max() < 1e-10


@every_architecture
@pytest.mark.parametrize("place", [0, 1, 3])
def test_case_31_a_batch_with_an_isolated_atom_in_it(key, structures, place):
    members = [
        structures.triclinic(ELEMENTS),
        structures.slab(ELEMENTS),
        structures.cluster(ELEMENTS, bond=2.1),
    ]
    members.insert(place, ase.Atoms("C", [[1.0, 2.0, 3.0]]))
    for atoms, found in zip(members, calculator(key).evaluate(members), strict=True):
        expected = results(key, atoms)
        assert found.keys() == expected.keys()
        assert_results(found, expected)


@every_architecture
@pytest.mark.parametrize("name", ["triclinic", "slab"])
def test_case_32_stress_is_the_strain_derivative_of_the_energy(key, structures, name):
    # The fourth-order difference of the energy, through the calculator; the brute force's is autograd's.
    atoms, calc, h = getattr(structures, name)(ELEMENTS), calculator(key, skin=0.0), 2e-5
    strained = []
    for a, b in VOIGT:
        for step in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[a, b] += step * h / 2  # ε_ab = ε_ba = h/2 off the diagonal, ε_aa = h on it
            strain[b, a] += step * h / 2
            strained.append(atoms.copy())
            strained[-1].set_cell(atoms.cell.array @ strain, scale_atoms=True)
    energies = np.reshape([found["energy"] for found in calc.evaluate(strained)], (6, 4))
    slopes = energies @ [1, -8, 8, -1] / (12 * h) / atoms.get_volume()
    stress = results(key, atoms)["stress"]
    assert np.abs(stress - slopes).max() <= 1e-7 * max(np.abs(stress).max(), 1e-2)
    assert_equals_reference(key, atoms)


VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]  # xx, yy, zz, yz, xz, xy


@every_architecture
def test_case_33_get_stress_has_ases_shape_order_unit_and_sign(key):
    atoms = gas(True)
    atoms.calc = calculator(key)
    stress = atoms.get_stress()
    tensor = reference(atoms.calc.model, atoms)["stress"]  # dE/dε / V in eV/Å³, tension positive
    assert stress.shape == (6,) and np.unique(stress.round(9)).size == 6  # else the order is untested
    assert np.abs(stress - [tensor[place] for place in VOIGT]).max() < 1e-9
    assert np.array_equal(atoms.get_stress(voigt=False), stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]])


@every_architecture
def test_case_34_a_structure_that_is_not_periodic_has_no_stress(key, structures):
    bare, boxed = structures.cluster(ELEMENTS, bond=2.1), molecule("CH4")
    boxed.numbers[:] = 6
    boxed.set_cell(9 * np.eye(3))
    flat = structures.slab(ELEMENTS)
    flat.cell[2] = 0
    for atoms in (bare, boxed, flat):
        atoms.calc = calculator(key)
        with pytest.raises(PropertyNotImplementedError, match="volume"):
            atoms.get_stress()
        assert np.isfinite(atoms.get_forces()).all()


@every_architecture
def test_case_36_the_input_is_left_as_it_was(key):
    atoms = gas((1, 1, 0))
    atoms.positions += 100.0  # outside the cell, where a search would like to wrap
    atoms.info["note"], atoms.arrays["tag"] = "mine", np.arange(6)
    kept, calc = atoms.copy(), calculator(key)
    for array in (atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc):
        array.setflags(write=False)
    calc.calculate(atoms)
    calc.evaluate([atoms])
    assert atoms == kept and atoms.info == kept.info and atoms.arrays.keys() == kept.arrays.keys()
    assert all(np.array_equal(atoms.arrays[name], kept.arrays[name]) for name in kept.arrays)


@every_architecture
def test_case_37_float32_and_float64_interleaved_are_unchanged(key, structures):
    atoms = structures.triclinic(ELEMENTS)
    alone = {dtype: results(key, atoms, dtype=dtype) for dtype in ("float32", "float64")}
    pair = {dtype: calculator(key, dtype=dtype) for dtype in alone}
    default = torch.get_default_dtype()
    for dtype in ("float32", "float64", "float32", "float64"):
        pair[dtype].calculate(atoms)
        for name, value in alone[dtype].items():
            assert np.array_equal(pair[dtype].results[name], value), name
        assert torch.get_default_dtype() == default
    difference = np.abs(alone["float32"]["forces"] - alone["float64"]["forces"]).max()
    assert 0 < difference < 1e-4 * np.abs(alone["float64"]["forces"]).max()  # two precisions of one model
