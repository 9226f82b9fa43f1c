"""The data set: splits, items, batches, and the digest that tells two of them apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import copper, copper_dataset, radius_graph

from nfflr.data.dataset import AtomsDataset, collate, split_indices
from nfflr.errors import ConfigError, StructureError

MLEARN = Path(__file__).parents[2] / "calculators" / "mlearn-si"


def without(structures, index, *keys):
    """The same structures, one of them without some labels."""
    for key in keys:
        del structures[index].calc.results[key]
    return structures


@pytest.mark.parametrize(
    "n, n_train, n_val, sizes",
    [
        (100, 0.8, 0.1, (80, 10, 10)),
        (10, 0.9, 0.1, (9, 1, 0)),
        (3, 0.5, 0.5, (1, 2, 0)),  # rounding 1.5 twice asks for four of three
        (10, 7, 2, (7, 2, 1)),
        (10, 1, 0, (1, 0, 9)),  # one structure, not all of them
        (10, 1.0, 0.0, (10, 0, 0)),
        (10, 0.5, 3, (5, 3, 2)),
    ],
)
def test_fractions_and_counts(n, n_train, n_val, sizes):
    split = split_indices(n, n_train, n_val, seed=0)
    assert tuple(len(split[name]) for name in ("train", "val", "test")) == sizes
    assert sorted(split["train"] + split["val"] + split["test"]) == list(range(n))


@pytest.mark.parametrize(
    "n_train, n_val",
    [(11, 0), (6, 5), (0, 5), (0.9, 0.2), (1.5, 0.1), (-1, 2), (0.5, -0.1), ("4", 2), (float("nan"), 2)],
)
def test_impossible_splits_are_refused(n_train, n_val):
    with pytest.raises(ConfigError, match="n_train|n_val") as caught:
        split_indices(10, n_train, n_val, seed=0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("share", [5.0, -1, "4", None, True, np.float64(1.5), float("nan")])
def test_a_share_that_is_neither_a_fraction_nor_a_count_is_refused(share):
    with pytest.raises(ConfigError, match="^n_train: should be a fraction from 0 to 1 .* or a count .*, got"):
        AtomsDataset(copper(4), n_train=share)


def test_shares_may_be_numbers_of_numpy_and_no_disk_cache_be_none():
    dataset = AtomsDataset(copper(4), n_train=np.int64(3), n_val=np.float32(0.25), diskcache=None)
    assert [len(dataset.split[name]) for name in ("train", "val", "test")] == [3, 1, 0]
    assert dataset.diskcache is False


@pytest.mark.parametrize("seed", ["x", -1, 1.5, None, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    expected = "greater than or equal to 0" if seed == -1 else "a whole number"
    with pytest.raises(ConfigError, match=f"^seed: should be {expected}, got {seed!r}"):
        AtomsDataset(copper(4), seed=seed)


def test_the_split_depends_on_the_seed_alone():
    np.random.seed(0)
    first = split_indices(50, 0.8, 0.1, seed=3)
    np.random.seed(1)
    assert split_indices(50, 0.8, 0.1, seed=3) == first
    assert split_indices(50, 0.8, 0.1, seed=4) != first
    assert first["train"] != sorted(first["train"])


def test_a_test_source_is_the_whole_of_its_file_and_nothing_else():
    structures = copper(24)
    dataset = AtomsDataset(structures[:20], n_train=0.75, n_val=0.25, test_source=structures[20:])
    assert [len(dataset.split[k]) for k in ("train", "val", "test")] == [15, 5, 4]
    assert dataset.split["test"] == [20, 21, 22, 23]
    last = dataset.part("test")[-1]
    assert last.atoms.positions == pytest.approx(structures[23].positions, abs=0)


def test_the_same_structure_in_train_and_test_is_refused_unless_allowed():
    structures = copper(12)
    with pytest.raises(StructureError, match="the same structure is in the training split"):
        AtomsDataset(structures, n_train=12, n_val=0, test_source=[structures[3]])
    dataset = AtomsDataset(
        structures, n_train=12, n_val=0, test_source=[structures[3]], allow_duplicates=True
    )
    assert len(dataset) == 13


def test_duplicates_within_the_training_split_are_nobodys_business():
    structures = copper(6)
    assert len(AtomsDataset([*structures, structures[0]], n_train=7, n_val=0)) == 7


def test_energies_alone_may_be_the_target():
    structures = without(copper(6), 2, "forces", "stress")
    with pytest.raises(StructureError, match=r"structures\[2\]: no forces label"):
        AtomsDataset(structures)
    AtomsDataset(structures, "total_energy")
    with pytest.raises(StructureError, match=r"structures\[4\]: no total_energy label"):
        AtomsDataset(without(structures, 4, "energy"), "total_energy")


def test_a_missing_stress_needs_no_permission():
    assert len(AtomsDataset(without(copper(6), 1, "stress"))) == 6


def test_items_hold_the_graph_and_the_labels():
    structures = copper(8)
    dataset = copper_dataset(8)
    for k in (0, 7):
        graph, labels = dataset[k]
        assert graph.atoms.positions.numpy() == pytest.approx(structures[k].positions, abs=0)
        assert float(labels["total_energy"]) == structures[k].get_potential_energy()
        assert labels["forces"].numpy() == pytest.approx(structures[k].get_forces(), abs=0)
        assert labels["stress"].numpy() == pytest.approx(structures[k].get_stress(voigt=False), abs=0)
        assert int(labels["n_atoms"]) == len(structures[k]) and int(labels["index"]) == k
        assert {labels[key].dtype for key in ("total_energy", "forces", "stress")} == {torch.float64}


def test_graphs_are_built_once():
    calls = []

    def transform(atoms):
        calls.append(len(atoms))
        return radius_graph(atoms)

    dataset = copper_dataset(4, transform=transform)
    assert not calls  # building waits until it is needed
    assert dataset[1][0] is dataset[1][0] and len(calls) == 1


def test_a_structure_that_gives_no_graph_is_named():
    structures = copper(4)
    structures[2].positions[1] = structures[2].positions[0]
    dataset = AtomsDataset(structures)
    with pytest.raises(StructureError, match=r"^structures\[2\]: .*atoms \d and \d coincide"):
        dataset[2]


def test_collate_stacks_labels_and_marks_missing_ones_with_nan():
    structures = without(without(without(copper(4), 0, "stress"), 1, "forces", "stress"), 2, "energy")
    dataset = AtomsDataset(structures, allow_missing=True)
    graph, labels = collate([dataset[k] for k in range(4)])
    assert graph.atoms.n_structures == 4 and labels["n_atoms"].tolist() == [4, 8, 4, 8]
    assert labels["index"].tolist() == [0, 1, 2, 3]
    assert torch.isnan(labels["total_energy"]).tolist() == [False, False, True, False]
    owner = graph.atoms.structure
    assert torch.isnan(labels["forces"]).all(1).tolist() == (owner == 1).tolist()
    assert torch.isfinite(labels["forces"][owner != 1]).all()
    assert labels["stress"].shape == (4, 3, 3)
    assert torch.isnan(labels["stress"]).all((1, 2)).tolist() == [True, True, False, False]
    expected = np.concatenate([structures[k].calc.results["forces"] for k in (2, 3)])
    assert labels["forces"][12:].numpy() == pytest.approx(expected, abs=0)


def test_elements_by_atomic_number():
    structures = copper(4)
    structures[1].numbers[:2] = [79, 13]
    assert AtomsDataset(structures).elements == ("Al", "Cu", "Au")


def test_equal_data_give_equal_digests():
    assert copper_dataset(6).digest() == copper_dataset(6).digest()


def displace(atoms):
    atoms.positions[1, 1] += 1e-12


def strain(atoms):
    atoms.cell[2, 2] += 1e-12


def transmute(atoms):
    atoms.numbers[0] = 28


def open_axis(atoms):
    atoms.pbc[2] = False


def shift_energy(atoms):
    atoms.calc.results["energy"] += 1e-12


def turn_force(atoms):
    atoms.calc.results["forces"][2] *= -1


def drop_stress(atoms):
    del atoms.calc.results["stress"]


def rename(atoms):
    atoms.info["config_id"] = "another"


CHANGES = [displace, strain, transmute, open_axis, shift_energy, turn_force, drop_stress, rename]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_the_digest_changes_with_any_change_of_the_data(change):
    structures = copper(6)
    before = AtomsDataset(structures).digest()
    change(structures[3])
    assert AtomsDataset(structures).digest() != before


@pytest.mark.parametrize(
    "option", [{"seed": 1}, {"n_train": 4, "n_val": 2}, {"stress_units": "GPa"}], ids=str
)
def test_the_digest_changes_with_the_split_and_the_units(option):
    assert AtomsDataset(copper(6), **option).digest() != AtomsDataset(copper(6)).digest()


def test_the_digest_changes_with_the_order_of_structures():
    structures = copper(6)
    assert AtomsDataset(structures[::-1]).digest() != AtomsDataset(structures).digest()


def test_the_real_silicon_data_load_with_their_recipes_options():
    dataset = AtomsDataset(MLEARN / "test.xyz.xz", "energy_and_forces")
    assert len(dataset) == 25 and dataset.elements == ("Si",)
    assert {"total_energy", "forces", "stress"} == set(dataset.records[0].labels)
    assert len({r.id for r in dataset.records}) == 25 and len({r.group for r in dataset.records}) > 3
