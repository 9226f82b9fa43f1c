"""What a survey counts, against counts made by hand and distances by ASE."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from builders import copper

from nfflr.data.quality.survey import survey
from nfflr.data.records import read_records


def labelled(atoms: ase.Atoms, energy: float, forces=None, **info) -> ase.Atoms:
    forces = np.zeros((len(atoms), 3)) if forces is None else forces
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info |= info
    return atoms


def look(structures):
    return survey(read_records(structures))


def test_counts_ranges_and_ids():
    first = labelled(bulk("NaCl", "rocksalt", a=5.6), -10.0, config_type="bulk")
    second = labelled(bulk("Na", cubic=True), -4.0, [[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]], group="metal")
    seen = look([first, second])
    assert seen.elements == ("Na", "Cl") and seen.groups == ("bulk", "metal")
    assert seen.compositions == ("ClNa", "Na") and seen.sizes.tolist() == [2, 2]
    np.testing.assert_allclose(seen.energy, [-5.0, -2.0])
    np.testing.assert_allclose(seen.largest_force, [0.0, 5.0])
    assert seen.labels == {"total_energy": 2, "forces": 2} and seen.missing("stress") == 2
    assert seen.references == pytest.approx({"Na": -2.0, "Cl": -8.0}) and seen.determined
    assert not np.abs(seen.residuals).max() > 1e-12


def test_shortest_distances_are_those_of_ase():
    atoms = molecule("CH3CH2OH")
    stretched = bulk("CsCl", "cesiumchloride", a=6.0)  # nothing within the first search radius
    seen = look([labelled(atoms, 1.0), labelled(stretched, 1.0)])
    distances = atoms.get_all_distances()
    np.fill_diagonal(distances, np.inf)
    for a, b in (("C", "O"), ("H", "H"), ("H", "O"), ("C", "C")):
        rows, columns = (np.array(atoms.symbols) == s for s in (a, b))
        key = (a, b) if (a, b) in seen.pairs else (b, a)
        np.testing.assert_allclose(seen.pairs[key], [distances[np.ix_(rows, columns)].min(), np.inf])
    np.testing.assert_allclose(seen.pairs["Cl", "Cs"], [np.inf, 6.0 * np.sqrt(3) / 2])
    nearest = np.median(distances.min(axis=1)[np.array(atoms.symbols) == "H"])
    assert seen.spacing["H"] == pytest.approx(nearest)


def test_what_compositions_leave_open_is_not_called_determined():
    water = [labelled(molecule("H2O"), -14.0 - 0.1 * k) for k in range(4)]
    assert not look(water).determined
    assert look([*water, labelled(molecule("H2"), -6.0)]).determined


def test_isolated_atoms_do_not_bend_the_fit():
    dimers = [labelled(molecule("O2"), -10.0) for _ in range(3)]
    seen = look([*dimers, labelled(ase.Atoms("O"), -1.5, config_type="isolated_atom")])
    assert seen.isolated == (3,) and np.isnan(seen.residuals[3])
    assert seen.references["O"] == pytest.approx(-5.0)


def test_copies_are_found_whatever_their_labels():
    structures = copper(6)
    again = structures[2].copy()
    again.calc = structures[4].calc
    seen = look([*structures, labelled(again, 7.0)])
    assert seen.copies == ((2, 6),) and seen.repeats == [6]


def test_each_kind_of_outlier_is_named_with_its_value_and_nothing_else():
    structures = copper(30)
    assert look(structures).outliers == ()
    wrong = structures[7]
    results = wrong.calc.results
    results["energy"] += 20.0 * len(wrong)
    structures[11].calc.results["forces"][0] = [0.0, 0.0, 400.0]
    close = bulk("Cu", cubic=True)
    close.positions[1] = close.positions[0] + [0.9, 0.0, 0.0]
    structures.append(labelled(close, float(structures[0].get_potential_energy())))
    found = {(o.index, o.what.split()[0]): o.what for o in look(structures).outliers}
    assert set(found) == {(7, "energy"), (11, "force"), (30, "Cu–Cu")}
    assert "400" in found[11, "force"] and "0.9 Å" in found[30, "Cu–Cu"]
