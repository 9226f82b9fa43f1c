"""A potential in one file outside the package does all that a built-in one does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfflr.compiled.artefacts import compiler

ROOT = Path(__file__).parents[2]
CONFIG = """
from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.registry import architecture
from nfflr.train.config import TrainingConfig

cls = architecture("toy-equivariant")
model = cls(cls.Config(elements=("Cu",)))
dataset = AtomsDataset(Path("copper.xyz"), n_train=0.8, n_val=0.2)
config = TrainingConfig(dataset=dataset, model=model, epochs=2, batch_size=4)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as pip would leave it: the file, what it registers, and another that lacks a package."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("toy_equivariant.py"), site)
    (site / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    info = site / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    lines = ["[nfflr.models]", "toy-equivariant = toy_equivariant", "toy-broken = needs_more", ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture
def outside(site, tmp_path):
    """Run Python where that distribution is installed; what it prints."""

    def run(*arguments, cwd=tmp_path, code=0):
        path = os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_passes_the_physics_suite(outside):
    output = outside(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "toy-equivariant"),
        *("tests/models/test_physics.py",),
        cwd=ROOT,
    )
    assert "[100%]" in output  # an exit code of 0 says that none failed


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
def test_it_compiles(outside):
    program = (
        "import torch; from nfflr.compiled import build; from nfflr.models.registry import architecture;"
        "cls = architecture('toy-equivariant');"
        "model = cls(cls.Config(elements=('C', 'Si'))).double().eval();"
        "print(build(model).kind)"  # compared with the model itself before it is kept
    )
    assert outside("-c", program).strip() == "graph"


def test_it_trains_and_loads_and_no_other_architecture_is_imported(outside, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    outside("-c", "from ase.io import write; from builders import copper; write('copper.xyz', copper(20))")
    nff = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
    outside("-c", nff, "train", "config.py", "--out", "run")
    program = (
        "import json, sys; from nfflr import NFFLrCalculator; from builders import copper;"
        "atoms = copper(1)[0]; atoms.calc = NFFLrCalculator.load('run');"
        "energy = atoms.get_potential_energy();"
        "others = [m for m in sys.modules if m.startswith(('nfflr.models.gnn.', 'nfflr.models.classical.'))];"
        "print(json.dumps([atoms.calc.todict()['architecture'], energy, others]))"
    )
    name, energy, others = json.loads(outside("-c", program).strip().splitlines()[-1])
    assert name == "toy-equivariant" and np.isfinite(energy) and others == []


def test_a_package_that_is_missing_breaks_only_the_model_that_needs_it(outside):
    program = (
        "from nfflr.models.registry import architecture, architectures; found = architectures();"
        "assert 'toy-equivariant' in found and 'moment' in found and 'toy-broken' not in found\n"
        "try: architecture('toy-broken')\n"
        "except Exception as error: print(error)"
    )
    assert "'toy-broken': cannot be imported (ModuleNotFoundError" in outside("-c", program)
