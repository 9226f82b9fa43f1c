"""Molecular dynamics samples the ensembles that statistical mechanics describes."""

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import all_changes
from ase.constraints import FixAtoms, FixCartesian, FixCom
from ase.units import GPa, fs, kB
from lennard_jones import Free, LennardJones, argon

from nfflr.errors import StructureError
from nfflr.workflows.dynamics.analysis import mean_and_error
from nfflr.workflows.dynamics.ensembles import ENSEMBLES, CellBarostat, IsotropicBarostat
from nfflr.workflows.dynamics.preparation import degrees_of_freedom, random_velocities
from nfflr.workflows.molecular_dynamics import MdSettings, md

NVT = ["nvt-bussi", "nvt-langevin", "nvt-nose-hoover"]
NPT = ["npt", "npt-isotropic"]
TEMPERATURE, PRESSURE = 50.0, 0.2


def sample(ensemble, steps, **more):
    settings = MdSettings(
        ensemble=ensemble,
        temperature=TEMPERATURE,
        pressure=PRESSURE if ensemble.startswith("npt") else 0.0,
        timestep=8.0,
        steps=steps,
        interval=5,
        thermostat_time=150.0,
        barostat_time=800.0,
        compressibility=0.5,
        rdf_cutoff=3.0,
        seed=1,
        **more,
    )
    result = md(argon(), LennardJones(), settings)
    assert result.verdict in ("stable", "drifting")
    begin = int(np.ceil(0.2 * len(result.trajectory)))
    return result, {name: column[begin:] for name, column in result.table.columns.items()}


def within(series, expected, sigmas=3.0):
    mean, error = mean_and_error(series)
    return abs(mean - expected) < sigmas * error and error > 0


def check_canonical(result, table, atoms):
    """Mean and variance of the kinetic energy: n/2 kT and n/2 (kT)² with n degrees of freedom."""
    kinetic, dof = table["kinetic energy (eV)"], result.degrees_of_freedom
    mean = dof / 2 * kB * TEMPERATURE
    assert within(kinetic, mean) and within(table["temperature (K)"], TEMPERATURE)
    assert within((kinetic - mean) ** 2, dof / 2 * (kB * TEMPERATURE) ** 2)
    assert result.temperature_error < 0.04 * TEMPERATURE  # else the test could not fail


def dof_of(ensemble):
    return 96 if ensemble == "nvt-langevin" else 93  # 32 atoms; the momentum is conserved in the others


def check_sampling(ensemble, steps):
    result, table = sample(ensemble, steps)
    assert result.degrees_of_freedom == dof_of(ensemble)
    check_canonical(result, table, argon())
    if ensemble in NPT:
        assert within(table["pressure (GPa)"], PRESSURE) and result.pressure_error < 0.02
        assert result.volume_error > 0
    return result


@pytest.mark.parametrize("ensemble", [*NVT, *NPT])
def test_kinetic_energy_and_pressure_have_the_right_mean_and_variance(ensemble):
    check_sampling(ensemble, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [*NVT, *NPT])
def test_kinetic_energy_and_pressure_over_a_long_run(ensemble):
    check_sampling(ensemble, 40_000)


@pytest.mark.slow
def test_all_thermostats_agree_about_potential_energy_and_pressure():
    results = [sample(ensemble, 40_000)[0] for ensemble in NVT]
    for field in ("potential_energy", "pressure"):
        values = [getattr(r, field) for r in results]
        errors = [getattr(r, f"{field}_error") for r in results]
        for a in range(3):
            for b in range(a):
                assert abs(values[a] - values[b]) < 3 * np.hypot(errors[a], errors[b])


# Constraints

HELD = {
    "half of the atoms": (lambda: FixAtoms(range(16)), 48),
    "one atom": (lambda: FixAtoms([5]), 93),
    "coordinates": (lambda: FixCartesian(range(0, 32, 2), (True, False, True)), 64),
    "centre of mass": (FixCom, 93),
    "an atom twice": (lambda: [FixAtoms([0, 1]), FixCartesian([1, 2], (True, True, False))], 88),
}


@pytest.mark.parametrize("ensemble", NVT)
@pytest.mark.parametrize("held", HELD)
def test_what_moves_beside_constraints_has_the_temperature(ensemble, held):
    constraint, dof = HELD[held]
    if held == "coordinates" and ensemble != "nvt-langevin":
        dof -= 1  # the momentum along y is conserved
    atoms = argon()
    atoms.set_constraint(constraint())
    settings = MdSettings(
        ensemble=ensemble,
        temperature=TEMPERATURE,
        timestep=8,
        steps=800,
        interval=4,
        checkpoint={"half of the atoms": 7, "one atom": 50}.get(held, 1000),
        thermostat_time=100,
        rdf_cutoff=1,
        seed=2,
    )
    result = md(atoms, LennardJones(), settings)
    assert result.degrees_of_freedom == dof and result.verdict in ("stable", "drifting")
    assert abs(result.temperature - TEMPERATURE) < 4 * result.temperature_error + 1
    assert result.temperature_error < 0.06 * TEMPERATURE
    kinetic = result.table.columns["kinetic energy (eV)"][40:]
    assert kinetic.var() == pytest.approx(dof / 2 * (kB * TEMPERATURE) ** 2, rel=0.7)
    conserved, total = (result.table.columns[f"{n} (eV)"] for n in ("conserved", "total energy"))
    assert np.ptp(conserved) < 0.05 * np.ptp(total)
    moved = result.final.positions - atoms.positions
    if held == "centre of mass":
        assert np.abs(moved.mean(axis=0)).max() < 1e-9
        assert np.abs(result.final.get_momenta().sum(axis=0)).max() < 1e-9
    elif held == "coordinates":
        assert not moved[::2, [0, 2]].any() and moved[::2, 1].any()
    else:
        assert not moved[{"one atom": 5}.get(held, 0)].any()


def test_saved_states_do_not_change_the_temperature_beside_fixed_atoms():
    def temperature(checkpoint):
        atoms = argon()
        atoms.set_constraint(FixAtoms(range(16)))
        more = {"timestep": 8, "steps": 200, "interval": 4, "rdf_cutoff": 1, "checkpoint": checkpoint}
        settings = MdSettings(ensemble="nvt-nose-hoover", temperature=50, **more)
        return md(atoms, LennardJones(), settings).table.columns["temperature (K)"]

    assert temperature(10) == pytest.approx(temperature(1000), rel=1e-6)


# The cell


def sample_cell(kind, steps, barostat_time, seed=0):
    """Volumes (Å^3), and twice the kinetic energy of the cell's momenta in kT, over the last four fifths."""
    atoms, start = argon(), np.random.default_rng(seed)
    random_velocities(atoms, TEMPERATURE, start)
    atoms.calc = LennardJones()
    dynamics = kind(
        atoms, 8 * fs, TEMPERATURE, PRESSURE * GPa, 150 * fs, barostat_time * fs, degrees_of_freedom(atoms)
    )
    volumes, heat = [], []
    for _ in range(steps):
        dynamics.step()
        volumes.append(atoms.get_volume())
        heat.append(2 * dynamics.cell_kinetic_energy() / (kB * TEMPERATURE))
    return np.array(volumes[steps // 5 :]), np.array(heat[steps // 5 :])


@pytest.mark.parametrize("barostat_time", [250, 500])
def test_the_cell_has_the_temperature_of_its_six_momenta(barostat_time):
    _, heat = sample_cell(CellBarostat, 2000, barostat_time)
    mean, error = mean_and_error(heat)
    assert abs(mean - 6) < 4 * error and error < 0.6  # nine times kT would be 5 errors away


def modulus(volumes):
    """kT V / var(V) in GPa, with its error from blocks."""
    mean, squares = volumes.mean(), (volumes - volumes.mean()) ** 2
    variance, error = mean_and_error(squares)
    value = kB * TEMPERATURE * mean / variance / GPa
    return value, value * error / variance


def pressures(volume, steps):
    """Mean pressure (GPa) with its error, at a fixed volume."""
    atoms = argon()
    atoms.set_cell(np.eye(3) * volume ** (1 / 3), scale_atoms=True)
    settings = MdSettings(
        ensemble="nvt-bussi", temperature=TEMPERATURE, timestep=8, steps=steps, interval=5, rdf_cutoff=1
    )
    result = md(atoms, LennardJones(), settings)
    return result.pressure, result.pressure_error


@pytest.mark.slow
@pytest.mark.parametrize("barostat_time", [400, 800, 1600])
@pytest.mark.parametrize("kind", [CellBarostat, IsotropicBarostat])
def test_volumes_fluctuate_by_the_bulk_modulus(kind, barostat_time):
    volumes, _ = sample_cell(kind, 60_000, barostat_time)
    value, error = modulus(volumes)
    strain = 0.02
    (low, a), (high, b) = (pressures(volumes.mean() * (1 + s), 30_000) for s in (strain, -strain))
    expected, expected_error = (high - low) / (2 * strain), np.hypot(a, b) / (2 * strain)
    assert abs(value - expected) < 3 * np.hypot(error, expected_error)
    assert error < 0.1 * value


class Soft(LennardJones):
    """A twentieth of argon's stiffness."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {name: value / 20 for name, value in self.results.items()}


def squeezed(**more):
    atoms = argon()
    atoms.set_cell(atoms.cell.array * 0.985, scale_atoms=True)
    more = {"temperature": 2, "timestep": 10, "steps": 1200, "interval": 5, "rdf_cutoff": 1, **more}
    settings = MdSettings(ensemble="npt-berendsen", barostat_time=500, **more)
    return md(atoms, Soft(), settings)


def test_berendsen_takes_the_compressibility_of_the_structure():
    result = squeezed()
    assert result.verdict == "stable" and abs(result.pressure) < 0.003
    assert 2 < result.compressibility < 15  # 1/GPa; solid argon's is 0.3 to 0.5


def test_a_pressure_that_misses_its_target_is_not_called_stable():
    result = squeezed(compressibility=0.01)
    assert result.pressure > 0.01 and result.converged
    assert result.verdict == "off target" and "for 0 GPa" in result.message
    assert "--compressibility" in result.message and "--barostat-time" in result.message


def test_berendsen_reaches_temperature_and_pressure():
    result, _ = sample("npt-berendsen", 1200)
    assert result.temperature == pytest.approx(TEMPERATURE, abs=2)
    assert result.pressure == pytest.approx(PRESSURE, abs=0.02)
    assert result.drift is None and np.isnan(result.table.columns["conserved (eV)"]).all()


@pytest.mark.parametrize("ensemble", ["nve", *NVT, *NPT])
def test_the_conserved_quantity_is_conserved_with_the_square_of_the_timestep(ensemble):
    def spread(timestep):
        settings = MdSettings(
            ensemble=ensemble,
            temperature=60,
            timestep=timestep,
            steps=round(600 / timestep),
            interval=1,
            thermostat_time=100,
            barostat_time=500,
            equilibration=0,
            rdf_cutoff=1,
        )
        table = md(argon(), LennardJones(), settings).table.columns
        total = table["total energy (eV)"]
        return np.ptp(table["conserved (eV)"]), np.ptp(total)

    coarse, total = spread(10)
    fine, _ = spread(5)
    assert fine < coarse / 2.5  # second order: 4, less what noise leaves
    assert ensemble == "nve" or coarse < 0.1 * total


@pytest.mark.parametrize("ensemble", [*NVT, *NPT, "npt-berendsen"])
def test_a_temperature_ramp_reaches_its_target(ensemble):
    more = {"pressure_end": 1.0} if ensemble.startswith("npt") else {}
    settings = MdSettings(
        ensemble=ensemble,
        temperature=20,
        temperature_end=60,
        timestep=8,
        steps=1200,
        interval=5,
        thermostat_time=100,
        barostat_time=500,
        compressibility=0.3,
        melting=False,
        rdf_cutoff=1,
        **more,
    )
    result = md(argon(), LennardJones(), settings)
    table = result.table.columns
    temperature = table["temperature (K)"]
    quarter = len(temperature) // 4
    assert temperature[:quarter].mean() == pytest.approx(25, abs=6)
    assert temperature[-quarter:].mean() == pytest.approx(55, abs=9)
    if more:
        assert table["pressure (GPa)"][-quarter:].mean() == pytest.approx(0.875, abs=0.1)
    if ENSEMBLES[ensemble].energy is not None:  # its jumps where the target moved are taken out
        assert np.ptp(table["conserved (eV)"]) < 0.1 * np.ptp(table["total energy (eV)"])


def test_targets_run_linearly_and_end_exactly():
    settings = MdSettings(ensemble="npt", temperature=100, temperature_end=300, pressure_end=2, steps=10)
    assert settings.targets(0) == (100, 0) and settings.targets(10) == (300, 2)
    assert settings.targets(5) == pytest.approx((200, 1))


# The start


@pytest.mark.parametrize("name, dof", [("CO2", 4), ("H2O", 3), ("CH4", 9), ("C2H6", 18)])
def test_molecules_start_without_momentum_and_rotation(name, dof):
    atoms = molecule(name)
    random_velocities(atoms, 300, np.random.default_rng(0))
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert degrees_of_freedom(atoms) == dof
    assert atoms.get_kinetic_energy() == pytest.approx(dof / 2 * kB * 300, rel=1e-12)


def test_crystals_start_without_momentum_and_stay_so():
    for ensemble in ("nve", "nvt-bussi", "nvt-nose-hoover", *NPT, "npt-berendsen"):
        result = md(argon(), LennardJones(), MdSettings(ensemble=ensemble, temperature=50, steps=20))
        momenta = result.final.get_momenta()
        assert np.abs(momenta.sum(axis=0)).max() < 1e-11 * np.abs(momenta).sum(), ensemble


def test_velocities_are_normally_distributed_and_depend_on_the_seed_alone():
    atoms = ase.Atoms("Ar500Ne500", positions=np.zeros((1000, 3)), cell=[9] * 3, pbc=True)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    momenta = []
    for seed in (1, 1, 2):
        random_velocities(atoms, 300, np.random.default_rng(seed))
        momenta.append(atoms.get_momenta())
    assert np.array_equal(momenta[0], momenta[1]) and not np.allclose(momenta[0], momenta[2])
    assert np.array_equal(np.random.get_state()[1], before)
    unit = momenta[0] / np.sqrt(atoms.get_masses() * kB * 300)[:, None]
    for part in (unit[:500], unit[500:]):  # each element has the same temperature
        assert part.var() == pytest.approx(1, abs=0.15)
        assert np.mean(part**4) / part.var() ** 2 == pytest.approx(3, abs=0.5)


def test_velocities_of_the_structure_are_kept_when_asked():
    atoms = argon()
    atoms.set_momenta(np.random.default_rng(0).normal(size=(32, 3)))
    kept = md(atoms, LennardJones(), MdSettings(ensemble="nve", steps=0, keep_velocities=True))
    assert np.array_equal(kept.final.get_momenta(), atoms.get_momenta())
    assert kept.degrees_of_freedom == 96  # its momentum is not zero, so it is a degree of freedom
    drawn = md(atoms, LennardJones(), MdSettings(ensemble="nve", steps=0))
    assert not np.allclose(drawn.final.get_momenta(), atoms.get_momenta())


def test_fixed_atoms_stay_and_do_not_count():
    atoms = argon()
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    for ensemble in ("nve", *NVT):
        settings = MdSettings(ensemble=ensemble, temperature=50, steps=200, timestep=5)
        result = md(atoms, LennardJones(), settings)
        assert np.array_equal(result.final.positions[:3], atoms.positions[:3])
        assert result.degrees_of_freedom == 87


@pytest.mark.parametrize(
    "atoms, ensemble, reason",
    [
        (molecule("H2O"), "npt", "three periodic axes"),
        (ase.Atoms("Ar"), "nvt", "nothing moves"),
        (ase.Atoms(), "nve", "needs atoms"),
    ],
    ids=["molecule", "one atom", "none"],
)
def test_what_an_ensemble_cannot_treat_is_refused(atoms, ensemble, reason):
    with pytest.raises(StructureError, match=reason):
        md(atoms, Free(), MdSettings(ensemble=ensemble, steps=1))


def test_a_barostat_refuses_constraints():
    atoms = argon()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match="FixAtoms"):
        md(atoms, LennardJones(), MdSettings(ensemble="npt", steps=1))
