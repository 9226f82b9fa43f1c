"""Threads: as asked for, or no more than help; only the command line sets them."""

import json

import pytest
import torch
from ase.build import bulk

from nfflr.cli import threads
from nfflr.cli.main import run


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """A machine of two cores that asks for nothing; torch's threads are put back."""
    before = torch.get_num_threads()
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    yield
    torch.set_num_threads(before)


def pretend(trial_steps, speedups, most=8):
    """Run a trial on a clock on which a step takes 1 s over what its number of threads gains."""
    now, lines = [0.0], []
    trial = threads.Trial(most, lines.append, clock=lambda: now[0])
    for _ in range(trial_steps):
        now[0] += 1 / speedups[torch.get_num_threads()]
        trial()
    return torch.get_num_threads(), lines


@pytest.mark.parametrize(
    ("speedups", "number"),
    [
        ({1: 1, 2: 0.05}, 1),  # a busy machine
        ({1: 1, 2: 1.1}, 1),  # gains less than a fifth
        ({1: 1, 2: 1.8, 4: 1.9}, 2),
        ({1: 1, 2: 1.9, 4: 3.5, 8: 6.0}, 8),
    ],
)
def test_a_trial_finds_no_more_threads_than_help(speedups, number):
    found, lines = pretend(100, speedups)
    assert found == number and len(lines) == 1 and lines[0].startswith(f"threads {number} of 2 (measured")


def test_a_trial_is_short_where_threads_only_wait():
    _, lines = pretend(threads.WARM_UP + 4, {1: 1, 2: 0.05})
    assert len(lines) == 1


def test_one_processor_needs_no_trial():
    lines = []
    threads.Trial(1, lines.append)()
    assert torch.get_num_threads() == 1 and len(lines) == 1


@pytest.mark.parametrize(
    ("variable", "atoms", "kernel", "line"),
    [
        (None, 8, False, "threads 1 of 2 (not compiled"),
        (None, 8, True, "threads 1 of 2 (compiled kernel, 8 atoms)"),
        (None, 5000, True, "threads 2 of 2 (compiled kernel, 5000 atoms)"),
        ("3", 5000, True, "threads 3 of 2 (OMP_NUM_THREADS)"),
        ("3,2", 8, False, "threads 3 of 2 (OMP_NUM_THREADS)"),
        ("many", 8, False, "threads 1 of 2 (not compiled"),
    ],
)
def test_threads_of_a_calculator(monkeypatch, variable, atoms, kernel, line):
    if variable:
        monkeypatch.setenv(threads.VARIABLE, variable)
    assert threads.set_threads(atoms, kernel).startswith(line)
    assert torch.get_num_threads() == int(line.split()[1])


@pytest.mark.parametrize(("options", "number"), [([], 1), (["--threads", "2"], 2)])
def test_a_simulation_says_how_many_threads(tmp_path, capsys, monkeypatch, options, number):
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("si.cif")
    torch.set_num_threads(3)
    assert run(["energy", "si.cif", "--model", "mlearn-si", "--no-compile", *options]) == 0
    assert f"threads {number} of 2 (" in capsys.readouterr().out
    assert torch.get_num_threads() == number
    assert json.loads((tmp_path / "si-energy.json").read_text())["calculator"]["compiled"] is False


def test_the_option_wins_over_the_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(threads.VARIABLE, "2")
    bulk("Si").write("si.cif")
    assert run(["energy", "si.cif", "--model", "mlearn-si", "--no-compile", "--threads", "1"]) == 0
    assert "threads 1 of 2 (--threads)" in capsys.readouterr().out
    assert run(["energy", "si.cif", "--model", "mlearn-si", "--threads", "0"]) == 2
