"""Weights of a checkpoint in a new model, and weights that stay as they are."""

import pytest
import torch
from builders import TinyNetwork, tiny

from nfflr.checkpoint import save_checkpoint
from nfflr.errors import CheckpointError, ConfigError
from nfflr.models import registry
from nfflr.train.initialise import freeze, load_weights

SIZES = {
    "alignn": {"embedding_features": 8, "hidden_features": 8},
    "schnet": {"channels": 8},
    "painn": {"channels": 8},
    "moment": {"channels": 4, "hidden": 8},
}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


def build(key, elements, seed=0, dtype=torch.float64, **settings):
    cls = registry.architecture(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(cls.Config(elements=elements, **SIZES[key], **settings)).to(dtype).eval()
        for weight in model.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    return model


def trained(path, model):
    model.reference_energies.copy_(-1.5 * torch.arange(1, 1 + len(model.elements)))
    model.scale.fill_(0.75)
    save_checkpoint(path, model, notes={"licence": "CC0"})
    return path


def same(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("key", sorted(SIZES))
def test_the_new_model_gives_the_checkpoint_s_numbers(tmp_path, structures, key):
    source = build(key, ("C", "Si"), seed=1)
    path = trained(tmp_path / "model.safetensors", source)
    model, atoms = build(key, ("C", "Si"), seed=2), structures.triclinic(("C", "Si"))
    assert abs(model(atoms)["total_energy"] - source(atoms)["total_energy"]) > 1e-3
    assert load_weights(model, path)["notes"] == {"licence": "CC0"}
    same(model(atoms), source(atoms))


@pytest.mark.parametrize("key", sorted(SIZES))
def test_weights_of_more_elements_are_picked_by_element(tmp_path, structures, key):
    source = build(key, ("C", "O", "Si", "Ge"), seed=1)
    if key == "moment":
        source.zbl_outer.copy_(1 + 0.1 * torch.arange(16).view(4, 4))
    path = trained(tmp_path / "model.safetensors", source)
    model = build(key, ("Si", "C"), seed=2)
    load_weights(model, path)
    assert model.reference_energies.tolist() == [-1.5, -4.5]  # C first, Si third
    for atoms in (structures.triclinic(("C", "Si")), structures.cluster(("Si",))):
        same(model(atoms), source(atoms))


def test_the_new_model_keeps_its_dtype_and_its_outputs(tmp_path, structures):
    source = build("schnet", ("C", "Si"), compute_forces=False)
    path = trained(tmp_path / "model.safetensors", source)
    model = build("schnet", ("C", "Si"), seed=3, dtype=torch.float32)
    load_weights(model, path)
    assert model.dtype == torch.float32 and model.reference_energies.dtype == torch.float64
    result, expected = model(structures.crystal()), source(structures.crystal())
    assert "forces" in result and "forces" not in expected
    torch.testing.assert_close(result["total_energy"], expected["total_energy"], rtol=1e-5, atol=0)


def test_a_property_model_keeps_its_standardisation(tmp_path, structures):
    source, model = (build("schnet", ("Si",), seed, readout="mean") for seed in (0, 1))
    source.standardise({"gap": torch.tensor([1.0, 5.0])})
    path = trained(tmp_path / "model.safetensors", source)
    load_weights(model, path)
    assert float(model.head.mean) == 3 and torch.equal(
        model(structures.crystal()), source(structures.crystal())
    )


@pytest.mark.parametrize(
    ("key", "elements", "settings", "message"),
    [
        ("painn", ("C", "Si"), {}, "its architecture is 'schnet', the model's 'painn'"),
        ("schnet", ("C", "Si"), {"cutoff": 4.0}, r"its cutoff is 5\.0, the model's 4\.0"),
        ("schnet", ("C", "Si"), {"layers": 2}, "its layers is 3, the model's 2"),
        ("schnet", ("C", "Ge"), {}, "does not know Ge; it knows C, Si"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    tmp_path, key, elements, settings, message
):
    path = trained(tmp_path / "model.safetensors", build("schnet", ("C", "Si")))
    model = build(key, elements, seed=1, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(model, path)
    assert str(caught.value).startswith(str(path))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tensors_that_mix_elements_are_not_guessed_at(tmp_path):
    # One row of weights for each element and each radial function, in an order the file does not tell.
    path = trained(tmp_path / "model.safetensors", tiny(("C", "Si")))
    with pytest.raises(CheckpointError, match=r"'hidden\.weight' cannot be divided by element"):
        load_weights(tiny(("Si",)), path)
    # With one element the architecture itself is another.
    path = trained(tmp_path / "model.safetensors", build("moment", ("C", "Si")))
    with pytest.raises(CheckpointError, match=r"'bond_embedding\.weight' is not on both sides"):
        load_weights(build("moment", ("Si",)), path)


def test_frozen_weights_have_no_gradient_and_the_others_have(structures):
    model = build("alignn", ("C", "Si")).train()
    frozen = freeze(model, ["*_embedding.*", "atom_layers.[01].*"])
    assert {name.split(".")[0] for name in frozen} == {
        "atom_embedding",
        "bond_embedding",
        "angle_embedding",
        "atom_layers",
    }
    assert not any(name.startswith("atom_layers.2") for name in frozen)
    result = model(structures.crystal())
    (result["total_energy"] ** 2 + result["forces"].square().sum()).backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == set(frozen)


def test_patterns_that_match_nothing_are_refused_with_the_nearest_name():
    model = tiny()
    with pytest.raises(
        ConfigError, match=r"'hiden.weight' matches no parameter; did you mean 'hidden.weight'"
    ):
        freeze(model, ["readout.*", "hiden.weight"])
    with pytest.raises(ConfigError, match="leave no parameter to train"):
        freeze(model, ["hidden.*", "readout.*"])
    assert all(weight.requires_grad for weight in model.parameters())
    assert freeze(model, []) == [] and freeze(model, ["hidden.*"]) == ["hidden.weight", "hidden.bias"]
    with pytest.raises(ConfigError, match="leave no parameter"):  # what is frozen already counts
        freeze(model, ["readout.*"])
