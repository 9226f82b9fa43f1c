"""Band paths: special points stand where the crystal has them, whatever cell describes it."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.lattice import all_variants
from phonopy import Phonopy

from nfflr.workflows.lattice.bands import band_path, name_of, ticks
from nfflr.workflows.lattice.harmonic import to_phonopy
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons

LATTICES = [lattice for lattice in all_variants() if lattice.ndim == 3]
# Another basis of the same lattice; determinant 1, entries that no symmetry explains.
SKEW = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1]])


def turned(cell):
    """Rotated about an axis that means nothing."""
    x, y = 0.4, 1.1
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_z = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    return cell @ about_x @ about_z


def phonon_of(cell):
    atoms = ase.Atoms("Cu", cell=cell, pbc=True)
    return Phonopy(to_phonopy(atoms), np.eye(3, dtype=int), primitive_matrix=np.eye(3), symprec=1e-4)


@pytest.mark.parametrize("lattice", LATTICES, ids=lambda lattice: lattice.variant)
def test_special_points_do_not_depend_on_the_basis(lattice):
    cell = lattice.tocell().array
    cell = 3 * cell / np.cbrt(abs(np.linalg.det(cell)))
    usual = band_path(phonon_of(cell), 5)
    other = band_path(phonon_of(turned(SKEW @ cell)), 5)
    assert usual.ends == other.ends and usual.points.keys() == other.points.keys()
    back = np.linalg.inv(cell)  # columns: reciprocal vectors
    forth = np.linalg.inv(turned(SKEW @ cell))
    if lattice.name == "TRI":  # without symmetry, names are given by what the reduced cell happens to be
        halves = 2 * np.array(list(other.points.values()))
        assert halves == pytest.approx(np.rint(halves), abs=1e-9)
        return
    for name in usual.points:
        a, b = np.linalg.norm(back @ usual.points[name]), np.linalg.norm(forth @ other.points[name])
        assert a == pytest.approx(b, abs=1e-4), name
    lengths, others = (
        [np.linalg.norm(reciprocal @ (q[-1] - q[0])) for q in path.qpoints]
        for reciprocal, path in ((back, usual), (forth, other))
    )
    assert lengths == pytest.approx(others, abs=1e-4)


def test_the_bands_of_a_conventional_and_of_a_skewed_cell_are_the_same():
    settings = {"relax": "none", "mesh": (2, 2, 2), "band_points": 5, "symprec": 1e-4}
    plain = phonons(bulk("Cu", cubic=True), EMT(), PhononsSettings(supercell=(2, 2, 2), **settings))
    skewed = bulk("Cu")
    skewed.set_cell(turned(SKEW @ skewed.cell.array))
    # Columns, as phonopy wants them, of the vectors of the cubic supercell in the skewed basis.
    rows = bulk("Cu", cubic=True).repeat(2).cell.array @ np.linalg.inv(SKEW @ bulk("Cu").cell.array)
    matrix = np.rint(rows.T).astype(int).tolist()
    other = phonons(skewed, EMT(), PhononsSettings(supercell_matrix=matrix, **settings))
    assert plain.band_labels == other.band_labels
    assert other.band_distances == pytest.approx(plain.band_distances, abs=1e-6)
    assert other.band_frequencies == pytest.approx(plain.band_frequencies, abs=1e-3)


def test_points_are_named_up_to_symmetry_and_jumps_share_a_tick():
    phonon = phonon_of(3 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    path = band_path(phonon, 5)
    assert name_of(np.array([0.5, 0.5, 0]), phonon, path.points) == "X"
    assert name_of(np.array([-0.5, 0, 1.5]), phonon, path.points) == "X"
    assert name_of(np.array([0.5, 0, 0]), phonon, path.points) == "L"
    assert name_of(np.array([0, 0, 1.0]), phonon, path.points) == "Γ"
    assert name_of(np.array([0.1, 0.2, 0.3]), phonon, path.points) == ""
    labels, places = ticks(path, [np.array([k, k + 1.0]) for k in range(len(path.ends))])
    assert labels == ["Γ", "X", "W", "K", "Γ", "L", "U", "W", "L", "K|U", "X"] or "U|K" in labels
    assert places == list(np.arange(len(path.ends) + 1.0))
