"""Many atoms: memory grows linearly, float32 keeps the total energy, and too many exit with 6."""

import os
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk
from every_architecture import KEYS, calculator, potential

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.errors import as_nfflr_error

# Peak memory in bytes of silicon of each size in turn, in a process of its own.
MEASURE = """
import sys
from ase.build import bulk
from memory import peak
from nfflr.calculator import NFFLrCalculator
calc = NFFLrCalculator.load(sys.argv[1], dtype="float32")
for n in map(int, sys.argv[2:]):
    atoms = bulk("Si", cubic=True).repeat((n // 800, 10, 10))
    atoms.rattle(0.05)
    calc.calculate(atoms)
    print(len(atoms), peak())
"""


def environment() -> dict:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}


def peaks(model, *sizes) -> np.ndarray:
    """Rows of number of atoms and peak memory in bytes."""
    command = [sys.executable, "-c", MEASURE, str(model), *map(str, sizes)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=900)
    return np.array([line.split() for line in done.stdout.splitlines()], float)


def assert_linear(found: np.ndarray) -> None:
    """What an atom costs does not grow with their number, and is less than a hundred kilobytes."""
    slopes = np.diff(found[:, 1]) / np.diff(found[:, 0])
    assert slopes.max() < 1e5
    assert slopes[-1] < 1.3 * slopes[:-1].max()


def test_case_35_memory_is_linear_in_the_number_of_atoms():
    assert_linear(peaks("mlearn-si-fast", 2400, 8000, 20_000))


@pytest.mark.slow
def test_case_35_memory_of_a_hundred_thousand_atoms():
    found = peaks("mlearn-si-fast", 2400, 20_000, 100_000)
    print(f"peak resident memory of 100,000 atoms: {found[-1, 1] / 2**30:.2f} GiB")
    assert_linear(found)


def test_case_35_too_many_atoms_for_the_memory_exit_with_6_and_say_how_much_was_asked(tmp_path):
    save_checkpoint(tmp_path / FILE, potential("lennard-jones"))
    bulk("Si", cubic=True).repeat((12, 10, 10)).write(tmp_path / "si.xyz")
    # The limit is set where everything is loaded; a command line that is too near to it could not start.
    script = """
import resource, sys
import torch, vesin, matscipy.neighbours, scipy.interpolate
from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
run(["energy", sys.argv[1], "-m", sys.argv[2], "-o", sys.argv[3] + "-before"])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, -1))
code = run(["energy", sys.argv[4], "-m", sys.argv[2], "-o", sys.argv[3]])
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
sys.exit(code)
"""
    bulk("Si").write(tmp_path / "small.xyz")
    paths = [tmp_path / name for name in ("small.xyz", FILE, "out", "si.xyz")]
    command = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 6, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: memory: ") and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_case_35_the_allocators_of_torch_are_understood():
    torch_cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes. Error"
    gpu = "CUDA out of memory. Tried to allocate 37.25 GiB. GPU 0 has a total capacity of 16.00 GiB"
    for error, amount in ((RuntimeError(torch_cpu), "3725.3 GiB"), (RuntimeError(gpu), "37.25 GiB")):
        known = as_nfflr_error(error)
        assert known.exit_code == 6 and known.item == "memory" and amount in known.problem
    assert as_nfflr_error(RuntimeError("another defect")).exit_code == 1


@pytest.mark.parametrize("n", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("key", KEYS)
def test_float32_energies_of_separate_atoms_add_up(key, n):
    # In float32 and in order, ten thousand equal numbers are wrong by 1e-5 already.
    assert abs(float(np.full(10_000, 9.1234, np.float32).cumsum()[-1]) / 91_234 - 1) > 1e-6
    grid = np.stack(np.unravel_index(np.arange(n), (50, 50, 40)), axis=1) * 12.0
    gas = ase.Atoms(np.full(n, 6), grid)
    calc = calculator(key, "float32")
    one = calculator(key).evaluate([ase.Atoms("C")])[0]["energy"]
    alone, *together = (found["energy"] for found in calc.evaluate([gas]) + calc.evaluate([gas, gas[:1]]))
    for total in (alone, together[0]):  # a single sum, and one per structure of a batch
        assert abs(total - n * one) < 1e-6 * abs(n * one)


def difference(calculators, n: int) -> float:
    """Relative difference of the energies of about n atoms, far from being alike."""
    atoms = bulk("Si", cubic=True).repeat((max(1, n // 800), 10, 10))
    atoms.rattle(0.05, seed=1)
    energies = []
    for calc in calculators:
        calc.calculate(atoms)
        energies.append(calc.results["energy"])
    return abs(energies[0] - energies[1]) / abs(energies[1])


@pytest.mark.parametrize("key", KEYS)
def test_float32_energies_of_a_solid_keep_six_digits(key):
    assert difference([calculator(key, dtype) for dtype in ("float32", "float64")], 800) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("key", [*KEYS, "mlearn-si-fast"])
def test_float32_energies_of_a_hundred_thousand_atoms_keep_six_digits(key):
    load = NFFLrCalculator.load if key == "mlearn-si-fast" else calculator
    found = difference([load(key, dtype=dtype) for dtype in ("float32", "float64")], 100_000)
    print(f"{key}: {found:.1e}")
    assert found < 1e-6
