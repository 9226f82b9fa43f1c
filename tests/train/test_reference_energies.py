"""Reference energies that are solved for during training: least squares, and what a step then learns from."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from nfflr.data.dataset import AtomsDataset, collate
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.train.batches import collate_parts
from nfflr.train.config import TrainingConfig
from nfflr.train.initialise import prepared
from nfflr.train.reference_energies import ENERGY, ReferenceFit, compositions, total_energies
from nfflr.train.run import Run

SHIFT = {"Cu": 3.0, "Ni": -2.0}  # eV per atom


def labelled(count: int, elements=("Cu", "Ni"), seed=0) -> list:
    """Crystals of drawn composition, with forces of zero and the energies of ``SHIFT`` and a little noise."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True).repeat((1, 1, int(rng.integers(1, 3))))
        atoms.symbols = rng.choice(elements, len(atoms))
        atoms.positions += 0.05 * rng.normal(size=(len(atoms), 3))
        energy = sum(SHIFT[s] for s in atoms.symbols) + 0.01 * rng.normal()
        atoms.info["energy"], atoms.arrays["forces"] = energy, np.zeros((len(atoms), 3))
        structures.append(atoms)
    return structures


def settings(tmp_path, structures=None, **others) -> TrainingConfig:
    structures = structures or labelled(24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        elements = tuple({s for atoms in structures for s in atoms.symbols})
        model = MomentNetwork(MomentConfig(elements=elements, cutoff=3.2, channels=4, hidden=4, n_radial=3))
    dataset = AtomsDataset(structures, n_train=len(structures) - 4, n_val=4)
    values = {"dataset": dataset, "model": model.double(), "output_dir": tmp_path, "epochs": 2}
    return prepared(TrainingConfig(**{**values, "batch_size": 10, **others}))


def residuals(config, model):
    graphs = [model.graph(config.dataset[k][0]) for k in config.dataset.split["train"]]
    labels = [config.dataset[k][1][ENERGY] for k in config.dataset.split["train"]]
    errors = torch.stack([total_energies(model, g) - label for g, label in zip(graphs, labels, strict=True)])
    return torch.cat([compositions(model, g) for g in graphs]), errors.flatten()


def test_energies_without_derivatives_are_those_of_the_model(tmp_path):
    config = settings(tmp_path)
    graph = config.model.graph(labelled(3, seed=1))
    assert torch.allclose(
        total_energies(config.model, graph), config.model(graph)["total_energy"], atol=1e-12
    )
    counts = compositions(config.model, graph)
    assert counts.sum(1).tolist() == [len(atoms) for atoms in labelled(3, seed=1)]


def test_what_compositions_explain_is_taken_away_at_once(tmp_path):
    config = settings(tmp_path)
    fit = ReferenceFit(config.model, config.dataset, batches=2)
    before = config.model.reference_energies.clone()
    counts = torch.tensor([[4.0, 0.0], [2.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
    change = fit.update([counts], [counts @ torch.tensor([0.7, -0.4], dtype=torch.float64)])
    assert torch.allclose(change, torch.tensor([0.7, -0.4], dtype=torch.float64), atol=1e-4)
    assert torch.allclose(config.model.reference_energies, before - change, atol=1e-14)


def test_an_element_of_which_a_batch_says_nothing_keeps_its_energy(tmp_path):
    config = settings(tmp_path)
    fit = ReferenceFit(config.model, config.dataset, batches=2)
    counts = torch.tensor([[4.0, 0.0], [8.0, 0.0]], dtype=torch.float64)
    change = fit.update(
        [counts], [torch.tensor([2.0, float("nan")], dtype=torch.float64)]
    )  # one is not labelled
    assert change.tolist() == pytest.approx([0.5, 0.0], abs=1e-5)


def test_memory_grows_with_the_number_of_compositions_and_falls_with_the_batch(tmp_path):
    several = settings(tmp_path)
    assert ReferenceFit(several.model, several.dataset, batches=1).memory == 0  # 20 structures, two elements
    assert ReferenceFit(several.model, several.dataset, batches=5).memory == pytest.approx(1 - 4 / 16)
    one = settings(tmp_path, labelled(24, ("Cu",)))
    assert ReferenceFit(one.model, one.dataset, batches=5).memory == pytest.approx(1 - 4 / 8)


def test_where_there_are_hardly_more_structures_than_elements_the_weights_learn_it(tmp_path):
    assert Run(settings(tmp_path)).references is not None  # 20 structures, two elements
    few = settings(tmp_path, labelled(16))  # 12 to train on
    run = Run(few)
    assert run.references is None
    before = few.model.reference_energies.clone()
    run.train_step(None, [collate([few.dataset[k] for k in few.dataset.split["train"]])])
    assert torch.equal(few.model.reference_energies, before)


def test_averaged_weights_get_the_references_of_a_least_squares_fit(tmp_path):
    config = settings(tmp_path)
    fit = ReferenceFit(config.model, config.dataset, batches=2)
    counts, errors = residuals(config, config.model)
    size = counts.sum(1, keepdim=True)
    expected = np.linalg.lstsq((counts / size).numpy(), (errors / size[:, 0]).numpy(), rcond=None)[0]
    before = config.model.reference_energies.clone()
    config.model.reference_energies += 5.0  # as weights that have moved would need
    fit.fit(config.model)
    assert np.allclose(config.model.reference_energies, before - torch.from_numpy(expected), atol=1e-4)


def test_a_step_sees_no_shift_that_all_structures_share(tmp_path):
    """Whatever the reference energies are before it, the step and its loss are the same."""
    losses, weights = [], []
    for shift in (0.0, 40.0):
        run = Run(settings(tmp_path))
        run.config.model.reference_energies += shift
        items = [run.config.dataset[k] for k in run.config.dataset.split["train"][:10]]
        losses.append(run.train_step(None, [collate(items)]))
        weights.append(torch.cat([p.detach().flatten() for p in run.config.model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch.allclose(*weights, atol=1e-6)


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    weights = []
    for parts in (1, 2):
        run = Run(settings(tmp_path, accumulate=parts))
        items = [run.config.dataset[k] for k in run.config.dataset.split["train"][:10]]
        run.train_step(None, collate_parts(items, parts))
        weights.append(torch.cat([p.detach().flatten() for p in run.config.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-10)
