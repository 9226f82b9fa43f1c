"""Training steps by kernels: values and gradients are those of the model itself."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from nfflr.compiled import compile_training
from nfflr.compiled.aot_graph import NotCompiled
from nfflr.compiled.artefacts import compiler
from nfflr.compiled.moment_kernel import suits
from nfflr.compiled.moment_training import Bonds, MomentTraining
from nfflr.compiled.training_graph import TrainingGraph
from nfflr.models.moment import MomentConfig, MomentNetwork

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")

KINDS = {
    "one element": {"elements": ("Si",)},
    "three elements": {"elements": ("C", "O", "Si"), "species_channels": 2},
    "nine functions, no repulsion": {"elements": ("C", "Si"), "n_radial": 9, "zbl": False},
    "two layers": {"elements": ("Si",), "layers": 2, "message_channels": 3},
    "two layers, wide": {"elements": ("C", "Si"), "layers": 2, "message_channels": 17, "channels": 16},
    "three layers, shared weights": {"elements": ("C", "O", "Si"), "layers": 3, "own_weights": False},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The kernel is built once for this file, into a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def network(kind: str, dtype=torch.float64, **settings) -> MomentNetwork:
    """Calibrated, with every weight different from what it starts as."""
    config = {"cutoff": 4.0, "n_radial": 3, "channels": 4, "hidden": 4, **KINDS[kind], **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = MomentNetwork(MomentConfig(**config)).to(dtype)
        model.calibrate(model.graph(structures(model)))
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn_like(weight)
            model.scale.fill_(1.7)
            model.reference_energies += torch.arange(1, 1 + len(config["elements"]))
    return model


def structures(model, seed=0) -> list[ase.Atoms]:
    """A crystal, a slab, a molecule and a lone atom, of the model's elements."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Si", cubic=True).repeat((1, 1, 2))
    slab = bulk("Si", a=5.2, cubic=True)
    slab.pbc = (1, 1, 0)
    made = [crystal, slab, molecule("C6H6"), ase.Atoms("H", cell=[9] * 3, pbc=True)]
    for atoms in made:
        atoms.positions += 0.1 * rng.normal(size=(len(atoms), 3))
        atoms.numbers = rng.choice(model.numbers.numpy(), len(atoms))
    return made


def gradients(model, forward, batch):
    output = forward(batch)
    loss = sum((k + 1) * value.square().mean() for k, value in enumerate(output.values()))
    return output, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_model(kind):
    model = network(kind)
    training = MomentTraining(model)
    model.train()
    for batch in (structures(model), structures(model, 1)[:1], structures(model, 2)[2:]):
        found, expected = (gradients(model, forward, batch) for forward in (training, model))
        assert found[0].keys() == expected[0].keys()
        for name, value in expected[0].items():
            assert found[0][name].shape == value.shape and found[0][name].dtype == value.dtype
            assert torch.allclose(found[0][name], value, rtol=1e-9, atol=1e-10), name
        for a, b in zip(found[1], expected[1], strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10 * max(1, float(b.abs().max())))
        with torch.no_grad():  # as an optimiser does: the next batch must see it
            for weight in model.parameters():
                weight.mul_(1.01)
            model.zbl_outer.mul_(1.02)  # and what a resume puts in its place
            model.scale.mul_(1.1)


def test_stress_may_be_left_out():
    model = network("one element")
    training = MomentTraining(model)
    model.train()
    assert "stress" not in training(structures(model), stress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_carries_a_loss_back_is_the_transpose_of_the_map_to_forces(kind):
    model = network(kind)
    bonds = Bonds(MomentTraining(model), model.graph(structures(model)))
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(bonds.moments.shape, generator=generator, dtype=torch.float64)
    offset = bonds.forces(torch.zeros_like(slopes))  # of the repulsion
    mapped = [total - constant for total, constant in zip(bonds.forces(slopes), offset, strict=True)]
    loss = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in mapped]
    there = sum(float((a * b).sum()) for a, b in zip(loss, mapped, strict=True))
    back = float((bonds.transpose(*loss) * slopes).sum())
    assert back == pytest.approx(there, rel=1e-11) and abs(there) > 1
    assert (float(offset[0].abs().max()) > 1e-6) == model.config.zbl


def test_single_precision_is_right_to_its_rounding():
    training = MomentTraining(network("three elements", torch.float32))  # compares with the model itself
    model = training.model.train()
    found, expected = (gradients(model, forward, structures(model)) for forward in (training, model))
    for name, value in expected[0].items():
        assert found[0][name].dtype == value.dtype
        gap, largest = (found[0][name] - value).detach().abs().max(), value.detach().abs().max()
        assert gap < 1e-5 * max(1.0, float(largest))


def test_networks_whose_messages_are_scalars_are_compiled_whole(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    scalars = network("one element", layers=2, tensor_messages=False)
    assert not suits(scalars) and not isinstance(compile_training(scalars), MomentTraining)
    with pytest.raises(NotCompiled, match="tensors as messages"):
        MomentTraining(scalars)
    assert isinstance(compile_training(network("one element", tensor_messages=False)), MomentTraining)


def test_without_a_kernel_the_model_is_compiled_whole(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    monkeypatch.setattr("nfflr.compiled.moment_training.load_library", lambda *_: None)
    told = []
    found = compile_training(network("one element"), told.append)
    assert told == ["no kernel, the whole step is compiled as a graph: it cannot be built here"]
    assert isinstance(found, TrainingGraph) and not isinstance(found, MomentTraining)


@pytest.mark.parametrize("name", ["total_energy", "energies", "forces", "stress"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_that_is_wrong_in_one_result_is_refused(monkeypatch, name, dtype):
    """By one percent, which the rounding of the gradients, often larger, must not hide."""
    right = MomentTraining._evaluate

    def wrong(self, graph, stress):
        outputs = right(self, graph, stress)
        return {**outputs, name: 1.01 * outputs[name]}

    monkeypatch.setattr(MomentTraining, "_evaluate", wrong)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)  # rounding of its gradients in single precision is one percent
        model = MomentNetwork(MomentConfig(elements=("H", "C", "O"), layers=2)).to(dtype)
    with pytest.raises(NotCompiled, match="disagrees"):
        MomentTraining(model)
