"""What is ALIGNN's own; the physics that every potential must have is in ``test_physics.py``."""

from itertools import permutations

import ase
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import ValidationError

from nfflr import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.data.dataset import AtomsDataset
from nfflr.data.graph import periodic_radius_graph
from nfflr.models.gnn import alignn_ff
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig, EdgeGatedConv, unordered
from nfflr.nn.padding import bond_pairs
from nfflr.train.config import TrainingConfig
from nfflr.train.trainer import train


def build(dtype=torch.float64, **settings):
    small = {"elements": ("C", "Si"), "embedding_features": 8, "hidden_features": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return ALIGNN(ALIGNNConfig(**small | settings)).to(dtype).eval()


@pytest.mark.parametrize("target", ["total_energy", "energy_and_forces"])
def test_the_configuration_of_the_overview(structures, target):
    config = alignn_ff.ALIGNNConfig(
        cutoff=8.0,
        cutoff_onset=4.0,
        alignn_layers=2,
        gcn_layers=2,
        atom_features="embedding",
        compute_forces=target == "energy_and_forces",
    )
    model = alignn_ff.ALIGNN(config).eval()
    assert len(model.elements) == 103 and model.elements[0] == "H" and model.elements[-1] == "Lr"
    given = {"total_energy", "energies"} | ({"forces", "stress"} if config.compute_forces else set())
    assert set(model(structures.triclinic(("Lr", "H")))) == given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"atom_features": "cgcnn"}, "should be 'embedding'"),
        ({"cutoff_onset": 5.0}, "cutoff_onset 5.0 Å; expected less than cutoff 5.0 Å"),
        ({"output_features": 3}, "set readout to sum or mean"),
        ({"angle_cutof": 3.0}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ALIGNNConfig(**settings)


def test_the_line_graph_holds_every_pair_of_near_bonds_at_an_atom(structures):
    graph = periodic_radius_graph([structures.triclinic(), structures.cluster()], r=4.0)
    first, second = bond_pairs(graph.dst, len(graph.atoms))
    bonds = [[e for e, i in enumerate(graph.dst.tolist()) if i == atom] for atom in range(len(graph.atoms))]
    expected = {pair for at_atom in bonds for pair in permutations(at_atom, 2)}
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected) and set(found) == expected

    half, mirror = unordered(first, second)
    assert len(half) == len(first) // 2
    for same_for_both in (torch.minimum(first, second), torch.maximum(first, second)):
        assert torch.equal(same_for_both[half][mirror], same_for_both)


def test_the_convolution_is_its_equation():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = EdgeGatedConv(5, edges=True).double()
        x, y = torch.randn(4, 5).double(), torch.randn(4, 5).double()
        weight = torch.rand(4, 1).double()
    src, dst = torch.tensor([1, 2, 0, 1]), torch.tensor([0, 0, 1, 2])  # atom 3 has no neighbour
    nodes, edges = conv(x, y, src, dst, weight)
    (u, a), (v, b), (d, c) = (part.weight.chunk(2) for part in (conv.target, conv.source, conv.edge))
    u_bias, a_bias = conv.target.bias.chunk(2)
    for i in range(4):
        numerator, denominator = torch.zeros(5).double(), torch.ones(5).double()
        for e in np.flatnonzero(dst == i):
            message = a @ x[i] + a_bias + b @ x[src[e]] + c @ y[e]
            opened = weight[e] / (1 + torch.exp(-message))
            numerator, denominator = numerator + opened * (v @ x[src[e]] + d @ y[e]), denominator + opened
            torch.testing.assert_close(edges[e], torch.nn.functional.silu(conv.edge_norm(message)))
        total = conv.node_norm(u @ x[i] + u_bias + numerator / denominator)
        torch.testing.assert_close(nodes[i], torch.nn.functional.silu(total))


def trimer(length, angle, other=2.0):
    turned = [other * np.cos(angle), other * np.sin(angle), 0.0]
    return ase.Atoms("Si3", [[0, 0, 0], [length, 0, 0], turned])


def test_angles_fade_where_a_bond_crosses_the_angle_cutoff():
    model = build(cutoff=4.5, angle_cutoff=3.0)
    h = 1e-4
    lengths = 3.0 + np.arange(-3, 4) * h
    results = [model(trimer(d, 2.0)) for d in lengths]
    energy = np.array([r["total_energy"].item() for r in results])
    force = np.array([r["forces"][1, 0].item() for r in results])
    # Twice continuously differentiable: the slope of the force is the same on both sides.
    slopes = np.diff(force) / h
    assert np.abs(np.diff(slopes)).max() < 2e-3 * np.abs(slopes).max()
    assert np.abs(-np.diff(energy) / h - (force[1:] + force[:-1]) / 2).max() < 1e-6


def test_angles_count_within_the_angle_cutoff_and_not_beyond():
    # The two outer atoms are further apart than the cutoff, so that nothing but the angle can change.
    model = build(cutoff=3.4, angle_cutoff=3.0)
    for length, counts in ((2.5, True), (3.2, False)):
        bent, straight = (model(trimer(length, angle, other=2.5))["total_energy"] for angle in (2.2, 3.1))
        assert (abs(bent - straight) > 1e-6) == counts
    assert build(cutoff=3.4, angle_cutoff=9.0).angle_cutoff == 3.4


@pytest.mark.parametrize("settings", [{"alignn_layers": 1, "gcn_layers": 0}, {"alignn_layers": 3}], ids=str)
def test_every_weight_is_used(structures, settings):
    model = build(**settings).train()
    result = model([structures.triclinic(), structures.cluster()])
    loss = result["total_energy"].square().sum() + result["forces"].square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_energies_alone(structures):
    full, alone = build(), build(compute_forces=False)
    atoms = [structures.triclinic(), structures.cluster()]
    expected, found = full(atoms), alone(atoms)
    assert set(found) == {"total_energy", "energies"}
    for name, value in found.items():
        assert torch.equal(value, expected[name]) and not value.requires_grad
    assert alone.train()(atoms)["total_energy"].requires_grad

    calculator = NFFLrCalculator(alone)
    single = structures.triclinic()
    single.calc = calculator
    assert single.get_potential_energy() == pytest.approx(expected["total_energy"][0].item(), abs=1e-10)
    with pytest.raises(PropertyNotImplementedError):
        single.get_forces()
    results = calculator.evaluate(atoms)
    assert [r["energy"] for r in results] == pytest.approx(expected["total_energy"].tolist(), abs=1e-10)
    assert set(results[0]) == {"energy", "free_energy", "energies"}


@pytest.mark.parametrize("settings", [{}, {"compute_forces": False}, {"readout": "mean"}], ids=str)
def test_checkpoints_keep_the_model(tmp_path, structures, settings):
    model = build(torch.float32, cutoff_onset=3.0, **settings)
    save_checkpoint(tmp_path / "model.safetensors", model)
    loaded, _ = load_checkpoint(tmp_path)
    assert loaded.config == model.config
    before, after = model(structures.triclinic()), loaded(structures.triclinic())
    if "readout" in settings:
        before, after = {"property": before}, {"property": after}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("compute_forces", [True, False])
def test_training_lowers_the_loss(tmp_path, structures, compute_forces):
    labelled = []
    for seed in range(10):
        atoms = structures.triclinic(("Si",), seed=seed)
        energy = float(seed % 5)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((4, 3)), stress=np.zeros(6))
        labelled.append(atoms)
    target = "energy_and_forces" if compute_forces else "total_energy"
    dataset = AtomsDataset(labelled, target, n_train=8, n_val=2)
    model = build(torch.float32, elements=("Si",), compute_forces=compute_forces)
    rows = []
    config = TrainingConfig(
        dataset=dataset,
        model=model,
        output_dir=tmp_path / "run",
        epochs=4,
        warmup_steps=1,
        validate_every=2,
        learning_rate=5e-3,
        optimizer="adamw",
        energy_weight=1.0,  # without a ramp, so that losses can be compared
        force_weight=1.0,
    )
    path = train(config, on_validation=rows.append)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert np.isfinite(rows[-1].get("val/forces_mae", np.nan)) == compute_forces
    assert load_checkpoint(path)[0].compute_forces == compute_forces
