"""Batched evaluation is the same as one by one, for calculators that can and those that cannot."""

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from potentials import CRYSTALS, mlearn_si

from nfflr.workflows.batch import evaluate


def rattled(atoms, count=4):
    frames = []
    for k in range(count):
        frame = atoms.repeat((1 + k % 2, 1, 2))
        frame.rattle(0.1, seed=k)
        frames.append(frame)
    return frames


@pytest.mark.parametrize("kind", CRYSTALS)
def test_a_batch_is_equal_to_one_by_one(kind):
    calculator, crystal = CRYSTALS[kind]
    frames = rattled(crystal())
    found = evaluate(calculator(), iter(frames))
    assert len(found) == len(frames)
    for results, atoms in zip(found, frames, strict=True):
        atoms.calc = calculator()
        assert results["energy"] == pytest.approx(atoms.get_potential_energy(), rel=0, abs=1e-10)
        np.testing.assert_allclose(results["forces"], atoms.get_forces(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(results["stress"], atoms.get_stress(), rtol=0, atol=1e-10)


def test_results_are_kept_apart_and_the_structures_as_they_were():
    frames = rattled(bulk("Cu"))
    kept = [f.copy() for f in frames]
    found = evaluate(EMT(), frames)
    assert len({f["energy"] for f in found}) == len(frames)
    assert all(f == k and f.calc is None for f, k in zip(frames, kept, strict=True))
    found[0]["forces"][:] = 7.0
    assert np.abs(found[2]["forces"]).max() < 7.0


def test_a_molecule_has_no_stress_and_constraints_do_not_act():
    slab = fcc111("Cu", (1, 1, 3), vacuum=6, a=3.7)
    slab.set_constraint(FixAtoms([0, 1, 2]))
    dimer, layer = evaluate(EMT(), [molecule("N2"), slab])
    assert "stress" not in dimer
    assert np.abs(layer["forces"]).max() > 0.1


def test_nothing_gives_nothing():
    assert evaluate(EMT(), []) == [] == evaluate(mlearn_si(), [])
