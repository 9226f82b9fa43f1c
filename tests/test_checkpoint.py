"""The checkpoint file: exact in both directions, and anything else in its place is refused without harm."""

import errno
import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from builders import TinyNetwork, tiny
from forgery import Hostile, edited, split, with_tensors

from nfflr import checkpoint, checkpoint_files
from nfflr.checkpoint import FILE, find_checkpoint, load_checkpoint, save_checkpoint
from nfflr.errors import CheckpointError, ConfigError, NFFLrError, NumericsError, ResourceError
from nfflr.models import registry
from nfflr.models.committee import Committee
from nfflr.models.gnn.schnet import SchNet, SchNetConfig


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The tiny network is an architecture during these tests only."""
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / FILE


@pytest.fixture
def content(path) -> bytes:
    """Bytes of a sound checkpoint; ``path`` itself is free again."""
    save_checkpoint(path, tiny(("Si", "C")), scores={"val/loss": 0.25}, notes={"licence": "CC0 ü"})
    whole = path.read_bytes()
    path.unlink()
    return whole


def refused(path: Path, content: bytes) -> str:
    """The message of the only acceptable outcome."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 600
    return message


# What is written is read


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact_to_the_bit(path, dtype, structures):
    model = tiny(("C", "Si"), dtype)
    model.reference_energies.copy_(torch.tensor([-153.123456789012, -297.987654321098], dtype=torch.float64))
    model.scale.fill_(1 / 3)
    save_checkpoint(path, model)
    loaded, metadata = load_checkpoint(path)
    assert loaded.dtype == dtype and metadata["dtype"] == str(dtype).removeprefix("torch.")
    assert loaded.config == model.config and not loaded.training
    for (name, value), (other, read) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other and value.dtype == read.dtype and torch.equal(value, read)
    atoms = structures.triclinic(("C", "Si"))
    for key, value in model(atoms).items():
        assert torch.equal(value, loaded(atoms)[key])


@pytest.mark.parametrize("key", sorted(registry.architectures()))
def test_every_registered_architecture_makes_the_round_trip(path, key, structures):
    cls = registry.architectures()[key]
    model = cls(cls.Config(elements=("Si", "C"))).eval()
    save_checkpoint(path, model)
    loaded, _ = load_checkpoint(path)
    assert type(loaded) is cls
    atoms = structures.triclinic(("C", "Si"))
    assert torch.equal(model(atoms)["forces"], loaded(atoms)["forces"])


def test_a_model_is_found_by_file_and_by_run_folder(path):
    save_checkpoint(path, tiny())
    assert find_checkpoint(path) == path and find_checkpoint(str(path.parent)) == path
    assert load_checkpoint(path.parent)[0].elements == ("Cu",)


def test_metadata_say_what_the_file_is(path):
    digest = save_checkpoint(
        path, tiny(("Si", "C")), data_digest="abc", scores={"val/loss": 0.5}, notes={"doi": "x"}
    )
    _, metadata = load_checkpoint(path)
    expected = {
        "format": "nfflr-checkpoint",
        "version": 1,
        "architecture": "test-tiny",
        "elements": ["C", "Si"],
        "cutoff": 4.0,
        "dtype": "float64",
        "data_digest": "abc",
        "scores": {"val/loss": 0.5},
        "notes": {"doi": "x"},
        "sha256": digest,
    }
    assert expected.items() <= metadata.items()
    assert metadata["hyperparameters"]["width"] == 8 and metadata["reference_energies"] == {
        "C": 0.0,
        "Si": 0.0,
    }
    assert metadata["versions"]["torch"] == torch.__version__


def test_the_digest_is_that_of_all_other_bytes(path):
    digest = save_checkpoint(path, tiny())
    whole = path.read_bytes()
    assert hashlib.sha256(whole.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_same_weights_give_the_same_bytes(path):
    save_checkpoint(path, tiny(seed=3))
    first = path.read_bytes()
    save_checkpoint(path, tiny(seed=3))
    assert path.read_bytes() == first
    save_checkpoint(path, tiny(seed=4))
    assert path.read_bytes() != first


def test_saving_again_what_was_loaded_gives_the_same_bytes(path, content):
    path.write_bytes(content)
    model, metadata = load_checkpoint(path)
    save_checkpoint(path, model, scores=metadata["scores"], notes=metadata["notes"])
    assert path.read_bytes() == content


def test_loading_leaves_random_state_and_defaults_alone(path, content):
    path.write_bytes(content)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert torch.get_default_dtype() == torch.float32


def test_loading_does_not_depend_on_the_callers_default_dtype(path):
    save_checkpoint(path, tiny(dtype=torch.float32))
    torch.set_default_dtype(torch.float64)
    try:
        model, _ = load_checkpoint(path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), tiny(dtype=torch.float32).parameters(), strict=True)
    )
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.float64}


# Accidents


def test_a_safetensors_file_of_someone_else_is_not_a_checkpoint(path):
    for metadata in (None, {"format": "pt"}, {"nfflr": "[]"}, {"nfflr": '{"format": "other"}'}):
        assert "not a checkpoint" in refused(path, safetensors.torch.save({"w": torch.zeros(2)}, metadata))


def test_a_training_state_is_not_a_checkpoint(path):
    assert "not a checkpoint" in refused(path, checkpoint.pack({"w": torch.zeros(2)}, {}, "nfflr-state"))


# What does not fit, with a valid digest


def test_the_tools_of_this_file_make_loadable_files(path, content):
    # Otherwise the refusals below might be for the wrong reason.
    for whole in (edited(content), with_tensors(content, lambda tensors: None)):
        path.write_bytes(whole)
        load_checkpoint(path)


def test_a_misshapen_tensor_is_named_with_both_shapes(path, content):
    for wrong, shape in (
        (torch.zeros(12, 8), r"\(12, 8\)"),
        (torch.zeros(()), r"\(\)"),
        (torch.zeros(96), r"\(96,\)"),
    ):
        message = refused(path, with_tensors(content, lambda t, w=wrong: t.update({"hidden.weight": w})))
        assert re.search(rf"tensor 'hidden.weight' has shape {shape}, expected \(8, 12\)", message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["hidden.weight", "reference_energies", "centres"])
def test_weights_that_are_not_finite_are_refused_by_name(path, content, name, value):
    def spoil(tensors):
        tensors[name].view(-1)[1] = value

    assert f"tensor {name!r} holds values that are not finite" in refused(path, with_tensors(content, spoil))


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.float16, torch.complex64, torch.float8_e4m3fn]
)
def test_a_tensor_of_another_type_is_refused(path, content, dtype):
    # Copied into the model it would lose digits without a word.
    def spoil(tensors):
        tensors["hidden.weight"] = tensors["hidden.weight"].to(dtype)

    assert "hidden.weight" in refused(path, with_tensors(content, spoil))


def test_a_misspelt_architecture_gets_the_nearest_match(path, content):
    assert "did you mean 'test-tiny'?" in refused(path, edited(content, architecture="test-tinny"))


@pytest.mark.parametrize(
    "change, name",
    [
        ({"width": 0}, "width"),
        ({"width": "wide"}, "width"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"elements": []}, "elements"),
        ({"elements": ["Xx"]}, "elements"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_bad_hyperparameters_are_named(path, content, change, name):
    good = tiny(("C", "Si")).config.model_dump(mode="json")
    message = refused(path, edited(content, hyperparameters={**good, **change}))
    assert f"hyper-parameter {name!r} is wrong" in message.replace("'elements.0'", "'elements'")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_hyperparameters_that_are_not_finite_are_refused(path, content, value):
    good = tiny(("C", "Si")).config.model_dump(mode="json")
    refused(path, edited(content, hyperparameters={**good, "cutoff": value}))


@pytest.mark.parametrize("key", ["architecture", "hyperparameters", "dtype"])
@pytest.mark.parametrize("value", [..., None, 3, ["test-tiny"]], ids=["absent", "null", "number", "list"])
def test_incomplete_metadata_name_what_lacks(path, content, key, value):
    assert f"metadata lack {key!r}" in refused(path, edited(content, **{key: value}))


@pytest.mark.parametrize("dtype", ["float16", "int64", "Tensor", "load"])
def test_an_unknown_dtype_is_refused(path, content, dtype):
    assert f"dtype {dtype!r}" in refused(path, edited(content, dtype=dtype))


# Attacks


def test_a_pickle_inside_the_tensors_is_only_bytes(path, content, tmp_path):
    canary = tmp_path / "executed"
    attack = torch.frombuffer(bytearray(pickle.dumps(Hostile(canary))), dtype=torch.uint8)
    refused(path, with_tensors(content, lambda t: t.update(payload=attack)))
    assert not canary.exists()


JUNK = [None, True, 0, -1, 10**30, 0.5, "", "x" * 100, "\ud800", "\0", "a\nb", [], [[]], {}, {"a": None}]


def test_signed_junk_in_any_field_is_refused_or_harmless(path, content):
    # The digest proves nothing about intent, so no value may do more than raise the one error.
    model, metadata = tiny(("C", "Si")), json.loads(json.loads(split(content)[0])["__metadata__"]["nfflr"])
    outcomes = {"refused": 0, "loaded": 0}
    del metadata["sha256"]  # a test of its own
    for key in [*metadata, *(f"hyperparameters.{k}" for k in metadata["hyperparameters"])]:
        for junk in JUNK:
            outer, _, field = key.partition(".")
            value = {**metadata[outer], field: junk} if field else junk
            path.write_bytes(edited(content, **{outer: value}))
            try:
                loaded, _ = load_checkpoint(path)
            except CheckpointError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error)
            else:
                outcomes["loaded"] += 1
                assert torch.equal(loaded.hidden.weight, model.hidden.weight)
    assert outcomes["refused"] > 30 and outcomes["loaded"] > 30


@pytest.mark.parametrize(
    "digest",
    ["\ud800" * 64, "é" * 64, "0" * 64, "", None, 7],
    ids=["surrogates", "accents", "zeros", "empty", "null", "number"],
)
def test_junk_in_place_of_the_digest_is_refused(path, content, digest):
    text, body = split(content)
    header = json.loads(text)
    inner = {**json.loads(header["__metadata__"]["nfflr"]), "sha256": digest}
    header["__metadata__"]["nfflr"] = json.dumps(inner, sort_keys=True)
    new = json.dumps(header).encode()
    refused(path, len(new).to_bytes(8, "little") + new + body)


# Faults while writing


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(path, content, call, monkeypatch):
    path.write_bytes(content)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match="No space left on device") as caught:
        save_checkpoint(path, tiny(seed=9))
    assert caught.value.exit_code == 6 and str(caught.value).startswith(f"{path}: ")
    assert path.read_bytes() == content and os.listdir(path.parent) == [FILE]


def test_a_failed_first_write_leaves_nothing(path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        save_checkpoint(path, tiny())
    assert os.listdir(path.parent) == []


def test_an_interrupt_while_writing_leaves_no_temporary(path, content, monkeypatch):
    path.write_bytes(content)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, tiny(seed=9))
    assert path.read_bytes() == content and os.listdir(path.parent) == [FILE]


def test_a_missing_folder_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError, match="cannot be written"):
        save_checkpoint(tmp_path / "none" / FILE, tiny())


def test_the_file_is_flushed_before_it_gets_its_name(path, monkeypatch):
    order = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), rename(*names)))
    save_checkpoint(path, tiny())
    assert order[:2] == ["fsync", "replace"]


# Names


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Three calculators as they ship, the last without its weights."""
    folders = {name: tmp_path / "bundled" / name for name in ("mlearn-si", "copper-emt", "unfinished")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        if name != "unfinished":
            save_checkpoint(folder / FILE, tiny())
    monkeypatch.setattr(checkpoint_files, "bundled_calculators", lambda: folders)
    return folders


def test_a_bundled_name_is_found(bundled):
    assert find_checkpoint("copper-emt") == bundled["copper-emt"] / FILE


def test_a_misspelt_name_gets_the_nearest_match_and_the_list(bundled):
    with pytest.raises(
        ConfigError, match=r"mlearn_si: no such checkpoint.*copper-emt.*did you mean 'mlearn-si'\?"
    ) as caught:
        find_checkpoint("mlearn_si")
    assert caught.value.exit_code == 2


def test_a_name_like_none_gets_the_list_alone(bundled):
    with pytest.raises(ConfigError, match="one of mlearn-si, copper-emt") as caught:
        find_checkpoint("zzz")
    assert "did you mean" not in str(caught.value)


def test_a_bundled_calculator_without_weights_is_a_config_error(bundled):
    with pytest.raises(ConfigError, match="unfinished"):
        find_checkpoint("unfinished")


def test_a_folder_without_a_checkpoint_says_what_it_lacks(tmp_path):
    with pytest.raises(ConfigError, match=rf"the folder holds no {FILE}"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300], ids=["empty", "zero byte", "long"])
def test_impossible_names_are_refused_as_such(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NFFLrError) as caught:
        find_checkpoint(name)
    assert caught.value.exit_code == 2


def test_an_unreadable_file_is_a_resource_error(path, content, monkeypatch):
    path.write_bytes(content)  # permissions do not stop root, who may run these tests

    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ResourceError, match="Permission denied"):
        load_checkpoint(path)


# What is not written, because it could not be read


def test_weights_that_are_not_finite_are_not_saved(path):
    for name in ("readout.bias", "reference_energies"):
        model = tiny()
        model.state_dict()[name].fill_(float("nan"))
        with pytest.raises(NumericsError, match=f"'{name}' is not finite"):
            save_checkpoint(path, model)
    assert not path.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_saved(path, dtype):
    with pytest.raises(ConfigError, match=r"16; expected float32 or float64") as caught:
        save_checkpoint(path, tiny(dtype=dtype))
    assert caught.value.exit_code == 2 and not path.exists()


def test_weights_that_do_not_fit_the_hyper_parameters_are_not_saved(path):
    mixed, wide = tiny(dtype=torch.float64), tiny()
    mixed.readout.half()
    wide.readout = torch.nn.Linear(8, 2).double()
    for model in (mixed, wide):
        with pytest.raises(CheckpointError, match=r"'readout\.(weight|bias)'"):
            save_checkpoint(path, model)
    assert not path.exists()


def test_what_is_no_registered_model_is_not_saved(path):
    for model in (Committee([tiny(), tiny()]), torch.nn.Linear(2, 2)):
        with pytest.raises(ConfigError, match="expected one model of a registered architecture"):
            save_checkpoint(path, model)
    assert not path.exists()


# Property models


GAP = {"kind": "regression"}
METAL = {"kind": "class", "classes": ["metal", "insulator"]}


def property_model(outputs):
    config = SchNetConfig(elements=("C", "Si"), channels=8, readout="mean", output_features=outputs)
    return SchNet(config).eval()


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (1, {"gap": GAP}),
        (3, {"dipole": GAP}),
        (2, {"metal": METAL}),
        ({"metal": 2, "gap": 1}, {"metal": METAL, "gap": GAP}),
        ({"metal": 2, "gap": 1}, None),
    ],
    ids=str,
)
def test_property_models_make_the_round_trip_with_their_targets(path, structures, outputs, targets):
    model = property_model(outputs)
    regression = {name: size for name, size in (targets or {}).items() if size == GAP}
    for name in regression:
        size = outputs if isinstance(outputs, int) else outputs[name]
        model.standardise({name: torch.arange(4 * size).view(4, size) / 7})
    save_checkpoint(path, model, targets=targets)
    loaded, metadata = load_checkpoint(path)
    assert metadata.get("targets") == targets and loaded.config == model.config
    assert metadata["units"] == {"length": "Å"}
    assert not {"stress_convention", "reference_energies"} & metadata.keys()
    before, after = model(structures.crystal()), loaded(structures.crystal())
    if isinstance(outputs, int):
        before, after = {"": before}, {"": after}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


WRONG_TARGETS = [
    (2, {}),
    (2, {"a": GAP, "b": GAP}),
    (2, {"a": "regression"}),
    (2, {"a": {"kind": "rank"}}),
    (2, {"a": {"kind": ["class"]}}),
    (2, {"a": {**GAP, "classes": []}}),
    (2, {"a": {"kind": "class"}}),
    (2, {"a": {"kind": "class", "classes": "ab"}}),
    (2, {"a": {"kind": "class", "classes": ["a", None]}}),
    (2, {"a": {"kind": "class", "classes": ["a", "b", "c"]}}),
    ({"gap": 1}, {"gpa": GAP}),
    ({"gap": 1, "metal": 2}, {"metal": METAL}),
]


@pytest.mark.parametrize(("outputs", "targets"), WRONG_TARGETS, ids=str)
def test_targets_that_do_not_fit_are_neither_written_nor_read(path, outputs, targets):
    model = property_model(outputs)
    with pytest.raises(ConfigError, match="targets: "):
        save_checkpoint(path, model, targets=targets)
    assert not path.exists()
    save_checkpoint(path, model)
    assert "targets: " in refused(path, edited(path.read_bytes(), targets=targets))


def test_a_potential_has_no_targets(path, content):
    with pytest.raises(ConfigError, match="is a potential"):
        save_checkpoint(path, tiny(), targets={"total_energy": GAP})
    assert "is a potential" in refused(path, edited(content, targets={"total_energy": GAP}))


@pytest.mark.parametrize("name", ["head.mean", "head.std"])
def test_a_damaged_standardisation_is_refused(path, name):
    save_checkpoint(path, property_model(2))
    content = path.read_bytes()
    assert name in refused(path, with_tensors(content, lambda t: t.pop(name)))
    assert name in refused(path, with_tensors(content, lambda t: t[name].fill_(float("inf"))))
    assert name in refused(path, with_tensors(content, lambda t: t.update({name: t[name].float()})))


@pytest.mark.parametrize("layers", [20, 41])
def test_a_refusal_leaves_gradients_as_they_were(path, layers):
    """Of a model with too many layers: the limit is met where weights are drawn, without gradients."""
    save_checkpoint(path, SchNet(SchNetConfig(elements=("Cu",), layers=1)))
    good = load_checkpoint(path)[1]["hyperparameters"]
    path.write_bytes(edited(path.read_bytes(), hyperparameters={**good, "layers": 10_000 + layers}))
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            with pytest.raises(CheckpointError):
                load_checkpoint(path)
            assert torch.is_grad_enabled() == enabled
