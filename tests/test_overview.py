"""The user's overview, sentence by sentence; each test is named after the one it shows to be true."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch.utils.data import DataLoader

import nfflr
from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset, collate
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.inputs import as_graph, to_dgl, to_pyg, with_ghosts
from nfflr.models.base import Potential
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig
from nfflr.models.registry import architectures

ROOT = Path(__file__).parent.parent
FRAMES = ROOT / "tests/data/jarvis/ff/id_prop.json"  # real ones: energies per cell, forces
CUTOFF = 4.0
SMALL = {"cutoff": CUTOFF, "hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1}


def alignn(**settings) -> ALIGNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ALIGNN(ALIGNNConfig(**{**SMALL, "elements": ("H", "O", "Si"), **settings})).double().eval()


def silicon(count: int = 6) -> list[ase.Atoms]:
    structures = [bulk("Si", a=5.3 + 0.05 * k, cubic=True) for k in range(count)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
        atoms.info |= {"energy": -40.0 + 0.1 * k, "moment": [0.1 * k, 1.0, -k], "phase": "ab"[k % 2]}
    return structures


def as_dgl(atoms: ase.Atoms):
    return to_dgl(periodic_radius_graph(atoms, r=CUTOFF))


# input representation


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_models_operate_on_preprocessed_structures_built_asynchronously_in_a_dataloader():
    """``forward(x: dgl.DGLGraph)``, graph batches made by two workers of a ``DataLoader``."""
    structures = silicon()
    dataset = AtomsDataset(structures, "total_energy", n_train=4, n_val=2, transform=as_dgl, keys={})
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=2)
    model, found = alignn(), []
    for batch, _ in loader:
        assert type(batch).__name__ == "DGLGraph" and batch.batch_size == 3
        found.append(model(batch)["total_energy"])
    torch.testing.assert_close(torch.cat(found), model(structures)["total_energy"], rtol=0, atol=1e-10)


class Molecule:
    """Some other custom representation."""

    def __init__(self, atoms: ase.Atoms):
        self.letters, self.xyz = list(atoms.symbols), atoms.positions.copy()


@as_graph.register(Molecule)
def _(x, r):
    return periodic_radius_graph(ase.Atoms(x.letters, x.xyz), r)


REPRESENTATIONS = {
    "dgl.DGLGraph": as_dgl,
    "PyG input format": lambda atoms: to_pyg(periodic_radius_graph(atoms, r=CUTOFF)),
    "Atoms with ghost atom padding": lambda atoms: with_ghosts(nfflr.Atoms.from_ase(atoms), CUTOFF),
    "some other custom input representation": Molecule,
}


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_input_representation(name):
    atoms = molecule("H2O", vacuum=4.0)
    model = alignn()
    expected, found = model(atoms), model(REPRESENTATIONS[name](atoms))
    for key in ("total_energy", "forces"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-10)


# modeling interface


def test_models_have_a_consistent_interface_regardless_of_the_backend():
    """``forward(x: Atoms) -> dict[str, torch.Tensor]`` of every architecture that there is."""
    assert len(architectures()) >= 8
    for cls in architectures().values():
        assert issubclass(cls, Potential) and "x" in cls.forward.__code__.co_varnames[:2]
    output = alignn()(nfflr.Atoms.from_ase(bulk("Si")))
    assert all(isinstance(value, torch.Tensor) for value in output.values())


def test_input_representation_and_output_format_vary_with_model_and_task():
    atoms = bulk("Si")
    assert isinstance(alignn()(atoms), dict)
    assert isinstance(alignn(readout="mean")(as_dgl(atoms)), torch.Tensor)


# output representation


@pytest.mark.parametrize(
    ("outputs", "shape"), [(1, ()), (3, (3,)), (2, (2,))], ids=["scalar", "vector", "class"]
)
def test_single_target_tasks_return_a_single_tensor(outputs, shape):
    found = alignn(readout="mean", output_features=outputs)(nfflr.Atoms.from_ase(bulk("Si")))
    assert isinstance(found, torch.Tensor) and found.shape == shape


def test_a_force_field_returns_a_dict_with_total_energy_forces_and_stress():
    found = alignn()(nfflr.Atoms.from_ase(bulk("Si", cubic=True)))
    shapes = {key: tuple(found[key].shape) for key in ("total_energy", "forces", "stress")}
    assert shapes == {"total_energy": (), "forces": (8, 3), "stress": (3, 3)}


def test_a_custom_multi_target_task_returns_a_dict():
    found = alignn(readout="sum", output_features={"gap": 1, "dipole": 3})(bulk("Si"))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"gap": (), "dipole": (3,)}


# training scripts


def test_nff_simplifies_common_workflows_with_two_commands_for_training():
    shown = subprocess.run(
        [sys.executable, "-c", "from nfflr.cli.main import run; run(['--help'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"^  train +Train", shown, re.M) and re.search(r"^  lr +Find", shown, re.M)


def test_py_config_runner_reads_the_config(tmp_path, monkeypatch):
    from py_config_runner import ConfigObject

    from nfflr.train.config import load_config

    read, begin = [], ConfigObject.__init__

    def spy(self, path, *arguments, **options):
        read.append(Path(path).name)
        begin(self, path, *arguments, **options)

    monkeypatch.setattr(ConfigObject, "__init__", spy)
    path, _ = overview(tmp_path, "total_energy")
    load_config(path)
    assert read == [path.name]


def overview(folder: Path, target: str) -> tuple[Path, Path]:
    """The config of docs/training.md, the overview's, with another data path and target; and the data."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    config = re.search(r"<!-- overview:config -->\n```python\n(.*?)```", text, re.S)[1]
    data = folder / "subset.jsonl"
    frames = json.loads(FRAMES.read_text())
    data.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    config, paths = re.subn(r'data_source = Path\(".*"\)', f"data_source = Path({str(data)!r})", config)
    assert paths == 1
    if target != "total_energy":
        config = config.replace('target = "total_energy"\n# target', '# target = "total_energy"\ntarget')
    (folder / "config.py").write_text(config)
    return folder / "config.py", data


@pytest.mark.parametrize("target", ["total_energy", "energy_and_forces"])
def test_the_config_file_defines_task_model_and_optimizer_settings_and_runs_as_it_is_written(
    tmp_path, monkeypatch, capsys, target
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, _ = overview(tmp_path, target)
    assert run(["train", str(config), "--epochs", "2"]) == 0
    assert "wrote" in capsys.readouterr().out
    model, metadata = load_checkpoint(tmp_path / FILE)  # output_dir is the folder of the config
    assert (model.cutoff, model.config.cutoff_onset, model.config.alignn_layers) == (8.0, 4.0, 2)
    assert model.compute_forces == (target == "energy_and_forces")
    assert np.isfinite(metadata["scores"]["val/energy_mae"])
    assert ("val/forces_mae" in metadata["scores"]) == model.compute_forces
    assert any((tmp_path / "cache").rglob("*"))  # diskcache=True


def test_data_parallel_training_is_transparent(tmp_path, monkeypatch, capfd):
    """The same file in two processes, which share a batch of 4 · world size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, _ = overview(tmp_path, "total_energy")
    assert run(["train", str(config), "--epochs", "1", "--nproc", "2"]) == 0
    assert capfd.readouterr().out.count("wrote") == 1
    assert "1,2," in (tmp_path / "metrics.csv").read_text()  # 10 training structures, 8 and 2: two steps


def test_nff_lr_runs_a_learning_rate_finder_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, _ = overview(tmp_path, "total_energy")
    assert (
        run(["lr", str(config), "--out", str(tmp_path), "--steps", "40", "--start", "1e-5", "--write"]) == 0
    )
    assert "suggested learning_rate" in capsys.readouterr().out
    assert (tmp_path / "config-lr.csv").read_text().startswith("learning_rate,loss\n")
    assert (tmp_path / "config-lr.png").read_bytes().startswith(b"\x89PNG")
    text = config.with_name("config-lr.py").read_text()
    assert text.count("learning_rate =") == 1 and "# by nff lr" in text


def test_source_can_be_a_json_file_a_jarvis_dataset_name_or_a_folder(tmp_path, monkeypatch):
    build = partial(AtomsDataset, energy_units="eV", n_train=0.8, n_val=0.1)
    assert len(build(FRAMES, "total_energy")) == len(build(FRAMES.parent, "total_energy")) == 12
    with pytest.raises(nfflr.errors.NFFLrError, match=r"dft_3d.*(download|pip install)"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        AtomsDataset("dft_3d", "optb88vdw_bandgap")


def test_task_can_be_energy_and_forces_or_a_key_in_the_dataset():
    labelled = AtomsDataset(FRAMES, "energy_and_forces", energy_units="eV").targets
    assert labelled == ("total_energy", "forces", "stress")
    records = ROOT / "tutorials/jarvis-properties/records.json"
    gaps = AtomsDataset(records, "optb88vdw_bandgap", allow_missing=True)
    assert gaps.targets == ("optb88vdw_bandgap",)


def test_formation_energy_and_band_gap_of_real_crystals_are_trained_and_evaluated(tmp_path, capsys):
    folder = ROOT / "tutorials/jarvis-properties"
    assert run(["train", str(folder / "config.py"), "--out", str(tmp_path / "run"), "--epochs", "1"]) == 0
    command = [
        "evaluate",
        "--model",
        str(tmp_path / "run"),
        str(folder / "records.json"),
        "--out",
        str(tmp_path),
    ]
    assert run(command) == 0
    errors = json.loads((tmp_path / "records-evaluate.json").read_text())["errors"]["all"]
    assert 0 < errors["formation_energy_peratom_mae"] < 3 and 0 < errors["optb88vdw_bandgap_mae"] < 5


def test_every_public_name_is_there():
    assert {"TrainingConfig", "load_config", "load_model", "predict", "read_suite"} <= set(nfflr.__all__)
    assert all(getattr(nfflr, name) is not None for name in nfflr.__all__)
