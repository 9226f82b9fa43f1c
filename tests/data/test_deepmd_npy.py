"""Folders of DeePMD-kit."""

import numpy as np
import pytest
from ase.stress import voigt_6_to_full_3x3_stress
from builders import copper

from nfflr.data.records import read_records
from nfflr.errors import StructureError


def stress(atoms):
    """EMT's stress (3, 3) of copper, whatever the elements are called by now."""
    return voigt_6_to_full_3x3_stress(atoms.calc.results["stress"])


def write(folder, structures, names=("Cu",), mixed=False, per_set=2):
    """A system; virial is −V σ in eV."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"Cu": 29, "Au": 79}
    types = [[[numbers[n] for n in names].index(z) for z in a.numbers] for a in structures]
    (folder / "type.raw").write_text("\n".join(map(str, [0] * len(types[0]) if mixed else types[0])))
    (folder / "type_map.raw").write_text("\n".join(names) + "\n")
    for start in range(0, len(structures), per_set):
        part = structures[start : start + per_set]
        target = folder / f"set.{start // per_set:03d}"
        target.mkdir(exist_ok=True)
        virial = [-stress(a) * a.get_volume() for a in part]
        arrays = {
            "coord": [a.positions.ravel() for a in part],
            "box": [a.cell.array.ravel() for a in part],
            "energy": [a.calc.results["energy"] for a in part],
            "force": [a.calc.results["forces"].ravel() for a in part],
            "virial": np.reshape(virial, (-1, 9)),
        }
        if mixed:
            arrays["real_atom_types"] = types[start : start + per_set]
        for name, array in arrays.items():
            np.save(target / f"{name}.npy", np.array(array))
    return folder


def assert_labels(records, structures):
    assert len(records) == len(structures)
    for record, atoms in zip(records, structures, strict=True):
        assert record.atoms.numbers.tolist() == atoms.numbers.tolist() and record.atoms.pbc.all()
        assert record.atoms.positions == pytest.approx(atoms.positions, abs=1e-12)
        assert record.labels["total_energy"] == pytest.approx(atoms.calc.results["energy"], abs=1e-12)
        assert record.labels["forces"] == pytest.approx(atoms.calc.results["forces"], abs=1e-12)
        assert record.labels["stress"] == pytest.approx(stress(atoms), abs=1e-12)


def test_sets_of_a_system(tmp_path):
    structures = copper(5, sizes=((1, 1, 1),))
    assert_labels(read_records(write(tmp_path / "dp", structures)), structures)


def test_several_systems_in_a_folder_and_their_groups(tmp_path):
    small, large = copper(2, sizes=((1, 1, 1),)), copper(2, sizes=((1, 1, 2),))
    write(tmp_path / "dp" / "a", small)
    write(tmp_path / "dp" / "b" / "c", large)
    records = read_records(tmp_path / "dp")
    assert_labels(records, [*small, *large])
    assert records[0].id == "dp/a[0]" and records[2].group == "dp/b/c"


def test_mixed_types_and_virtual_atoms(tmp_path):
    structures = copper(2, sizes=((1, 1, 1),))
    structures[1].numbers[0] = 79
    folder = write(tmp_path / "dp", structures, ("Cu", "Au"), mixed=True)
    assert_labels(read_records(folder), structures)
    types = np.load(folder / "set.000" / "real_atom_types.npy")
    types[1, 3] = -1
    np.save(folder / "set.000" / "real_atom_types.npy", types)
    record = read_records(folder)[1]
    assert record.atoms.numbers.tolist() == [79, 29, 29] and record.labels["forces"].shape == (3, 3)


def test_no_periodicity(tmp_path):
    structures = copper(1, sizes=((1, 1, 1),))
    folder = write(tmp_path / "dp", structures)
    (folder / "nopbc").touch()
    (record,) = read_records(folder)
    assert not record.atoms.pbc.any() and "stress" not in record.labels


def remove_names(folder):
    (folder / "type_map.raw").unlink()


def few_names(folder):
    (folder / "type.raw").write_text("0 1 0 0")


def few_rows(folder):
    np.save(folder / "set.000" / "energy.npy", np.zeros(1))


def few_columns(folder):
    np.save(folder / "set.000" / "force.npy", np.zeros((2, 9)))


def pickled(folder):
    np.save(folder / "set.000" / "energy.npy", np.array([{}, {}], dtype=object), allow_pickle=True)


def cut(folder):
    path = folder / "set.000" / "coord.npy"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "change, message",
    [
        (remove_names, "types and no elements; write the symbols .* type_map.raw"),
        (few_names, "has the type 1, but type_map.raw has 1"),
        (few_rows, r"energy.npy: has shape \(1,\), expected 2 rows"),
        (few_columns, r"force.npy: has shape \(2, 9\), expected 2 rows of 12"),
        (pickled, "energy.npy: cannot be read"),
        (cut, "coord.npy: cannot be read"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_damage_is_named_by_its_file(tmp_path, change, message):
    folder = write(tmp_path / "dp", copper(2, sizes=((1, 1, 1),)))
    change(folder)
    with pytest.raises(StructureError, match=message):
        read_records(folder)
