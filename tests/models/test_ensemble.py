"""Ensembles: means that are consistent with each other, and spreads that can be worked out by hand."""

import numpy as np
import pytest
import torch
from builders import tiny

from nfflr.data.graph import periodic_radius_graph
from nfflr.errors import ConfigError, StructureError
from nfflr.models.committee import Committee
from nfflr.models.registry import architecture

ELEMENTS = ("C", "Si")


def members(n=3, **settings):
    return [tiny(ELEMENTS, seed=seed, **settings) for seed in range(n)]


def other(key, dtype=torch.float64, **settings):
    cls = architecture(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return cls(cls.Config(elements=ELEMENTS, **settings)).to(dtype).eval()


def test_every_output_is_the_mean_and_the_spread_the_sample_deviation(structures):
    models = members(4)
    batch = [structures.triclinic(ELEMENTS), structures.cluster(ELEMENTS)]
    found, each = Committee(models)(batch), [model(batch) for model in models]
    for name in ("total_energy", "energies", "forces", "stress"):
        expected = np.mean([output[name].numpy() for output in each], axis=0)
        assert found[name].numpy() == pytest.approx(expected, abs=1e-12)
    energies = np.array([output["total_energy"].numpy() for output in each])  # (M, B)
    assert found["energy_std"].numpy() == pytest.approx(np.std(energies, axis=0, ddof=1), rel=1e-9)
    forces = np.array([output["forces"].numpy() for output in each])  # (M, N, 3)
    expected = np.sqrt(np.var(forces, axis=0, ddof=1).sum(axis=1))
    assert found["forces_std"].shape == (9,) and expected.min() > 0
    assert found["forces_std"].numpy() == pytest.approx(expected, rel=1e-9)
    single = Committee(models)(batch[0])
    assert single["energy_std"].shape == () and float(single["energy_std"]) == pytest.approx(
        float(found["energy_std"][0]), rel=1e-9
    )


def test_members_that_differ_by_reference_energies_have_the_spread_of_these(structures):
    # E0 of the members: C at 0, 1, 2 eV and Si at 0, −2, −4 eV: with n_C and n_Si atoms the total energies
    # are n_C k − 2 n_Si k apart from the common part, k = 0, 1, 2, whose sample deviation is |n_C − 2 n_Si|.
    models = [tiny(ELEMENTS) for _ in range(3)]
    for k, model in enumerate(models):
        model.reference_energies.copy_(torch.tensor([k, -2.0 * k]))
    atoms = structures.cluster(("C", "C", "Si", "C", "Si"))
    found = Committee(models)([atoms, atoms[:1]])
    assert found["energy_std"].tolist() == pytest.approx([abs(3 - 2 * 2), 1.0], abs=1e-12)
    assert not found["forces_std"].any()
    assert torch.equal(found["forces"], models[0]([atoms, atoms[:1]])["forces"])


def test_equal_members_are_one_of_them_with_no_spread_at_all(structures):
    model = tiny(ELEMENTS)
    model.reference_energies.copy_(torch.tensor([-1234.567, -7890.123]))
    found, expected = Committee([model] * 3)(structures.crystal()), model(structures.crystal())
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    assert float(found["energy_std"]) == 0 and not found["forces_std"].any()


def test_mean_forces_are_the_derivative_of_the_mean_energy(structures):
    ensemble, atoms = (
        Committee([*members(2), other("alignn", hidden_features=8)]),
        structures.crystal(ELEMENTS),
    )
    forces, h = ensemble(atoms)["forces"].numpy(), 1e-3
    for index in [(0, 0), (3, 1), (7, 2)]:
        energies = []
        for step in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[index] += step * h
            energies.append(ensemble(moved)["total_energy"].item())
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * h)
        assert -slope == pytest.approx(forces[index], abs=1e-7 * np.abs(forces).max())


@pytest.mark.parametrize("keys", [("alignn", "schnet"), ("painn", "moment")], ids="-".join)
def test_members_of_different_cutoffs_each_see_their_own_neighbours(structures, keys):
    models = [other(key, cutoff=cutoff) for key, cutoff in zip(keys, (3.5, 5.5), strict=True)]
    for order in (models, models[::-1]):
        ensemble, atoms = Committee(order), structures.triclinic(ELEMENTS)
        assert ensemble.cutoff == 5.5
        for name in ("total_energy", "forces", "stress"):
            expected = sum(model(atoms)[name] for model in models) / 2
            torch.testing.assert_close(ensemble(atoms)[name], expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(StructureError, match=r"bonds reach 4 Å, the model needs 5\.5 Å"):
        ensemble(periodic_radius_graph(atoms, r=4.0))


def test_members_of_different_precision(structures):
    double = tiny(ELEMENTS)
    ensemble = Committee([tiny(ELEMENTS, torch.float32), double])
    assert ensemble.dtype == torch.float64
    found = ensemble(structures.crystal())
    assert {value.dtype for value in found.values()} == {torch.float64}
    assert 0 < float(found["energy_std"]) < 1e-4
    assert float(ensemble.to(torch.float64)(structures.crystal())["energy_std"]) < 1e-5


def test_energies_alone_have_no_spread_of_forces(structures):
    models = [other("schnet", channels=8, compute_forces=False) for _ in range(2)]
    assert set(Committee(models)(structures.crystal())) == {"total_energy", "energies", "energy_std"}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [], "got 0 members.*at least two"),
        (lambda: [tiny()], "got 1 members.*at least two"),
        (lambda: [tiny(ELEMENTS), tiny(("Si",))], "member 1 knows Si, member 0 C, Si; expected the same"),
        (lambda: [tiny(ELEMENTS), other("schnet", compute_forces=False)], "compute_forces"),
        (lambda: [tiny(ELEMENTS), other("schnet", readout="mean")], "member 1 predicts a property"),
    ],
)
def test_what_is_no_ensemble_is_refused(models, message):
    with pytest.raises(ConfigError, match=message):
        Committee(models())


def test_the_mean_can_be_differentiated_in_training_even_without_spread(structures):
    ensemble = Committee([tiny(ELEMENTS), tiny(ELEMENTS)]).train()
    result = ensemble(structures.crystal())
    (result["total_energy"] + result["forces"].square().sum()).backward()
    assert all(
        torch.isfinite(weight.grad).all() for weight in ensemble.parameters() if weight.grad is not None
    )
    assert ensemble.members[1].hidden.weight.grad.abs().max() > 0
