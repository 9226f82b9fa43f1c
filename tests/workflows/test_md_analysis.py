"""The analysis of a run finds what is known about ideal systems."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.units import fs, kB
from lennard_jones import Dimer, Free, argon
from scipy.signal import lfilter

from nfflr.workflows.dynamics import analysis as motion_module
from nfflr.workflows.dynamics.analysis import (
    autocorrelation,
    mean_and_error,
    motion,
    nearest_distance,
    power_spectrum,
    radial_distribution,
    slope_and_error,
    square_displacements,
)
from nfflr.workflows.dynamics.guard import pairs
from nfflr.workflows.molecular_dynamics import MdSettings, md

RNG = np.random.default_rng


def walk(n_frames, n_atoms, step, seed=0, drift=0.0, cell=None):
    """Frames of independent random walkers, with a common drift per frame, Å."""
    x = RNG(seed).normal(scale=step, size=(n_frames, n_atoms, 3)).cumsum(axis=0) + 5
    x += drift * np.arange(n_frames)[:, None, None]
    frames = [ase.Atoms(f"Ar{n_atoms}", positions=p, cell=cell, pbc=cell is not None) for p in x]
    for frame in frames:
        frame.set_momenta(np.ones((n_atoms, 3)))
    return frames


# Averages


def test_block_error_of_correlated_data_is_that_of_many_runs():
    def series(seed):  # autoregressive, correlation time 20
        noise, x = RNG(seed).normal(size=8000), np.zeros(8000)
        for k in range(1, 8000):
            x[k] = 0.95 * x[k - 1] + noise[k]
        return x

    found = [mean_and_error(series(seed)) for seed in range(60)]
    spread = np.std([mean for mean, _ in found], ddof=1)
    errors = np.array([error for _, error in found])
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.25)
    naive = series(0).std() / np.sqrt(8000)
    assert spread > 4 * naive  # which is why blocks are needed


def test_a_slope_is_found_with_an_honest_error():
    time = np.linspace(0, 10, 500)
    off = []
    for seed in range(200):
        slope, error = slope_and_error(time, 3 * time + RNG(seed).normal(size=500))
        off.append((slope - 3) / error)
    assert 0.8 < np.std(off) < 1.4  # Student's t with 8 degrees: 1.15
    assert slope_and_error(time[:19], time[:19]) is None
    assert mean_and_error(time[:19])[1] is None


# Motion


def test_sums_by_fourier_transform_are_the_sums_by_definition():
    x = RNG(1).normal(size=(23, 4, 3)).cumsum(axis=0) + 100
    msd = [np.mean([((x[t + lag] - x[t]) ** 2).sum() for t in range(23 - lag)]) for lag in range(23)]
    acf = [np.mean([(x[t + lag] * x[t]).sum() for t in range(23 - lag)]) for lag in range(23)]
    assert square_displacements(x) == pytest.approx(np.array(msd), abs=1e-9)
    assert autocorrelation(x) == pytest.approx(np.array(acf), rel=1e-10)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_random_walkers_diffuse_as_they_must_and_the_drift_does_not_count(drift):
    # D = step² / (2 dt) for each axis; the centre of mass takes 1/n of it away.
    frames = walk(2000, 100, 0.1, drift=drift)
    found = motion(frames, 0.01, np.ones(100, bool))
    value, error = found["diffusion"]["all"], found["diffusion_error"]["all"]
    assert abs(value - 0.99 * 0.1**2 / 0.02) < 3 * error and error < 0.2 * value
    assert found["diffusion"]["Ar"] == value and found["diffusion_error"]["Ar"] == error


def test_a_breathing_cell_is_no_diffusion():
    atoms = argon()
    atoms.set_momenta(np.ones((32, 3)))
    frames = []
    for k in range(200):
        frame = atoms.copy()
        frame.set_cell(atoms.cell.array * (1 + 0.05 * np.sin(k / 9)), scale_atoms=True)
        frames.append(frame)
    found = motion(frames, 0.01, np.ones(32, bool))
    assert np.abs(found["msd"]["all"]).max() < 1e-20 and abs(found["diffusion"]["all"]) < 1e-20


def test_elements_are_told_apart_and_groups_of_atoms_make_no_difference(monkeypatch):
    frames = walk(300, 30, 0.1)
    for frame in frames:
        frame.numbers[:10] = 10
        frame.set_momenta(RNG(len(frame)).normal(size=(30, 3)))
    one = motion(frames, 0.01, np.ones(30, bool))
    monkeypatch.setattr(motion_module, "MEMORY", 300 * 48 * 7)  # seven atoms at a time
    other = motion(frames, 0.01, np.ones(30, bool))
    assert set(one["msd"]) == {"Ar", "Ne", "all"}
    assert one["msd"]["all"] == pytest.approx((20 * one["msd"]["Ar"] + 10 * one["msd"]["Ne"]) / 30)
    for name in one["msd"]:
        assert one["msd"][name] == pytest.approx(other["msd"][name], rel=1e-9, abs=1e-12)
    assert one["vacf"] == pytest.approx(other["vacf"]) and one["vdos"] == pytest.approx(other["vdos"])


def test_free_langevin_particles_diffuse_by_einsteins_relation():
    # D = kT / (m γ); velocities decay as exp(-γ t).
    atoms = ase.Atoms("Ar60", positions=RNG(0).uniform(size=(60, 3)) * 60, cell=[200] * 3, pbc=True)
    settings = MdSettings(
        ensemble="nvt-langevin",
        temperature=300,
        timestep=10,
        thermostat_time=100,
        steps=3000,
        interval=3,
        min_distance=1e-3,
        melting=False,
        rdf_cutoff=1,
    )
    result = md(atoms, Free(), settings)
    expected = kB * 300 / atoms.get_masses()[0] * 100 * fs * 1000 * fs  # Å²/ps
    assert abs(result.diffusion["all"] - expected) < 3 * result.diffusion_error["all"]
    assert result.diffusion_error["all"] < 0.3 * expected
    early = result.vacf_time < 0.2
    assert result.vacf[early] == pytest.approx(np.exp(-result.vacf_time[early] / 0.1), abs=0.06)
    # At zero frequency the density of states is 12 m D / kT, here 12/γ.
    assert result.vdos[0] == pytest.approx(12 * 0.1, rel=0.2)
    assert np.trapezoid(result.vdos, result.frequency) == pytest.approx(3)


@pytest.mark.parametrize("segment", [200, 201], ids=["even", "odd"])
def test_the_spectrum_is_right_at_its_ends(segment):
    # Velocities v' = a v + noise of variance 1: S(f) = 2 dt (1 - a²) / (1 - 2 a cos(2π f dt) + a²).
    a, spacing = 0.8, 4.0 / segment
    noise = RNG(2).normal(size=(6000, 60)) * np.sqrt(1 - a**2)
    noise[0] /= np.sqrt(1 - a**2)
    v = lfilter([1.0], [1.0, -a], noise, axis=0).reshape(6000, 20, 3)
    frequency, density = power_spectrum(v, spacing)
    expected = 2 * spacing * (1 - a**2) / (1 - 2 * a * np.cos(2 * np.pi * frequency * spacing) + a**2)
    ratio = density / 60 / expected
    assert len(ratio) == 101 and ratio[1:-1].mean() == pytest.approx(1, abs=0.01)
    for k in (0, 1, -2, -1):
        assert ratio[k] == pytest.approx(1, abs=0.15), k  # 0.5 without a partner's half


def test_the_spectrum_of_a_spring_has_one_line_at_its_frequency():
    atoms = ase.Atoms("N2", positions=[[0, 0, 0], [1.02, 0, 0]])
    atoms.set_momenta([[1e-9, 0, 0], [-1e-9, 0, 0]])  # at rest; without momenta there is nothing to keep
    settings = MdSettings(
        ensemble="nve", timestep=0.5, steps=8000, interval=8, keep_velocities=True, equilibration=0
    )
    result = md(atoms, Dimer(25.0), settings)
    omega = np.sqrt(2 * 25.0 / atoms.get_masses()[0])
    half = settings.timestep * fs / 2
    verlet = np.arcsin(omega * half) / half  # what the integrator makes of it
    expected = verlet / (2 * np.pi) * (1000 * fs)  # THz
    assert expected == pytest.approx(29.55, abs=0.05)
    assert result.frequency[result.vdos.argmax()] == pytest.approx(expected, abs=0.13)  # half a bin
    near = np.abs(result.frequency - expected) < 0.8
    assert result.vdos[near].sum() > 0.999 * result.vdos.sum()
    assert np.trapezoid(result.vdos, result.frequency) == pytest.approx(3)
    short = result.vacf_time < 0.5
    cosine = np.cos(2 * np.pi * expected * result.vacf_time[short])
    assert result.vacf[short] == pytest.approx(cosine, abs=0.03)


# Distances


def test_radial_distribution_of_an_ideal_gas_is_one():
    frames = [
        ase.Atoms("Ar60Ne40", positions=RNG(k).uniform(size=(100, 3)) @ CELL, cell=CELL, pbc=True)
        for k in range(100)
    ]
    distance, g = radial_distribution(frames, 8.0)
    assert set(g) == {"all", "Ar-Ar", "Ar-Ne", "Ne-Ne"} and distance[0] == pytest.approx(0.025)
    far = distance > 2
    for curve in g.values():
        assert curve[far].mean() == pytest.approx(1, abs=0.03)
        assert np.abs(curve[far].reshape(-1, 20).mean(axis=1) - 1).max() < 0.1


CELL = np.array([[11.0, 0, 0], [2.0, 10, 0], [-1.0, 1.0, 12]])


def test_shells_of_fcc_have_the_right_distances_and_numbers():
    atoms = bulk("Ar", a=5.3, cubic=True) * 2
    distance, g = radial_distribution([atoms], 7.0)
    counts = g["all"] * 4 * np.pi * distance**2 * 0.05 * 31 / atoms.get_volume()
    shells = [(5.3 / np.sqrt(2), 12), (5.3, 6), (5.3 * np.sqrt(1.5), 24)]
    for radius, number in shells:
        here = np.abs(distance - radius) < 0.1
        assert counts[here].sum() == pytest.approx(number, rel=0.01)
    assert counts[distance < 6.6].sum() == pytest.approx(42, rel=0.01)  # and nothing between
    assert nearest_distance(atoms) == pytest.approx(5.3 / np.sqrt(2))


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)], ids=str)
def test_pairs_are_those_of_brute_force(pbc):
    pbc = np.array(pbc, bool)
    atoms = ase.Atoms("Ar12", positions=RNG(3).uniform(-9, 9, size=(12, 3)), cell=CELL, pbc=pbc)
    i, j, d = pairs(atoms, 7.0)
    expected = []
    reach = [range(-3, 4) if p else [0] for p in pbc]
    for shift in np.stack(np.meshgrid(*reach), -1).reshape(-1, 3):
        bond = atoms.positions[None] + shift @ CELL - atoms.positions[:, None]
        r = np.linalg.norm(bond, axis=2)
        a, b = np.nonzero((r < 7.0) & ((r > 0) | shift.any()))
        expected += [(p, q, round(r[p, q], 8)) for p, q in zip(a, b, strict=True)]
    assert sorted(zip(i, j, d.round(8), strict=True)) == sorted(expected) and expected
    bare = ase.Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.0]])  # no cell at all
    assert pairs(bare, 2.0)[2] == pytest.approx([1, 1])
