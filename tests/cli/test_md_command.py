"""``nff md``: files, resuming, refusals, exit codes."""

import csv
import json
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from nfflr.cli.main import run
from nfflr.storage.archives import FolderArchive


@pytest.fixture
def silicon(tmp_path):
    path = tmp_path / "si.xyz"
    bulk("Si", a=5.469, cubic=True).write(path)
    return path


def md(structure, out, *options):
    options = ["--rdf-cutoff", "3", "--interval", "5", "--checkpoint", "10", *options]
    return run(["md", str(structure), "-m", "mlearn-si-fast", "-o", str(out), *map(str, options)])


def files(folder):
    return sorted(p.name for p in folder.iterdir())


RESULTS = ["si-final.xyz", "si-md.csv", "si-md.json", "si-md.png", "si-md.state", "si-md.traj"]


def test_md_writes_trajectory_table_figure_structure_and_json(tmp_path, silicon, capsys):
    out = tmp_path / "out"
    assert md(silicon, out, "--steps", 30, "--ensemble", "npt", "--pressure", 1) == 0
    assert files(out) == RESULTS
    assert files(out / "si-md.state") == ["run.npz", "state.npz"]  # to go on from; no frames
    record = json.loads((out / "si-md.json").read_text())
    frames = ase.io.read(out / "si-md.traj", ":")
    with open(out / "si-md.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(frames) == len(rows) == 7 and record["result"]["steps"] == 30
    for frame, row in zip(frames, rows, strict=True):
        assert float(row["time (ps)"]) == pytest.approx(frame.info["step"] / 1000)
        assert float(row["potential energy (eV)"]) == frame.get_potential_energy()
        assert float(row["kinetic energy (eV)"]) == frame.get_kinetic_energy()
        assert float(row["volume (Å^3)"]) == pytest.approx(frame.get_volume())
    assert frames[-1].positions == pytest.approx(np.array(record["result"]["positions"]))
    assert record["units"]["temperature"] == "K" and record["units"]["drift"] == "meV/atom/ns"
    assert record["result"]["verdict"] == "stable" and not {"table", "trajectory"} & set(record["result"])
    assert record["settings"]["pressure"] == 1 and "stable for 30 steps" in capsys.readouterr().out


def test_a_killed_command_is_resumed_and_gives_the_same_files(tmp_path, silicon):
    assert md(silicon, tmp_path / "whole", "--steps", 400) == 0
    out = tmp_path / "killed"
    code = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
    options = ["--rdf-cutoff", "3", "--interval", "5", "--checkpoint", "10", "--steps", "400"]
    command = [
        sys.executable,
        "-c",
        code,
        "md",
        str(silicon),
        "-m",
        "mlearn-si-fast",
        "-o",
        str(out),
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    state = out / "si-md.state" / "state.npz"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert files(out) == ["si-md.state"]
    assert md(silicon, out, "--steps", 400) == 2  # says what to do
    assert md(silicon, out, "--steps", 400, "--resume", "--seed", 8) == 2
    assert files(out) == ["si-md.state"]
    assert md(silicon, out, "--steps", 400, "--resume") == 0
    assert files(out) == RESULTS
    for name in RESULTS:
        if name not in ("si-md.json", "si-md.state"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    records = [json.loads((folder / "si-md.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert records[0]["result"] == records[1]["result"]


def test_what_was_interrupted_is_named_and_overwrite_drops_it(tmp_path, silicon, capsys):
    state = tmp_path / "si-md.state"
    state.mkdir()
    (state / "state.npz").write_bytes(b"rubbish")
    assert md(silicon, tmp_path, "--steps", 5) == 2
    error = capsys.readouterr().err
    assert "si-md.state" in error and "--resume" in error and "--overwrite" in error
    assert md(silicon, tmp_path, "--steps", 5, "--resume") == 6  # damaged
    assert "damaged" in capsys.readouterr().err
    assert md(silicon, tmp_path, "--steps", 5, "--overwrite") == 0
    assert FolderArchive(state).is_finished()  # what was damaged is gone


def test_an_explosion_is_exit_code_5_with_step_and_atom_and_sound_files(tmp_path, silicon, capsys):
    code = md(silicon, tmp_path / "out", "--ensemble", "nve", "--timestep", 30, "--temperature", 3000)
    assert code == 5
    error = capsys.readouterr().err
    assert "si.xyz: exploded at step" in error and "(Si)" in error
    assert [line.split(":")[0] for line in error.splitlines()] == ["note", "error"]  # the cell is small
    assert files(tmp_path / "out") == RESULTS
    record = json.loads((tmp_path / "out" / "si-md.json").read_text())["result"]
    assert record["verdict"] == "exploded" and record["verdict_step"] == record["steps"] + 1
    for frame in ase.io.read(tmp_path / "out" / "si-md.traj", ":"):
        assert np.isfinite(frame.positions).all() and np.isfinite(frame.get_forces()).all()


def test_a_refused_run_leaves_nothing(tmp_path, capsys):
    path = tmp_path / "dimer.xyz"
    atoms = molecule("H2")
    atoms.numbers[:] = 14
    atoms.positions *= 3
    atoms.write(path)
    assert md(path, tmp_path / "out", "--ensemble", "npt", "--steps", 5) == 3
    assert "dimer.xyz" in capsys.readouterr().err and files(tmp_path / "out") == []


def test_commands_that_can_be_resumed_offer_it(capsys):
    assert run(["md", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--resume" in text and "(GPa)" in text and "nvt-nose-hoover" in text and "[default: 300.0]" in text
    assert run(["eos", "--help"]) == 0  # of many structures, those that are done are kept
    assert "--resume" in capsys.readouterr().out
    assert run(["neb", "--help"]) == 0
    assert "--resume" not in capsys.readouterr().out
