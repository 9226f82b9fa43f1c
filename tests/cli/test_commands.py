"""What the commands print and write when all is well."""

import json
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.cli.main import run
from nfflr.data.graph import periodic_radius_graph
from nfflr.models.moment import MomentConfig, MomentNetwork


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("model") / FILE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MomentNetwork(MomentConfig(elements=("Si",), channels=4, hidden=4))
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    model.calibrate(periodic_radius_graph(atoms))
    model.scale.fill_(0.01)
    save_checkpoint(path, model)
    return path


def test_help_is_quick_and_imports_neither_torch_nor_ase():
    code = (
        "import sys; from nfflr.cli.main import run; run(['--help']); "
        "print([m for m in ('torch', 'ase') if m in sys.modules])"
    )
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("[]")
    assert "relax" in shown and "Relax a structure" in shown
    assert time.perf_counter() - start < 5  # a sanity bound for busy machines, not the promise


def test_every_option_of_relax_shows_its_unit_and_default(capsys):
    assert run(["relax", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(eV/Å)" in text and "(GPa)" in text
    assert "[default: 0.01]" in text and "[default: no-cell]" in text
    assert "Examples: nff relax" in text


def test_relax_writes_structure_trajectory_figure_and_json(capsys, tmp_path, checkpoint):
    structure = tmp_path / "silicon crystal – größe.cif"  # unicode and spaces
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=2)
    atoms.write(structure)
    out = tmp_path / "out folder"
    code = run(
        ["relax", str(structure), "-m", str(checkpoint), "-o", str(out), "--steps", "3", "--dtype", "float64"]
    )
    assert code in (0, 5)
    stem = structure.stem
    record = json.loads((out / f"{stem}-relax.json").read_text())
    frames = ase.io.read(out / f"{stem}-relax.traj", ":")
    relaxed = ase.io.read(out / f"{stem}-relaxed.cif")
    assert len(frames) == record["result"]["steps"] + 1
    assert frames[-1].get_potential_energy() == pytest.approx(record["result"]["energy"], abs=1e-12)
    np.testing.assert_allclose(
        relaxed.get_all_distances(mic=True), frames[-1].get_all_distances(mic=True), atol=1e-4
    )
    assert record["settings"]["steps"] == 3
    assert record["units"]["fmax"] == "eV/Å"
    assert record["calculator"]["dtype"] == "float64" and len(record["calculator"]["digest"]) == 64
    assert {"torch", "ase", "vesin"} <= set(record["versions"])
    assert record["command"].startswith("nff relax ") and record["command"].endswith("--dtype float64")
    assert (out / f"{stem}-relax.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_gives_the_same_bytes_apart_from_times(tmp_path, checkpoint):
    structure = tmp_path / "si.xyz"
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=2)
    atoms.write(structure)
    records = []
    for name in "ab":
        run(["relax", str(structure), "-m", str(checkpoint), "-o", str(tmp_path / name), "--steps", "2"])
        record = json.loads((tmp_path / name / "si-relax.json").read_text())
        records.append({k: v for k, v in record.items() if k not in ("wall_time_s", "command")})
    assert records[0] == records[1]
    assert (tmp_path / "a" / "si-relaxed.xyz").read_bytes() == (
        tmp_path / "b" / "si-relaxed.xyz"
    ).read_bytes()


def test_molecule_is_written_as_extended_xyz(tmp_path, checkpoint):
    structure = tmp_path / "dimer.xyz"
    atoms = molecule("H2")
    atoms.numbers[:] = 14
    atoms.positions *= 3
    atoms.write(structure)
    run(["relax", str(structure), "-m", str(checkpoint), "-o", str(tmp_path / "out"), "--steps", "1"])
    assert len(ase.io.read(tmp_path / "out" / "dimer-relaxed.xyz")) == 2


def test_settings_file_is_used_and_options_win(tmp_path, checkpoint):
    structure, settings = tmp_path / "si.cif", tmp_path / "settings.yaml"
    bulk("Si", cubic=True).write(structure)
    settings.write_text("steps: 0\nfmax: 0.5\n")
    arguments = ["relax", structure, "-m", checkpoint, "-o", tmp_path, "--config", settings, "--fmax", "0.25"]
    run([str(a) for a in arguments])
    record = json.loads((tmp_path / "si-relax.json").read_text())
    assert record["settings"]["steps"] == 0 and record["settings"]["fmax"] == 0.25


def test_info_shows_what_the_checkpoint_is(capsys, checkpoint):
    assert run(["info", str(checkpoint)]) == 0
    text = capsys.readouterr().out
    assert "moment" in text and "Si" in text and "sha256" in text
    assert run(["info", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "moment"


def test_version(capsys):
    assert run(["--version"]) == 0
    assert "nff" in capsys.readouterr().out
