"""Checks of labels: data made with a known potential pass, and each planted defect is refused by name."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa
from builders import copper, label

from nfflr.data.dataset import AtomsDataset
from nfflr.data.quality import label_checks as checks
from nfflr.data.records import Record, read_records
from nfflr.errors import StructureError

MLEARN = Path(__file__).parents[2] / "calculators" / "mlearn-si"
SIZES = ((1, 1, 1), (1, 1, 2), (1, 2, 2))


@pytest.fixture(scope="module")
def good():
    """60 structures of 4, 8 and 16 atoms, ±5 % in lattice constant."""
    return read_records(copper(60, SIZES))


def check_labels(records, required) -> None:
    checks.run(records, checks.LabelCheck(required))


def check_energies(records) -> None:
    checks.run(records, checks.EnergyCheck(len(records)))


def check_stress(records) -> None:
    checks.run(records, checks.StressCheck())


def check_duplicates(train, held_out) -> None:
    together = [*train, *held_out]
    checks.run(together, checks.DuplicateCheck(range(len(train)), range(len(train), len(together))))


def changed(records, **functions) -> list[Record]:
    """Records with each named label replaced by ``function(label, atoms)``."""
    new = []
    for r in records:
        labels = {
            k: np.asarray(functions[k](v, r.atoms)) if k in functions else v for k, v in r.labels.items()
        }
        new.append(Record(r.id, r.group, r.atoms, labels))
    return new


def check_all(records) -> None:
    check_labels(records, ("total_energy", "forces", "stress"))
    check_energies(records)
    check_stress(records)


def largest(records, key) -> str:
    return max(records, key=lambda r: np.abs(r.labels[key]).max()).id


def refused(check, *arguments) -> str:
    with pytest.raises(StructureError) as caught:
        check(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in message
    return message


def test_correct_data_pass(good):
    check_all(good)


@pytest.mark.parametrize("strain", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES])
def test_correct_data_pass_whatever_the_range_of_volumes_and_sizes(strain, sizes):
    check_all(read_records(copper(40, sizes, strain=strain, seed=1)))


def test_correct_data_pass_when_the_energy_zero_is_the_crystal():
    # Totals that are all near zero do not grow with size, and are no energies per atom either.
    check_all(read_records(copper(40, SIZES, offset=0.0)))


def test_correct_data_pass_without_rattle_or_in_small_number():
    check_all(read_records(copper(40, SIZES, rattle=0.0)))
    check_all(read_records(copper(3)))


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_real_silicon_data_pass(name):
    records = read_records(MLEARN / f"{name}.xyz.xz")
    assert len(records) == {"train": 214, "test": 25}[name]
    check_all(records)


@pytest.mark.parametrize("strain", [0.02, 0.05])
@pytest.mark.parametrize(
    "factor", [1 / GPa, 10 / GPa, -1 / GPa, -10 / GPa], ids=["GPa", "kbar", "-GPa", "-kbar"]
)
def test_stress_in_another_unit_is_refused(strain, factor):
    records = changed(read_records(copper(60, SIZES, strain)), stress=lambda s, _: s * factor)
    message = refused(check_stress, records)
    assert message.startswith(f"{largest(records, 'stress')}: ") and "stress_units" in message


def test_stress_in_gpa_near_equilibrium_is_found_by_the_bulk_modulus_it_implies():
    records = changed(read_records(copper(60, SIZES, 0.005, rattle=0.01)), stress=lambda s, _: s / GPa)
    assert np.median([np.abs(r.labels["stress"]).max() for r in records]) < checks.MAX_STRESS
    assert "bulk modulus" in refused(check_stress, records)


@pytest.mark.parametrize("count", [20, 60])
def test_stress_with_reversed_sign_is_refused(count):
    records = changed(read_records(copper(count, SIZES[:1])), stress=lambda s, _: -s)
    message = refused(check_stress, records)
    assert message.startswith(f"{largest(records, 'stress')}: ") and "sign looks reversed" in message


def test_twelve_structures_on_a_line_are_enough_to_see_a_reversed_sign():
    records = read_records(copper(12, SIZES[:1], rattle=0.02))
    check_stress(records)
    assert "sign looks reversed" in refused(check_stress, changed(records, stress=lambda s, _: -s))


def test_energies_per_atom_given_as_totals_are_refused(good):
    records = changed(good, total_energy=lambda e, atoms: e / len(atoms))
    message = refused(check_energies, records)
    assert message.split(":")[0] in {r.id for r in records}
    assert "look like energies per atom" in message and "eV/atom" in message


def test_energies_per_atom_cannot_be_told_where_sizes_are_equal():
    records = changed(read_records(copper(20, SIZES[:1])), total_energy=lambda e, atoms: e / len(atoms))
    check_energies(records)  # and must not be guessed


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("power", [-1, 1], ids=["per atom", "times N"])
@pytest.mark.parametrize("name", ["silicon", "copper", "copper of one size"])
def test_some_energies_per_atom_among_totals_are_refused(name, power, share):
    records = {
        "silicon": lambda: read_records(MLEARN / "train.xyz.xz"),
        "copper": lambda: read_records(copper(100, SIZES)),
        "copper of one size": lambda: read_records(copper(100, SIZES[:1])),
    }[name]()
    rng = np.random.default_rng(0)
    odd = set(rng.choice(len(records), int(share * len(records)), replace=False).tolist())
    mixed = [
        changed([r], total_energy=lambda e, atoms: e * len(atoms) ** float(power))[0] if k in odd else r
        for k, r in enumerate(records)
    ]
    check_energies(records)
    message = refused(check_energies, mixed)
    assert "units are mixed" in message or "per atom" in message


def test_a_dissociation_curve_is_no_mixture():
    structures = copper(40, SIZES)
    for k, stretch in enumerate(np.linspace(1, 3.0, 40)):  # energies from the crystal's to the free atom's
        atoms = structures[k]
        atoms.set_cell(atoms.cell * stretch, scale_atoms=True)
        label(atoms)
    check_energies(read_records([*copper(60, SIZES, seed=2), *structures]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["total_energy", "forces", "stress"])
def test_a_label_that_is_not_finite_names_structure_and_key(good, key, value):
    records = changed(
        good[:5],
        total_energy=lambda e, _: e.copy(),
        forces=lambda f, _: f.copy(),
        stress=lambda s, _: s.copy(),
    )
    records[3].labels[key][(-1,) * records[3].labels[key].ndim] = value
    message = refused(check_labels, records, ())
    assert message.startswith(f"{records[3].id}: {key} is not finite")


@pytest.mark.parametrize(
    "key, shape", [("forces", (3, 3)), ("forces", (12,)), ("stress", (5,)), ("total_energy", (1,))]
)
def test_a_label_of_the_wrong_shape_names_structure_key_and_shape(good, key, shape):
    records = [good[0], *changed(good[3:4], **{key: lambda *_: np.zeros(shape)})]
    message = refused(check_labels, records, ())
    assert message.startswith(f"{records[1].id}: {key} has shape {shape}, expected ")


@pytest.mark.parametrize("key", ["total_energy", "forces"])
def test_a_missing_label_names_structure_and_key(good, key):
    labels = {k: v for k, v in good[4].labels.items() if k != key}
    records = [*good[:4], Record(good[4].id, "all", good[4].atoms, labels)]
    message = refused(check_labels, records, ("total_energy", "forces"))
    assert message.startswith(f"{good[4].id}: no {key} label") and "allow_missing" in message
    check_labels(records, ())


def test_the_same_structure_in_two_splits_names_both(good):
    twin = Record("elsewhere[7]", "all", good[2].atoms, good[2].labels)
    message = refused(check_duplicates, good[:5], [good[8], twin])
    assert message.startswith("elsewhere[7]: ") and good[2].id in message and "allow_duplicates" in message
    check_duplicates(good[:5], good[5:])


def test_a_copy_with_rounded_positions_is_still_the_same_structure(good):
    atoms = good[0].atoms.copy()
    atoms.positions += 1e-8  # as a file with eight decimals leaves them
    assert refused(check_duplicates, good[:1], [Record("copy", "all", atoms, {})]).startswith("copy")


def test_a_copy_in_other_cells_is_still_the_same_structure(good):
    for steps in ([1, 0, 0], [-2, 3, 1]):
        atoms = good[0].atoms.copy()
        atoms.positions[1:] += steps @ atoms.cell.array
        assert refused(check_duplicates, good[:1], [Record("copy", "all", atoms, {})]).startswith("copy")
    on_the_face = [bulk("Cu", cubic=True) for _ in range(2)]
    on_the_face[1].positions[0] -= 1e-9  # rounding must not take it to the other side of the cell
    same, copy = (
        Record(name, "all", atoms, {}) for name, atoms in zip(("one", "two"), on_the_face, strict=True)
    )
    assert refused(check_duplicates, [same], [copy]).startswith("two")


def test_an_atom_moved_along_an_open_axis_makes_another_structure(good):
    for pbc in ((1, 1, 0), False):
        atoms = good[0].atoms.copy()
        atoms.pbc = pbc
        atoms.cell[2] = (
            2 * atoms.cell[1] if pbc else atoms.cell[2]
        )  # where it is open the cell may be anything
        moved = atoms.copy()
        moved.positions[0] += [0, 0, 3.6]
        records = [Record(name, "all", a, {}) for name, a in (("open", atoms), ("moved", moved))]
        check_duplicates(records[:1], records[1:])


def test_a_strained_or_transmuted_copy_is_another_structure(good):
    moved, strained, transmuted = (good[0].atoms.copy() for _ in range(3))
    moved.positions[0, 0] += 1e-3
    strained.cell[0, 0] += 1e-3
    transmuted.numbers[0] = 47
    others = [Record(str(k), "all", a, {}) for k, a in enumerate((moved, strained, transmuted))]
    check_duplicates(good[:1], others)


@pytest.mark.parametrize("spoil", ["kbar", "per atom", "nan", "length", "missing", "reversed"])
def test_the_data_set_runs_every_check(spoil):
    structures = copper(60, SIZES)
    for k, atoms in enumerate(structures):
        results = atoms.calc.results
        if spoil == "kbar":
            results["stress"] = results["stress"] * 10 / GPa
        if spoil == "reversed":
            results["stress"] = -results["stress"]
        if spoil == "per atom":
            results["energy"] /= len(atoms)
        if spoil == "nan" and k == 50:
            results["forces"][1, 2] = np.nan
        if spoil == "length" and k == 50:
            results["forces"] = results["forces"][:-1]
        if spoil == "missing" and k == 50:
            del results["forces"]
    message = refused(AtomsDataset, structures)
    assert message.startswith("structures[")
    if spoil in ("nan", "length", "missing"):
        assert message.startswith("structures[50]: ") and "forces" in message


def test_a_molecule_with_a_stress_is_refused_or_ignored_but_no_crash():
    structures = copper(20)
    structures[7].cell = None
    structures[7].pbc = False
    try:
        AtomsDataset(structures)
    except StructureError as error:
        assert str(error).startswith("structures[7]: stress")
