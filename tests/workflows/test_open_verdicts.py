"""Verdicts that a supercell is too small for, or that a cell with vacuum does not allow."""

import ase
import numpy as np
import pytest
from ase.build import fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from nfflr.structures.vacuum import vacuum_axes, widest_gaps
from nfflr.workflows.elasticity import ElasticSettings, elastic
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons

A = 2.5  # Å
# Springs to three neighbours along each axis: ω² ~ Σ (1 − cos q)³ + 0.1 (1 − cos q), nowhere negative.
SPRINGS = {1: 1.875 + 0.05, 2: -0.75, 3: 0.125}  # eV/Å^2


class Springs(Calculator):
    """A simple cubic lattice, each component of displacements coupled as a scalar; exact in any supercell."""

    implemented_properties = ("energy", "forces")

    def __init__(self, cutoff=None):
        super().__init__()
        self.cutoff = cutoff

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        repeats = np.rint(atoms.cell.lengths() / A).astype(int)
        sites = np.rint(atoms.positions / A).astype(int)
        moved = np.zeros((*repeats, 3))
        moved[tuple((sites % repeats).T)] = atoms.positions - sites * A
        forces = np.zeros_like(moved)
        for n, k in SPRINGS.items():
            for axis in range(3):
                forces += k * sum(np.roll(moved, s * n, axis) - moved for s in (1, -1))
        own = forces[tuple((sites % repeats).T)]
        self.results = {"energy": -0.5 * float((own * (atoms.positions - sites * A)).sum()), "forces": own}


CRYSTAL = ase.Atoms("Cu", cell=[A, A, A], pbc=True)
FOUR = {"relax": "none", "mesh": (8, 8, 8), "band_points": 21, "t_max": 10.0}


def settings(**more):
    return PhononsSettings(**FOUR, **more)


def test_an_interpolated_instability_is_checked_where_all_force_constants_fit():
    # Range of force constants 3 A, so a cutoff of 1.5 A; exact from 6 A on.
    result = phonons(CRYSTAL, Springs(cutoff=1.5 * A), settings(supercell_length=4 * A))
    assert result.stable and not result.open
    assert "checked in 216 atoms" in result.message and "in the smaller supercell" in result.message
    assert result.supercell_matrix.tolist() == np.diag([6, 6, 6]).tolist()
    # The dispersion is that of the springs.
    q = 2 * np.pi * result.band_qpoints  # (Q, 3)
    square = sum(2 * k * (1 - np.cos(n * q)).sum(axis=1) for n, k in SPRINGS.items())
    expected = np.sqrt(square / CRYSTAL.get_masses()[0]) * 15.633302  # THz of sqrt(eV/Å²/u)
    assert result.band_frequencies == pytest.approx(np.repeat(expected[:, None], 3, axis=1), abs=1e-3)


@pytest.mark.parametrize(
    ("calculator", "more"),
    [(Springs(), {"supercell_length": 4 * A}), (Springs(cutoff=1.5 * A), {"supercell": (4, 4, 4)})],
    ids=["range not known", "supercell given"],
)
def test_an_instability_that_is_not_checked_is_worded_as_open(calculator, more):
    result = phonons(CRYSTAL, calculator, settings(**more))
    assert not result.stable and result.open and result.lowest_frequency < -0.05
    assert result.message.startswith("open: ") and "--supercell-length 15" in result.message


def test_an_instability_of_a_wave_that_fits_is_a_verdict():
    class Unstable(Springs):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results["forces"] = -self.results["forces"]

    result = phonons(CRYSTAL, Unstable(cutoff=1.5 * A), settings(supercell_length=4 * A))
    assert not result.stable and not result.open
    assert result.message.startswith("dynamically unstable")


def slab(vacuum):
    atoms = fcc111("Cu", (1, 1, 4), a=3.59, vacuum=vacuum)
    atoms.pbc = True
    return atoms


def test_a_slab_with_three_periodic_axes_gets_no_verdict_of_a_crystal():
    result = elastic(slab(8.0), EMT(), ElasticSettings(internal=False))
    assert "vacuum along c" in result.message and "no verdict on stability" in result.message
    assert "mechanically" not in result.message


def test_gaps_are_distances_between_planes_of_atoms():
    atoms = slab(8.0)
    top, bottom = atoms.positions[:, 2].max(), atoms.positions[:, 2].min()
    assert widest_gaps(atoms)[2] == pytest.approx(atoms.cell.lengths()[2] - (top - bottom))
    assert vacuum_axes(atoms) == ["c"]
    atoms.pbc = (True, True, False)
    assert vacuum_axes(atoms) == []
    assert vacuum_axes(ase.build.bulk("Cu", cubic=True)) == []
