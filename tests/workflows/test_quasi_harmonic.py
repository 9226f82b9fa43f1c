"""Quasi-harmonic thermodynamics and Grüneisen parameters: against phonopy, scaling laws, and one another."""

import json

import numpy as np
import phonopy
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list
from ase.units import GPa
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
    StillingerWeber,
)
from phonon_replay import DATA
from pydantic import ValidationError
from scipy.optimize import least_squares

from nfflr.errors import NumericsError, StructureError
from nfflr.storage.archives import Archive, FolderArchive
from nfflr.workflows import gruneisen_parameters as gruneisen_module
from nfflr.workflows import quasi_harmonic as qha_module
from nfflr.workflows.framework.interface import silent
from nfflr.workflows.gruneisen_parameters import GruneisenSettings, gruneisen
from nfflr.workflows.lattice.harmonic import displaced, set_force_constants
from nfflr.workflows.lattice.spectra import mode_gruneisen
from nfflr.workflows.quasi_harmonic import QhaSettings, qha, quasi_harmonic

KJ_PER_MOL = 96.48533212
CHEAP = {"supercell": (2, 2, 2), "mesh": (5, 5, 5)}


class InversePower(Calculator):
    """Pairs (σ/r)^n over the nearest shells of fcc: what a change of volume does is a power law."""

    implemented_properties = ("energy", "forces")

    def __init__(self, n=12, shells=1.2, length=2.5):
        super().__init__()
        self.n, self.shells, self.length = n, shells, length

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        # The cut follows the volume and lies between shells, so that scaling stays exact.
        nearest = (np.sqrt(2) * atoms.get_volume() / len(atoms)) ** (1 / 3)
        i, r, vectors = neighbor_list("idD", atoms, self.shells * nearest)
        phi = (self.length / r) ** self.n
        pull = (-self.n * phi / r**2)[:, None] * vectors
        forces = np.stack([np.bincount(i, pull[:, k], len(atoms)) for k in range(3)], axis=1)
        self.results = {"energy": 0.5 * phi.sum(), "forces": forces}


def aluminium_phonons(volumes, settings):
    """Phonons of EMT aluminium, fcc, at volumes per atom."""
    cells = [bulk("Al", a=(4 * v) ** (1 / 3)) for v in volumes]
    phonons = [displaced(cell, np.diag(settings.supercell), settings) for cell in cells]
    set_force_constants(phonons, EMT(), settings, silent, Archive())
    return phonons


def test_aluminium_energies_of_dft_give_the_thermodynamics_of_phonopys_own_qha():
    volumes, energies = np.loadtxt(DATA / "Al-QHA" / "e-v.dat").T / 4  # per atom
    settings = QhaSettings(t_max=500, t_step=50, **CHEAP)
    phonons = aluminium_phonons(volumes, settings)
    found = quasi_harmonic(phonons, energies, settings)

    # phonopy's older interface differentiates by temperature, so it gets a grid that is finer by far.
    temperatures, coarse = np.arange(0, 506, 2.5), slice(None, 201, 20)
    mesh = [p.run_thermal_properties(temperatures=temperatures, exclude_gamma_acoustic=True) for p in phonons]
    with pytest.warns(DeprecationWarning, match="PhonopyQHA"):  # the older interface, an independent route
        other = phonopy.PhonopyQHA(
            volumes=volumes,
            electronic_energies=energies,
            temperatures=temperatures,
            free_energy=np.array([m.free_energy for m in mesh]).T,
            entropy=np.array([m.entropy for m in mesh]).T,
            cv=np.array([m.heat_capacity for m in mesh]).T,
        )
    n = len(found.temperatures)
    assert n == 11 and found.temperatures[-1] == 500
    assert found.volume == pytest.approx(other.volume_temperature[coarse], rel=1e-6)
    assert found.gibbs == pytest.approx(other.gibbs_temperature[coarse], abs=1e-6)
    assert found.bulk_modulus == pytest.approx(other.bulk_modulus_temperature[coarse], rel=1e-4)
    assert found.thermal_expansion == pytest.approx(other.thermal_expansion[coarse], rel=3e-3, abs=1e-9)
    # Heat capacity and entropy go through J/(K mol) in the older interface.
    assert found.heat_capacity * KJ_PER_MOL * 1e3 == pytest.approx(
        other.heat_capacity_P_polyfit[coarse], rel=5e-3, abs=1e-3
    )
    assert found.converged and found.stable

    # The static fit, by a solver of ours.
    def vinet(p):
        e, b, slope, v = p
        x, eta = (volumes / v) ** (1 / 3), 1.5 * (slope - 1)
        return e + 9 * b * v / eta**2 * (1 + (eta * (1 - x) - 1) * np.exp(eta * (1 - x)))

    best = least_squares(lambda p: 1e3 * (vinet(p) - energies), [energies.min(), 0.5, 4, 16.5], xtol=1e-15).x
    assert found.static_volume == pytest.approx(best[3], rel=1e-5)
    assert found.static_bulk_modulus == pytest.approx(best[1] / GPa, rel=1e-3)
    assert found.static_bulk_modulus == pytest.approx(78, abs=2)  # DFT-PBE aluminium


def test_expansion_follows_from_gruneisen_parameters_at_the_volume_of_that_temperature():
    settings = QhaSettings(t_max=300, t_step=20, volume_max=1.07, **CHEAP)
    thermodynamic = qha(bulk("Al"), EMT(), settings)
    assert thermodynamic.converged and thermodynamic.stable, thermodynamic.message
    warm = bulk("Al", a=(4 * thermodynamic.volume[-1]) ** (1 / 3))
    modes = gruneisen(warm, EMT(), GruneisenSettings(relax="none", t_max=300, band_points=3, **CHEAP))
    assert thermodynamic.gruneisen[-1] == pytest.approx(modes.mean, rel=0.03)
    # γ = β B V / C_V, with numbers of the result alone and C_V = C_P − β² B V T.
    beta, b, v = (
        thermodynamic.thermal_expansion[-1],
        thermodynamic.bulk_modulus[-1] * GPa,
        thermodynamic.volume[-1],
    )
    cv = thermodynamic.heat_capacity[-1] - beta**2 * b * v * 300
    assert beta * b * v / cv == pytest.approx(modes.mean, rel=0.03)
    assert np.gradient(thermodynamic.gibbs, 20.0)[4:-2] == pytest.approx(
        -thermodynamic.entropy[4:-2], rel=0.02
    )
    # Differences over 40 K mean something from 120 K on; below, see the test of low temperatures.
    assert np.gradient(np.log(thermodynamic.volume), 20.0)[6:-1] == pytest.approx(
        thermodynamic.thermal_expansion[6:-1], rel=0.01
    )


@pytest.mark.parametrize("n", [8, 12])
def test_modes_of_an_inverse_power_crystal_all_scale_alike(n):
    # ω² is a second derivative of r^-n, so ω ~ V^-(n+2)/6 for every mode.
    settings = GruneisenSettings(relax="none", strain=1e-3, displacement=1e-3, band_points=5, **CHEAP)
    result = gruneisen(bulk("Cu"), InversePower(n), settings)
    expected = (n + 2) / 6
    assert result.stable and result.mean == pytest.approx(expected, rel=2e-4)
    known = result.mesh_gruneisen[np.isfinite(result.mesh_gruneisen)]
    assert known == pytest.approx(expected, rel=2e-4) and len(known) == result.mesh_gruneisen.size - 3
    along = result.band_gruneisen[np.isfinite(result.band_gruneisen)]
    assert along == pytest.approx(expected, rel=2e-4)
    missing = ~np.isfinite(result.band_gruneisen)
    assert missing.sum() == 9 and (np.abs(result.band_qpoints[missing.any(axis=1)]) < 1e-9).all()
    assert np.isnan(result.mean_gruneisen[0]) and result.mean_gruneisen[1:] == pytest.approx(
        expected, rel=2e-4
    )


def test_every_volume_gets_the_same_mesh_with_gamma():
    settings = QhaSettings(supercell=(1, 1, 1), mesh_length=30, t_max=100, t_step=50)
    volumes = np.linspace(14, 19, 5)
    phonons = aluminium_phonons(volumes, settings)
    quasi_harmonic(phonons, 0.02 * (volumes - 16.5) ** 2, settings)
    assert {tuple(p.mesh.mesh_numbers) for p in phonons} == {(13, 13, 13)}
    assert all(np.abs(p.mesh.qpoints).sum(axis=1).min() == 0 for p in phonons)


def test_pressure_compresses():
    settings = {"supercell": (1, 1, 1), "mesh": (3, 3, 3), "t_max": 100, "t_step": 50, "relax": "none"}
    settings |= {"volumes": 7, "volume_min": 0.92, "volume_max": 1.03}
    silicon = Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))
    free, pressed = (
        qha(bulk("Si", a=5.431), silicon, QhaSettings(pressure=p, **settings)) for p in (0.0, 4.0)
    )
    assert free.converged and pressed.converged
    slope = (pressed.gibbs - free.gibbs) / (4 * GPa)
    assert (pressed.volume < slope).all() and (slope < free.volume).all()  # dG/dp = V
    compressibility = np.log(free.volume / pressed.volume) / 4  # −d ln V/dp = 1/B, in the mean
    assert compressibility == pytest.approx(2 / (free.bulk_modulus + pressed.bulk_modulus), rel=0.01)
    assert (pressed.bulk_modulus > free.bulk_modulus).all()


NARROW = {"t_max": 600, "t_step": 100, "volume_max": 1.02, **CHEAP}


def test_a_volume_beyond_those_computed_ends_the_result_where_it_holds():
    result = qha(bulk("Al"), EMT(), QhaSettings(widen=False, **NARROW))
    assert not result.converged and "the equilibrium volume leaves" in result.message
    assert f"holds up to {result.highest_temperature:g} K" in result.message
    assert "--volume-max" in result.message
    assert 0 < result.highest_temperature < 600 and len(result.temperatures) == len(result.gibbs)
    assert (result.volume < result.volumes.max()).all()


def test_volumes_are_added_until_the_last_temperature_has_its_own():
    narrow, whole = QhaSettings(**NARROW), QhaSettings(**{**NARROW, "volume_max": 1.07, "volumes": 11})
    added, given = qha(bulk("Al"), EMT(), narrow), qha(bulk("Al"), EMT(), whole)
    assert added.converged and added.highest_temperature == 600
    assert len(added.volumes) > narrow.volumes and added.volumes.max() > 1.02 * added.static_volume
    assert (np.diff(added.volumes) > 0).all()
    assert added.volume == pytest.approx(given.volume, rel=2e-4)
    assert added.thermal_expansion_at_300_K == pytest.approx(given.thermal_expansion_at_300_K, rel=0.02)


def test_expansion_at_low_temperatures_does_not_depend_on_the_grid_of_temperatures():
    # α ~ T³ here: differences over 5 K would be off by (5/10)² = 25 % at 10 K.
    settings = {"supercell": (2, 2, 2), "mesh": (21, 21, 21), "t_max": 20.0}
    settings |= {"volume_min": 0.98, "volume_max": 1.03, "volumes": 6}
    coarse, fine = (qha(bulk("Al"), EMT(), QhaSettings(t_step=step, **settings)) for step in (5.0, 1.0))
    at_ten = coarse.thermal_expansion[2], fine.thermal_expansion[10]
    assert at_ten[0] == pytest.approx(at_ten[1], rel=1e-6) and at_ten[0] > 0
    # Differences of the logarithm of the volume, by Richardson's extrapolation of two steps, which is exact
    # for T⁴. Shorter steps show the rounding of the volumes.
    one, two = (np.log(fine.volume[10 + k] / fine.volume[10 - k]) / (2 * k) for k in (3, 6))
    assert at_ten[1] == pytest.approx((4 * one - two) / 3, rel=0.02)


def test_displacements_of_all_volumes_are_kept(tmp_path):
    class Calls(EMT):
        count = 0

        def calculate(self, *arguments, **keywords):
            Calls.count += 1
            super().calculate(*arguments, **keywords)

    settings = QhaSettings(volumes=5, t_max=100, t_step=50, **CHEAP)
    first = qha(bulk("Al"), Calls(), settings, archive=FolderArchive(tmp_path))
    assert Calls.count > 10
    Calls.count = 0
    second = qha(bulk("Al"), Calls(), settings, archive=FolderArchive(tmp_path))
    assert Calls.count == 0 and np.array_equal(first.gibbs, second.gibbs)


def test_a_slab_is_refused():
    atoms = bulk("Al", cubic=True)
    atoms.pbc = (True, True, False)
    for function in (qha, gruneisen):
        with pytest.raises(StructureError, match="three periodic axes"):
            function(atoms, EMT())


def test_energies_without_a_minimum_are_a_numerical_error():
    settings = QhaSettings(t_max=100, t_step=50, **CHEAP)
    volumes = np.linspace(16, 17, 5)
    with pytest.raises(NumericsError, match="equation of state"):
        quasi_harmonic(aluminium_phonons(volumes, settings), np.array([np.nan] * 5), settings)


@pytest.mark.parametrize(
    "wrong",
    [{"volumes": 4}, {"volume_min": 1.0}, {"volume_max": 0.99}, {"eos": "birch"}, {"t_min": -1}],
    ids=str,
)
def test_settings_refuse_what_is_impossible(wrong):
    with pytest.raises(ValidationError):
        QhaSettings(**wrong)


def test_figures_have_units_and_results_are_json(tmp_path):
    thermodynamic = qha(bulk("Al"), EMT(), QhaSettings(volumes=5, t_max=100, t_step=20, **CHEAP))
    figure = qha_module.plot(thermodynamic)
    figure.savefig(tmp_path / "qha.png")
    labels = " ".join(axes.get_ylabel() for axes in figure.axes)
    assert all(unit in labels for unit in ("eV/atom", "Å³/atom", "/K", "GPa", "k_"))
    modes = gruneisen(bulk("Al"), EMT(), GruneisenSettings(band_points=3, **CHEAP))
    figure = gruneisen_module.plot(modes)
    figure.savefig(tmp_path / "gruneisen.png")
    assert "THz" in figure.axes[1].get_xlabel() and "K" in figure.axes[2].get_xlabel()
    record = json.loads(modes.model_dump_json())
    assert record["band_gruneisen"][0] == [None] * 3 and record["mean"] == pytest.approx(modes.mean)


def test_parameters_near_gamma_join_those_farther_away():
    # Two transverse branches that differ, where all frequencies are small.
    cells = [bulk("Cu", a=3.59 * (1 + s) ** (1 / 3)) for s in (0.0, 0.01, -0.01)]
    settings = GruneisenSettings(relax="none", **CHEAP)
    phonons = [displaced(cell, np.diag((2, 2, 2)), settings) for cell in cells]
    set_force_constants(phonons, EMT(), settings, silent, Archive())
    way = np.array([1.0, 1.0, 2.0])[None] * np.array([0.004, 0.008, 0.016])[:, None]
    frequencies, parameters = mode_gruneisen(phonons, way)
    assert frequencies[0].max() < 0.3 and np.diff(frequencies[0]).min() > 0.02
    assert parameters[0] == pytest.approx(parameters[1], rel=0.02)
    # Differences of frequencies at the two volumes, an independent route.
    larger, smaller = (np.sort(p.run_qpoints(way).frequencies, axis=1) for p in phonons[1:])
    slopes = -np.log(larger / smaller) / np.log(1.01 / 0.99)
    assert parameters == pytest.approx(slopes, rel=2e-3)
