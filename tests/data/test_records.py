"""Labels from files and structures, in eV, eV/Å and eV/Å³ whatever the source used."""

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from builders import copper, label

from nfflr.data.dataset import AtomsDataset
from nfflr.data.records import read_records
from nfflr.errors import ConfigError, StructureError

VOIGT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # xx, yy, zz, yz, xz, xy
SQUARE = [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]


def pair(**labels) -> ase.Atoms:
    """Two copper atoms in a box with results as given."""
    atoms = ase.Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]], cell=[6, 6, 6], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def test_labels_keep_their_values_in_the_default_units():
    (structure,) = copper(1)
    (record,) = read_records([structure])
    assert record.labels["total_energy"] == structure.get_potential_energy()
    assert record.labels["forces"] == pytest.approx(structure.get_forces(), abs=0)
    assert record.labels["stress"] == pytest.approx(structure.get_stress(voigt=False), abs=0)
    assert record.labels["total_energy"].shape == ()
    assert record.atoms.calc is None and record.atoms.positions == pytest.approx(structure.positions, abs=0)


def test_voigt_3x3_and_nine_numbers_give_the_same_stress():
    for stress in (VOIGT, SQUARE, np.ravel(SQUARE)):
        atoms = pair()
        atoms.info["stress"] = np.array(stress)
        (record,) = read_records([atoms], stress_order="voigt")
        assert record.labels["stress"].tolist() == SQUARE


def test_voigt_order_is_ases():
    (structure,) = copper(1)
    assert np.unique(np.abs(structure.get_stress())).size == 6  # six different numbers, or nothing is tested
    (record,) = read_records([structure])
    assert record.labels["stress"] == pytest.approx(structure.get_stress(voigt=False), abs=0)


@pytest.mark.parametrize(
    "units, energy, forces",
    [
        ("eV", 1.0, 1.0),
        ("eV/atom", 2.0, 1.0),  # two atoms; forces are in eV/Å already
        ("Ha", 27.211386, 27.211386),
        ("kcal/mol", 0.0433641, 0.0433641),
    ],
)
def test_energy_units(units, energy, forces):
    atoms = pair(energy=-3.0, forces=np.array([[0.5, 0, 0], [-0.5, 0, 0]]))
    (record,) = read_records([atoms], energy_units=units)
    assert record.labels["total_energy"] == pytest.approx(-3.0 * energy, rel=1e-6)
    assert record.labels["forces"][:, 0] == pytest.approx([0.5 * forces, -0.5 * forces], rel=1e-6)


def test_vasp_stress_in_kbar_with_pressure_positive():
    # What VASP prints as "in kB": 10 kbar is 1 GPa, and pressure is positive where ASE's tension is.
    structures = copper(6)
    originals = [atoms.get_stress(voigt=False) for atoms in structures]
    for atoms in structures:
        atoms.calc.results["stress"] = -atoms.calc.results["stress"] / ase.units.GPa * 10
    dataset = AtomsDataset(structures, stress_units="kbar", stress_sign=-1)
    for record, original in zip(dataset.records, originals, strict=True):
        assert record.labels["stress"] == pytest.approx(original, rel=1e-12)


def test_stress_in_gpa():
    atoms = pair(stress=np.array(VOIGT))
    (record,) = read_records([atoms], stress_units="GPa")
    assert record.labels["stress"] == pytest.approx(np.array(SQUARE) / 160.21766, rel=1e-6)


def test_labels_come_from_results_then_info_then_arrays_under_any_name():
    atoms = pair()
    atoms.info["dft_energy"] = -7.0
    atoms.arrays["dft_forces"] = np.ones((2, 3))
    keys = {"total_energy": "dft_energy", "forces": "dft_forces", "stress": "none"}
    (record,) = read_records([atoms], keys=keys)
    assert (
        record.labels["total_energy"] == -7.0 and record.labels["forces"].tolist() == np.ones((2, 3)).tolist()
    )
    assert "stress" not in record.labels


def test_ids_name_the_file_and_the_configuration(tmp_path):
    structures = copper(2)
    structures[1].info["config_id"] = "Cu-77"
    structures[1].info["group"] = "hot"
    ase.io.write(tmp_path / "copper.xyz", structures)
    records = read_records(tmp_path / "copper.xyz")
    assert [r.id for r in records] == ["copper.xyz[0]", "copper.xyz[Cu-77]"]
    assert [r.group for r in records] == ["other", "hot"]
    assert [r.id for r in read_records(structures)] == ["structures[0]", "structures[Cu-77]"]


def test_the_source_is_left_as_it_was():
    (structure,) = copper(1)
    kept, results = structure.copy(), {k: np.copy(v) for k, v in structure.calc.results.items()}
    (record,) = read_records([structure], energy_units="Ha", stress_sign=-1)
    record.labels["forces"][:] = 0
    record.atoms.positions += 1
    assert structure == kept
    assert all(np.array_equal(structure.calc.results[k], v) for k, v in results.items())


def test_an_empty_set_is_refused():
    with pytest.raises(StructureError, match="holds no structure"):
        read_records([])


@pytest.mark.parametrize("option", ["energy_units", "stress_units", "target"])
def test_an_unknown_choice_gets_the_nearest_match(option):
    near = {
        "energy_units": ("eV/at", "eV/atom"),
        "stress_units": ("Kbar", "kbar"),
        "target": ("energy", "total_energy"),
    }
    given, meant = near[option]
    with pytest.raises(ConfigError, match=f"^{option}: .*got '{given}'.*did you mean '{meant}'"):
        AtomsDataset(copper(2), **{option: given})


def test_an_unknown_stress_sign_is_refused():
    with pytest.raises(ConfigError, match="^stress_sign: should be 1 or -1, got 0"):
        AtomsDataset(copper(2), stress_sign=0)


def test_a_label_that_is_no_number_names_the_structure(tmp_path):
    structures = copper(2)
    path = tmp_path / "copper.xyz"
    ase.io.write(path, structures)
    energy = f"energy={structures[1].get_potential_energy()}"
    path.write_text(path.read_text().replace(energy, "energy=failed"))
    with pytest.raises(StructureError, match=r"copper\.xyz\[1\]: total_energy"):
        read_records(path, keys={"total_energy": "energy"})


def test_structures_from_memory_are_checked_like_those_from_a_file():
    good, bad = copper(2)
    bad.positions[1, 0] = np.nan
    with pytest.raises(StructureError, match=r"structures\[1\].*atom 1 has a coordinate that is not finite"):
        read_records([good, bad])


def test_molecules_have_energies_and_forces_only():
    molecule = ase.Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.3]])
    (record,) = read_records([label(copper(1)[0])])
    assert set(record.labels) == {"total_energy", "forces", "stress"}
    molecule.calc = SinglePointCalculator(molecule, energy=1.0, forces=np.zeros((2, 3)))
    (record,) = read_records([molecule])
    assert set(record.labels) == {"total_energy", "forces"}


@pytest.mark.parametrize(
    ("option", "nearest"), [("energy_units", "eV/atom"), ("stress_units", "kbar"), ("stress_order", "voigt")]
)
def test_a_reader_of_records_alone_refuses_what_a_data_set_refuses(option, nearest):
    (atoms,) = copper(1)
    wrong = {option: nearest[:-1]}
    with pytest.raises(ConfigError, match=f"{option}: got .*did you mean '{nearest}'"):
        read_records([atoms], **{"energy_units": "eV", **wrong})


@pytest.mark.parametrize("option", ["force_sign", "stress_sign"])
@pytest.mark.parametrize("sign", [0, 3, "plus"])
def test_a_sign_multiplies_nothing_but_the_sign(option, sign):
    with pytest.raises(ConfigError, match=f"{option}: should be 1 or -1, got {sign!r}"):
        read_records(copper(1), energy_units="eV", **{option: sign})
