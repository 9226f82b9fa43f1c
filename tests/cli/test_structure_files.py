"""Structure files on the command line: which frame is meant, and atoms that are too close."""

import json

import pytest
from ase.build import bulk
from ase.io import write

from nfflr.cli.main import run


@pytest.fixture
def frames(tmp_path):
    path = tmp_path / "frames.xyz"
    write(path, [bulk("Si", a=length) for length in (5.4, 5.5, 5.6)])
    return path


def record(path, out):
    assert run(["energy", str(path), "-m", "mlearn-si-fast", "-o", str(out), "--overwrite"]) == 0
    (file,) = out.glob("*.json")
    return json.loads(file.read_text())


def test_the_last_frame_is_said_and_another_is_chosen_by_its_number(frames, tmp_path, capsys):
    last = record(frames, tmp_path / "out")
    assert "note: " in (text := capsys.readouterr().err) and "holds 3 structures; the last is used" in text
    first, again = record(f"{frames}@0", tmp_path / "first"), record(f"{frames}@-1", tmp_path / "again")
    assert "note: " not in capsys.readouterr().err
    assert again["result"]["energy"] == last["result"]["energy"] != first["result"]["energy"]
    assert first["structure"] == f"{frames}@0" and first["structure_sha256"] == last["structure_sha256"]


def test_a_frame_that_is_not_there_is_a_usage_error(frames, tmp_path, capsys):
    assert run(["energy", f"{frames}@3", "-m", "mlearn-si-fast", "-o", str(tmp_path / "out")]) == 2
    assert "no such frame; the file holds 3" in capsys.readouterr().err


def test_atoms_far_closer_than_in_training_are_refused_before_anything_is_computed(tmp_path, capsys):
    path = tmp_path / "dimer.xyz"
    for length, reason in ((0.2, "closer than 0.3 Å"), (0.9, "less than half of the shortest such distance")):
        atoms = bulk("Si", cubic=True)
        atoms.positions[1] = atoms.positions[0] + [length, 0, 0]
        write(path, atoms)
        assert run(["energy", str(path), "-m", "mlearn-si-fast", "-o", str(tmp_path / "out")]) == 3
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            error.startswith(f"error: {path}: atoms 0 and 1 (Si, Si) are {length} Å apart")
            and reason in error
        )
    assert not list((tmp_path / "out").glob("*"))
