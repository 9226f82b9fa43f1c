"""What became of a run: verdicts, explosions, the result, and energy that is conserved."""

import io
import json

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list
from lennard_jones import LennardJones, argon
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
)
from pydantic import ValidationError

from nfflr.calculator import NFFLrCalculator
from nfflr.cards import bundled_calculators
from nfflr.data.dataset import AtomsDataset
from nfflr.errors import NumericsError, StructureError
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.molecular_dynamics import MdSettings, md, plot


class Breaks(LennardJones):
    """Sound for a while; then something happens to atom 7."""

    def __init__(self, good, how):
        super().__init__()
        self.good, self.how, self.count = good, how, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        if self.count > self.good:
            if isinstance(self.how, Exception):
                raise self.how
            self.results["forces"][7] = self.how


def quick(**more):
    return MdSettings(
        **{"temperature": 50, "timestep": 5, "interval": 5, "steps": 200, "rdf_cutoff": 3, **more}
    )


def finite(result):
    frames = [*result.trajectory, result.final]
    arrays = [a for f in frames for a in (f.positions, f.get_momenta(), f.get_forces(), f.cell.array)]
    return all(np.isfinite(a).all() for a in arrays)


# Explosions


@pytest.mark.parametrize(
    "ensemble", ["nve", "nvt", "nvt-langevin", "nvt-nose-hoover", "npt", "npt-berendsen"]
)
@pytest.mark.parametrize(
    "how, reason",
    [(np.nan, "NaN"), (1e4, "hottest"), (NumericsError("structure: not finite"), "gave up: not finite")],
    ids=["nan", "force", "error"],
)
def test_an_explosion_stops_at_once_and_leaves_sound_frames(ensemble, how, reason):
    calculator = Breaks(23, how)
    result = md(
        argon(), calculator, quick(ensemble=ensemble, checkpoint=10, min_distance=1.5, compressibility=0.01)
    )
    assert result.verdict == "exploded" and not result.converged
    asked = 2 if ensemble == "npt-berendsen" else 1  # evaluations in a step
    assert 20 <= asked * result.verdict_step <= 24 and result.steps == result.verdict_step - 1
    assert f"step {result.verdict_step}" in result.message and reason in result.message
    if not isinstance(how, Exception):
        assert result.verdict_atom == 7 and "atom 7 (Ar)" in result.message
    assert len(result.trajectory) == result.steps // 5 + 1 and calculator.count < 30
    json.loads(result.model_dump_json(exclude={"table", "final", "trajectory"}))
    plot(result).savefig(io.BytesIO())


def test_frames_of_an_exploded_run_are_finite_also_on_disk(tmp_path):
    archive = FolderArchive(tmp_path)
    result = md(argon(), LennardJones(), quick(ensemble="nve", timestep=150, temperature=80), archive=archive)
    assert result.verdict == "exploded" and finite(result) and result.steps < 199
    archive.close()


def test_atoms_that_meet_are_named_before_they_are_evaluated():
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [3.0, 0, 0]])
    atoms.set_velocities([[0.1, 0, 0], [-0.06, 0, 0]])
    settings = quick(ensemble="nve", timestep=2, keep_velocities=True, min_distance=2.9)
    result = md(atoms, LennardJones(), settings)
    assert result.verdict == "exploded" and result.verdict_atom == 0
    assert "came within 2." in result.message and "of atom 1" in result.message
    assert result.final.get_distance(0, 1) > 2.9


def test_heat_beyond_the_limit_is_an_explosion():
    result = md(argon(), LennardJones(), quick(ensemble="nvt", temperature_end=5000, max_temperature=200))
    assert result.verdict == "exploded" and "temperature reached 2" in result.message


def test_a_start_that_is_not_sound_is_an_error():
    with pytest.raises(NumericsError, match="at the start atom 7"):
        md(argon(), Breaks(0, np.nan), quick())
    near = argon()
    near.positions[1] = near.positions[0] + [0.1, 0, 0]
    with pytest.raises(NumericsError, match=r"came within 0\.10 Å of atom"):
        md(near, LennardJones(), quick())
    with pytest.raises(StructureError, match="no such thing"):
        md(argon(), Breaks(0, StructureError("structure: no such thing")), quick())


# Melting, drift, training range


def test_a_crystal_is_stable_and_one_that_is_too_hot_melts():
    cold = md(argon(), LennardJones(), quick(steps=600))
    assert cold.verdict == "stable" and cold.verdict_step is None and cold.verdict_atom is None
    assert abs(cold.diffusion["all"]) < 3 * cold.diffusion_error["all"]  # vibration is no diffusion
    settings = quick(temperature=400, steps=600, thermostat_time=50)
    hot = md(argon(), LennardJones(), settings)
    assert hot.verdict == "melted" and hot.converged
    moved = hot.trajectory[hot.verdict_step // 5].positions - hot.trajectory[0].positions
    assert np.linalg.norm(moved, axis=1).argmax() == hot.verdict_atom
    spread = np.sqrt((moved**2).sum(axis=1).mean())
    assert spread > 0.3 * 5.3 / np.sqrt(2) and hot.diffusion["all"] > 3 * abs(cold.diffusion["all"])
    assert md(argon(), LennardJones(), settings.model_copy(update={"melting": False})).verdict != "melted"


class Leaks(LennardJones):
    """Pushes every atom along its velocity, which no potential does."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] += 4e-3 * self.atoms.get_velocities() * self.atoms.get_masses()[:, None]


def test_a_drift_is_reported_with_its_size():
    result = md(argon(), Leaks(), quick(ensemble="nve", temperature=30, steps=600))
    assert result.verdict == "drifting" and result.converged
    conserved = result.table.columns["conserved (eV)"]
    assert result.drift == pytest.approx((conserved[-1] - conserved[24]) / 32 * 1e6 / 2.4, rel=0.25)
    assert f"{result.drift:.3g}" in result.message


class Knows(LennardJones):
    """Says how near atoms came in its training data."""

    shortest_distances = np.full((120, 120), np.inf)


def test_atoms_nearer_than_in_the_training_data_are_outside_its_range():
    inside, outside = Knows(), Knows()
    inside.shortest_distances = np.where(np.isinf(Knows.shortest_distances), np.nan, 0.0)
    inside.shortest_distances[18, 18] = 3.55  # atoms come a little nearer, which any long run does
    outside.shortest_distances = inside.shortest_distances.copy()
    outside.shortest_distances[18, 18] = 3.9
    settings = quick(steps=300, temperature=40)
    assert md(argon(), inside, settings).verdict == "stable"
    result = md(argon(), outside, settings)
    assert result.verdict == "outside training range" and result.converged
    assert result.verdict_step > 0 and f"atom {result.verdict_atom} (Ar)" in result.message


def test_a_crystal_that_melts_outside_the_training_range_has_melted_and_both_are_said():
    calculator = Knows()
    calculator.shortest_distances = np.full((120, 120), 3.9)
    result = md(argon(), calculator, quick(steps=1500, temperature=400))
    assert result.verdict == "melted" and result.message.startswith("melted: from step")
    assert f"outside the training range from step {result.outside_step}: atom" in result.message
    assert 0 <= result.outside_step < result.verdict_step


def test_the_bundled_potential_knows_its_shortest_distance_and_md_says_when_it_is_passed():
    train = bundled_calculators()["mlearn-si"] / "train.xyz.xz"
    known = NFFLrCalculator.load("mlearn-si-fast").shortest_distances
    distances = [neighbor_list("d", record.atoms, 2.6) for record in AtomsDataset(train).part("train")]
    assert known[14, 14] == pytest.approx(min(d.min() for d in distances if len(d)), abs=0.05)
    crystal = bulk("Si", cubic=True)
    near = crystal.copy()
    near.positions[0] += 0.35 * (near.positions[1] - near.positions[0])  # 1.53 Å, was 2.35 Å
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    assert md(crystal, calculator, quick(steps=20)).verdict == "stable"
    assert md(near, calculator, quick(steps=20, timestep=0.2)).verdict == "outside training range"


# The result


def test_another_run_is_drawn_over_the_analysis():
    cold, hot = (md(argon(), LennardJones(), quick(steps=300, temperature=t)) for t in (20, 40))
    panels = plot(cold, {"hot": hot}, "cold").axes
    counts = [len(panel.lines) for panel in plot(cold).axes]
    assert [len(p.lines) - n for p, n in zip(panels, counts, strict=True)] == [0, 0, 2, 1, 1, 1]
    names = [text.get_text() for text in panels[2].get_legend().get_texts()]
    assert names[-2:] == ["hot", "cold"]


def test_the_table_is_the_trajectory_in_numbers():
    seen = []
    settings = quick(ensemble="npt", steps=52)
    result = md(argon(), LennardJones(), settings, lambda *what: seen.append(what))
    table = result.table.columns
    assert [f.info["step"] for f in result.trajectory] == [*range(0, 51, 5)]
    assert table["time (ps)"] == pytest.approx(np.arange(11) * 0.025)
    for k, frame in enumerate(result.trajectory):
        again = frame.copy()
        again.calc = LennardJones()
        assert again.get_potential_energy() == pytest.approx(table["potential energy (eV)"][k], abs=1e-10)
        assert again.get_forces() == pytest.approx(frame.get_forces(), abs=1e-10)
        assert frame.get_volume() == pytest.approx(table["volume (Å^3)"][k])
        stress = again.get_stress(include_ideal_gas=True)
        assert -stress[:3].mean() / ase.units.GPa == pytest.approx(table["pressure (GPa)"][k], abs=1e-9)
        kinetic = table["kinetic energy (eV)"][k]
        assert table["temperature (K)"][k] == pytest.approx(2 * kinetic / (93 * ase.units.kB))
    assert result.steps == 52 and result.final.positions == pytest.approx(result.positions)
    assert [step for step, *_ in seen] == [*range(5, 51, 5)] and {total for _, total, *_ in seen} == {52}
    assert set(seen[0][2]) == {"T (K)", "E (eV)", "drift (meV/atom)", "ns/day"}
    assert all(np.isfinite(list(numbers.values())).all() for _, _, numbers, _ in seen)


@pytest.mark.parametrize(
    "atoms, calculator",
    [(molecule("N2"), EMT()), (fcc111("Cu", (2, 2, 2), vacuum=5), EMT()), (argon(), LennardJones())],
    ids=["molecule", "slab", "crystal"],
)
def test_the_input_is_left_as_it_was_and_every_kind_of_structure_runs(atoms, calculator):
    kept = atoms.copy()
    result = md(atoms, calculator, quick(timestep=1, steps=150, temperature=100))
    assert atoms == kept and atoms.calc is None
    assert result.converged and (result.rdf is None) == (not atoms.pbc.all())
    assert (result.pressure is None) == (not atoms.pbc.any())
    json.loads(result.model_dump_json(exclude={"table", "final", "trajectory"}), parse_constant=int)
    plot(result).savefig(io.BytesIO())


def test_no_steps_evaluate_the_start():
    result = md(argon(), LennardJones(), quick(steps=0))
    assert result.steps == 0 and len(result.trajectory) == 1 and result.verdict == "stable"
    assert result.temperature == pytest.approx(50) and result.temperature_error is None
    plot(result).savefig(io.BytesIO())


def test_every_axis_of_the_figure_says_what_it_shows():
    figure = plot(md(argon(), LennardJones(), quick(steps=300)))
    assert len(figure.axes) == 6
    for axis in figure.axes:
        assert axis.get_xlabel().endswith(("(ps)", "(Å)", "(THz)")) and axis.get_ylabel()
        assert axis.lines


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestep": 0},
        {"steps": -1},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"ensemble": "nvt-magic"},
        {"equilibration": 1.0},
        {"interval": 0},
        {"friction": 1},
    ],
    ids=str,
)
def test_settings_refuse_what_is_unknown_or_impossible(wrong):
    with pytest.raises(ValidationError) as caught:
        MdSettings(**wrong)
    assert caught.value.errors()[0]["loc"] == tuple(wrong)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"ensemble": "nve", "temperature_end": 10}, "thermostat"),
        ({"ensemble": "nvt", "pressure": 1}, "barostat"),
        ({"ensemble": "nvt", "temperature": 0}, "0 K"),
    ],
    ids=str,
)
def test_settings_refuse_options_that_would_do_nothing(wrong, reason):
    with pytest.raises(ValidationError, match=reason):
        MdSettings(**wrong)


def test_every_setting_is_explained():
    assert all(field.description for field in MdSettings.model_fields.values())


# Energy is conserved


def stillinger_weber() -> Calculator:
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


@pytest.mark.parametrize(
    "calculator",
    [stillinger_weber, lambda: NFFLrCalculator.load("mlearn-si-fast")],
    ids=["sw", "mlearn-si-fast"],
)
def test_silicon_keeps_its_energy(calculator):
    atoms = bulk("Si", a=5.45, cubic=True)
    settings = MdSettings(ensemble="nve", temperature=600, steps=200, interval=5, equilibration=0)
    result = md(atoms, calculator(), settings)
    conserved = result.table.columns["conserved (eV)"] / len(atoms)
    kinetic = result.table.columns["kinetic energy (eV)"] / len(atoms)
    assert np.ptp(conserved) < 5e-4 and np.ptp(kinetic) > 20 * np.ptp(conserved)
    ends = np.abs(conserved[-10:].mean() - conserved[:10].mean()) / 0.15  # eV/atom/ps
    assert ends < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("dtype, timestep, limit", [("float32", 1.0, 1e-4), ("float64", 0.5, 1e-6)])
def test_216_silicon_atoms_keep_their_energy_for_ten_picoseconds(dtype, timestep, limit):
    atoms = bulk("Si", a=5.469, cubic=True) * 3
    calculator = NFFLrCalculator.load("mlearn-si-fast", dtype=dtype)
    interval = round(10 / timestep)
    settings = MdSettings(
        ensemble="nve", temperature=600, timestep=timestep, steps=1000 * interval, interval=interval
    )  # half of 600 K goes into the potential
    result = md(atoms, calculator, settings)
    assert result.temperature == pytest.approx(300, abs=10)
    assert abs(result.drift) * 1e-6 < limit  # eV/atom/ps
