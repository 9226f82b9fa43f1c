"""Ensembles on the command line: limits of the spread, and error against spread."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.cli.main import run


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """mlearn-si-fast with its learned part times 1 and 1.1."""
    folder = tmp_path_factory.mktemp("swag")
    for k, factor in enumerate((1.0, 1.1)):
        model, _ = load_checkpoint("mlearn-si-fast")
        with torch.no_grad():
            model.scale.mul_(factor)
        save_checkpoint(folder / f"member-{k}.safetensors", model)
    return folder


@pytest.fixture
def silicon(tmp_path):
    path = tmp_path / "si.xyz"
    atoms = bulk("Si", a=5.469, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.write(path)
    return path


def test_md_and_relax_write_the_frame_that_was_too_uncertain(tmp_path, silicon, members, capsys):
    atoms = ase.io.read(silicon)
    calc = NFFLrCalculator.load(members)
    calc.calculate(atoms)
    both = f"{members}/member-0.safetensors+{members}/member-1.safetensors"
    limit = 0.5 * calc.results["forces_std"].max()
    for name, model in (("md", str(members)), ("relax", both)):
        out = tmp_path / name
        options = ["-m", model, "-o", str(out), "--max-forces-std", str(limit), "--no-compile"]
        options += ["--rdf-cutoff", "3"] if name == "md" else []
        assert run([name, str(silicon), *options]) == 5
        frame = ase.io.read(out / f"si-{name}-uncertain.xyz")
        assert frame.arrays["forces_std"] == pytest.approx(calc.results["forces_std"], abs=1e-6)
        assert frame.info["energy_std"] == pytest.approx(calc.results["energy_std"], rel=1e-6)
        assert frame.get_forces() == pytest.approx(calc.results["forces"], abs=1e-6)
        record = json.loads((out / f"si-{name}.json").read_text())
        found = record["result"]
        assert found["forces_std"] == pytest.approx(calc.results["forces_std"].max(), rel=1e-6)
        assert record["files"]["uncertain"] == frame_name(name) and "uncertain" in capsys.readouterr().err
        assert found["uncertain_atom"] == int(calc.results["forces_std"].argmax())
    out = tmp_path / "free"
    assert run(["relax", str(silicon), "-m", both, "-o", str(out), "--max-forces-std", "9"]) == 0
    assert not (out / "si-relax-uncertain.xyz").exists()
    out = tmp_path / "single"
    assert run(["relax", str(silicon), "-m", "mlearn-si-fast", "-o", str(out), "--max-forces-std", "9"]) == 2
    assert "max_forces_std: the calculator gives no forces_std" in capsys.readouterr().err


def frame_name(name):
    return f"si-{name}-uncertain.xyz"


def test_an_ensembles_errors_are_compared_with_its_spread(tmp_path, members, capsys):
    frames = [bulk("Si", a=a, cubic=True) for a in np.linspace(5.3, 5.6, 5)]
    reference = NFFLrCalculator.load(members / "member-0.safetensors")
    for k, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=k)
        reference.calculate(atoms)
        atoms.calc = SinglePointCalculator(atoms, **reference.results)
    ase.io.write(tmp_path / "data.xyz", frames)
    options = ["--energy-units", "eV", "-o", str(tmp_path / "out")]
    assert run(["evaluate", "--model", str(members), str(tmp_path / "data.xyz"), *options]) == 0
    spread = json.loads((tmp_path / "out" / "data-evaluate.json").read_text())["spread"]
    # Members at F and 1.1 F: the mean is wrong by 0.05 |F|, and the sample deviation is 0.1 |F| / √2.
    assert spread["forces_ratio"] == pytest.approx(0.05 * 2**0.5 / 0.1, rel=1e-4)
    assert spread["forces_correlation"] == pytest.approx(1.0, abs=1e-6)
    assert "error / spread" in capsys.readouterr().out
