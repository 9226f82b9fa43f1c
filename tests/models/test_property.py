"""Property models: forms of the output, pooling, symmetries, standardisation, whatever the input is."""

import dgl
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch_geometric.data import Batch

import nfflr
from nfflr.calculator import NFFLrCalculator
from nfflr.data import to_dgl, to_pyg
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.inputs import with_ghosts
from nfflr.errors import ConfigError, StructureError
from nfflr.models.property import PropertyConfig
from nfflr.models.registry import architecture

ELEMENTS = ("C", "Si")
SIZES = {
    "alignn": {"embedding_features": 8, "hidden_features": 8},
    "schnet": {"channels": 8},
    "painn": {"channels": 8},
}
SEVERAL = {"formation_energy": 1, "dipole": 3, "is_metal": 2}


def build(key, dtype=torch.float64, seed=5, **settings):
    cls = architecture(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(cls.Config(**{"elements": ELEMENTS, "readout": "mean", **SIZES[key], **settings}))
        for weight in model.parameters():  # no bias stays at zero
            weight.data.add_(0.05 * torch.randn_like(weight))
    return model.to(dtype).eval()


@pytest.fixture(scope="module", params=sorted(SIZES))
def key(request):
    return request.param


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# Output forms


@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("components", [1, 3])
def test_single_target_tasks_return_a_single_tensor(key, structures, readout, components):
    model = build(key, readout=readout, output_features=components)
    one, other = structures.triclinic(ELEMENTS), structures.cluster(ELEMENTS)
    shape = (components,) if components > 1 else ()
    single = model(nfflr.Atoms.from_ase(one))
    assert isinstance(single, torch.Tensor) and single.shape == shape and single.dtype == torch.float64
    together = model([one, other])
    assert together.shape == (2, *shape)
    close(together, torch.stack([model(one), model(other)]))
    assert not model.is_potential and not model.compute_forces


def test_a_force_field_returns_a_dict_with_energy_forces_and_stress(key, structures):
    model = build(key, readout="energy")
    atoms = structures.triclinic(ELEMENTS)
    result = model(nfflr.Atoms.from_ase(atoms))
    assert model.is_potential and result["total_energy"].shape == ()
    assert result["forces"].shape == (len(atoms), 3) and result["stress"].shape == (3, 3)
    alone = build(key, readout="energy", compute_forces=False)(atoms)
    assert set(alone) == {"total_energy", "energies"}
    assert torch.equal(alone["total_energy"], result["total_energy"])


def test_a_multi_target_task_returns_a_dict(key, structures):
    model = build(key, output_features=SEVERAL)
    single, together = model(structures.triclinic(ELEMENTS)), model([structures.triclinic(ELEMENTS)] * 4)
    assert {name: value.shape for name, value in single.items()} == {
        "formation_energy": (),
        "dipole": (3,),
        "is_metal": (2,),
    }
    for name, value in together.items():
        close(value, single[name].expand_as(value))
    flat = torch.cat([value.flatten() for value in single.values()])
    assert flat.unique().numel() == 6  # each output has numbers of its own


def test_named_outputs_do_not_depend_on_the_order_they_are_given_in(key, structures):
    turned = dict(reversed(SEVERAL.items()))
    assert build(key, output_features=turned).config == build(key, output_features=SEVERAL).config
    first, second = (build(key, output_features=sizes)(structures.crystal()) for sizes in (SEVERAL, turned))
    assert all(torch.equal(first[name], second[name]) for name in SEVERAL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_features": 3}, "set readout to sum or mean"),
        ({"output_features": {"gap": 1}}, "set readout to sum or mean"),
        ({"readout": "mean", "output_features": 0}, "greater than or equal to 1"),
        ({"readout": "mean", "output_features": {"gap": 0}}, "greater than or equal to 1"),
        ({"readout": "mean", "output_features": {"": 1}}, "at least 1 character"),
        ({"readout": "mean", "output_features": {}}, "expected at least one property"),
        ({"readout": "max"}, "'energy', 'sum' or 'mean'"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PropertyConfig(elements=ELEMENTS, **settings)


# Physics


@pytest.mark.parametrize(("readout", "factor"), [("sum", 4), ("mean", 1)])
def test_a_sum_is_extensive_and_a_mean_intensive(key, structures, readout, factor):
    model = build(key, readout=readout, output_features=2)
    model.standardise({"x": torch.tensor([[3.0, 8.0], [5.0, -2.0]])}, n_atoms=torch.tensor([2, 2]))
    atoms = structures.triclinic(ELEMENTS)
    close(model(atoms.repeat((2, 2, 1))), factor * model(atoms))


def test_properties_are_invariant(key, structures):
    model, atoms = build(key, output_features=3), structures.triclinic(ELEMENTS)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = (atoms.positions @ q.T + 3.0)[:, :]
    close(model(turned[[2, 0, 3, 1]]), model(atoms))
    moved = atoms.copy()
    moved.positions[0] += 0.1
    assert (model(moved) - model(atoms)).abs().max() > 1e-6


@pytest.mark.parametrize("outputs", [3, SEVERAL], ids=["tensor", "dict"])
def test_every_representation_gives_the_same_properties(key, structures, outputs):
    model = build(key, output_features=outputs)
    r = model.cutoff
    frames = [getattr(structures, name)(ELEMENTS) for name in ("triclinic", "slab", "cluster")]
    graphs = [periodic_radius_graph(atoms, r) for atoms in frames]
    for atoms, graph in zip(frames, graphs, strict=True):
        expected = model(atoms)
        bare = dgl.graph((graph.src, graph.dst), num_nodes=len(atoms))
        bare.ndata["atomic_number"], bare.edata["r"] = graph.atoms.numbers, graph.vectors()
        for x in (
            nfflr.Atoms.from_ase(atoms),
            graph,
            periodic_radius_graph(atoms, r + 1),
            to_dgl(graph),
            bare,
            to_pyg(graph),
            with_ghosts(nfflr.Atoms.from_ase(atoms), r),
            with_ghosts(nfflr.Atoms.from_ase(atoms), r, bucket=7),
        ):
            close(model(x), expected)
    expected = model(frames)
    for x in (
        nfflr.batch(frames),
        dgl.batch([to_dgl(graph) for graph in graphs]),
        Batch.from_data_list([to_pyg(graph) for graph in graphs]),
    ):
        close(model(x), expected)


def test_every_weight_learns_and_evaluation_keeps_no_graph(key, structures):
    model = build(key, output_features=SEVERAL)
    batch = [structures.triclinic(ELEMENTS), structures.cluster(ELEMENTS)]
    assert not any(value.requires_grad for value in model(batch).values())
    model.train()
    sum(value.square().sum() for value in model(batch).values()).backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


# Standardisation


def raw(model, x):
    """What the network itself gives, pooled."""
    model.head.mean.zero_(), model.head.std.fill_(1.0)
    return model(x)


def test_predictions_are_mean_plus_deviation_times_the_network_s_output(key, structures):
    model, batch = build(key, output_features=2), [structures.triclinic(), structures.cluster()]
    labels = torch.tensor([[1.0, -40.0], [3.0, torch.nan], [8.0, -20.0]], dtype=torch.float64)
    model.standardise({"whatever its name": labels})
    found = model(batch)
    mean, std = torch.tensor([4.0, -30.0]), torch.tensor([26 / 3, 100.0]).sqrt()  # by hand
    close(model.head.mean, mean.double(), 1e-6), close(model.head.std, std.double(), 1e-6)
    mean, std = model.head.mean.clone(), model.head.std.clone()
    close(found, mean + std * raw(model, batch))


def test_a_sum_is_standardised_per_atom(key, structures):
    model, batch = build(key, readout="sum"), [structures.triclinic(), structures.cluster()]
    model.standardise({"energy": torch.tensor([8.0, 50.0, 20.0])}, n_atoms=torch.tensor([4, 5, 10]))
    mean, std = np.mean([2, 10, 2]), np.std([2, 10, 2])
    assert float(model.head.mean) == pytest.approx(mean) and float(model.head.std) == pytest.approx(std)
    found, counts = model(batch), torch.tensor([4.0, 5.0]).double()
    close(found, counts * mean + std * raw(model, batch))


def test_what_has_no_labels_keeps_mean_zero_and_deviation_one():
    model = build("schnet", output_features=SEVERAL)
    dipole = torch.tensor([[1.0, 2.0, torch.nan]] * 3).double()  # two constant components, one without any
    model.standardise({"dipole": dipole, "formation_energy": torch.tensor([0.1, 0.3, torch.nan])})
    assert model.head.mean.tolist() == pytest.approx([1, 2, 0, 0.2, 0, 0])
    assert model.head.std.tolist() == pytest.approx([1, 1, 1, 0.1, 1, 1])


def test_a_model_is_standardised_once():
    model = build("schnet")
    model.standardise({"gap": torch.tensor([1.0, 2.0])})
    before = model.head.mean.clone(), model.head.std.clone()
    model.standardise({"gap": torch.tensor([10.0, 30.0])})
    assert torch.equal(model.head.mean, before[0]) and torch.equal(model.head.std, before[1])


def test_large_labels_survive_float32(structures):
    # A spread of 1e-3 on totals where neighbouring float32 numbers are 8e-3 apart.
    labels = torch.tensor([-123456.788, -123456.790], dtype=torch.float64)
    model = build("schnet", torch.float32)
    model.standardise({"x": labels})
    model.float()
    assert model.head.mean.dtype == torch.float64 and float(model.head.mean) == float(labels.mean())
    found = float(model(structures.crystal())) - float(labels.mean())
    assert found == pytest.approx(1e-3 * float(raw(model, structures.crystal())), rel=1e-5)


@pytest.mark.parametrize(
    ("outputs", "readout", "labels", "error", "message"),
    [
        (SEVERAL, "mean", {"dipol": torch.zeros(2, 3)}, ConfigError, "did you mean 'dipole'"),
        (SEVERAL, "mean", {"dipole": torch.ones(2)}, ConfigError, "1 components, the model predicts 3"),
        (1, "mean", {"a": torch.ones(2), "b": torch.ones(2)}, ConfigError, "a single property"),
        (1, "sum", {"a": torch.ones(2)}, ConfigError, "n_atoms"),
        (1, "mean", {"a": torch.tensor([1.0, torch.inf])}, StructureError, "'a' is infinite"),
        (1, "energy", {"a": torch.ones(2)}, ConfigError, "is a potential"),
    ],
)
def test_labels_that_do_not_fit_are_refused(outputs, readout, labels, error, message):
    model = build("schnet", output_features=outputs, readout=readout)
    with pytest.raises(error, match=message):
        model.standardise(labels)
    if readout != "energy":
        assert not model.head.mean.any() and (model.head.std == 1).all()


def test_a_property_is_learned(structures):
    # The number of carbon atoms per atom, which the labels' mean does not know.
    atoms = [structures.crystal(ELEMENTS, seed=k) for k in range(6)]
    for k, single in enumerate(atoms):
        single.symbols = ["C"] * k + ["Si"] * (8 - k)
    labels = torch.arange(6) / 8.0
    model = build("schnet", layers=1)
    model.standardise({"fraction": labels.double()})
    graph = periodic_radius_graph(atoms, model.cutoff)
    optimizer = torch.optim.Adam(model.train().parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(graph), labels.double()).backward()
        optimizer.step()
    assert (model.eval()(atoms) - labels).abs().max() < 0.02


def test_the_calculator_wants_an_energy():
    with pytest.raises(ConfigError, match="predicts a property, not an energy") as caught:
        NFFLrCalculator(build("schnet"))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
