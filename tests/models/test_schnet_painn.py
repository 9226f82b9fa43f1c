"""What is particular to SchNet and PaiNN, and their contracts by a route other than the shared suite's."""

import math

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk

from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.data.graph import periodic_radius_graph
from nfflr.models.gnn.painn import soft_norm
from nfflr.models.registry import architecture
from nfflr.nn.dense import dense, shifted_softplus
from nfflr.nn.radial import bessel, cosine_cutoff, gaussian, spherical_bessel

ELEMENTS = ("C", "Si")


def build(key, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        cls = architecture(key)
        model = cls(cls.Config(elements=ELEMENTS, channels=16, **settings))
        for weight in model.parameters():  # no bias stays at zero
            weight.data.add_(0.05 * torch.randn_like(weight))
    return model.double().eval()


@pytest.fixture(scope="module", params=["schnet", "painn"])
def model(request):
    return build(request.param)


def crystal(seed=0):
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def molecule():
    positions = [[0, 0, 0], [1.7, 0.2, 0.1], [-0.9, 2.2, 0.3], [0.4, -1.1, 2.3], [2.5, 2.0, 1.1]]
    return ase.Atoms("CSiCSiSi", positions=positions)


def rotation(seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.linalg.det(q)


def rotated(atoms, q):
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    return turned


def five_point(f, x, h):
    return (f(x - 2 * h) - 8 * f(x - h) + 8 * f(x + h) - f(x + 2 * h)) / (12 * h)


@pytest.mark.parametrize("make", [crystal, molecule])
def test_forces_are_differences_of_energies(model, make):
    atoms = make()
    forces = model(atoms)["forces"].numpy()

    def energy(x, index):
        moved = atoms.copy()
        moved.positions[index] = x
        return model(moved, stress=False)["total_energy"].item()

    for index in [(0, 0), (1, 1), (len(atoms) - 1, 2)]:
        slope = five_point(lambda x, at=index: energy(x, at), atoms.positions[index], 5e-4)
        assert -slope == pytest.approx(forces[index], abs=1e-7 * np.abs(forces).max())


def test_rotations_and_permutations(model):
    atoms, q = crystal(), rotation()
    order = np.random.default_rng(1).permutation(len(atoms))
    before, after = model(atoms), model(rotated(atoms, q)[order])
    torch.testing.assert_close(after["total_energy"], before["total_energy"], rtol=1e-10, atol=1e-10)
    turned = before["forces"][order] @ torch.from_numpy(q).T
    torch.testing.assert_close(after["forces"], turned, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 3])
def test_painn_s_scalars_stay_and_vectors_turn(layers):
    model, atoms, q = build("painn", layers=layers), molecule(), rotation(2)
    with torch.no_grad():
        (s, v), (s_turned, v_turned) = (
            model.scalars_and_vectors(model.inputs(graph))
            for graph in map(model.graph, (atoms, rotated(atoms, q)))
        )
    assert v.abs().max() > 1e-3
    torch.testing.assert_close(s_turned, s, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        v_turned, torch.einsum("ab,bnc->anc", torch.from_numpy(q), v), rtol=0, atol=1e-10
    )


def test_a_batch_equals_its_members(model):
    members = [crystal(), ase.Atoms("C"), molecule()]
    together, singles = model(members), [model(member) for member in members]
    energies = torch.stack([single["total_energy"] for single in singles])
    torch.testing.assert_close(together["total_energy"], energies, rtol=1e-10, atol=1e-10)
    forces = torch.cat([single["forces"] for single in singles])
    torch.testing.assert_close(together["forces"], forces, rtol=0, atol=1e-10)


def test_energy_and_forces_are_continuous_at_the_cutoff(model):
    def at(distance):
        positions = [[0, 0, 0], [distance, 0, 0], [1.1, 2.1, 0.4]]
        return model(ase.Atoms("CSiC", positions=positions))

    inside, outside = at(model.cutoff - 1e-10), at(model.cutoff + 1e-10)
    for name in ("total_energy", "forces"):
        torch.testing.assert_close(inside[name], outside[name], rtol=0, atol=1e-8)


def test_an_isolated_atom_is_finite(model):
    result = model(ase.Atoms("Si"))
    assert torch.isfinite(result["total_energy"]) and not result["forces"].any()


def test_a_checkpoint_gives_the_same_numbers(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model)
    loaded, _ = load_checkpoint(tmp_path / "model.safetensors")
    expected, found = model(crystal()), loaded(crystal())
    assert loaded.config == model.config
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("key", ["schnet", "painn"])
def test_every_weight_s_gradient_of_a_force_loss(key):
    model = build(key, layers=2).train()
    graph = model.graph([molecule(), crystal()])

    def loss():
        result = model(graph)
        return (result["forces"] - 0.3).square().sum() + 1e-2 * result["total_energy"].square().sum()

    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        k = int(gradient.abs().argmax())
        flat, kept = weight.data.view(-1), weight.data.view(-1)[k].item()

        def at(value, flat=flat, k=k):
            flat[k] = value
            return loss().item()

        slope, scale = five_point(at, kept, 1e-4), gradient.abs().max().item()
        flat[k] = kept
        assert scale > 0 and slope == pytest.approx(gradient.view(-1)[k].item(), abs=1e-6 * scale), name


def test_the_energy_s_second_derivatives_are_right(model):
    graph = periodic_radius_graph(molecule(), model.cutoff)
    vectors = graph.vectors()
    assert torch.autograd.gradgradcheck(
        lambda x: model.energies(model.inputs(graph, torch.cat([x, vectors[2:]]))).sum(),
        vectors[:2].clone().requires_grad_(),
    )


def test_atoms_of_a_perfect_crystal_rest_in_a_smooth_well():
    # All vector features vanish there: the bare norm would make the force jump.
    model = build("painn")
    forces = []
    for shift in (-2e-4, -1e-4, 1e-4, 2e-4):
        atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
        atoms.positions[0, 0] += shift
        forces.append(model(atoms)["forces"][0, 0].item())
    assert forces[0] == pytest.approx(-forces[3], rel=1e-2) and forces[0] == pytest.approx(
        2 * forces[1], rel=1e-2
    )
    norm = soft_norm(v := torch.zeros(3, 2, 4, requires_grad=True), 0.1)
    (slope,) = torch.autograd.grad(norm.sum(), v)
    assert not norm.any() and not slope.any()


def test_building_blocks_are_their_formulas():
    x = torch.linspace(-30, 30, 61, dtype=torch.float64)
    torch.testing.assert_close(shifted_softplus(x), torch.log(0.5 * torch.exp(x) + 0.5))
    assert shifted_softplus(torch.zeros(())) == 0
    r = torch.tensor([0.7, 2.0, 4.999, 5.0, 6.0], dtype=torch.float64)
    for k, value in enumerate(gaussian(r, 6, 5.0).unbind(1)):  # centres 0, 1, …, 5 Å
        torch.testing.assert_close(value, torch.exp(-0.5 * (r - k) ** 2))
    expected = [math.sqrt(2 / 5) * torch.sin(k * math.pi * r / 5) / r for k in (1, 2, 3)]
    torch.testing.assert_close(spherical_bessel(r, 3, 5.0), torch.stack(expected, dim=1))
    inside = r[:3]
    envelope = bessel(inside, 3, 5.0)[0].T / spherical_bessel(inside, 3, 5.0)
    torch.testing.assert_close(envelope, envelope[:, :1].expand_as(envelope))
    cosine = [0.5 * (1 + math.cos(math.pi * min(d, 5.0) / 5)) for d in r.tolist()]
    torch.testing.assert_close(cosine_cutoff(r / 5), torch.tensor(cosine, dtype=torch.float64))
    assert not cosine_cutoff(r / 5)[3:].any()
    layer = dense(10, 20)
    assert layer.weight.abs().max() <= math.sqrt(6 / 30) and not layer.bias.any()
