"""The wheel carries the bundled calculators: installed elsewhere, they are found by name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from ase.build import bulk
import nfflr
from nfflr import NFFLrCalculator
from nfflr.cards import bundled_calculators

assert sys.argv[1] in nfflr.__file__, nfflr.__file__
atoms = bulk("Si", cubic=True)
for name, folder in bundled_calculators().items():
    assert sys.argv[1] in str(folder), folder
    calculator = NFFLrCalculator.load(name)
atoms.calc = NFFLrCalculator.load("mlearn-si")
print(atoms.get_potential_energy())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("nfflr", "calculators"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    # No isolation: the build backend is a test requirement, and the build must not need the network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_package_and_calculators_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "nfflr/calculators/mlearn-si/model.safetensors" in names
    assert "nfflr/calculators/mlearn-si/card.yaml" in names
    assert all(name.startswith(("nfflr/", "nfflr-")) for name in names)


def test_installed_wheel_finds_bundled_calculators_outside_the_checkout(wheel, tmp_path):
    environment = tmp_path / "venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)  # what pip does with a pure-Python wheel
    # Dependencies come from the environment that runs the tests; its own nfflr (an editable install works
    # through a .pth file, which PYTHONPATH entries do not run) stays out of sight.
    import torch

    dependencies = str(Path(torch.__file__).parent.parent)
    done = subprocess.run(
        [environment / "bin" / "python", "-c", SCRIPT, str(packages)],
        cwd=tmp_path,
        env={"PYTHONPATH": dependencies, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0
