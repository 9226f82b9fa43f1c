"""Threads: as asked for, or no more than help; only the command line sets them."""

import json

import pytest
import torch
from ase.build import bulk

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.jobs import opening as threads


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """A machine of two cores that asks for nothing; torch's threads are put back."""
    before = torch.get_num_threads()
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("configured", "variable", "line"),
    [
        (None, None, "threads 1 of 2 (--threads N for more)"),
        (2, None, "threads 2 of 2 (threads of the config)"),
        (None, "2", "threads 2 of 2 (OMP_NUM_THREADS)"),
        (1, "2", "threads 1 of 2 (threads of the config)"),
    ],
)
def test_threads_of_a_training_do_not_depend_on_how_busy_the_machine_is(
    monkeypatch, configured, variable, line
):
    if variable:
        monkeypatch.setenv(threads.VARIABLE, variable)
    assert threads.set_threads(configured=configured) == line
    assert torch.get_num_threads() == int(line.split()[1])


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
    assert threads.set_threads(default=threads.threads_for(atoms, kernel)).startswith(line)
    assert torch.get_num_threads() == int(line.split()[1])


@pytest.mark.parametrize(("options", "number"), [([], 1), (["--threads", "2"], 2)])
def test_a_simulation_says_how_many_threads(tmp_path, capsys, monkeypatch, options, number):
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("si.cif")
    torch.set_num_threads(3)
    used = []
    calculate = NFFLrCalculator.calculate
    monkeypatch.setattr(
        NFFLrCalculator,
        "calculate",
        lambda *given, **more: used.append(torch.get_num_threads()) or calculate(*given, **more),
    )
    assert run(["energy", "si.cif", "--model", "mlearn-si-fast", "--no-compile", *options]) == 0
    assert f"threads {number} of 2 (" in capsys.readouterr().out
    assert set(used) == {number} and torch.get_num_threads() == 3
    assert json.loads((tmp_path / "si-energy.json").read_text())["calculator"]["compiled"] is False


def test_the_option_wins_over_the_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(threads.VARIABLE, "2")
    bulk("Si").write("si.cif")
    assert run(["energy", "si.cif", "--model", "mlearn-si-fast", "--no-compile", "--threads", "1"]) == 0
    assert "threads 1 of 2 (--threads)" in capsys.readouterr().out
    assert run(["energy", "si.cif", "--model", "mlearn-si-fast", "--threads", "0"]) == 2
