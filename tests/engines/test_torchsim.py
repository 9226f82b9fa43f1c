"""Many structures together through torch-sim: our models behind its interface, the minima of one by one."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.units import GPa

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import ConfigError, NFFLrError, StructureError
from nfflr.workflows.relaxation import RelaxSettings, relax

torch_sim = pytest.importorskip("torch_sim")

from nfflr.engines.torchsim import TorchSimModel, relax_together  # noqa: E402


@pytest.fixture(scope="module")
def calculator():
    return NFFLrCalculator.load("mlearn-si-fast", dtype="float64")


def cells(number=4, strain=0.0):
    made = []
    for k in range(number):
        atoms = bulk("Si", cubic=k % 2 == 0)  # 8 atoms and 2
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * np.eye(3, k=1)), scale_atoms=True)
        atoms.rattle(0.05, seed=k)
        made.append(atoms)
    return made


def test_interface_gives_the_calculators_numbers(calculator):
    structures = cells(strain=0.03)
    model = TorchSimModel(calculator.model)
    output = model(torch_sim.io.atoms_to_state(structures, model.device, model.dtype))
    start = 0
    for k, (atoms, known) in enumerate(zip(structures, calculator.evaluate(structures), strict=True)):
        assert float(output["energy"][k]) == pytest.approx(known["energy"], abs=1e-10)
        forces = output["forces"][start : start + len(atoms)].numpy()
        np.testing.assert_allclose(forces, known["forces"], atol=1e-10)
        stress = output["stress"][k].numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        np.testing.assert_allclose(stress, known["stress"], atol=1e-12)
        start += len(atoms)


def test_torch_sim_finds_the_interface_whole(calculator):
    from torch_sim.models.interface import validate_model_outputs

    class Silicon(TorchSimModel):  # the check has iron too
        def forward(self, state, **kwargs):
            state = state.clone()
            state.atomic_numbers[:] = 14
            return super().forward(state, **kwargs)

    model = Silicon(calculator.model)
    validate_model_outputs(model, model.device, model.dtype)


@pytest.mark.parametrize("settings", [{}, {"cell": True, "pressure": 1.0}], ids=["atoms", "cell"])
def test_minima_are_those_of_one_by_one(calculator, settings):
    structures = cells(3, strain=0.02)
    asked = RelaxSettings(fmax=1e-3, **settings)
    found = dict(relax_together(structures, calculator, asked, max_atoms=10))  # never all three at once
    assert sorted(found) == [0, 1, 2]
    for k, atoms in enumerate(structures):
        alone, together = relax(atoms, calculator, asked), found[k]
        assert alone.converged and together.converged
        assert together.energy == pytest.approx(alone.energy, abs=1e-6 * len(atoms))
        assert len(together.energy_trace) == len(together.fmax_trace) == together.steps + 1
        assert together.energy_trace[0] == pytest.approx(alone.energy_trace[0], abs=1e-9)
        assert together.fmax_trace[0] == pytest.approx(alone.fmax_trace[0], abs=1e-9)
        assert abs(together.steps - alone.steps) <= 0.1 * alone.steps + 1  # the same, but for rounding
        assert together.fmax_trace[-1] == pytest.approx(together.fmax, abs=1e-8)
        final = together.relaxed.copy()
        final.calc = calculator
        assert np.linalg.norm(final.get_forces(), axis=1).max() < asked.fmax
        if asked.cell:
            stress = final.get_stress(voigt=False) + asked.pressure * GPa * np.eye(3)
            assert np.abs(stress).max() * final.get_volume() / len(atoms) < 2 * asked.fmax
            assert together.enthalpy == pytest.approx(alone.enthalpy, abs=1e-6 * len(atoms))


def test_one_that_enters_a_batch_leaves_the_steps_of_the_others(calculator):
    structures = []
    for k in range(10):  # one after another converges, and makes room
        structures.append(bulk("Si", cubic=k % 2 == 0))
        structures[-1].rattle(0.01 * (k + 1), seed=k)
    asked = RelaxSettings(fmax=1e-3)
    found = dict(relax_together(structures, calculator, asked, max_atoms=24))
    for k, atoms in enumerate(structures):
        assert abs(found[k].steps - relax(atoms, calculator, asked).steps) <= 2


def test_what_is_bad_fails_alone(calculator):
    coincident = bulk("Si", cubic=True)
    coincident.positions[1] = coincident.positions[0]
    fixed = bulk("Si", cubic=True)
    fixed.set_constraint(FixAtoms([0]))
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    cluster = ase.Atoms("Si2", [(0, 0, 0), (2.5, 0, 0)])
    structures = [bulk("Cu"), coincident, fixed, slab, ase.Atoms(), cluster, bulk("Si"), *cells(1)]
    found = dict(relax_together(structures, calculator, RelaxSettings(fmax=0.05)))
    for k, word in enumerate(["Cu", "coincide", "fixed", "three axes", "no atoms"]):
        assert isinstance(found[k], StructureError) and word in str(found[k])
    assert all(found[k].converged for k in (5, 6, 7))
    assert found[6].steps == 0  # a perfect crystal


def test_an_error_in_the_middle_of_a_batch_leaves_the_others(calculator, monkeypatch):
    calls = []
    forward = TorchSimModel.forward

    def failing(self, state, **kwargs):
        calls.append(state.n_systems)
        if len(calls) == 6:
            raise StructureError("structure: atoms 0 and 1 coincide; move or remove one of them")
        return forward(self, state, **kwargs)

    monkeypatch.setattr(TorchSimModel, "forward", failing)
    structures = cells(3)
    found = dict(relax_together(structures, calculator, RelaxSettings(fmax=0.05)))
    assert all(found[k].converged for k in range(3))


def test_too_few_steps_are_said(calculator):
    ((_, result),) = relax_together(cells(1), calculator, RelaxSettings(fmax=1e-6, steps=2))
    assert not isinstance(result, NFFLrError)
    assert result.steps == 2 and not result.converged and "2 steps" in result.message


@pytest.mark.parametrize(
    "setting",
    [{"optimizer": "bfgs"}, {"symmetry": True}, {"max_energy_std": 0.1}, {"cell": True, "cell_axes": "ab"}],
)
def test_what_torch_sim_does_not_offer_is_refused(calculator, setting):
    with pytest.raises(ConfigError, match=list(setting)[-1].replace("_", ".")):
        list(relax_together(cells(1), calculator, RelaxSettings(**setting)))


def test_supercells_are_made_before_the_batch(calculator):
    asked = RelaxSettings(fmax=1e-3, supercell=(1, 1, 2))
    structures = [*cells(2), ase.Atoms("Si2", [(0, 0, 0), (2.5, 0, 0)])]
    found = dict(relax_together(structures, calculator, asked, max_atoms=8))
    for k, atoms in enumerate(structures[:2]):
        assert len(found[k].symbols) == 2 * len(atoms)
        assert found[k].energy == pytest.approx(relax(atoms, calculator, asked).energy, abs=1e-5)
    assert isinstance(found[2], StructureError) and "axis c" in str(found[2])
