"""A compiled training step is the step itself: same values, same gradients, same course of a run."""

import pytest
import torch
from builders import TinyNetwork, copper, copper_dataset, tiny

from nfflr.checkpoint import load_checkpoint
from nfflr.compiled.aot_graph import NotCompiled
from nfflr.compiled.artefacts import compiler
from nfflr.compiled.training_graph import TrainingGraph
from nfflr.errors import ConfigError
from nfflr.models import registry
from nfflr.models.gnn.schnet import SchNet, SchNetConfig
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.train import trainer
from nfflr.train.config import TrainingConfig
from nfflr.train.trainer import train

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)
    monkeypatch.setattr(trainer, "write_figure", lambda path, figure: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def traced_only(monkeypatch):
    """The graph is traced but not compiled, which takes a second instead of minutes."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def moment() -> MomentNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        small = MomentConfig(elements=("Cu",), channels=4, hidden=4, n_radial=3, cutoff=4.0)
        return MomentNetwork(small).double()


def gradients(model, forward, structures):
    output = forward(structures)
    loss = sum((k + 1) * value.square().mean() for k, value in enumerate(output.values()))
    return torch.autograd.grad(loss, list(model.parameters()))


def check_gradients(model):
    compiled = TrainingGraph(model)
    model.train()
    for structures in (copper(3), copper(1, sizes=((2, 2, 2),)), copper(5, sizes=((1, 1, 1),), seed=2)):
        found = gradients(model, compiled, structures)
        expected = gradients(model, model, structures)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10 * max(1, float(b.abs().max())))
        with torch.no_grad():  # as an optimiser does: the graph must see it
            for weight in model.parameters():
                weight.mul_(1.01)


@pytest.mark.parametrize("build", [lambda: tiny(), moment], ids=["tiny", "moment"])
def test_gradients_are_those_of_the_model(build, traced_only):
    check_gradients(build())


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: tiny(), moment], ids=["tiny", "moment"])
def test_gradients_of_the_compiled_step_are_those_of_the_model(build):
    check_gradients(build())


def weights_after(out, dataset, build=tiny, **settings):
    config = {"epochs": 3, "batch_size": 4, "warmup_steps": 2, "validate_every": 3, "progress": False}
    model = build()
    train(TrainingConfig(dataset=dataset, model=model, output_dir=out, **{**config, **settings}))
    return torch.cat(
        [p.detach().flatten() for p in load_checkpoint(out / "model.safetensors")[0].parameters()]
    )


SETTINGS = {
    "defaults": {},
    "clipped": {"gradient_clip": 0.01},
    "in parts": {"accumulate": 2},
    "averaged, adaptive": {"ema_decay": 0.9, "swa_start": 0.5, "adaptive_weights": True},
}


def check_course(tmp_path, build, **settings):
    """Weights that a run keeps, compiled and plain; float64, as rounding alone parts two float32 runs."""
    dataset = copper_dataset(12)
    found = weights_after(tmp_path / "compiled", dataset, build, compile=True, **settings)
    expected = weights_after(tmp_path / "plain", dataset, build, **settings)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(found, torch.cat([p.flatten() for p in build().parameters()]), atol=1e-3)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_takes_the_same_course(tmp_path, traced_only, settings):
    check_course(tmp_path, tiny, **settings)


def test_a_run_of_the_moment_network_takes_the_same_course(tmp_path, traced_only):
    check_course(tmp_path, moment, ema_decay=0.9, gradient_clip=0.1)


@pytest.mark.slow
def test_a_compiled_run_takes_the_same_course(tmp_path):
    check_course(tmp_path, moment)


def test_evaluation_and_lone_atoms_are_left_to_the_model(traced_only):
    model = tiny()
    compiled = TrainingGraph(model)
    assert not model.training  # as it was found
    atoms = copper(1)[0]
    assert not compiled(atoms)["forces"].requires_grad
    model.train()
    assert compiled(atoms)["forces"].requires_grad
    lone = copper(1, sizes=((1, 1, 1),))[0][:1]
    lone.cell *= 10
    assert torch.isfinite(compiled(lone)["total_energy"])


class Counted(TinyNetwork):
    """Counts atoms with ``len``, which a graph takes for a constant."""

    def energies(self, inputs):
        return super().energies(inputs) * len(inputs.species)


def test_a_size_that_became_a_constant_is_found_out(traced_only):
    with pytest.raises(NotCompiled):
        TrainingGraph(Counted(tiny().config).double())


def test_gradients_that_the_compiler_gets_wrong_are_found_out(monkeypatch):
    def compiled(graph, **options):
        """The same values, with slopes that are 0.1% too steep."""
        return lambda *inputs: tuple(x.detach() + 1.001 * (x - x.detach()) for x in graph(*inputs))

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(NotCompiled, match="disagrees"):
        TrainingGraph(tiny())


def test_without_a_compiler_it_is_told_and_trained(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    weights_after(tmp_path / "run", copper_dataset(8), compile=True, epochs=1, validate_every=1)
    assert "no C++ compiler" in caplog.text


def test_properties_are_not_compiled(tmp_path):
    model = SchNet(SchNetConfig(elements=("Cu",), readout="mean"))
    with pytest.raises((ConfigError, ValueError), match="compile is for potentials"):
        TrainingConfig(dataset=copper_dataset(8), model=model, output_dir=tmp_path, compile=True)
