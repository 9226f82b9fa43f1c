"""Which structures make a batch: by number or by atoms, repeatable, all of them once an epoch."""

import ase.io
import numpy as np
import pytest
from builders import copper, radius_graph, tiny

from nfflr.data.dataset import AtomsDataset
from nfflr.reports.evaluation import by_atoms
from nfflr.train.batches import ShuffledBatches, collate_parts, even_parts

SIZES = np.random.default_rng(0).integers(1, 60, 97).tolist()


def batches(epoch=0, seed=1, **options) -> list[list[int]]:
    made = ShuffledBatches(list(range(10)), 4, seed, **options)
    made.epoch = epoch
    return list(made)


def test_shuffling_depends_on_seed_and_epoch_alone():
    assert batches(3) == batches(3) and batches(3) != batches(3, seed=2) and batches(3) != batches(4)
    assert sorted(k for batch in batches(3) for k in batch) == list(range(10))
    assert [len(batch) for batch in batches(3)] == [4, 4, 2]


def test_parts_hold_every_item_once_in_order_and_are_even():
    parts = even_parts(SIZES, 7)
    assert sorted(k for part in parts for k in part) == list(range(len(SIZES)))
    assert all(part == sorted(part) for part in parts)
    totals = [sum(SIZES[k] for k in part) for part in parts]
    assert max(totals) - min(totals) <= max(SIZES)


@pytest.mark.parametrize("epoch", [0, 5])
def test_batches_by_atoms_have_nearly_equal_numbers_of_atoms_and_a_fixed_count(epoch):
    made = ShuffledBatches(list(range(200, 297)), 4, 0, SIZES, 250)
    made.epoch = epoch
    found = list(made)
    assert len(found) == len(made) == -(-sum(SIZES) // 250)
    assert sorted(k for batch in found for k in batch) == list(range(200, 297))
    atoms = [sum(SIZES[k - 200] for k in batch) for batch in found]
    assert max(atoms) - min(atoms) <= max(SIZES) and max(atoms) < 250 + max(SIZES)
    assert len({len(batch) for batch in found}) > 1  # so they are not equal in structures


def test_batches_by_atoms_are_another_mix_in_each_epoch_and_go_on_where_a_run_stopped():
    made = ShuffledBatches(list(range(97)), 4, 0, SIZES, 250)
    first = list(made)
    made.epoch = 1
    second = list(made)
    assert {frozenset(batch) for batch in first}.isdisjoint(frozenset(batch) for batch in second)
    made.skip = 3
    assert list(made) == second[3:]


def test_fewer_atoms_than_a_structure_has_give_one_structure_a_batch():
    made = ShuffledBatches(list(range(5)), 4, 0, [8] * 5, 3)
    assert len(made) == 5 and [len(batch) for batch in made] == [1] * 5


def test_what_is_only_evaluated_comes_in_order_with_a_limit_on_atoms():
    dataset = AtomsDataset(copper(9), n_train=5, n_val=4, transform=radius_graph)  # of 4 and 8 atoms in turn
    found = [labels["n_atoms"].tolist() for _, labels in by_atoms(dataset, range(9), 17)]
    assert found == [[4, 8, 4], [8, 4], [8, 4], [8, 4]]
    assert [len(labels["n_atoms"]) for _, labels in by_atoms(dataset, range(9), 1)] == [1] * 9
    assert list(by_atoms(dataset, [], 17)) == []


def test_the_pieces_of_a_batch_are_even_in_atoms():
    sizes = [(1, 1, 2)] * 2 + [(1, 1, 1)] * 4  # 8 atoms and 4
    dataset = AtomsDataset(copper(6, sizes), n_train=5, n_val=1, transform=radius_graph)
    pieces = collate_parts([dataset[k] for k in range(6)], 2)
    assert [int(labels["n_atoms"].sum()) for _, labels in pieces] == [16, 16]
    assert len(collate_parts([dataset[0]], 3)) == 1 and collate_parts([], 3) == []


def test_a_training_by_atoms_takes_as_many_steps_as_it_says(tmp_path):
    from nfflr.train.config import TrainingConfig
    from nfflr.train.run import Run

    ase.io.write(tmp_path / "copper.xyz", copper(12))
    dataset = AtomsDataset(tmp_path / "copper.xyz", n_train=10, n_val=2, transform=radius_graph)
    settings = {"dataset": dataset, "model": tiny(), "output_dir": tmp_path / "run", "epochs": 3}
    run = Run(TrainingConfig(**settings, batch_atoms=16))
    atoms = sum(len(record.atoms) for record in dataset.part("train"))
    assert run.total_steps == 3 * -(-atoms // 16)
    assert {sum(len(dataset.records[k].atoms) for k in batch) for batch in run.batches} <= {12, 16, 20}
