"""Workflows that stop where the members of an ensemble disagree: at the right step, with the right frame."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from lennard_jones import LennardJones, argon
from test_md_restart import PulledPlugError, assert_same, pull_plug_at

from nfflr.errors import ConfigError
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.relaxation import RelaxSettings, relax


class Committee(Calculator):
    """EMT times 1 − δ and 1 + δ: the mean is EMT, the sample deviations are √2 δ |F| and √2 δ |E|."""

    implemented_properties = (*EMT.implemented_properties, "energy_std", "forces_std")
    delta = 0.1

    def __init__(self):
        super().__init__()
        self.base = EMT()

    def reset(self):  # forgets its neighbours too, as whoever continues a run exactly must
        super().reset()
        self.base = EMT()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.base.get_forces(self.atoms)
        self.results = dict(self.base.results)
        self.results["forces_std"] = 2**0.5 * self.delta * np.linalg.norm(self.results["forces"], axis=1)
        self.results["energy_std"] = 2**0.5 * self.delta * abs(self.results["energy"])


def copper():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.02, seed=1)
    return atoms


SETTINGS = MdSettings(temperature=900, steps=60, interval=1, checkpoint=20, rdf_cutoff=2, seed=2)


def with_limit(settings, **limits):
    return settings.model_copy(update=limits)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "npt"])
def test_md_stops_at_the_first_frame_above_the_limit(ensemble):
    settings = with_limit(SETTINGS, ensemble=ensemble)
    whole = md(copper(), Committee(), settings)
    largest = [2**0.5 * 0.1 * np.linalg.norm(f.get_forces(), axis=1).max() for f in whole.trajectory]
    limit = np.sort(largest[:45])[-1] * 0.999  # the largest of the first part
    step = int(np.argmax(np.array(largest) > limit))
    assert 3 < step < 45
    result = md(copper(), Committee(), with_limit(settings, max_forces_std=limit))
    frame = whole.trajectory[step]
    atom = int(np.linalg.norm(frame.get_forces(), axis=1).argmax())
    assert not result.converged and result.verdict == "uncertain" and result.steps == step
    assert (result.verdict_step, result.verdict_atom, result.uncertain_atom) == (step, atom, atom)
    assert result.forces_std == pytest.approx(largest[step], rel=1e-9)
    assert f"stopped at step {step}: the forces on atom {atom} (Cu) have a spread of" in result.message
    for found in (result.uncertain, result.final, result.trajectory[-1]):
        assert np.array_equal(found.positions, frame.positions)
        assert np.array_equal(found.get_momenta(), frame.get_momenta())
    assert result.uncertain.info["step"] == step and len(result.trajectory) == step + 1
    expected = 2**0.5 * 0.1 * np.linalg.norm(frame.get_forces(), axis=1)
    assert result.uncertain.arrays["forces_std"] == pytest.approx(expected, rel=1e-9)
    never = md(copper(), Committee(), with_limit(settings, max_forces_std=1.01 * max(largest)))
    assert never.verdict == "stable" and never.uncertain is None and never.forces_std is None
    assert_same(never, whole)


def test_the_energys_limit_is_per_atom_and_holds_at_the_start():
    start = copper()
    start.calc = Committee()
    start.get_forces()
    spread = start.calc.results["energy_std"] / len(start)
    result = md(copper(), Committee(), with_limit(SETTINGS, max_energy_std=0.99 * spread))
    assert result.steps == 0 and result.verdict == "uncertain" and result.verdict_atom is None
    assert result.energy_std == pytest.approx(spread) and "eV/atom, more than" in result.message
    moved = md(copper(), Committee(), with_limit(SETTINGS, max_energy_std=1.01 * spread))
    assert moved.steps > 0


def test_a_resumed_run_stops_at_the_same_step_with_the_same_bits(tmp_path):
    probe = md(copper(), Committee(), SETTINGS)
    largest = np.array(
        [2**0.5 * 0.1 * np.linalg.norm(f.get_forces(), axis=1).max() for f in probe.trajectory]
    )
    limit = 0.999 * largest[20:].max()  # so that it comes after a state was saved
    assert largest[:20].max() < limit
    settings = with_limit(SETTINGS, max_forces_std=float(limit), interval=7)
    whole = md(copper(), Committee(), settings)
    assert whole.steps > 20
    folder = tmp_path / "state"
    for stop in (14, 21):
        archive = FolderArchive(folder)
        with pytest.raises(PulledPlugError):
            md(copper(), Committee(), settings, pull_plug_at(stop), archive)
        archive.close()
    archive = FolderArchive(folder)
    again = md(copper(), Committee(), settings, archive=archive)
    assert_same(again.model_copy(update={"uncertain": None}), whole.model_copy(update={"uncertain": None}))
    assert np.array_equal(again.uncertain.arrays["forces_std"], whole.uncertain.arrays["forces_std"])
    third = md(copper(), Committee(), settings, archive=archive)  # one that had stopped stops there again
    archive.close()
    assert third.message == whole.message


def test_a_relaxation_stops_at_the_start_or_goes_as_without_a_limit():
    start = copper()
    start.calc = EMT()
    largest = 2**0.5 * 0.1 * np.linalg.norm(start.get_forces(), axis=1).max()
    result = relax(copper(), Committee(), RelaxSettings(max_forces_std=0.99 * largest))
    assert not result.converged and result.steps == 0
    assert result.forces_std == pytest.approx(largest) and result.message.startswith("uncertain, stopped at")
    assert np.array_equal(result.uncertain.positions, copper().positions)
    free = relax(copper(), Committee(), RelaxSettings(max_forces_std=1.01 * largest))
    plain = relax(copper(), Committee(), RelaxSettings())
    assert free.converged and free.uncertain is None and free.forces_std is None
    assert np.array_equal(free.positions, plain.positions)


def test_a_relaxation_on_its_way_into_the_unknown_stops_there():
    class Growing(Committee):
        """A spread that grows with the distance from the start, as outside of the training data."""

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            moved = np.linalg.norm(self.atoms.positions - copper().positions, axis=1)
            self.results["forces_std"] = 10 * moved

    plain = relax(copper(), Committee(), RelaxSettings(fmax=1e-3))
    moved = [10 * np.linalg.norm(f.positions - copper().positions, axis=1).max() for f in plain.trajectory]
    limit = 0.5 * max(moved)
    step = int(np.argmax(np.array(moved) > limit))
    result = relax(copper(), Growing(), RelaxSettings(fmax=1e-3, max_forces_std=limit))
    assert result.steps == step > 1 and result.forces_std == pytest.approx(moved[step])
    assert np.array_equal(result.uncertain.positions, plain.trajectory[step].positions)
    assert result.uncertain_atom == int(
        np.linalg.norm(plain.trajectory[step].positions - copper().positions, axis=1).argmax()
    )


def test_limits_need_a_spread():
    with pytest.raises(
        ConfigError, match="max_forces_std: the calculator gives no forces_std; give a committee"
    ):
        md(argon(), LennardJones(), MdSettings(max_forces_std=0.1))
    with pytest.raises(ConfigError, match="max_energy_std: the calculator gives no energy_std"):
        relax(copper(), EMT(), RelaxSettings(max_energy_std=0.1))
