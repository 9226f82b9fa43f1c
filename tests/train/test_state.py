"""Training state on disk: two states are kept, damage falls back, and a failed write harms nothing."""

import errno
import os
import pickle
import shutil

import pytest
import torch

from nfflr.checkpoint import pack
from nfflr.errors import CheckpointError, ResourceError
from nfflr.train.state import newest_state, read_state, save_state, states, sweep_states


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {
        "model.weight": torch.full((3, 2), step / 3),
        "ema.weight": torch.full((2,), step / 7, dtype=torch.float64),
        "optimizer.0.step": torch.tensor(float(step)),
        "count": torch.tensor(step),
    }


def save(root, *steps) -> None:
    for step in steps:
        save_state(root, step, tensors(step), {"step": step, "history": [{"loss": 1 / 3}]})


def names(root) -> list[str]:
    return sorted(os.listdir(root))


def test_what_is_saved_is_restored_to_the_bit(tmp_path):
    save(tmp_path, 5)
    found, metadata = newest_state(tmp_path)
    assert found.keys() == tensors(5).keys()
    for name, value in tensors(5).items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert metadata["step"] == 5 and metadata["history"] == [{"loss": 1 / 3}]


def test_saving_copies_so_that_training_can_go_on(tmp_path):
    weight = torch.ones(4, requires_grad=True)
    save_state(tmp_path, 1, {"w": weight.t()}, {})
    assert torch.equal(newest_state(tmp_path)[0]["w"], torch.ones(4))


def test_the_last_two_are_kept(tmp_path):
    save(tmp_path, 1, 2, 9, 10, 11)  # 9 < 10 as numbers, not as names
    assert names(tmp_path) == ["step-10", "step-11"]
    assert [p.name for p in states(tmp_path)] == ["step-10", "step-11"]
    assert newest_state(tmp_path)[1]["step"] == 11


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 3, 4)
    save_state(tmp_path, 4, tensors(40), {"step": 4})
    assert torch.equal(newest_state(tmp_path)[0]["count"], torch.tensor(40)) and names(tmp_path) == [
        "step-3",
        "step-4",
    ]


def test_nothing_saved_is_none(tmp_path):
    assert newest_state(tmp_path) is None and newest_state(tmp_path / "none") is None


def damage_flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def damage_truncate(file):
    file.write_bytes(file.read_bytes()[:-7])


def damage_empty(file):
    file.write_bytes(b"")


def damage_remove(file):
    file.unlink()


def damage_pickle(file):
    file.write_bytes(pickle.dumps({"w": 1}))


def damage_kind(file):
    file.write_bytes(pack(tensors(2), {"step": 2}))  # a checkpoint, which is not a state


DAMAGES = [damage_flip, damage_truncate, damage_empty, damage_remove, damage_pickle, damage_kind]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-2" / "state.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_state(tmp_path / "step-2")
    assert "step-2" in str(caught.value) and "\n" not in str(caught.value)
    found, metadata = newest_state(tmp_path)
    assert metadata["step"] == 1 and torch.equal(found["count"], torch.tensor(1))
    damage(tmp_path / "step-1" / "state.safetensors")
    with pytest.raises(CheckpointError, match="step-2"):
        newest_state(tmp_path)


def test_temporaries_of_a_killed_run_are_not_states_and_are_swept(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-2.tmp").mkdir()
    (tmp_path / ".step-2.tmp" / "state.safetensors").write_bytes(b"half")
    (tmp_path / "step-old").mkdir()
    (tmp_path / "notes").write_text("mine")
    assert newest_state(tmp_path)[1]["step"] == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["notes", "step-1", "step-2", "step-old"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_earlier_states(tmp_path, monkeypatch, call):
    save(tmp_path, 1, 2)
    before = {p: (p / "state.safetensors").read_bytes() for p in states(tmp_path)}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match="No space left on device") as caught:
        save(tmp_path, 3)
    assert caught.value.exit_code == 6 and "step-3" in str(caught.value)
    assert {p: (p / "state.safetensors").read_bytes() for p in states(tmp_path)} == before
    assert names(tmp_path) == ["step-1", "step-2"]
    monkeypatch.undo()
    save(tmp_path, 3)  # and the folder is as good as before
    assert newest_state(tmp_path)[1]["step"] == 3


def test_a_failed_rewrite_of_a_step_keeps_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError):
        save(tmp_path, 1)
    assert newest_state(tmp_path)[1]["step"] == 1


def test_what_cannot_be_read_back_does_not_replace_what_could(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    monkeypatch.setattr("nfflr.train.state.pack", lambda *_: b"not what was meant")
    with pytest.raises(CheckpointError):
        save(tmp_path, 3)
    assert newest_state(tmp_path)[1]["step"] == 2
    assert {"step-1", "step-2"} <= set(names(tmp_path))


def test_numbers_that_are_not_finite_can_be_part_of_the_history(tmp_path):
    # A set without stress labels has NaN for their error.
    save_state(tmp_path, 1, tensors(1), {"history": [{"val/stress_mae": float("nan")}], "best": float("inf")})
    _, metadata = newest_state(tmp_path)
    assert str(metadata["history"][0]["val/stress_mae"]) in ("nan", "None")


def test_what_a_save_killed_before_its_end_left_is_swept_but_nothing_that_could_be_restored(tmp_path):
    save(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "step-2", tmp_path / "step-3")  # killed before step-1 was removed
    (tmp_path / ".step-3.old.tmp").mkdir()
    sweep_states(tmp_path, 1)  # restored because the later ones are damaged
    assert names(tmp_path) == ["step-1", "step-2", "step-3"]
    sweep_states(tmp_path, 3)
    assert names(tmp_path) == ["step-2", "step-3"]
