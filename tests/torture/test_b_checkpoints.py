"""Torture B: a damaged, foreign or unfitting checkpoint is refused, a sound one of any origin loads."""

import json
import random
import re
import shutil
import time
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
import safetensors.torch
import torch
from ase.build import bulk
from builders import copper
from forgery import edited, split, with_tensors
from fuzz_checkpoints import Meter, Survived, bit_flips, fuzz_damage, truncations

from nfflr import checkpoint
from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import VERSION, load_checkpoint, save_checkpoint
from nfflr.cli.main import run
from nfflr.errors import CheckpointError
from nfflr.train.config import load_config
from nfflr.train.distributed import launch
from nfflr.train.trainer import train

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(int(path.stem.removeprefix("v")) for path in GOLDEN.glob("v*.json"))


@pytest.fixture
def refused(path, capsys, tmp_path):
    """Offers bytes to ``nff relax``; they must be refused with exit code 4. Returns the line."""
    structure = tmp_path / "cu.xyz"
    bulk("Cu").write(structure)

    def offer(content: bytes, *words: str) -> str:
        path.write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        assert run(["relax", str(structure), "-m", str(path), "-o", str(tmp_path / "out")]) == 4
        stderr = capsys.readouterr().err.strip().splitlines()
        assert stderr[-1].startswith(f"error: {path}: ") and "Traceback" not in "\n".join(stderr)
        assert sorted(tmp_path.rglob("*")) == before
        for word in words:
            assert word in stderr[-1]
        return stderr[-1]

    return offer


def test_case_38_truncated_at_300_offsets(path, content):
    cut = list(truncations(content, 300))
    assert len({len(part) for part in cut}) == 300
    for part in cut:
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: ") as caught:
            load_checkpoint(path)
        assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_case_38_truncated_as_nff_tells_it(refused, content):
    length = len(split(content)[0])
    for end in (0, 4, 8, 9, 8 + length, len(content) - 1):
        refused(content[:end])


def test_case_39_300_single_bit_flips(path, content):
    for damaged in bit_flips(content, 300, random.Random(39)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: ") as caught:
            load_checkpoint(path)
        assert caught.value.exit_code == 4


def test_case_39_a_flip_as_nff_tells_it(refused, content):
    for k in (0, 8 + 20, len(content) - 1):
        damaged = bytearray(content)
        damaged[k] ^= 1
        refused(bytes(damaged))


FOREIGN = {
    "empty": b"",
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 123456\n" % (b"a" * 64),
    "zeros": b"\0" * 100,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "JSON": b"{}" * 50,
    "another's safetensors": safetensors.torch.save({"w": torch.zeros(2)}, {"format": "pt"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_case_40_another_kind_of_file_is_not_a_checkpoint(refused, kind):
    refused(FOREIGN[kind], "not a checkpoint", "expected a model.safetensors")


@pytest.mark.parametrize("version", [VERSION + 1, 10**30])
def test_case_41_a_newer_format_names_both_versions(refused, content, version):
    refused(edited(content, version=version), f"version {version}", f"reads {VERSION}", "update nfflr")


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [1], ...], ids=repr)
def test_case_41_a_version_that_never_was_is_refused(refused, content, version):
    refused(edited(content, version=version), "format version", f"reads {VERSION}")


def golden_cases() -> list:
    return [
        pytest.param(file, id=file.stem)
        for version in VERSIONS
        for file in sorted(GOLDEN.glob(f"v{version}-*.safetensors"))
    ]


def check_golden(file: Path, structures) -> None:
    """Energies and forces are those of the file's making: op by op, on brute-force neighbours."""
    version, _, key = file.stem.removeprefix("v").partition("-")
    expected = json.loads((GOLDEN / f"v{version}.json").read_text(encoding="utf-8"))[key]
    calculator = NFFLrCalculator.load(file)
    for name, numbers in expected.items():
        atoms = getattr(structures, name)(("C", "Si"))
        atoms.calc = calculator
        assert abs(atoms.get_potential_energy() - numbers["energy"]) < 1e-10 * len(atoms)
        np.testing.assert_allclose(atoms.get_forces(), numbers["forces"], rtol=0, atol=1e-9)


def test_case_42_there_are_golden_files_of_every_version():
    assert list(range(1, VERSION + 1)) == VERSIONS
    assert sorted(checkpoint.UPGRADES) == VERSIONS[:-1]


@pytest.mark.parametrize("file", golden_cases())
def test_case_42_every_released_version_gives_its_golden_energies(file, structures):
    check_golden(file, structures)


def test_case_42_an_old_file_goes_through_every_upgrade_since(monkeypatch, structures, tmp_path, path):
    """Two versions to come, as pure functions: the file of today then loads as one of the oldest."""
    file = GOLDEN / "v1-schnet.safetensors"
    seen = []

    def rename(contents: dict) -> dict:
        seen.append(contents)
        metadata = {**contents["metadata"], "cutoff_radius": contents["metadata"]["cutoff"]}
        return {**contents, "metadata": metadata}

    def rescale(contents: dict) -> dict:
        seen.append(contents)
        tensors = contents["tensors"]
        return {**contents, "tensors": {**tensors, "scale": 2 * tensors["scale"]}}

    monkeypatch.setattr(checkpoint, "UPGRADES", {VERSION: rename, VERSION + 1: rescale})
    monkeypatch.setattr(checkpoint, "VERSION", VERSION + 2)
    model, metadata = load_checkpoint(file)
    assert len(seen) == 2 and "cutoff_radius" not in seen[0]["metadata"]
    assert metadata["cutoff_radius"] == metadata["cutoff"] and metadata["version"] == VERSION + 2
    old = safetensors.torch.load_file(file)
    assert model.scale == 2 * old["scale"]
    save_checkpoint(path, model)
    again, _ = load_checkpoint(path)  # written in the newest format, so not upgraded once more
    assert len(seen) == 2 and again.scale == model.scale
    newer = edited(path.read_bytes(), version=VERSION + 3)
    path.write_bytes(newer)
    with pytest.raises(CheckpointError, match=rf"version {VERSION + 3}, .* reads {VERSION} to {VERSION + 2}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("scale"), ["tensor 'scale' is missing"]),
        (lambda t: t.update(extra=torch.zeros(3)), ["tensor 'extra' is not part of the architecture"]),
        (lambda t: t.update(scale=torch.ones(2).double()), ["'scale' has shape (2,)", "expected ()"]),
        (lambda t: t.update(scale=torch.ones(())), ["'scale' is torch.float32", "expected torch.float64"]),
    ],
    ids=["missing", "extra", "misshapen", "another type"],
)
def test_case_43_a_tensor_that_does_not_fit_is_named(refused, content, change, words):
    refused(with_tensors(content, change), *words)


def test_case_43_every_tensor_is_needed(path, content):
    for name in safetensors.torch.load(content):
        path.write_bytes(with_tensors(content, lambda t, name=name: t.pop(name)))
        with pytest.raises(CheckpointError, match=f"tensor {name!r} is missing"):
            load_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_case_44_weights_that_are_not_finite(refused, content, value):
    def spoil(tensors):
        tensors["reference_energies"][0] = value

    refused(with_tensors(content, spoil), "'reference_energies'", "not finite")


def test_case_44_nan_in_any_tensor_is_found(path, content):
    for name in safetensors.torch.load(content):
        path.write_bytes(with_tensors(content, lambda t, name=name: t[name].view(-1)[-1:].fill_(np.nan)))
        with pytest.raises(CheckpointError, match=f"tensor {name!r} .* not finite"):
            load_checkpoint(path)


def device_of_everything(model: torch.nn.Module) -> set[str]:
    return {t.device.type for t in [*model.parameters(), *model.buffers()]}


def test_case_45_a_file_knows_of_no_device(path, content):
    """Bytes, shapes and types are all there is of a tensor, so it does not matter where it was."""
    header = json.loads(split(content)[0])
    metadata = json.loads(header.pop("__metadata__")["nfflr"])
    assert {key for entry in header.values() for key in entry} == {"dtype", "shape", "data_offsets"}
    assert not any("device" in key for key in [*metadata, *metadata["hyperparameters"]])
    path.write_bytes(content)
    with torch.device("meta"):  # a caller's default device is not taken either
        model, _ = load_checkpoint(path)
    assert device_of_everything(model) == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_case_45_saved_on_cuda_loads_on_the_cpu(path, content):
    path.write_bytes(content)
    model, _ = load_checkpoint(path)
    save_checkpoint(path, model.cuda())
    assert path.read_bytes() == content
    assert device_of_everything(load_checkpoint(path)[0]) == {"cpu"}


CONFIG = """
from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent
dataset = AtomsDataset(here / "copper.xyz", n_train=4, n_val=2)
model = MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4, cutoff=3.5)).double()
output_dir = here / "run"
progress, epochs, batch_size, warmup_steps, validate_every = False, 1, 2, 0, 1
"""


def train_both(config: Path) -> int:
    train(load_config(config))
    return 0


def test_case_46_saved_by_two_ranks_loaded_alone(tmp_path, structures):
    ase.io.write(tmp_path / "copper.xyz", copper(6))
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    assert launch(train_both, {"config": config}, 2) == 0
    shared, metadata = load_checkpoint(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    train(load_config(config))
    alone, _ = load_checkpoint(tmp_path / "run")
    assert not any("module" in name for name in shared.state_dict()) and metadata["elements"] == ["Cu"]
    atoms = structures.crystal(("Cu",))
    torch.testing.assert_close(shared(atoms)["forces"], alone(atoms)["forces"], rtol=1e-9, atol=1e-9)


def test_cases_38_39_and_random_headers_through_the_script(tmp_path):
    meter = Meter()
    fuzz_damage(meter, tmp_path, 20, 20, 100, random.Random(1))
    assert meter.count >= 140


def test_the_scripts_meter_sees_time_memory_and_what_is_not_refused(tmp_path):
    meter = Meter()
    with pytest.raises(Survived, match="expected a refusal with exit code 4"):
        meter.refused(lambda: None, 4, "accepted")
    with pytest.raises(Survived, match="exit code 4"):
        meter.refused(lambda: 1 / 0, 4, "crashed")
    with pytest.raises(Survived, match=r"took 0\.\d\d s"):
        Meter(seconds=0.1).measure(partial(work, 0.11), "slow")
    with pytest.raises(Survived, match=r" [23]\d\d MB"):
        meter.measure(lambda: torch.ones(2**26).sum(), "large")


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
